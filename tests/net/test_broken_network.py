"""A bad network, in memory: resets and FINs at every octet, clients that never read, odd peers.

A truncated message is never complete, and nothing of a connection that broke is left
(RFC 5321 §3.8, §4.1.1.4).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hook_kit import BODY, END, MAIL, RCPT, Call, in_style
from memory import growth
from scenario import (
    COUNTERS_OFF,
    DEFAULTS,
    EH,
    FIN,
    GREETED,
    LH,
    MAILED,
    RST,
    TX,
    Conversation,
    Step,
    codes,
    every_cut,
    octet_by_octet,
    one_way,
)

from fastsmtp import MessageAborted, SMTPServer
from fastsmtp.testing import VirtualLoop, Wire

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

NO_STRICT: dict[str, Any] = {**COUNTERS_OFF, "strict_pipelining": False}
# Groups of whole sessions; the body of each message is b"text".
SESSIONS: dict[str, list[bytes]] = {
    "data": [EH, TX + b"DATA\r\n", b"text\r\n.\r\n", b"NOOP\r\nQUIT\r\n"],
    "bdat": [EH, TX + b"BDAT 3\r\ntexBDAT 3 LAST\r\nt\r\nNOOP\r\nQUIT\r\n"],
    "refused chunk": [EH, MAIL + b"BDAT 9\r\nRSET\r\nRCPRSET\r\nQUIT\r\n"],
    "lmtp": [LH, TX + RCPT + b"DATA\r\n", b"text\r\n.\r\n", b"QUIT\r\n"],
}


def cut_at(groups: list[bytes], offset: int) -> list[bytes]:
    """The first `offset` octets of a session, in its groups."""
    cut = []
    for group in groups:
        if offset:
            cut.append(group[:offset])
            offset -= len(cut[-1])
    return cut


# --- NET-02, -04: the end at every octet ---


@row("NET-02", "I8")
@pytest.mark.parametrize("kind", SESSIONS)
@pytest.mark.parametrize("end", [RST, FIN], ids=["reset", "fin"])
def test_a_session_may_break_at_every_octet(kind: str, end: Step) -> None:
    groups = SESSIONS[kind]
    lmtp = kind == "lmtp"
    whole = one_way(groups, lmtp=lmtp).codes
    for offset in range(sum(map(len, groups))):
        run = one_way([*cut_at(groups, offset), end], lmtp=lmtp)
        assert run.codes == whole[: len(run.codes)]
        acknowledged = "250 2.6.0" in run.codes
        assert len(run.messages) <= 1
        for message in run.messages:
            assert (message.reason is None) == acknowledged
            assert message.reason in (None, "disconnected")
            if acknowledged:
                assert message.body == b"text\r\n"


@row("NET-02", "HOOK-18")
@pytest.mark.parametrize("kind", SESSIONS)
def test_coroutine_hooks_leave_nothing_when_a_session_breaks(kind: str) -> None:
    async def waits(call: Call) -> None:
        await asyncio.sleep(1)

    async def reads(call: Call) -> str:
        await asyncio.sleep(1)
        pieces = [piece async for piece in call.subject]
        await asyncio.sleep(1)
        whole.append(b"".join(pieces))
        return "queued"

    whole: list[bytes] = []
    closes: list[object] = []
    errors: list[object] = []
    loop = VirtualLoop()
    loop.set_exception_handler(lambda loop, about: errors.append(about))
    hooks: dict[str, Any] = {
        "on_connect": in_style("on_connect", "coroutine", waits),
        "on_mail_from": in_style("on_mail_from", "coroutine", waits),
        "on_rcpt_to": in_style("on_rcpt_to", "coroutine", waits),
        "on_data": in_style("on_data", "coroutine", reads),
        "on_close": closes.append,
    }
    server = SMTPServer(**{**DEFAULTS, **hooks, "lmtp": kind == "lmtp"})
    server.on("error", lambda error: error.stage == "socket" or errors.append(error))
    groups = SESSIONS[kind]
    total = sum(map(len, groups))
    for offset in range(total + 1):
        wire = Wire(server, loop=loop)
        for octets in cut_at(groups, offset):
            wire.advance(4)
            wire.send(octets)
        if offset % 2:
            wire.advance(offset % 5)
        wire.reset()
        loop.advance(3)
    assert len(closes) == total + 1
    assert not server.connections
    assert not asyncio.all_tasks(loop)
    assert not [timer for timer in loop._scheduled if not timer.cancelled()]
    assert not errors
    assert all(body == b"text\r\n" for body in whole)
    loop.close()


@row("NET-04")
@pytest.mark.parametrize(
    "octets", [b"", b"a", b"a\r\n.", b"a\r\n.\r", b"a\r", b".", b".\r", b"\n.\n"]
)
def test_a_fin_is_not_the_end_of_a_message(octets: bytes) -> None:
    run = every_cut([EH, TX + b"DATA\r\n", octets, FIN])
    assert run.codes == [*GREETED, *MAILED, "354"]
    assert [message.reason for message in run.messages] == ["disconnected"]


# --- NET-05: a client that never reads ---


@row("NET-05", "FLOOD-06", "I7")
@pytest.mark.parametrize(
    "line", [b"EHLO x\r\n", b"RSET\r\n", b"HELP\r\n", b"FOO\r\n", b"VRFY x\r\n"]
)
@pytest.mark.parametrize("size", [9, 1000, 65536, 256_000])
def test_a_client_that_never_reads_is_held_back_and_then_cut(line: bytes, size: int) -> None:
    with Wire(**{**DEFAULTS, **NO_STRICT}) as wire:
        wire.receive()
        reply = len(wire.send(line))
        wire.stop_reading()
        flood = line * (256_000 // len(line))
        sent = 0
        while wire.transport.reading and sent < 100 * len(flood):
            wire.send(flood[:size])
            sent += size
        held = wire.transport.get_write_buffer_size()
        assert 0 < held <= 64 * 1024 + reply
        assert not wire.transport.reading
        wire.advance(29)
        assert wire.transport.get_write_buffer_size() == held
        assert not wire.transport.closed
        wire.advance(6)
        assert wire.transport.closed
        assert not wire.server.connections


@row("NET-05")
def test_commands_of_a_client_that_does_not_read_are_executed_when_it_does() -> None:
    executed: list[str] = []

    def on_rcpt_to(address: Any, session: Any, callback: Callable[..., object]) -> None:
        executed.append(address.local_part)
        callback()

    with Wire(**{**DEFAULTS, **NO_STRICT}, max_recipients=10_000, on_rcpt_to=on_rcpt_to) as wire:
        written = wire.send(EH) + wire.send(MAIL)
        wire.stop_reading()
        names = [f"r{number}" for number in range(8000)]
        written += wire.send(b"".join(b"RCPT TO:<%s@y.example>\r\n" % n.encode() for n in names))
        assert len(executed) < 8000
        before = len(executed)
        wire.advance(20)
        assert len(executed) == before
        while wire.transport.get_write_buffer_size():
            wire.take(50_000)
            written += wire.advance(0)
        assert executed == names
        assert codes(written)[1:] == ["250", "250 2.1.0", *["250 2.1.5"] * 8000]


# --- NET-07: one-octet segments ---


def calls_of(work: Callable[[], object]) -> int:
    """How many functions were called: what a time would say, without the noise."""
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@row("NET-07")
def test_a_session_in_one_octet_segments_is_the_same_session() -> None:
    run = every_cut(
        [EH, TX + b"DATA\r\n", BODY * 5 + END + TX + b"BDAT 4 LAST\r\ntext", b"QUIT\r\n"]
    )
    assert run.codes[5:] == ["250 2.6.0", *MAILED, "250 2.6.0", "221 2.0.0"]


@row("NET-07", "CPU-01")
@pytest.mark.parametrize(
    "octets", [b"x" * 2000, b"\r\n" * 1000, b"\r\n.x" * 500, b"..\r\n" * 500, b"NOOP\r\n" * 330]
)
def test_the_work_for_one_octet_segments_is_linear(octets: bytes) -> None:
    counts = []
    for times in (1, 2):
        with Conversation(bare_newline="accept", **COUNTERS_OFF) as session:
            session.do(EH)
            if not octets.startswith(b"NOOP"):
                session.do(TX + b"DATA\r\n")
            segments = octet_by_octet(octets * times)
            counts.append(calls_of(lambda: session.wire.send(*segments)))  # noqa: B023
    assert counts[1] < 2.1 * counts[0]


# --- NET-08: very much in one read ---


@row("NET-08", "CPU-02")
def test_one_read_of_very_many_transactions_leaves_the_others_their_turns() -> None:
    messages = 0
    turns: list[int] = [0]  # hooks called in each turn of the loop

    def count(subject: Any, session: Any, callback: Callable[..., object]) -> None:
        turns[-1] += 1
        callback()

    def on_data(stream: Any, session: Any, callback: Callable[..., object]) -> None:
        nonlocal messages
        messages += 1
        count(stream, session, callback)

    def next_turn() -> None:
        turns.append(0)
        if messages < 20_000:
            loop.call_soon(next_turn)

    def other_client() -> None:
        other.connection.data_received(b"NOOP\r\n")
        answered.append((messages, other.transport.writes[-1]))

    loop = VirtualLoop()
    hooks: dict[str, Any] = {"on_mail_from": count, "on_rcpt_to": count, "on_data": on_data}
    server = SMTPServer(**{**DEFAULTS, **COUNTERS_OFF, **hooks})
    wire, other = Wire(server, loop=loop), Wire(server, loop=loop)
    answered: list[tuple[int, bytes]] = []
    wire.send(EH)
    other.send(EH)
    octets = b"MAIL FROM:<>\r\nRCPT TO:<b@y>\r\nBDAT 1 LAST\r\nx" * 20_000
    loop.call_soon(next_turn)
    loop.call_soon(wire.connection.data_received, octets)
    loop.call_soon(other_client)
    loop.advance()
    assert messages == 20_000
    assert max(turns) <= 512
    assert answered == [(170, b"250 2.0.0 OK\r\n")]
    assert codes(wire.receive()) == [*MAILED, "250 2.6.0"] * 20_000
    wire.close()
    other.close()
    loop.close()


@row("CPU-02")
def test_very_many_short_commands_cause_no_recursion() -> None:
    depths: set[int] = set()

    def on_rcpt_to(address: Any, session: Any, callback: Callable[..., object]) -> None:
        frame: FrameType | None = sys._getframe()
        depth = 0
        while frame is not None:
            frame, depth = frame.f_back, depth + 1
        depths.add(depth)
        callback()

    with Wire(
        **{**DEFAULTS, **NO_STRICT, "max_recipients": 50_000, "on_rcpt_to": on_rcpt_to}
    ) as wire:
        wire.send(EH)
        wire.send(MAIL)
        assert codes(wire.send(b"A\r\n" * 21_845)) == ["500 5.5.2"] * 21_845
        assert codes(wire.send(RCPT * 20_000)) == ["250 2.1.5"] * 20_000
    assert max(depths) - min(depths) <= 10  # the first of a read, and those of later turns


# --- NET-11: odd peers ---


@row("NET-11")
@pytest.mark.parametrize(
    "peer, address, port",
    [
        (("192.0.2.7", 4000), "192.0.2.7", 4000),
        (("::ffff:1.2.3.4", 4000, 0, 0), "1.2.3.4", 4000),
        (("fe80::1%eth0", 4000, 0, 2), "fe80::1", 4000),
        (("2001:db8::1", 4000, 0, 0), "2001:db8::1", 4000),
        (("2001:DB8:0:0:0:0:0:1", 4000, 0, 0), "2001:db8::1", 4000),
        ("", "", 0),
        ("/run/client.sock", "", 0),
        (b"", "", 0),
        (None, "", 0),
    ],
)
def test_a_peer_has_its_address_in_one_form(peer: Any, address: str, port: int) -> None:
    with Wire(peer=peer, **DEFAULTS) as wire:
        assert codes(wire.receive()) == ["220"]
        assert (wire.session.remote_address, wire.session.remote_port) == (address, port)
        assert wire.session.client_hostname == (f"[{address}]" if address else "localhost")
        assert codes(wire.send(EH)) == ["250"]


# --- what is left ---


@row("NET-02", "I12")
def test_connections_that_break_leave_no_memory() -> None:
    loop = VirtualLoop()
    ends: list[str] = []

    def on_data(stream: Any, session: Any, callback: Callable[..., object]) -> None:
        def on_end(error: MessageAborted | None) -> None:
            ends.append(error.reason if error else "")
            callback(error)

        stream.consume(lambda piece: None, on_end)

    server = SMTPServer(**DEFAULTS, on_data=on_data)

    def work(rounds: int) -> None:
        for number in range(rounds):
            with Wire(server, loop=loop) as wire:
                for octets in cut_at(SESSIONS["data"], number % 110):
                    wire.send(octets)

    assert growth(lambda: work(330), lambda: work(110)) < 32_768
    assert set(ends) == {"", "disconnected"}
    assert not server.connections
    loop.close()
