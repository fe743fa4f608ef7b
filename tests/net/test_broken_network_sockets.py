"""A bad network, over real sockets and on both loops: what no transport in memory can show.

Resets, half-closes, windows that are shut, the options of sockets, very many connections at once
(RFC 5321 §3.8, §4.5.3.2).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scenario
from clients import Client, Sink, greets, happened, until
from hook_kit import BODY, END, MAIL, RCPT
from scenario import COUNTERS_OFF, DEFAULTS, EH, FIN, RST, TX, Script, one_way

from fastsmtp import MessageAborted, SMTPError, SMTPServer
from fastsmtp._connection import output
from fastsmtp.server import state_of
from fastsmtp.testing import running

row = pytest.mark.row
linux = pytest.mark.skipif(sys.platform != "linux", reason="the options are those of Linux")

DATA = b"DATA\r\n"
TEXT = BODY + END


def raw(address: Any, receive_buffer: int | None = None) -> socket.socket:
    """A socket of our own, connected; it reads only when it is told to."""
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(30)
    sock.connect(address)
    return sock


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def in_thread(work: Callable[..., Any], *given: Any) -> Any:
    """Do something that blocks; the loop goes on."""
    return await asyncio.get_running_loop().run_in_executor(None, work, *given)


# --- sessions of other files, over a socket ---

REPEATED: dict[str, tuple[list[Any], Script, dict[str, Any]]] = {
    "pipelined": (
        [EH, TX + DATA, TEXT + TX + b"BDAT 4 LAST\r\ntextNOOP\r\nQUIT\r\nNOOP\r\n"],
        Script(),
        {},
    ),
    "not strict": ([EH + TX + DATA + TEXT + b"QUIT\r\n"], Script(), {"strict_pipelining": False}),
    "strict": ([EH, TX + DATA + TEXT], Script(), {}),
    "refused at connect": ([], Script(connect=SMTPError("no")), {}),
    "unknown commands": ([EH, b"FOO\r\n" * 25], Script(), {}),
    "recipients": ([EH, MAIL + RCPT * 50], Script(rcpt=SMTPError("no")), {}),
    "junk": ([b"NOOP\r\n" * 5000], Script(), {}),
    "http": ([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + TX], Script(), {}),
    "bare newline": ([EH, TX + DATA, b"a\nb\r\n.\r\n", b"QUIT\r\n"], Script(), {}),
    "too large": ([EH, TX + DATA, b"x" * 300_000 + b"\r\n.\r\n", EH], Script(), {"size": 1000}),
    "half closed": ([EH, TX + DATA, TEXT + b"NOOP\r\nQUI", FIN], Script(), {}),
    "reset in a body": ([EH, TX + DATA, BODY, RST], Script(), {}),
    "fin in a body": ([EH, TX + DATA, BODY, FIN], Script(), {}),
}


@row(
    "PIPE-03",
    "PIPE-08",
    "PIPE-09",
    "PIPE-10",
    "FLOOD-04",
    "FLOOD-12",
    "NET-02",
    "NET-04",
    "STATE-09",
)
@pytest.mark.parametrize("kind", REPEATED)
def test_a_session_is_the_same_over_a_socket(kind: str, run: Any) -> None:
    steps, hooks, options = REPEATED[kind]
    run(scenario.repeat_on_the_wire(one_way(steps, hooks, **options)))


# --- NET-02, -03: resets ---


@row("NET-02", "FLOOD-13")
@pytest.mark.parametrize("command", [DATA, b"BDAT 100000\r\n"])
def test_a_reset_in_a_body_aborts_it(command: bytes, run: Any) -> None:
    reasons: list[str] = []

    async def on_data(stream: Any, session: Any) -> None:
        try:
            async for _ in stream:
                pass
        except MessageAborted as error:
            reasons.append(error.reason)
            raise

    async def scenario() -> None:
        closes: list[Any] = []
        server = SMTPServer(**DEFAULTS, on_data=on_data, on_close=closes.append)
        async with running(server) as address:
            for _ in range(20):
                client = await Client.greeted(address)
                client.send(TX + command)
                assert await client.replies(2) == ["250 2.1.0", "250 2.1.5"]
                client.send(b"x" * 5000)
                await client.writer.drain()
                client.reset()
            await until(lambda: len(closes) == 20)
            assert reasons == ["disconnected"] * 20
            await greets(address)

    run(scenario())


@row("NET-03")
def test_a_message_stays_accepted_when_the_client_resets_before_our_reply(run: Any) -> None:
    async def scenario() -> None:
        accepted: list[str] = []
        gate = asyncio.Event()

        async def on_data(stream: Any, session: Any) -> str:
            body = b"".join([piece async for piece in stream])
            await gate.wait()
            accepted.append(body.decode())
            return "queued"

        closes: list[Any] = []
        server = SMTPServer(**DEFAULTS, on_data=on_data, on_close=closes.append)
        async with running(server) as address:
            client = await Client.in_data(address)
            client.send(TEXT)
            await client.writer.drain()
            client.reset()
            (connection,) = server.connections
            await until(lambda: connection.output.transport.is_closing())
            assert not closes
            gate.set()
            await until(lambda: closes)
            assert accepted == [BODY.decode()]

    run(scenario())


# --- NET-05, -06, SLOW-12, -13, -14: clients that do not read, or do not close ---


@row("NET-05", "SLOW-12")
def test_a_client_that_never_reads_is_held_back_and_then_cut(run: Any) -> None:
    async def scenario() -> None:
        server = SMTPServer(**DEFAULTS, **COUNTERS_OFF, write_timeout=0.3)
        async with running(server) as address:
            sock = await in_thread(raw, address, 4096)

            def flood() -> int:
                sent = 0
                with contextlib.suppress(OSError):
                    while True:
                        sent += sock.send(b"HELP\r\n" * 1000)
                return sent

            sent = await in_thread(flood)  # ends when the server has reset the connection
            assert sent < 20_000_000
            await until(lambda: not server.connections)
            sock.close()
            await greets(address)

    run(scenario())


@row("NET-06")
def test_a_client_with_a_shut_window_that_resets_leaves_nothing(run: Any) -> None:
    async def scenario() -> None:
        closes: list[Any] = []
        server = SMTPServer(**DEFAULTS, **COUNTERS_OFF, on_close=closes.append)
        async with running(server) as address:
            sock = await in_thread(raw, address, 4096)
            sock.setblocking(False)
            await until(lambda: server.connections)
            (connection,) = server.connections
            while not connection.protocol.blocked:
                with contextlib.suppress(BlockingIOError):
                    sock.send(b"HELP\r\n" * 1000)
                await asyncio.sleep(0)
            reset(sock)
            await until(lambda: closes)
            assert not server.connections

    run(scenario())


@row("NET-06")
def test_an_out_of_band_octet_never_shifts_the_stream(run: Any) -> None:
    async def scenario() -> None:
        async with running(Sink().server()) as address:
            sock = await in_thread(raw, address)
            with sock, sock.makefile("rb") as stream:
                assert (await in_thread(stream.readline)).startswith(b"220 ")
                for urgent in (b"X", b"\n", b"\r"):
                    sock.sendall(b"NO")
                    sock.send(urgent, socket.MSG_OOB)
                    sock.sendall(b"OP\r\n")
                    assert await in_thread(stream.readline) == b"250 2.0.0 OK\r\n"

    run(scenario())


@row("SLOW-13")
@pytest.mark.parametrize(("end", "linger"), [(b"QUIT\r\n", 1e6), (b"NOOP\r\nQUIT\r\n", 0.05)])
def test_a_client_that_does_not_close_after_quit_is_cut(
    end: bytes, linger: float, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once where it waits for the 221 only; else it gets time to read the other replies."""
    monkeypatch.setattr(output, "LINGER", linger)

    async def scenario() -> None:
        closes: list[Any] = []
        server = SMTPServer(**DEFAULTS, on_close=closes.append)
        async with running(server) as address:
            sock = await in_thread(raw, address)
            sock.sendall(end)
            stream = sock.makefile("rb")
            told = await in_thread(stream.read)  # up to the server's FIN
            assert told.splitlines()[0][:3] == b"220"
            assert told.splitlines()[-1][:3] == b"221"
            await until(lambda: closes)
            stream.close()
            sock.close()

    run(scenario())


@row("SLOW-14")
@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
def test_a_message_before_a_half_close_is_answered(late: bool, run: Any) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def on_data(stream: Any, session: Any) -> str:
            bodies.append(b"".join([piece async for piece in stream]))
            if late:
                await gate.wait()
            return "queued"

        bodies: list[bytes] = []
        server = SMTPServer(**DEFAULTS, on_data=on_data)
        async with running(server) as address, await Client.in_data(address) as client:
            client.send(TEXT)
            client.finish()
            await until(lambda: bodies)
            gate.set()
            assert await client.rest() == ["250 2.6.0"]
            await until(lambda: not server.connections)
            assert bodies == [BODY]

    run(scenario())


@row("PIPE-08")
@pytest.mark.parametrize("end", [b"QUIT\r\n", b"GET / HTTP/1.1\r\n", b"NOOP\n"])
def test_our_last_reply_arrives_though_the_client_sends_on(end: bytes, run: Any) -> None:
    async def scenario() -> None:
        async with running(Sink().server()) as address:
            client = await Client.connect(address)
            assert await client.reply() == "220"
            client.send(end + b"x" * 3_000_000)  # unread input would turn our FIN into a reset
            (last,) = await client.rest()
            assert last[:3] in ("221", "421", "500")
            await client.close()

    run(scenario())


# --- NET-01, -09, -10: sockets ---


@row("NET-01", "NET-09")
@linux
def test_sockets_have_the_options_that_a_long_silence_needs(run: Any) -> None:
    async def scenario() -> None:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        address = listening.getsockname()
        twin = listening.dup()
        server = Sink().server()
        async with running(server, sock=listening), await Client.greeted(address):
            assert twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) == 0
            (connection,) = server.connections
            sock = connection.output.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert 0 < sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 300_000
            assert 0 < sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 300
        twin.close()

    run(scenario())


def somaxconn() -> int:
    limit = Path("/proc/sys/net/core/somaxconn")
    return int(limit.read_text()) if limit.exists() else 0


@row("NET-10")
@linux
def test_very_many_clients_may_connect_before_the_loop_looks(run: Any) -> None:
    if somaxconn() < 1024:
        pytest.skip("the system allows no backlog of 1024")

    async def scenario() -> None:
        server = Sink().server(max_clients=2000)
        async with running(server) as address:
            clients = []
            for _ in range(1000):  # the loop does not run: none of them is accepted yet
                sock = socket.socket()
                clients.append(sock)
                sock.settimeout(0.9)  # less than the kernel waits before it asks again
                sock.connect(address)
            await until(lambda: len(server.connections) == 1000)
            for sock in clients:
                sock.settimeout(30)
                assert sock.recv(3) == b"220"
                sock.close()
            await until(lambda: not server.connections)

    run(scenario())


# --- FLOOD-10, SLOW-15: connections ---


@row("FLOOD-10", "I4")
@pytest.mark.parametrize("leaves", ["before accept", "before greeting", "after greeting", "mixed"])
def test_clients_that_come_and_go_are_each_reported_and_closed_once(leaves: str, run: Any) -> None:
    async def scenario() -> None:
        connects: list[Any] = []
        closes: list[Any] = []

        def on_connect(session: Any, callback: Callable[..., object]) -> None:
            connects.append(session)
            callback()

        server = SMTPServer(**DEFAULTS, on_connect=on_connect, on_close=closes.append)
        async with running(server) as address:
            for number in range(200):
                sock = socket.socket()
                sock.connect(address)
                if leaves == "after greeting" or (leaves == "mixed" and number % 3 == 0):
                    assert (await in_thread(sock.recv, 3)) == b"220"
                    sock.close()
                elif leaves == "before accept" or (leaves == "mixed" and number % 3 == 1):
                    reset(sock)
                else:
                    sock.close()
                if number % 10 == 0:
                    await asyncio.sleep(0)
            await greets(address)
            await until(lambda: not server.connections)
        assert len(connects) == len(closes) == len(set(map(id, connects)))
        assert all(isinstance(session.remote_address, str) for session in connects)

    run(scenario())


@row("SLOW-15")
def test_a_place_that_falls_free_serves_the_next(run: Any) -> None:
    async def scenario() -> None:
        server = Sink().server(max_clients=10)
        async with running(server) as address:
            idle = [await Client.greeted(address) for _ in range(8)]
            await greets(address)
            await until(lambda: len(server.connections) == 8)
            idle += [await Client.greeted(address) for _ in range(2)]
            async with await Client.connect(address) as one_more:
                assert await one_more.rest() == ["421"]
            await idle.pop().close()
            await until(lambda: len(server.connections) == 9)
            await greets(address)
            for client in idle:
                assert await client.ask(b"NOOP\r\n") == "250 2.0.0"
                await client.close()

    run(scenario())


# --- HOOK-05, -18: hooks over a socket ---


@row("HOOK-05")
def test_an_answer_from_a_thread_comes_by_the_loop(run: Any) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        refused: list[str] = []

        def on_rcpt_to(address: Any, session: Any, callback: Callable[..., object]) -> None:
            def elsewhere() -> None:
                try:
                    callback()
                except RuntimeError as error:
                    refused.append(str(error))
                loop.call_soon_threadsafe(callback)

            loop.run_in_executor(None, elsewhere)

        server = Sink().server(on_rcpt_to=on_rcpt_to)
        async with running(server) as address, await Client.greeted(address) as client:
            client.send(MAIL + RCPT)
            assert await client.replies(2) == ["250 2.1.0", "250 2.1.5"]
        assert len(refused) == 1

    run(scenario())


@row("HOOK-18")
@pytest.mark.parametrize("hook", ["on_mail_from", "on_rcpt_to"])
def test_a_coroutine_whose_client_reset_is_cancelled(hook: str, run: Any) -> None:
    async def scenario() -> None:
        begun: list[object] = []
        cancelled: list[bool] = []

        async def hangs(address: Any, session: Any) -> None:
            begun.append(address)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        closes: list[Any] = []
        server = Sink().server(**{hook: hangs, "on_close": closes.append})
        async with running(server) as address:
            client = await Client.greeted(address)
            # With more input after it the server would not be reading, and not hear of a reset.
            client.send(MAIL if hook == "on_mail_from" else TX)
            await until(lambda: begun)
            client.reset()
            await until(lambda: closes)
            assert cancelled == [True]

    run(scenario())


@pytest.mark.row("NET-01")
def test_a_client_that_resets_while_a_hook_works_and_input_waits_is_noticed_at_once(
    run: Any,
) -> None:
    async def scenario() -> None:
        asked, gone = asyncio.Event(), asyncio.Event()

        async def on_mail_from(address: Any, session: Any) -> None:
            asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                gone.set()

        server = Sink().server(on_mail_from=on_mail_from)
        async with running(server) as address:
            if state_of(server).sockets is None:
                pytest.skip("asyncio's own transports see nothing while reading is paused")
            client = await Client.greeted(address)
            client.send(b"MAIL FROM:<a@x.example>\r\nNOOP\r\n")
            await happened(asked)
            client.reset()
            await client.close()
            await happened(gone)
            await until(lambda: not server.connections)

    run(scenario())
