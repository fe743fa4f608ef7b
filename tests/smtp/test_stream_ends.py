"""How a body ends for its consumer: reasons of `MessageAborted`, size, late and failing consumers.

A truncated body never looks complete; `on_end` comes exactly once (RFC 5321 §4.1.1.4).
"""

from __future__ import annotations

import asyncio
import gc
from asyncio import CancelledError
from collections.abc import Callable
from typing import Any

import pytest
from clients import Client, Sink
from consumers import READ, Consumer, begun, chunked, each_way
from hook_kit import BODY, END, MAIL, RCPT, Call, OddException, in_style
from scenario import DEFAULTS, EH, codes

from fastsmtp import MessageAborted, SMTPError
from fastsmtp.stream import HIGH_WATER
from fastsmtp.testing import Wire, running

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row


# --- why a body is aborted ---

# Reason -> what happens after the beginning of a body, and what the client is answered.
DATA_ENDS: dict[str, tuple[Callable[[Wire], object], list[str]]] = {
    "disconnected": (lambda wire: wire.reset(), []),
    "timeout": (lambda wire: wire.advance(200), ["421 4.4.2"]),
    "shutdown": (lambda wire: shut_down(wire), []),
    "bare_newline": (lambda wire: wire.send(b"a\nb\r\n" + END), ["550 5.5.2"]),
    "nul": (lambda wire: wire.send(b"a\0b\r\n" + END), ["550 5.6.0"]),
    "too_much_data": (lambda wire: [wire.send(READ) for _ in range(200)], ["421 4.7.0"]),
}
CHUNK_ENDS: dict[str, tuple[Callable[[Wire], object], list[str]]] = {
    "disconnected": DATA_ENDS["disconnected"],
    "timeout": (lambda wire: wire.advance(301), ["421 4.4.2"]),
    "shutdown": DATA_ENDS["shutdown"],
    "bare_newline": (lambda wire: wire.send(b"BDAT 3 LAST\r\na\nb"), ["550 5.5.2"]),
}


def at_size(way: str) -> str | None:
    """How a body ends for its consumer that is longer than `size`: `read` gives all or nothing."""
    return "too large" if way == "read" else None


def shut_down(wire: Wire) -> None:
    """`close_timeout` passes while the body is open."""
    closing = wire.loop.create_task(wire.server.close())
    wire.advance(29)
    assert not wire.transport.closed
    wire.advance(2)
    assert closing.done()


@row("HOOK-12", "I8")
@each_way
@pytest.mark.parametrize("reason", DATA_ENDS)
def test_a_body_that_is_aborted_ends_once_with_its_reason(way: str, reason: str) -> None:
    consumer = Consumer(way)
    act, expected = DATA_ENDS[reason]
    options = {"too_much_data": {"size": 1024}, "nul": {"reject_nul": True}}.get(reason, {})
    with begun(consumer.hook(), **options) as wire:
        wire.send(b"begun\r\n")
        written = len(wire.transport.writes)
        act(wire)
        assert codes(b"".join(wire.transport.writes[written:])) == expected
        assert consumer.body.startswith(b"" if way == "read" else b"begun\r\n")
        # Over `size` the stream has ended long before the client is cut.
        assert consumer.ends == [at_size(way) if reason == "too_much_data" else reason]
        assert not wire.server.connections or not wire.transport.closed


@row("HOOK-12", "I8")
@each_way
@pytest.mark.parametrize("reason", CHUNK_ENDS)
def test_a_message_in_chunks_that_is_aborted_ends_once_with_its_reason(
    way: str, reason: str
) -> None:
    consumer = Consumer(way)
    act, expected = CHUNK_ENDS[reason]
    with chunked(consumer.hook()) as wire:
        written = len(wire.transport.writes)
        act(wire)
        assert codes(b"".join(wire.transport.writes[written:])) == expected
        assert consumer.ends == [reason]


@row("BDAT-06", "HOOK-12")
@each_way
@pytest.mark.parametrize("command", [b"RSET\r\n", b"EHLO c.example\r\n", b"HELO c.example\r\n"])
def test_a_reset_between_chunks_aborts_the_body_and_is_answered_at_once(
    way: str, command: bytes
) -> None:
    consumer = Consumer(way)
    with chunked(consumer.hook()) as wire:
        assert codes(wire.send(command))[0][:3] == "250"
        assert consumer.ends == ["reset"]
        assert consumer.body == (b"" if way == "read" else b"begun")
        assert wire.receive() == b""
        assert codes(wire.send(EH)) == ["250"]
        assert codes(wire.send(MAIL)) == ["250 2.1.0"]


@row("BDAT-06")
@each_way
def test_quit_between_chunks_aborts_the_body(way: str) -> None:
    consumer = Consumer(way)
    with chunked(consumer.hook()) as wire:
        assert codes(wire.send(b"QUIT\r\n")) == ["221 2.0.0"]
        assert consumer.ends == ["disconnected"]


@row("HOOK-18")
@each_way
@pytest.mark.parametrize("leaves", ["reset", "eof"])
def test_a_client_that_leaves_within_a_body_aborts_it_without_an_error(
    way: str, leaves: str
) -> None:
    consumer = Consumer(way)
    closes: list[Any] = []
    errors: list[Any] = []
    with begun(consumer.hook(), on_close=closes.append) as wire:
        wire.server.on("error", lambda error: error.stage == "socket" or errors.append(error))
        wire.send(BODY)
        if leaves == "eof":
            assert wire.eof() == b""
        wire.reset()
        assert wire.receive() == b""
        assert consumer.ends == ["disconnected"]
        assert len(closes) == 1
        assert not errors


@row("HOOK-12")
@pytest.mark.parametrize("way", ["read", "async for"])
def test_the_timeout_of_the_hook_ends_the_body_for_its_consumer(way: str) -> None:
    consumer = Consumer(way)

    async def slow(call: Call) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            await consumer._read(call)

    hook = in_style("on_data", "coroutine", slow)
    with begun(hook) as wire:
        wire.server.on("error", lambda error: None)
        while wire.transport.reading:
            wire.send(READ)
        wire.advance(241)
        assert consumer.ends == ["hook_timeout"]
        assert codes(wire.send(END)) == ["451 4.3.0"]


# --- size ---


@row("SIZE-03", "SIZE-04")
@each_way
@pytest.mark.parametrize("over", [0, 1, 100_000])
@pytest.mark.parametrize("command", ["DATA", "BDAT"])
def test_a_stream_ends_after_exactly_size_octets(way: str, over: int, command: str) -> None:
    consumer = Consumer(way)
    body = b"x" * (10_000 - 2 + over) + b"\r\n"
    with Wire(**DEFAULTS, on_data=consumer.hook(), size=10_000) as wire:
        wire.send(EH)
        if command == "DATA":
            wire.send(MAIL + RCPT + b"DATA\r\n")
            reply = wire.send(body + END)
        else:
            wire.send(MAIL + RCPT)
            reply = wire.send(b"BDAT %d LAST\r\n" % len(body) + body)
        assert consumer.body == (b"" if way == "read" and over else body[:10_000])
        assert consumer.ends == [at_size(way) if over else None]
        assert consumer.stream.size_exceeded == (over > 0)
        assert consumer.stream.byte_length == 10_000
        assert codes(reply) == ["552 5.3.4" if over else "250 2.6.0"]
        assert codes(wire.send(MAIL)) == ["250 2.1.0"]


@row("SIZE-03")
@each_way
def test_the_consumer_learns_of_the_crossing_before_the_client_has_finished(way: str) -> None:
    consumer = Consumer(way)
    with begun(consumer.hook(), size=100) as wire:
        wire.send(b"x" * 100)
        assert consumer.ends == []  # the next octets may be the end
        wire.send(b"y")
        assert consumer.ends == [at_size(way)]
        assert consumer.stream.size_exceeded
        assert wire.receive() == b""
        assert codes(wire.send(b"\r\n" + END)) == ["552 5.3.4"]


@row("SIZE-03")
@pytest.mark.parametrize("way", ["consume", "async for"])  # `read` has a rejection of its own
def test_a_rejection_by_the_hook_takes_precedence_over_the_size(way: str) -> None:
    consumer = Consumer(way, SMTPError("no", response_code=554))
    with begun(consumer.hook(), size=100) as wire:
        assert codes(wire.send(b"x" * 1000 + b"\r\n" + END)) == ["554 5.6.0"]


@row("SIZE-03")
def test_a_failing_hook_does_not_stand_over_the_size() -> None:
    with begun(lambda stream, session, callback: 1 / 0, size=100) as wire:
        wire.server.on("error", lambda error: None)
        assert codes(wire.send(b"x" * 1000 + b"\r\n" + END)) == ["552 5.3.4"]


# --- HOOK-12: one consumer, reading on, leaving early ---


@row("HOOK-12")
def test_a_stream_has_one_consumer() -> None:
    refused: list[str] = []

    def on_data(stream: Any, session: Any, callback: Callable[..., object]) -> None:
        stream.consume(lambda piece: None, lambda error: callback(error))
        with pytest.raises(RuntimeError):
            stream.consume(lambda piece: None, lambda error: None)
        with pytest.raises(RuntimeError):
            stream.read().send(None)
        refused.append("both")

    with begun(on_data) as wire:
        assert refused == ["both"]
        assert codes(wire.send(BODY + END)) == ["250 2.6.0"]


@row("HOOK-12")
def test_a_second_reader_is_refused_while_the_first_waits() -> None:
    async def on_data(stream: Any, session: Any) -> str:
        first = asyncio.ensure_future(stream.read())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await stream.read()
        with pytest.raises(RuntimeError):
            await anext(stream)
        with pytest.raises(RuntimeError):
            stream.consume(print, print)
        assert await first == BODY
        return "one of them"

    with begun(on_data) as wire:
        assert codes(wire.send(BODY)) == []
        assert codes(wire.send(END)) == ["250 2.6.0"]


@row("HOOK-12")
def test_reading_after_the_end_gives_nothing_more() -> None:
    async def on_data(stream: Any, session: Any) -> str:
        assert await stream.read() == BODY
        for _ in range(3):
            assert await stream.read() == b""
        assert [piece async for piece in stream] == []
        return "read"

    with begun(on_data) as wire:
        assert codes(wire.send(BODY + END)) == ["250 2.6.0"]


@row("HOOK-12")
def test_reading_after_an_abort_raises_again() -> None:
    raised: list[str] = []

    async def on_data(stream: Any, session: Any) -> None:
        for _ in range(3):
            try:
                await stream.read()
            except MessageAborted as error:
                raised.append(error.reason)

    with begun(on_data) as wire:
        wire.send(BODY)
        wire.reset()
        assert raised == ["disconnected"] * 3


@row("HOOK-12")
@pytest.mark.parametrize("how", ["break", "drops the iterator"])
@pytest.mark.parametrize("discards", [True, False])
def test_the_rest_is_drained_when_a_hook_leaves_early(how: str, discards: bool) -> None:
    async def on_data(stream: Any, session: Any) -> str:
        if how == "break":
            async for _ in stream:
                break
        else:
            iterator = aiter(stream)
            await anext(iterator)
            del iterator
        if discards:
            stream.discard()
        del stream
        gc.collect()
        return "enough"

    with begun(on_data) as wire:
        for _ in range(10):
            assert wire.send(READ) == b""
            assert wire.transport.reading
        assert codes(wire.send(END)) == ["250 2.6.0" if discards else "451 4.3.0"]


# --- `consume()` later than in the call of the hook: what came before it waits ---


@row("HOOK-12")
def test_consume_may_begin_after_the_end_of_the_body() -> None:
    streams: list[Any] = []
    answers: list[Any] = []
    pieces: list[bytes] = []
    ends: list[object] = []

    def on_data(stream: Any, session: Any, callback: Any) -> None:
        streams.append(stream)
        answers.append(callback)

    with begun(on_data) as wire:
        assert codes(wire.send(BODY + BODY + END)) == []
        wire.loop.step(lambda: streams[0].consume(pieces.append, ends.append))
        assert b"".join(pieces) == BODY + BODY
        assert ends == [None]
        wire.loop.step(answers[0])
        assert codes(wire.receive()) == ["250 2.6.0"]
        assert ends == [None]


LONG_LINE = b"A" * 998 + b"\r\n"
LONG = LONG_LINE * (3 * HIGH_WATER // len(LONG_LINE))


class LateConsumer:
    """An `on_data` that calls `consume` `delay` seconds after it was called."""

    def __init__(
        self, on_chunk: Callable[[bytes], object] = lambda piece: None, delay: float = 1
    ) -> None:
        self._delay = delay
        self.pieces: list[bytes] = []
        self.ends: list[str | None] = []
        self._on_chunk = on_chunk

    def on_data(self, stream: Any, session: Any, callback: Callable[..., object]) -> None:
        def on_chunk(piece: bytes) -> None:
            assert not self.ends
            self.pieces.append(piece)
            self._on_chunk(piece)

        def on_end(error: MessageAborted | None) -> None:
            self.ends.append(None if error is None else error.reason)
            callback(error)

        loop = asyncio.get_running_loop()
        loop.call_later(self._delay, stream.consume, on_chunk, on_end)

    def wire(self, **options: Any) -> Wire:
        """A connection with an open transaction."""
        wire = Wire(**{**DEFAULTS, "on_data": self.on_data, **options})
        wire.server.on("error", lambda error: None)
        wire.send(EH)
        wire.send(MAIL + RCPT)
        return wire


@row("I8", "I9")
@pytest.mark.parametrize("octets", [b"", b"one\r\n", LONG])
def test_a_late_consumer_gets_the_end_after_all_that_waited(octets: bytes) -> None:
    late = LateConsumer()
    with late.wire() as wire:
        wire.send(b"DATA\r\n")
        wire.send(octets + b".\r\n")
        assert codes(wire.advance(2)) == ["250 2.6.0"]
    assert b"".join(late.pieces) == octets
    assert late.ends == [None]


@row("I8", "I9")
def test_a_late_consumer_gets_chunks_in_their_order() -> None:
    late = LateConsumer()
    sizes = (HIGH_WATER + 1, HIGH_WATER + 2, HIGH_WATER + 3)
    octets = b"".join(
        b"BDAT %d\r\n" % size + b"abc"[at : at + 1] * size for at, size in enumerate(sizes)
    )
    with late.wire() as wire:
        sent = codes(wire.send(octets + b"BDAT 0 LAST\r\n")) + codes(wire.advance(2))
        assert sent == ["250 2.0.0"] * 3 + ["250 2.6.0"]
    assert b"".join(late.pieces) == b"".join(
        letter * size for letter, size in zip((b"a", b"b", b"c"), sizes, strict=True)
    )


@row("I8")
def test_a_late_consumer_of_a_body_whose_client_has_left_gets_no_true_end() -> None:
    late = LateConsumer()
    with late.wire() as wire:
        wire.send(b"DATA\r\n")
        wire.send(b"one\r\n")
        wire.reset()
        wire.advance(2)
    assert late.ends in ([], ["disconnected"])


@row("HOOK-01")
@pytest.mark.parametrize(
    "error", [OSError("disk full"), CancelledError(), GeneratorExit(), OddException()], ids=repr
)
@pytest.mark.parametrize("complete", [True, False])
def test_a_late_consumer_that_raises_in_on_chunk_fails_the_hook(
    error: BaseException, complete: bool
) -> None:
    def on_chunk(piece: bytes) -> None:
        raise error

    late = LateConsumer(on_chunk)
    with late.wire() as wire:
        wire.send(b"DATA\r\n")
        wire.send(b"one\r\n")
        if complete:
            wire.send(b".\r\n")
            assert codes(wire.advance(2)) == ["451 4.3.0"]
        else:
            assert wire.advance(2) == b""
            assert codes(wire.send(b"two\r\n.\r\n")) == ["451 4.3.0"]
        assert late.pieces == [b"one\r\n"]
        assert late.ends == ["hook_failed"]
        assert codes(wire.send(MAIL)) == ["250 2.1.0"]


def test_a_late_consumer_gets_a_long_body_whole_over_a_real_connection(run: Any) -> None:
    async def scenario() -> None:
        late = LateConsumer(delay=0.05)  # stands for a look-up; the client goes on meanwhile
        server = Sink().server(on_data=late.on_data)
        async with running(server) as address, await Client.in_data(address) as client:
            assert await client.ask(LONG + b".\r\n") == "250 2.6.0"
        assert b"".join(late.pieces) == LONG
        assert late.ends == [None]

    run(scenario())


# --- consumers that raise, or answer too early ---


@row("HOOK-12")
@pytest.mark.parametrize("where", ["on_chunk", "on_end"])
def test_a_consumer_that_raises_fails_the_hook(where: str) -> None:
    ends: list[object] = []
    errors: list[BaseException] = []

    def fails(*given: object) -> None:
        if where == "on_end":
            ends.append(given[0])
        raise ValueError("it fails")

    def on_data(stream: Any, session: Any, callback: Any) -> None:
        if where == "on_chunk":
            stream.consume(fails, ends.append)
        else:
            stream.consume(lambda piece: None, fails)

    with begun(on_data) as wire:
        wire.server.on("error", errors.append)
        wire.send(BODY)
        wire.send(BODY)
        assert codes(wire.send(END)) == ["451 4.3.0"]
        assert len(ends) == 1
        assert [type(error) for error in errors] == [ValueError]
        assert codes(wire.send(MAIL)) == ["250 2.1.0"]


@row("HOOK-01")
@pytest.mark.parametrize("where", ["on_chunk", "on_end"])
@pytest.mark.parametrize(
    "error", [CancelledError(), ValueError(), GeneratorExit(), OddException()], ids=repr
)
def test_an_exception_of_a_consumer_never_leaves_the_engine(
    where: str, error: BaseException
) -> None:
    def fails(*given: object) -> None:
        raise error

    def on_data(stream: Any, session: Any, callback: Callable[..., object]) -> None:
        callables = {"on_chunk": lambda piece: None, "on_end": lambda end: None, where: fails}
        stream.consume(**callables)

    with Wire(**{**DEFAULTS, "on_data": on_data}) as wire:
        wire.server.on("error", lambda error: None)
        wire.send(EH)
        wire.send(MAIL + RCPT)
        wire.send(b"DATA\r\n")
        assert codes(wire.send(b"one\r\n.\r\n")) == ["451 4.3.0"]


@row("HOOK-01")
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_exception_that_ends_the_process_passes_through_a_consumer(
    error: type[BaseException],
) -> None:
    def fails(piece: bytes) -> None:
        raise error

    def on_data(stream: Any, session: Any, callback: Callable[..., object]) -> None:
        stream.consume(fails, lambda end: None)

    with Wire(**{**DEFAULTS, "on_data": on_data}) as wire:
        wire.send(EH)
        wire.send(MAIL + RCPT)
        wire.send(b"DATA\r\n")
        with pytest.raises(error):
            wire.send(b"one\r\n")
        wire.loop.advance()
        assert wire.closed


@row("HOOK-12")
@pytest.mark.parametrize("discards", [True, False])
def test_on_end_comes_once_although_the_consumer_has_answered_before(discards: bool) -> None:
    ends: list[MessageAborted | None] = []

    def on_data(stream: Any, session: Any, callback: Any) -> None:
        def on_chunk(piece: bytes) -> None:
            if stream.byte_length == len(piece):
                if discards:
                    stream.discard()
                callback(None, "enough")

        stream.consume(on_chunk, ends.append)

    with begun(on_data) as wire:
        for _ in range(3):
            wire.send(BODY)
        assert codes(wire.send(END)) == ["250 2.6.0" if discards else "451 4.3.0"]
        assert len(ends) == 1
