"""`pause()` and `resume()`: a consumer by callables has its pieces wait, and the client with them.

RFC 5321 §4.1.1.4: the end is the consumer's when all before it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from clients import Client, Sink
from consumers import READ, begun, chunked, segments
from hook_kit import END, MAIL, RCPT
from scenario import DEFAULTS, codes

from fastsmtp import DataStream, MessageAborted
from fastsmtp.stream import HIGH_WATER
from fastsmtp.testing import Wire, running

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row


class Pausing:
    """A consumer that pauses at every piece, `pauses` times at most; answers at the end."""

    def __init__(self, pauses: int = 1, *, answers: bool = True) -> None:
        self.pauses = pauses
        self.answers = answers
        self.pieces: list[bytes] = []
        self.ends: list[str | None] = []
        self.stream: Any = None
        self.callback: Any = None

    def on_data(self, stream: Any, session: Any, callback: Callable[..., object]) -> None:
        self.stream, self.callback = stream, callback
        stream.consume(self._on_chunk, self._on_end)

    def _on_chunk(self, piece: bytes) -> None:
        assert not self.ends
        self.pieces.append(piece)
        if self.pauses:
            self.pauses -= 1
            self.stream.pause()

    def _on_end(self, error: MessageAborted | None) -> None:
        self.ends.append(error and error.reason)
        if self.answers:
            self.callback(error)

    def wire(self, **options: Any) -> Wire:
        wire = begun(self.on_data, **options)
        wire.server.on("error", lambda error: None)
        return wire

    def resume(self, wire: Wire) -> list[str]:
        """Resume outside of any call of the engine; the codes that the client gets then."""
        wire.loop.step(self.stream.resume)
        return codes(wire.receive())


def test_pieces_wait_while_a_consumer_pauses_and_come_in_order_when_it_goes_on() -> None:
    consumer = Pausing()
    with consumer.wire() as wire:
        for piece in (b"one\r\n", b"two\r\n", b"three\r\n"):
            wire.send(piece)
        assert consumer.pieces == [b"one\r\n"]
        wire.loop.step(consumer.stream.resume)
        assert b"".join(consumer.pieces) == b"one\r\ntwo\r\nthree\r\n"
        wire.send(b"four\r\n")
        assert consumer.pieces[-1] == b"four\r\n"
        assert codes(wire.send(END)) == ["250 2.6.0"]
    assert consumer.ends == [None]


def test_an_end_that_comes_while_a_consumer_pauses_waits_for_its_turn() -> None:
    consumer = Pausing()
    with consumer.wire() as wire:
        wire.send(b"one\r\n")
        assert wire.send(b"two\r\n" + END) == b""
        assert consumer.ends == []
        assert consumer.resume(wire) == ["250 2.6.0"]
    assert (b"".join(consumer.pieces), consumer.ends) == (b"one\r\ntwo\r\n", [None])


def test_a_message_of_one_piece_that_is_paused_in_it_ends_after_resume() -> None:
    consumer = Pausing()
    with consumer.wire() as wire:
        assert wire.send(b"one\r\n" + END) == b""
        assert consumer.resume(wire) == ["250 2.6.0"]


def test_commands_after_the_message_wait_for_its_reply() -> None:
    consumer = Pausing()
    with consumer.wire() as wire:
        assert wire.send(b"one\r\n" + END + b"NOOP\r\n") == b""
        assert consumer.resume(wire) == ["250 2.6.0", "250 2.0.0"]


def test_a_consumer_may_pause_again_at_each_piece_that_has_waited() -> None:
    consumer = Pausing(pauses=100)
    with consumer.wire() as wire:
        pieces = list(segments(READ * 3, 5000))
        for piece in pieces:
            wire.send(piece)
        wire.send(END)
        while not consumer.ends:
            taken = len(consumer.pieces)
            wire.loop.step(consumer.stream.resume)
            assert len(consumer.pieces) <= taken + 1
    assert b"".join(consumer.pieces) == READ * 3


@row("HOOK-08")
@pytest.mark.parametrize("command", ["DATA", "BDAT"])
def test_a_consumer_that_pauses_stops_the_reading_and_resume_begins_it_again(command: str) -> None:
    consumer = Pausing()
    total = READ * 20
    with Wire(**DEFAULTS, on_data=consumer.on_data) as wire:
        wire.send(b"EHLO x\r\n")
        start = b"DATA\r\n" if command == "DATA" else b"BDAT %d LAST\r\n" % len(total)
        wire.send(MAIL + RCPT + start)
        rest = list(segments(total + (END if command == "DATA" else b""), len(READ)))
        while wire.transport.reading:
            wire.send(rest.pop(0))
        waiting = sum(map(len, segments(total, len(READ)))) - len(b"".join(rest))
        assert waiting <= HIGH_WATER + 3 * len(READ)
        assert wire.advance(200) == b""  # longer than the client's credit: that stands
        wire.loop.step(consumer.stream.resume)
        assert wire.transport.reading
        for segment in rest:
            wire.send(segment)
            assert wire.transport.reading
        assert b"".join(consumer.pieces) == total
        assert consumer.ends == [None]


@row("HOOK-12")
@pytest.mark.parametrize("complete", [True, False])
def test_the_clock_of_a_hook_that_pauses_runs_and_its_consumer_gets_the_end_at_once(
    complete: bool,
) -> None:
    consumer = Pausing()
    with consumer.wire() as wire:
        if complete:
            wire.send(b"one\r\n" + END)
            assert codes(wire.advance(241)) == ["451 4.3.0"]
        else:
            while wire.transport.reading:
                wire.send(READ)
            wire.advance(241)
            assert codes(wire.send(END)) == ["451 4.3.0"]
        assert consumer.ends == ["hook_timeout"]
        wire.loop.step(consumer.stream.resume)
        assert len(consumer.pieces) == 1
        assert codes(wire.send(MAIL)) == ["250 2.1.0"]
    assert consumer.ends == ["hook_timeout"]


@pytest.mark.parametrize("reason", ["disconnected", "shutdown"])
def test_a_paused_consumer_gets_message_aborted_at_once(reason: str) -> None:
    consumer = Pausing()
    with consumer.wire() as wire:
        wire.send(b"one\r\n")
        wire.send(b"two\r\n")
        if reason == "disconnected":
            wire.reset()
        else:
            wire.loop.create_task(wire.server.close())
            wire.advance(31)
        assert consumer.ends == [reason]
        consumer.stream.resume()
        consumer.stream.pause()
    assert consumer.pieces == [b"one\r\n"]
    assert consumer.ends == [reason]


def test_a_reset_between_chunks_reaches_a_paused_consumer_at_once() -> None:
    consumer = Pausing()
    with chunked(consumer.on_data) as wire:
        assert codes(wire.send(b"RSET\r\n")) == ["250 2.0.0"]
    assert consumer.ends == ["reset"]


def test_a_body_beyond_size_ends_after_the_waiting_pieces() -> None:
    consumer = Pausing()
    with consumer.wire(size=10) as wire:
        wire.send(b"one\r\n")
        wire.send(b"two\r\nthree\r\nfour\r\n")
        assert consumer.ends == []
        wire.loop.step(consumer.stream.resume)
        assert (b"".join(consumer.pieces), consumer.ends) == (b"one\r\ntwo\r\n", [None])
        assert consumer.stream.size_exceeded
        assert codes(wire.send(END)) == ["552 5.3.4"]


def test_a_body_beyond_size_whose_client_leaves_is_aborted_for_a_consumer_that_pauses() -> None:
    consumer = Pausing()
    with consumer.wire(size=10) as wire:
        wire.send(b"one\r\n")
        wire.send(b"two\r\nthree\r\nfour\r\n")
        wire.reset()
    assert consumer.ends == ["disconnected"]


def test_a_refusal_while_paused_ends_the_stream_and_the_rest_is_dropped() -> None:
    consumer = Pausing(answers=False)
    with consumer.wire() as wire:
        wire.send(b"one\r\n")
        wire.send(READ)
        wire.loop.step(lambda: consumer.callback(ValueError("no")))
        assert consumer.ends == ["answered"]
        assert wire.transport.reading
        assert codes(wire.send(READ + END)) == ["450 4.7.1"]
    assert consumer.pieces == [b"one\r\n"]


@pytest.mark.parametrize("complete", [True, False])
def test_accepting_while_paused_is_accepting_half_a_message(complete: bool) -> None:
    consumer = Pausing(answers=False)
    with consumer.wire() as wire:
        sent = wire.send(b"one\r\n" + (END if complete else b""))
        wire.loop.step(consumer.callback)
        sent += wire.receive() + (b"" if complete else wire.send(END))
        assert codes(sent) == ["451 4.3.0"]
    assert consumer.ends == ["answered"]


@pytest.mark.parametrize("complete", [True, False])
def test_discarding_while_paused_ends_the_pause_and_tells_the_end(complete: bool) -> None:
    consumer = Pausing()
    with consumer.wire() as wire:
        wire.send(b"one\r\n")
        wire.send(READ * 2 + (END if complete else b""))
        wire.loop.step(consumer.stream.discard)
        sent = wire.receive() + (b"" if complete else wire.send(b"two\r\n" + END))
        assert codes(sent) == ["250 2.6.0"]
    assert (consumer.pieces, consumer.ends) == ([b"one\r\n"], [None])


@pytest.mark.parametrize("complete", [True, False])
def test_an_exception_of_on_chunk_after_resume_fails_the_hook(complete: bool) -> None:
    class Failing(Pausing):
        def _on_chunk(self, piece: bytes) -> None:
            super()._on_chunk(piece)
            if len(self.pieces) == 2:
                self.stream.pause()
                raise OSError("disk full")

    consumer = Failing(answers=False)
    with consumer.wire() as wire:
        wire.send(b"one\r\n")
        wire.send(b"two\r\n" + (END if complete else b""))
        wire.loop.step(consumer.stream.resume)
        sent = wire.receive() + (b"" if complete else wire.send(END))
        assert codes(sent) == ["451 4.3.0"]
    assert consumer.ends == ["hook_failed"]


def test_resume_inside_of_the_piece_that_paused_is_no_pause() -> None:
    pieces: list[bytes] = []

    def on_data(stream: DataStream, session: Any, callback: Callable[..., object]) -> None:
        def on_chunk(piece: bytes) -> None:
            stream.pause()
            pieces.append(piece)
            stream.resume()

        stream.consume(on_chunk, callback)

    with begun(on_data) as wire:
        assert codes(wire.send(b"one\r\n" + END)) == ["250 2.6.0"]
    assert pieces == [b"one\r\n"]


def test_resume_without_pause_and_pause_after_the_end_do_nothing() -> None:
    consumer = Pausing(pauses=0)
    with consumer.wire() as wire:
        wire.send(b"one\r\n")
        consumer.stream.resume()
        assert codes(wire.send(END)) == ["250 2.6.0"]
        consumer.stream.pause()
        consumer.stream.resume()
    assert consumer.ends == [None]


def test_pausing_without_a_consumer_is_an_error_that_names_it() -> None:
    with pytest.raises(RuntimeError, match=r"consume\(\)"):
        DataStream(lambda: None).pause()


def test_a_long_body_is_whole_over_a_real_connection(run: Any) -> None:
    """A pause at each piece, ended by the loop."""
    body = READ * 64
    pieces: list[bytes] = []

    def on_data(stream: DataStream, session: Any, callback: Callable[..., object]) -> None:
        def on_chunk(piece: bytes) -> None:
            pieces.append(piece)
            stream.pause()
            run.loop.call_soon(stream.resume)

        stream.consume(on_chunk, callback)

    async def scenario() -> None:
        server = Sink().server(on_data=on_data)
        async with running(server) as address, await Client.in_data(address) as client:
            assert await client.ask(body + END) == "250 2.6.0"

    run(scenario())
    assert b"".join(pieces) == body
