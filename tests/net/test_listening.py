"""Where a server listens: TCP ports, UNIX sockets, given sockets, several at once, and what
cannot be.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from clients import Client, Sink, digest, greets, refused, until
from on_loops import on_loops
from scenario import TX

from fastsmtp import SMTPServer
from fastsmtp.testing import running

LINUX = sys.platform == "linux"


def tcp_socket() -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


def test_a_tcp_port_is_served_until_close(run: Any) -> None:
    async def scenario() -> None:
        server = Sink().server()
        assert server.address() is None
        await server.listen(0, "127.0.0.1")
        host, port = address = server.address()
        assert host == "127.0.0.1"
        assert port > 0
        await greets(address)
        await server.close()
        assert server.address() is None
        await refused(address)

    run(scenario())


def test_every_address_of_the_host_is_served_by_default(run: Any) -> None:
    async def scenario() -> None:
        server = Sink().server()
        await server.listen(0)
        host, port = server.address()
        assert host == "0.0.0.0"
        await greets(("127.0.0.1", port))
        await server.close()

    run(scenario())


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_an_ipv6_address_is_served(run: Any) -> None:
    async def scenario() -> None:
        sink = Sink()
        told: list[Any] = []
        server = sink.server(
            on_connect=lambda session, callback: (told.append(session), callback())
        )
        try:
            await server.listen(0, "::1")
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
        await greets(server.address())
        assert told[0].remote_address == told[0].local_address == "::1"
        await server.close()

    run(scenario())


def test_a_unix_socket_is_served_and_removed(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        path = str(tmp_path / "smtp")
        seen: list[tuple[Any, ...]] = []

        def on_connect(session: Any, callback: Callable[..., object]) -> None:
            seen.append((session.remote_address, session.remote_port, session.client_hostname))
            callback()

        server = Sink().server(on_connect=on_connect, disable_reverse_lookup=False)
        await server.listen(path=path)
        assert server.address() == path
        await greets(path)
        assert seen == [("", 0, "localhost")]
        await server.close()
        assert not os.path.exists(path)

    run(scenario())


def test_the_file_of_a_dead_unix_socket_is_taken_over(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        path = str(tmp_path / "smtp")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        async with running(Sink().server(), path=path):
            await greets(path)

    run(scenario())


def test_a_unix_socket_in_use_and_other_files_are_left_alone(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        path = str(tmp_path / "smtp")
        letter = tmp_path / "letter"
        letter.write_text("keep me")
        async with running(Sink().server(), path=path):
            other = Sink().server()
            for taken in (path, str(letter), str(tmp_path / "none" / "smtp")):
                with pytest.raises(OSError):
                    await other.listen(path=taken)
            await other.close()
            await greets(path)
        assert letter.read_text() == "keep me"

    run(scenario())


@pytest.mark.parametrize("kind", ["bound", "listening", "unix"])
def test_a_given_socket_is_served(run: Any, tmp_path: Path, kind: str) -> None:
    async def scenario() -> None:
        if kind == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(str(tmp_path / "smtp"))
        else:
            sock = tcp_socket()
            if kind == "listening":
                sock.listen(8)
        address = sock.getsockname()
        server = Sink().server()
        await server.listen(sock=sock)
        assert server.address() == address
        await greets(address)
        await server.close()
        await refused(address)

    run(scenario())


@pytest.mark.skipif(not LINUX, reason="Linux has those")
def test_a_given_socket_of_the_abstract_namespace_is_served(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as peer:
            sock.bind(f"\0{tmp_path}")
            server = Sink().server()
            await server.listen(sock=sock)
            assert server.address() == f"\0{tmp_path}"
            peer.connect(server.address())
            async with Client(*await asyncio.open_unix_connection(sock=peer)) as client:
                assert await client.reply() == "220"
            await server.close()

    run(scenario())


def test_one_server_listens_in_several_places(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        sink = Sink()
        server = sink.server()
        path, sock = str(tmp_path / "smtp"), tcp_socket()
        places = [sock.getsockname(), path]
        listened: list[Any] = []
        server.on("listening", listened.append)
        await server.listen(sock=sock)
        await server.listen(path=path, callback=lambda: listened.append("callback"))
        await server.listen(0, "127.0.0.1")
        assert server.address() == places[0]
        places.append(listened[-1])
        assert listened == [*places[:2], "callback", places[2]]
        clients = [await Client.greeted(place) for place in places]
        assert len(server.connections) == 3
        for client in clients:
            client.send(TX + b"BDAT 3 LAST\r\nabc")
            assert await client.replies(3) == ["250 2.1.0", "250 2.1.5", "250 2.6.0"]
            await client.close()
        assert [told.digest for told in sink.arrived] == [digest(b"abc")] * 3
        await server.close()
        for place in places:
            await refused(place)

    run(scenario())


def test_a_port_in_use_is_an_oserror_and_the_server_may_try_another(run: Any) -> None:
    async def scenario() -> None:
        async with running(Sink().server()) as taken:
            server = Sink().server()
            with pytest.raises(OSError):
                await server.listen(taken[1], taken[0])
            assert server.address() is None
            await server.listen(0, "127.0.0.1")
            await greets(server.address())
            await server.close()
            await greets(taken)

    run(scenario())


@pytest.mark.parametrize(
    "given", [{}, {"port": 0, "path": "x"}, {"path": "x", "sock": object()}, {"host": "127.0.0.1"}]
)
def test_listen_takes_exactly_one_place(run: Any, given: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        run(Sink().server().listen(**given))


@pytest.mark.parametrize(
    ("given", "error", "named"),
    [
        ({"port": -1}, ValueError, "port"),
        ({"port": 65_536}, ValueError, "port"),
        ({"port": "25"}, TypeError, "port"),
        ({"port": True}, TypeError, "port"),
        ({"port": 1.5}, TypeError, "port"),
        ({"port": 0, "host": 1}, TypeError, "host"),
        ({"path": ""}, ValueError, "path"),
        ({"path": b"x"}, TypeError, "path"),
        ({"sock": 1}, TypeError, "sock"),
    ],
)
def test_an_invalid_place_to_listen_on_is_named(
    run: Any, given: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=f"^{named} takes "):
        run(Sink().server().listen(**given))


@contextmanager
def odd_socket(kind: str) -> Iterator[socket.socket]:
    """A socket that takes no connections."""
    with contextlib.ExitStack() as stack:
        if kind == "of another family":
            sock = stack.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
        elif kind == "datagram":
            sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            sock.bind(("127.0.0.1", 0))
        elif kind == "connected":
            sock, other = socket.socketpair()
            stack.enter_context(sock)
            stack.enter_context(other)
        else:
            family = socket.AF_UNIX if kind == "unbound UNIX" else socket.AF_INET
            sock = stack.enter_context(socket.socket(family))
            if kind == "closed":
                sock.close()
        yield sock


NETLINK = pytest.param(
    "of another family", marks=pytest.mark.skipif(not LINUX, reason="Linux has those")
)


@pytest.mark.parametrize(
    "kind", ["unbound", "unbound UNIX", "closed", "datagram", "connected", NETLINK]
)
def test_a_socket_that_accepts_no_connections_is_refused(run: Any, kind: str) -> None:
    with odd_socket(kind) as sock, pytest.raises(ValueError, match=r"^sock takes "):
        run(Sink().server().listen(sock=sock))


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link", "FIFO"])
def test_a_path_of_another_kind_of_file_is_refused_and_left_alone(
    run: Any, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "smtp"
    if kind == "file":
        path.write_text("keep me")
    elif kind == "directory":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "nothing")
    before = path.lstat()
    with pytest.raises(FileExistsError, match="not a socket"):
        run(Sink().server().listen(path=str(path)))
    assert path.lstat().st_ino == before.st_ino


def test_an_error_of_the_system_names_the_place_to_listen_on(run: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "none" / "smtp")
    with pytest.raises(FileNotFoundError) as caught:
        run(Sink().server().listen(path=path))
    assert caught.value.filename == path
    with tcp_socket() as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1 port {port}$") as refusal:
            run(Sink().server().listen(port, "127.0.0.1"))
    assert refusal.value.errno == errno.EADDRINUSE


def test_a_link_to_a_socket_is_in_use_as_long_as_that_socket_is(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        target, link = str(tmp_path / "target"), str(tmp_path / "link")
        os.symlink(target, link)
        with socket.socket(socket.AF_UNIX) as owner:
            owner.bind(target)
            owner.listen()
            with pytest.raises(OSError) as caught:
                await Sink().server().listen(path=link)
            assert caught.value.errno == errno.EADDRINUSE
        async with running(Sink().server(), path=link):
            await greets(link)

    run(scenario())


def test_a_path_that_no_socket_can_have_is_named(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as there:
        there.bind("smtp")
        long = "./" * 60
        for path in (str(tmp_path / ("x" * 120)), f"{long}smtp"):
            with pytest.raises(OSError) as caught:
                run(Sink().server().listen(path=path))
            assert (caught.value.errno, caught.value.filename) == (errno.ENAMETOOLONG, path)
    with pytest.raises(ValueError, match=r"^path takes "):
        run(Sink().server().listen(path="\0abstract"))


def test_a_unix_socket_whose_queue_is_full_is_in_use_and_holds_nothing_up(
    run: Any, tmp_path: Path
) -> None:
    path = str(tmp_path / "smtp")
    with socket.socket(socket.AF_UNIX) as owner, contextlib.ExitStack() as clients:
        owner.bind(path)
        owner.listen(0)
        while True:  # until the queue is full
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(path) != 0:
                break
        with pytest.raises(OSError) as caught:
            run(Sink().server().listen(path=path))
        assert caught.value.errno == errno.EADDRINUSE
        assert os.path.exists(path)


def test_lmtp_is_refused_on_tcp_port_25(run: Any) -> None:
    async def scenario() -> None:
        server = Sink().server(lmtp=True)
        with pytest.raises(ValueError, match="25"):
            await server.listen(25, "127.0.0.1")
        assert server.address() is None
        await server.listen(0, "127.0.0.1")
        await greets(server.address(), b"LHLO")
        await server.close()

    run(scenario())


def test_a_listening_socket_that_died_is_made_again(run: Any) -> None:
    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        sock = tcp_socket()
        address = sock.getsockname()
        twin = sock.dup()
        async with running(Sink().server(), sock=sock), await Client.greeted(address) as client:
            with twin:
                twin.shutdown(socket.SHUT_RDWR)
            await refused(address)
            async with asyncio.timeout(60):
                while True:
                    try:
                        await greets(address)
                        break
                    except OSError:
                        await asyncio.sleep(0.02)
            assert await client.ask(b"NOOP\r\n") == "250 2.0.0"
        await refused(address)

    run(scenario())


def test_the_owner_of_a_given_socket_may_close_it_and_the_server_goes_on(run: Any) -> None:
    """Its number becomes that of another socket, which must not be mistaken for the listener."""

    async def scenario() -> None:
        server = Sink().server()
        sock = tcp_socket()
        address = sock.getsockname()
        await server.listen(sock=sock)
        await server.listen(0, "127.0.0.1")
        other = server.addresses()[1]
        sock.close()
        async with await Client.greeted(other) as client:
            await greets(address)  # the client above, or our end of it, has the number now
            assert await client.ask(b"NOOP\r\n") == "250 2.0.0"
        await server.close()
        await refused(address)
        await refused(other)

    run(scenario())


FORK = """
import asyncio, gc, os, sys
import fastsmtp

async def main():
    server = fastsmtp.SMTPServer(auth_optional=True, disable_reverse_lookup=True, name="srv.test",
                                 on_data=lambda stream, session, callback: callback())
    await server.listen(0, "127.0.0.1")
    await server.listen(path=sys.argv[2])
    reader, writer = await asyncio.open_connection(*server.address())
    assert (await reader.readline()).startswith(b"220 ")
    child = os.fork()
    if not child:
        asyncio.events._set_running_loop(None)
        asyncio.run(server.close())
        for connection in list(server.connections):
            connection.abort()
        del server
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    writer.write(b"NOOP\\r\\n")
    assert await reader.readline() == b"250 2.0.0 OK\\r\\n"
    writer.close()
    for where in (asyncio.open_connection(*server.address()),
                  asyncio.open_unix_connection(sys.argv[2])):
        reader, writer = await where
        assert (await reader.readline()).startswith(b"220 ")
        writer.close()
    await server.close()
    print("served on")

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_closes_the_server_takes_nothing_from_its_parent(
    tmp_path: Path,
) -> None:
    pytest.importorskip("uvloop")
    command = [sys.executable, "-c", FORK, "uvloop", str(tmp_path / "smtp")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "served on\n", done.stderr


# --- a server that could take no message ---


def take(*given: Any) -> None:
    given[-1]()


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"auth_optional": True}, True),
        ({"auth_optional": True, "lmtp": True}, True),
        ({"auth_optional": True, "on_rcpt_to": take}, True),
        ({"disabled_commands": ["AUTH"]}, True),
        ({"on_auth": take, "allow_insecure_auth": True}, True),
        ({"auth_optional": True, "on_data": take}, False),
        ({"auth_optional": True, "disabled_commands": ["MAIL"]}, False),
        ({"auth_optional": True, "disabled_commands": ["RCPT"]}, False),
        ({}, False),  # no client can log in, so there is no MAIL: that is the warning
    ],
)
def test_a_server_without_on_data_that_takes_recipients_warns_once(
    run: Any, options: dict[str, Any], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        server = SMTPServer(disable_reverse_lookup=True, **options)
        await server.listen(0, "127.0.0.1")
        await server.listen(0, "127.0.0.1")
        await server.close()

    with caplog.at_level(logging.WARNING, "fastsmtp"):
        run(scenario())
    told = [text for text in caplog.messages if text.startswith("the hook on_data is not set")]
    assert len(told) == warned
    assert len(caplog.messages) == (1 if warned or not options else 0)


@pytest.mark.parametrize("way", ["assigned", "subclass"])
def test_a_hook_that_is_set_before_listen_needs_no_warning(
    run: Any, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    class WithHook(SMTPServer):
        on_data = staticmethod(take)

    async def scenario() -> None:
        kind = WithHook if way == "subclass" else SMTPServer
        server = kind(auth_optional=True, disable_reverse_lookup=True)
        if way == "assigned":
            server.on_data = take
        await server.listen(0, "127.0.0.1")
        await server.close()

    with caplog.at_level(logging.WARNING, "fastsmtp"):
        run(scenario())
    assert caplog.messages == []


def test_a_host_with_several_addresses_logs_one_warning(
    run: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def two(host: Any, port: int, *, reuse_port: bool) -> list[socket.socket]:
        return [tcp_socket(), tcp_socket()]

    async def scenario() -> None:
        monkeypatch.setattr("fastsmtp._net.listener.bind_tcp", two)
        server = SMTPServer(disable_reverse_lookup=True)
        await server.listen(0, "localhost")
        assert len(server.addresses()) == 2
        await server.close()

    with caplog.at_level(logging.WARNING, "fastsmtp"):
        run(scenario())
    assert len(caplog.messages) == 1
    assert "authentication is required" in caplog.messages[0]


# --- both families, shared ports, one listener alone, a second life ---


@on_loops
async def test_without_a_host_ipv4_and_ipv6_are_served_on_one_port() -> None:
    server = Sink().server()
    try:
        await server.listen(0, None)
        hosts = {host for host, _ in server.addresses()}
        if hosts == {"0.0.0.0"}:
            pytest.skip("no IPv6 here")
        assert hosts == {"0.0.0.0", "::"}
        (port,) = {port for _, port in server.addresses()}
        await greets(("127.0.0.1", port))
        await greets(("::1", port))
    finally:
        await server.close()


@on_loops
async def test_a_free_port_of_ipv4_that_ipv6_does_not_have_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    infos = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("127.0.0.1", "::1")
    ]
    taken: list[socket.socket] = []
    bind_one = socket.socket.bind

    class Rival(socket.socket):
        """The second address of the first attempt finds its port in use."""

        def bind(self, address: Any) -> None:
            if address[0] == "::1":
                address = ("127.0.0.2", address[1])
                if not taken:
                    taken.append(socket.socket())
                    bind_one(taken[0], address)
                    taken[0].listen()
            super().bind(address)

    async def looked_up(host: Any, port: int) -> Any:
        return infos

    monkeypatch.setattr("fastsmtp._net.listener._looked_up", looked_up)
    monkeypatch.setattr("fastsmtp._net.listener.socket.socket", Rival)
    server = Sink().server()
    await server.listen(0, "both.test")
    monkeypatch.undo()
    with taken[0]:
        (port,) = {port for _, port in server.addresses()}
        assert port != taken[0].getsockname()[1]
        assert [host for host, _ in server.addresses()] == ["127.0.0.1", "127.0.0.2"]
    await server.close()


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT here")
@on_loops
async def test_servers_that_reuse_a_port_share_it_and_others_cannot_have_it() -> None:
    first, second, other = Sink().server(), Sink().server(), Sink().server()
    await first.listen(0, "127.0.0.1", reuse_port=True)
    host, port = first.address()
    await second.listen(port, host, reuse_port=True)
    with pytest.raises(OSError):
        await other.listen(port, host)
    await first.close()
    await greets((host, port))
    await second.close()
    await refused((host, port))


@on_loops
async def test_reuse_port_without_a_port_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="reuse_port is for a port"):
        await Sink().server().listen(path=str(tmp_path / "smtp"), reuse_port=True)


@on_loops
async def test_one_listener_is_closed_alone_and_its_clients_stay(tmp_path: Path) -> None:
    server, path = Sink().server(), str(tmp_path / "smtp")
    async with running(server) as address:
        await server.listen(path=path)
        async with await Client.greeted(address) as client:
            server.close_listener(address)
            assert server.addresses() == [path]
            await refused(address)
            await greets(path)
            assert await client.ask(b"NOOP\r\n") == "250 2.0.0"
        server.close_listener(path)
        assert server.address() is None
        assert not os.path.exists(path)
        with pytest.raises(ValueError, match="does not listen on"):
            server.close_listener(path)
        await server.listen(*reversed(address))
        await greets(address)


@on_loops
async def test_a_closed_server_listens_again_with_its_events_and_limits() -> None:
    told: list[str] = []
    server = Sink().server(max_clients=1)
    server.on("close", lambda: told.append("close"))
    for life in (1, 2):
        async with running(server) as address, await Client.greeted(address) as client:
            assert len(server.connections) == 1
            async with await Client.connect(address) as second:
                assert await second.reply() == "421"
            assert await client.ask(b"NOOP\r\n") == "250 2.0.0"
        assert server.address() is None
        assert told == ["close"] * life


def test_a_closed_server_listens_again_on_another_loop() -> None:
    server = Sink().server()

    async def life() -> None:
        async with running(server) as address:
            await greets(address)

    asyncio.run(life())
    asyncio.run(life())


@on_loops
async def test_a_server_that_is_closing_does_not_listen() -> None:
    server = Sink().server()
    async with running(server) as address, await Client.in_data(address) as client:
        closing = asyncio.ensure_future(server.close())
        await until(lambda: server.address() is None)
        with pytest.raises(RuntimeError, match="the server is closing"):
            await server.listen(0, "127.0.0.1")
        assert await client.ask(b".\r\n") == "250 2.6.0"
        await closing


# --- serving until the end ---


@on_loops
async def test_async_with_closes_the_server() -> None:
    async with Sink().server() as server:
        await server.listen(0, "127.0.0.1")
        address = server.address()
        await greets(address)
    await refused(address)


@on_loops
async def test_serve_forever_returns_when_the_server_is_closed() -> None:
    server = Sink().server()
    await server.listen(0, "127.0.0.1")
    serving = asyncio.ensure_future(server.serve_forever())
    await greets(server.address())
    assert not serving.done()
    await server.close()
    await serving
    await server.serve_forever()  # it has ended


@on_loops
async def test_serve_forever_closes_the_server_when_it_is_cancelled() -> None:
    server = Sink().server()
    await server.listen(0, "127.0.0.1")
    address = server.address()
    serving = asyncio.ensure_future(server.serve_forever())
    await greets(address)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await refused(address)


@on_loops
async def test_serve_forever_without_a_listener_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="await listen"):
        await Sink().server().serve_forever()


@on_loops
async def test_run_in_a_running_loop_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"await server\.listen"):
        Sink().server().run(0)
