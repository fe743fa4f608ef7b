"""`fastsmtp.testing` as the tests of a gateway use it."""

from __future__ import annotations

import asyncio
import smtplib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastsmtp import MessageAborted, SMTPError, SMTPServer
from fastsmtp.testing import VirtualLoop, Wire, running

pytestmark = pytest.mark.usefixtures("no_leaks")

EHLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n"
SEND = MAIL + b"DATA\r\n"


class Gateway(SMTPServer):
    """What a user would write: it knows one mailbox, and keeps what comes for it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(auth_optional=True, disable_reverse_lookup=True, name="gw", **options)
        self.kept: list[bytes] = []
        self.aborted: list[str] = []
        self.closed = 0

    async def on_rcpt_to(self, address: Any, session: Any) -> None:
        if address.local_part == "slow":
            await asyncio.sleep(20)
        elif address.address != "b@y.example":
            raise SMTPError("no such user", response_code=550)

    async def on_data(self, stream: Any, session: Any) -> str:
        try:
            body = b"".join([piece async for piece in stream])
        except MessageAborted as error:
            self.aborted.append(error.reason)
            raise
        self.kept.append(body)
        return f"kept as {len(self.kept)}"

    def on_close(self, session: Any) -> None:
        self.closed += 1


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire(Gateway()) as wire:
        yield wire


# --- Wire -----------------------------------------------------------------------------------------


def test_a_dialogue_is_octets_in_and_octets_out(wire: Wire) -> None:
    assert wire.receive() == b"220 gw ESMTP\r\n"
    assert wire.send(EHLO).startswith(b"250-gw Nice to meet you")
    assert wire.send(SEND).splitlines()[-1].startswith(b"354 ")
    assert wire.send(b"text\r\n.\r\n") == b"250 2.6.0 kept as 1\r\n"
    assert not wire.closed
    assert wire.send(b"QUIT\r\n") == b"221 2.0.0 Bye\r\n"
    assert wire.closed
    assert wire.server.kept == [b"text\r\n"]


def test_segments_are_reads_and_receive_has_what_is_new(wire: Wire) -> None:
    wire.receive()
    assert wire.send(b"NO", b"OP", b"\r", b"\nNOOP\r\n") == b"250 2.0.0 OK\r\n" * 2
    assert wire.receive() == b""


def test_options_and_hooks_may_be_given_instead_of_a_server() -> None:
    seen: list[str] = []

    def on_mail_from(address: Any, session: Any, callback: Callable[..., object]) -> None:
        seen.append(session.remote_address)
        callback(SMTPError("not you"))

    with Wire(peer=("198.51.100.7", 1), auth_optional=True, on_mail_from=on_mail_from) as wire:
        assert wire.receive() == b"220 srv.test ESMTP\r\n"
        wire.send(EHLO)
        assert wire.send(b"MAIL FROM:<a@x.example>\r\n") == b"550 5.7.1 not you\r\n"
        assert wire.session.error == "550 5.7.1 not you"
    assert seen == ["198.51.100.7"]


def test_options_beside_a_server_are_an_error() -> None:
    """They would have no effect."""
    with pytest.raises(TypeError):
        Wire(Gateway(), size=1)


def test_time_passes_only_when_the_test_advances_it(wire: Wire) -> None:
    wire.send(EHLO)
    assert wire.advance(299) == b""
    assert wire.advance(2).startswith(b"421 4.4.2 ")
    assert wire.closed
    assert wire.loop.time() == pytest.approx(301)


def test_a_hook_that_sleeps_is_waited_for_in_virtual_time(wire: Wire) -> None:
    wire.send(EHLO)
    wire.send(b"MAIL FROM:<a@x.example>\r\n")
    assert wire.send(b"RCPT TO:<slow@y.example>\r\n") == b""
    assert wire.advance(19.9) == b""
    assert wire.advance(0.2).startswith(b"250 2.1.5 ")


def test_a_client_that_leaves_in_a_message_aborts_it(wire: Wire) -> None:
    wire.send(EHLO)
    wire.send(SEND)
    wire.send(b"half of it")
    wire.reset()
    assert wire.closed
    assert (wire.server.kept, wire.server.aborted) == ([], ["disconnected"])
    assert wire.server.closed == 1


def test_a_client_that_half_closes_still_gets_its_reply(wire: Wire) -> None:
    wire.send(EHLO)
    wire.send(SEND)
    wire.send(b"text\r\n.\r\nQUIT")
    assert wire.eof() == b""
    assert wire.server.kept == [b"text\r\n"]
    assert wire.closed


def test_a_client_that_does_not_read_is_cut(wire: Wire) -> None:
    wire.send(EHLO)
    wire.stop_reading()
    for _ in range(40):
        wire.send(b"HELP\r\n" * 2)
    wire.advance(40)
    assert wire.transport.closed


def test_output_can_be_taken_in_parts() -> None:
    with Wire(Gateway(max_junk_commands=None)) as wire:
        wire.stop_reading()
        wire.send(b"HELP\r\n" * 2000)
        assert not wire.transport.reading  # the server waits for the client
        for _ in range(20):
            wire.take()
            wire.advance(0)
        assert wire.transport.reading
        assert wire.receive().count(b"214 ") == 0  # `send` has returned all but what came since


def test_several_wires_share_a_server_and_a_loop() -> None:
    loop = VirtualLoop()
    gateway = Gateway(max_clients=2)
    wires = [Wire(gateway, loop=loop, peer=("192.0.2.1", at)) for at in range(3)]
    assert [wire.receive()[:3] for wire in wires] == [b"220", b"220", b"421"]
    assert len(gateway.connections) == 2
    for wire in wires:
        wire.close()
    assert not gateway.connections
    loop.close()


def test_a_coroutine_can_be_run_on_the_wires_loop(wire: Wire) -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    assert wire.run(answer()) == 42


def test_the_server_of_a_wire_can_be_closed(wire: Wire) -> None:
    wire.receive()
    closed: list[bool] = []

    async def close() -> None:
        await wire.server.close()
        closed.append(True)

    tasks = []
    wire.loop.step(lambda: tasks.append(wire.loop.create_task(close())))
    assert wire.receive().startswith(b"421 4.3.2 ")
    wire.eof()
    wire.advance(0)
    assert closed == [True]


def test_a_wire_can_be_closed_twice_and_after_its_end(wire: Wire) -> None:
    wire.send(b"QUIT\r\n")
    wire.eof()
    assert wire.transport.closed
    wire.close()
    wire.close()
    assert wire.server.closed == 1


def test_an_exception_inside_the_loop_reaches_the_test(wire: Wire) -> None:
    def fail() -> None:
        raise LookupError("in the step")

    with pytest.raises(LookupError, match="in the step"):
        wire.loop.step(fail)
    assert wire.send(b"NOOP\r\n").endswith(b"250 2.0.0 OK\r\n")


# --- Wire beside threads and other loops ---


def in_thread(hook: Callable[[], object]) -> Any:
    async def on_rcpt_to(address: Any, session: Any) -> None:
        await asyncio.to_thread(hook)

    return on_rcpt_to


RCPT = b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n"


def test_a_hook_that_works_in_a_thread_is_waited_for_without_virtual_time() -> None:
    called: list[str] = []

    def look_up() -> None:
        time.sleep(0.05)
        called.append(threading.current_thread().name)

    with Wire(auth_optional=True, on_rcpt_to=in_thread(look_up)) as wire:
        wire.send(EHLO)
        assert wire.send(RCPT).endswith(b"250 2.1.5 Accepted\r\n")
        assert wire.loop.time() == 0
    assert len(called) == 1


def test_a_hook_whose_thread_hangs_is_waited_for_no_longer_than_its_patience() -> None:
    hanging = threading.Event()
    with Wire(auth_optional=True, on_rcpt_to=in_thread(hanging.wait), hook_timeout=10) as wire:
        wire.loop.patience = 0
        wire.send(EHLO)
        assert wire.send(RCPT) == b"250 2.1.0 Accepted\r\n"
        assert wire.advance(11).startswith(b"451 ")
        hanging.set()


def test_wires_work_inside_of_a_running_loop(run: Any) -> None:
    async def scenario() -> None:
        hook = in_thread(lambda: None)
        with Wire(Gateway()) as first, Wire(auth_optional=True, on_rcpt_to=hook) as second:
            for wire in (first, second):
                wire.send(EHLO)
                assert wire.send(RCPT).splitlines()[-1].startswith(b"250 2.1.5 ")
            assert first.send(b"RCPT TO:<slow@y.example>\r\n") == b""
            assert first.advance(21).startswith(b"250 2.1.5 ")
            assert first.run(asyncio.sleep(0, "result")) == "result"
            with pytest.raises(LookupError):
                first.loop.step(lambda: {}["missing"])
        assert asyncio.get_running_loop() is run.loop

    run(scenario())


def test_a_wire_cannot_be_driven_by_its_own_hook() -> None:
    errors: list[str] = []

    async def on_mail_from(address: Any, session: Any) -> None:
        try:
            wire.send(b"NOOP\r\n")
        except RuntimeError as error:
            errors.append(str(error))

    with Wire(auth_optional=True, on_mail_from=on_mail_from) as wire:
        wire.send(EHLO)
        wire.send(b"MAIL FROM:<a@x.example>\r\n")
    assert errors == ["This event loop is already running"]


# --- running --------------------------------------------------------------------------------------


def test_a_running_server_takes_mail_from_any_client(run: Any) -> None:
    def send(host: str, port: int) -> None:
        with smtplib.SMTP(host, port, timeout=60) as client:
            client.sendmail("a@x.example", ["b@y.example"], b"Subject: x\r\n\r\ntext\r\n")

    async def scenario() -> None:
        gateway = Gateway()
        async with running(gateway) as (host, port):
            assert (host, port) == gateway.address()
            await asyncio.to_thread(send, host, port)
        assert gateway.address() is None
        assert gateway.kept == [b"Subject: x\r\n\r\ntext\r\n"]
        assert gateway.closed == 1

    run(scenario())


def test_a_running_server_may_listen_elsewhere(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        path = str(tmp_path / "lmtp")
        async with running(Gateway(lmtp=True), path=path) as (where, port):
            assert (where, port) == (path, 0)
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.readline() == b"220 gw LMTP\r\n"
            writer.close()
            await writer.wait_closed()

    run(scenario())


def test_a_running_server_is_closed_when_the_test_fails(run: Any) -> None:
    async def scenario() -> None:
        gateway = Gateway()
        with pytest.raises(LookupError):
            async with running(gateway):
                raise LookupError
        assert gateway.address() is None

    run(scenario())
