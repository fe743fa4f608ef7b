"""What the engine takes for granted of the event loops and the kernel; an upgrade that changes one
of it is seen here.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import ssl
import struct
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from clients import PATIENCE, Client, Sink, greets, until

from fastsmtp.testing import running

LARGEST_READ = {"asyncio": 262_144, "uvloop": 256_000}  # octets in one data_received
HIGH, LOW = 65_536, 16_384
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="this is a fact of Linux")


class Peer(asyncio.Protocol):
    """The server's side of one connection; notes what the loop calls."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.calls: list[str] = []
        self.reads: list[int] = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.reads.append(len(data))
        self.calls.append("data")

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return True

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.lost.set_result(None)


async def pair(prepare: Callable[[Peer], object] = lambda peer: None) -> tuple[Peer, socket.socket]:
    """A connection: the loop's side, and a plain blocking socket for the client's."""
    loop = asyncio.get_running_loop()
    peers: list[Peer] = []

    def make() -> Peer:
        peers.append(Peer())
        return peers[-1]

    server = await loop.create_server(make, "127.0.0.1", 0)
    client = socket.create_connection(server.sockets[0].getsockname(), timeout=PATIENCE)
    await until(lambda: peers and peers[0].transport)
    server.close()
    prepare(peers[0])
    return peers[0], client


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_one_read_has_a_known_bound(run: Any, request: pytest.FixtureRequest) -> None:
    async def scenario() -> None:
        peer, client = await pair()
        peer.transport.pause_reading()
        client.settimeout(0)
        sent = 0
        for _ in range(200):
            try:
                sent += client.send(bytes(1 << 20))
            except BlockingIOError:
                await turns(2)
        peer.transport.resume_reading()
        await until(lambda: sum(peer.reads) >= sent)
        kind = "uvloop" if type(run.loop).__module__.startswith("uvloop") else "asyncio"
        assert max(peer.reads) <= LARGEST_READ[kind]
        assert max(peer.reads) > HIGH  # so the bound is what counts, not the chunks of the kernel
        peer.transport.abort()
        client.close()
        await peer.lost

    run(scenario())


def test_write_never_blocks_never_refuses_and_pauses_once(run: Any) -> None:
    async def scenario() -> None:
        peer, client = await pair(
            lambda peer: peer.transport.set_write_buffer_limits(high=HIGH, low=LOW)
        )
        for _ in range(64):
            peer.transport.write(bytes(1 << 20))
        await turns()
        assert peer.transport.get_write_buffer_size() > 32 << 20
        assert peer.calls == ["made", "pause"]
        await asyncio.to_thread(drain, client, 64 << 20)
        await until(lambda: "resume" in peer.calls)
        assert peer.calls == ["made", "pause", "resume"]
        peer.transport.abort()
        client.close()
        await peer.lost

    run(scenario())


def drain(client: socket.socket, octets: int) -> None:
    while octets:
        octets -= len(client.recv(min(octets, 1 << 20)))


def test_the_write_marks_are_those_that_are_set(run: Any) -> None:
    async def scenario() -> None:
        peer, client = await pair(
            lambda peer: peer.transport.set_write_buffer_limits(high=HIGH, low=LOW)
        )
        assert peer.transport.get_write_buffer_limits() == (LOW, HIGH)
        peer.transport.abort()
        client.close()
        await peer.lost

    run(scenario())


def test_close_waits_for_a_peer_that_does_not_read_and_only_abort_frees(run: Any) -> None:
    async def scenario() -> None:
        peer, client = await pair()
        peer.transport.write(bytes(64 << 20))
        descriptor = peer.transport.get_extra_info("socket").fileno()
        peer.transport.close()
        await turns()
        assert peer.calls == ["made", "pause"]
        assert peer.transport.get_write_buffer_size() > 32 << 20
        os.fstat(descriptor)
        peer.transport.abort()
        await peer.lost
        assert peer.calls[-1] == "lost"
        await turns()
        with pytest.raises(OSError):
            os.fstat(descriptor)
        client.close()

    run(scenario())


@linux_only
def test_closing_with_input_unread_resets_the_connection(run: Any) -> None:
    async def scenario() -> None:
        peer, client = await pair(lambda peer: peer.transport.pause_reading())
        client.sendall(b"unread")
        await turns(5)
        peer.transport.write(b"reply")
        peer.transport.close()
        await peer.lost
        with pytest.raises(ConnectionResetError):
            await asyncio.to_thread(drain, client, 6)
        client.close()

    run(scenario())


def test_the_close_in_three_steps_keeps_the_reply_and_ends_with_fin(run: Any) -> None:
    async def scenario() -> None:
        peer, client = await pair(lambda peer: peer.transport.pause_reading())
        client.sendall(b"unread" * 1000)
        await turns(5)
        peer.transport.write(b"reply")
        peer.transport.write_eof()
        peer.transport.resume_reading()
        assert await asyncio.to_thread(client.recv, 100) == b"reply"
        client.sendall(b"more")
        assert await asyncio.to_thread(client.recv, 100) == b""
        client.close()
        await until(lambda: peer.calls[-1] == "eof")
        peer.transport.close()
        await peer.lost

    run(scenario())


def test_the_second_call_soon_of_a_timer_comes_after_the_sockets_of_its_turn(run: Any) -> None:
    """Which of the two comes first when both are due is not promised: a deadline waits so long."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(20):
            peer, client = await pair()
            seen: list[list[str]] = []
            done = loop.create_future()

            def second(peer: Peer = peer, seen: Any = seen, done: Any = done) -> None:
                seen.append(list(peer.calls))
                done.set_result(None)

            def first(second: Any = second) -> None:
                loop.call_soon(loop.call_soon, second)

            loop.call_later(0.001, first)
            client.sendall(b"in time")
            await asyncio.sleep(0)
            until_due = loop.time() + 0.002
            while loop.time() < until_due:  # the loop is held: timer and socket become due
                pass
            await done
            assert seen == [["made", "data"]]
            peer.transport.abort()
            client.close()
            await peer.lost

    run(scenario())


def test_a_cancelled_timer_lets_go_of_its_arguments_by_the_next_turn(run: Any) -> None:
    class Argument:
        pass

    async def scenario() -> None:
        argument = Argument()
        gone = weakref.ref(argument)
        asyncio.get_running_loop().call_later(10_000, print, argument).cancel()
        del argument
        await turns(2)
        assert gone() is None

    run(scenario())


def accept_queue(sock: Any) -> int:
    """The backlog of a listening socket, as the kernel has it: tcpi_sacked of struct tcp_info."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("=8B6I", info)[13])


def most_connections() -> int:
    with open("/proc/sys/net/core/somaxconn", encoding="ascii") as file:
        return int(file.read())


@linux_only
@pytest.mark.row("NET-09", "NET-10")
def test_the_default_backlog_is_100_and_ours_is_not(run: Any) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Peer, "127.0.0.1", 0)
        assert accept_queue(server.sockets[0]) == 100
        server.close()
        await server.wait_closed()
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        twin = sock.dup()
        with twin:
            async with running(Sink().server(), sock=sock) as address:
                assert accept_queue(twin) >= min(1024, most_connections())
                assert twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) == 0
                await greets(address)

    run(scenario())


@linux_only
@pytest.mark.row("NET-01", "NET-09")
def test_accepted_connections_have_the_options_they_need(run: Any) -> None:
    async def scenario() -> None:
        server = Sink().server()
        async with running(server) as address, await Client.greeted(address):
            (connection,) = server.connections
            sock = connection.output.transport.get_extra_info("socket")
            tcp = socket.IPPROTO_TCP
            assert sock.getsockopt(tcp, socket.TCP_NODELAY) == 1
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT) > 0
            assert not os.get_inheritable(sock.fileno())
            assert connection.output.transport.get_write_buffer_limits() == (LOW, HIGH)

    run(scenario())


@pytest.mark.row("NET-11")
def test_a_peer_that_has_reset_already_may_have_no_name(run: Any) -> None:
    """It may be None, it may raise; a server that looks at it must bear both."""

    async def scenario() -> None:
        sink = Sink()
        server = sink.server()
        async with running(server) as address:
            for _ in range(20):
                client = socket.create_connection(address)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            await greets(address)
            await until(lambda: not server.connections)

    run(scenario())


AT_THE_LIMIT = """
import asyncio, os, resource, socket, sys
import uvloop

calls = []

class Peer(asyncio.Protocol):
    def connection_made(self, transport):
        calls.append("made")
        transport.abort()

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: calls.append("reported"))
    server = await loop.create_server(Peer, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    first, second = socket.socket(), socket.socket()
    for client in (first, second):
        client.setblocking(False)
    await asyncio.sleep(0)
    eaten = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        while True:
            eaten.append(os.dup(0))
    except OSError:
        pass
    try:
        first.connect(address)
    except BlockingIOError:
        pass
    for _ in range(100):
        await asyncio.sleep(0.001)
        try:
            print(first.recv(1), sorted(set(calls)))
            break
        except BlockingIOError:
            pass
    else:
        print("waits", sorted(set(calls)))
    for descriptor in eaten:
        os.close(descriptor)
    first.close()
    calls.clear()
    try:
        second.connect(address)
    except BlockingIOError:
        pass
    while "made" not in calls:
        await asyncio.sleep(0.001)
    print("served")
    second.close()
    server.close()
    await server.wait_closed()

factory = uvloop.new_event_loop if sys.argv[1] == "uvloop" else asyncio.new_event_loop
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main())
"""


@linux_only
@pytest.mark.parametrize(
    "kind, outcome",
    [
        ("uvloop", "b'' []"),  # FIN for the newcomer, and no callback is called
        ("asyncio", "waits ['reported']"),  # it stays in the kernel's queue
    ],
)
def test_at_the_limit_of_descriptors_the_newcomer_reaches_no_protocol(
    kind: str, outcome: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_LIMIT, kind],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.stdout.splitlines(), done.stderr) == ([outcome, "served"], "")


@linux_only
def test_max_clients_lies_below_the_limit_of_descriptors() -> None:
    text = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "from fastsmtp import SMTPServer; print(SMTPServer().options.max_clients)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, check=True)
    assert done.stdout == b"51\n"


def test_a_tls_context_of_python_allows_renegotiation() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    assert not context.options & ssl.OP_NO_RENEGOTIATION


def test_start_tls_cannot_be_given_octets_that_were_read_already() -> None:
    parameters = set(inspect.signature(asyncio.AbstractEventLoop.start_tls).parameters)
    assert parameters == {
        *("self", "transport", "protocol", "sslcontext"),
        *("server_side", "server_hostname", "ssl_handshake_timeout", "ssl_shutdown_timeout"),
    }
