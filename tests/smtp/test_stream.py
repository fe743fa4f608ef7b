"""The body stream: its three ways to be read, credit, early answers, what is refused all the same.

A hook may answer when it likes; the client hears it at the true end of the message, and not if
`size` or a bare newline stands against it (RFC 5321 §4.1.1.4, RFC 1870 §6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from consumers import LINE, READ, Consumer, begun, each_way, segments
from hook_kit import END, MAIL, RCPT, STYLES, Call, in_style
from scenario import DEFAULTS, EH, codes

from fastsmtp import MessageAborted, SMTPError
from fastsmtp.testing import Wire

pytestmark = pytest.mark.usefixtures("no_leaks")
each_style = pytest.mark.parametrize("style", STYLES)
row = pytest.mark.row


@row("HOOK-11")
@each_way
@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_the_pieces_are_the_body_and_stay_what_they_are(way: str, size: int) -> None:
    consumer = Consumer(way)
    body = b"Subject: x\r\n\r\n..a\r\n.b\r\n" + bytes(range(14, 256)) + b"\r\n" + LINE * 50
    stuffed = body.replace(b"\r\n.", b"\r\n..")
    with begun(consumer.hook()) as wire:
        for segment in segments(stuffed + END, size):
            wire.send(segment)
        copies = [bytes(bytearray(piece)) for piece in consumer.pieces]
        assert consumer.body == body
        assert consumer.ends == [None]
        assert all(type(piece) is bytes and piece for piece in consumer.pieces)
        # Another message comes over the same buffers.
        wire.send(MAIL + RCPT + b"DATA\r\n")
        wire.send(b"y" * 5000 + b"\r\n" + END)
        assert consumer.pieces[: len(copies)] == copies


@row("HOOK-11")
@each_way
def test_chunks_of_bdat_come_as_the_same_stream(way: str) -> None:
    consumer = Consumer(way)
    with begun(consumer.hook()) as wire:
        wire.send(b".\r\n")
        wire.send(MAIL + RCPT + b"BDAT 5\r\n.\r\n.\r")
        assert codes(wire.send(b"BDAT 5 LAST\r\n\n..\r\n")) == ["250 2.6.0"]
        assert consumer.body == b".\r\n.\r\n..\r\n"


@each_way
def test_the_facts_of_a_body_are_there_at_its_end(way: str) -> None:
    consumer = Consumer(way)
    with begun(consumer.hook(), bare_newline="accept") as wire:
        assert codes(wire.send(b"\xe9\x00\n" + b"z" * 2000 + b"\r\n" + END)) == ["250 2.6.0"]
        stream = consumer.stream
        assert stream.byte_length == 2005
        assert (stream.bare_newline, stream.has_nul, stream.has_8bit) == (True, True, True)
        assert stream.longest_line == 2003
        assert not stream.size_exceeded


def test_byte_length_grows_with_the_body() -> None:
    consumer = Consumer("consume")
    with begun(consumer.hook()) as wire:
        for count in (1, 2, 3):
            wire.send(LINE)
            assert consumer.stream.byte_length == count * len(LINE)
        assert codes(wire.send(END)) == ["250 2.6.0"]


# --- credit ---


@row("HOOK-08")
@pytest.mark.parametrize("command", ["DATA", "BDAT"])
@each_way
def test_a_consumer_that_lags_stops_the_reading_and_goes_on_where_it_was(
    way: str, command: str
) -> None:
    gates: list[asyncio.Event] = []
    taken: list[bytes] = []

    async def on_data(stream: Any, session: Any) -> None:
        gates.append(asyncio.Event())
        await gates[0].wait()
        if way == "consume":
            done = asyncio.get_running_loop().create_future()
            stream.consume(taken.append, lambda error: done.set_result(error))
            await done
        elif way == "read":
            taken.append(await stream.read())
        else:
            async for piece in stream:
                taken.append(piece)

    total = READ * 20
    with Wire(**DEFAULTS, on_data=on_data) as wire:
        wire.send(EH)
        start = b"DATA\r\n" if command == "DATA" else b"BDAT %d LAST\r\n" % len(total)
        wire.send(MAIL + RCPT + start)
        rest = list(segments(total + (END if command == "DATA" else b""), len(READ)))
        while wire.transport.reading:
            wire.send(rest.pop(0))
        assert len(rest) in (18, 19)  # the high-water mark, and the read that crossed it
        assert wire.advance(200) == b""  # longer than the client's credit: that stands
        wire.loop.step(gates[0].set)
        assert wire.transport.reading
        for segment in rest:
            wire.send(segment)
            assert wire.transport.reading
        assert b"".join(taken) == total


@row("HOOK-08")
@each_style
def test_a_hook_that_never_reads_is_cut_and_the_message_drained(style: str) -> None:
    reasons: list[str] = []
    streams: list[Any] = []

    def forgets(call: Call) -> None:
        streams.append(call.subject)

    async def hangs(call: Call) -> None:
        streams.append(call.subject)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            try:
                await call.subject.read()
            except MessageAborted as error:
                reasons.append(error.reason)
            raise

    hook = in_style("on_data", style, forgets if style == "callback" else hangs)
    with begun(hook, size=10**9) as wire:
        wire.server.on("error", lambda error: None)
        sent = 0
        while wire.transport.reading:
            wire.send(READ)
            sent += 1
        assert sent == 2
        assert wire.advance(239) == b""
        assert not wire.transport.reading
        assert wire.advance(2) == b""
        assert wire.transport.reading
        if style == "callback":
            streams[0].consume(lambda piece: None, lambda error: reasons.append(error.reason))
        assert reasons == ["hook_timeout"]
        for _ in range(100):
            wire.send(READ)
            assert wire.transport.reading
        assert codes(wire.send(END)) == ["451 4.3.0"]
        assert codes(wire.send(MAIL)) == ["250 2.1.0"]


@row("HOOK-08")
def test_a_client_is_timed_while_its_message_is_drained() -> None:
    with begun(lambda stream, session, callback: None, size=10**9) as wire:
        wire.server.on("error", lambda error: None)
        while wire.transport.reading:
            wire.send(READ)
        assert wire.advance(241) == b""
        assert wire.advance(178) == b""
        assert codes(wire.advance(3)) == ["421 4.4.2"]
        assert wire.closed


@row("HOOK-08", "BDAT-14")
def test_the_announced_size_of_a_chunk_allocates_nothing() -> None:
    with Wire(**DEFAULTS, size=10**12, on_data=lambda *given: None) as wire:
        wire.send(EH)
        wire.send(MAIL + RCPT + b"BDAT 1000000000\r\n")
        sent = 0
        while wire.transport.reading:
            wire.send(READ)
            sent += 1
        assert sent == 2


# --- HOOK-07, -09, -10: answers before the end ---

EARLY = {"accepts": None, "text": "queued", "rejects": SMTPError("no", response_code=554)}
EARLY_REPLY = {"accepts": "250 2.6.0", "text": "250 2.6.0", "rejects": "554 5.6.0"}
# What else may come of the message: octets after the 354, and its own reply.
TURNS = {
    "complete": (READ * 4 + END, None),
    "over size": (READ * 17 + END, "552 5.3.4"),
    "bare newline": (READ + b"a\nb\r\n" + END, "550 5.5.2"),
    "bare newline, over size": (READ * 17 + b"a\nb\r\n" + END, "552 5.3.4"),
}


def answers_early(answer: Any, pieces: int) -> Callable[[Call], Any]:
    """Answer after so many pieces, and discard the rest: at once, or as a coroutine."""

    async def later(call: Call) -> Any:
        for _ in range(pieces):
            assert await anext(call.subject)
        call.subject.discard()
        return now(call)

    def now(call: Call) -> Any:
        if call.callback is not None:
            error, result = (answer, None) if isinstance(answer, Exception) else (None, answer)
            call.callback(error, result)
            return None
        if isinstance(answer, Exception):
            raise answer
        return answer

    return later if pieces else now


@row("HOOK-07", "HOOK-09", "SIZE-03")
@pytest.mark.parametrize(
    "style, pieces",  # a plain function cannot wait for a piece
    [("callback", 0), *((style, pieces) for style in STYLES[1:] for pieces in (0, 2))],
)
@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("answer", EARLY)
def test_an_early_answer_waits_for_the_true_end_and_does_not_overrule_the_limits(
    style: str, pieces: int, turn: str, answer: str
) -> None:
    octets, own = TURNS[turn]
    hook = in_style("on_data", style, answers_early(EARLY[answer], pieces))
    with begun(hook, size=16 * len(READ)) as wire:
        for segment in segments(octets[:-3], len(READ)):
            assert wire.send(segment) == b""
            assert wire.transport.reading
        expected = EARLY_REPLY[answer] if own is None or answer == "rejects" else own
        assert codes(wire.send(END)) == [expected]
        assert codes(wire.send(MAIL)) == ["250 2.1.0"]


@row("HOOK-07")
@each_style
@pytest.mark.parametrize("answer", EARLY)
def test_a_client_has_its_timeout_after_an_early_answer_too(style: str, answer: str) -> None:
    hook = in_style("on_data", style, answers_early(EARLY[answer], 0))
    with begun(hook) as wire:
        wire.send(LINE)
        assert wire.advance(179) == b""
        assert codes(wire.advance(3)) == ["421 4.4.2"]
        assert wire.closed


@row("HOOK-07", "HOOK-09")
@each_style
def test_more_than_is_ever_drained_closes_the_connection(style: str) -> None:
    hook = in_style("on_data", style, answers_early(None, 0))
    with begun(hook, size=1024) as wire:
        replies: list[str] = []
        for _ in range(200):
            replies += codes(wire.send(READ))
        assert replies == ["421 4.7.0"]  # size + 10 MiB
        assert wire.closed


@row("HOOK-10", "I8")
@each_style
@pytest.mark.parametrize("leaves", ["reset", "eof", "silence"])
def test_an_accepted_message_whose_client_leaves_before_the_end_is_never_acknowledged(
    style: str, leaves: str
) -> None:
    reasons: list[str] = []

    async def reads_on(call: Call) -> None:
        await anext(call.subject)
        if call.callback is not None:
            call.callback()
        try:
            async for _ in call.subject:
                pass
        except MessageAborted as error:
            reasons.append(error.reason)
            raise

    hook = in_style("on_data", style, answers_early(None, 0) if style == "callback" else reads_on)
    with begun(hook) as wire:
        failures: list[Any] = []
        wire.server.on("error", failures.append)
        assert wire.send(LINE) == b""
        assert wire.send(LINE) == b""
        if leaves == "silence":
            assert codes(wire.advance(200)) == ["421 4.4.2"]
        elif leaves == "eof":
            assert wire.eof() == b""
        wire.reset()
        assert wire.receive() == b""
        assert len(reasons) == (style != "callback")
        assert {failure.stage for failure in failures} <= {"socket"}
        assert not wire.server.connections
