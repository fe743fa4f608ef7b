"""`consume()` called later than in the hook's own call: what came before it waits in order, and
what fails there fails the hook. RFC 5321 §4.1.1.4.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections.abc import Callable
from typing import Any

import pytest
from clients import Client, Sink
from hook_kit import MAIL, RCPT, Odd
from scenario import DEFAULTS, EH, codes

from fastsmtp import MessageAborted
from fastsmtp.stream import HIGH_WATER
from fastsmtp.testing import Wire, running

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

LINE = b"A" * 998 + b"\r\n"
LONG = LINE * (3 * HIGH_WATER // len(LINE))


class Late:
    """A hook that looks at the body `delay` seconds after it was called."""

    def __init__(
        self, on_chunk: Callable[[bytes], object] = lambda piece: None, delay: float = 1
    ) -> None:
        self._delay = delay
        self.told: list[bytes] = []
        self.ends: list[str | None] = []
        self._on_chunk = on_chunk

    def on_data(self, stream: Any, session: Any, callback: Callable[..., object]) -> None:
        def on_chunk(piece: bytes) -> None:
            assert not self.ends
            self.told.append(piece)
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
def test_the_end_comes_behind_all_that_waited(octets: bytes) -> None:
    late = Late()
    with late.wire() as wire:
        wire.send(b"DATA\r\n")
        wire.send(octets + b".\r\n")
        assert codes(wire.advance(2)) == ["250 2.6.0"]
    assert b"".join(late.told) == octets
    assert late.ends == [None]


@row("I8", "I9")
def test_chunks_that_waited_keep_their_order() -> None:
    late = Late()
    sizes = (HIGH_WATER + 1, HIGH_WATER + 2, HIGH_WATER + 3)
    octets = b"".join(
        b"BDAT %d\r\n" % size + b"abc"[at : at + 1] * size for at, size in enumerate(sizes)
    )
    with late.wire() as wire:
        sent = codes(wire.send(octets + b"BDAT 0 LAST\r\n")) + codes(wire.advance(2))
        assert sent == ["250 2.0.0"] * 3 + ["250 2.6.0"]
    assert b"".join(late.told) == b"".join(
        letter * size for letter, size in zip((b"a", b"b", b"c"), sizes, strict=True)
    )


@row("I8")
def test_a_body_whose_client_leaves_before_anybody_looked_is_aborted() -> None:
    late = Late()
    with late.wire() as wire:
        wire.send(b"DATA\r\n")
        wire.send(b"one\r\n")
        wire.reset()
        wire.advance(2)
    assert late.ends in ([], ["disconnected"])


@row("HOOK-01")
@pytest.mark.parametrize(
    "error", [OSError("disk full"), CancelledError(), GeneratorExit(), Odd()], ids=repr
)
@pytest.mark.parametrize("complete", [True, False])
def test_what_on_chunk_raises_there_fails_the_hook(error: BaseException, complete: bool) -> None:
    def on_chunk(piece: bytes) -> None:
        raise error

    late = Late(on_chunk)
    with late.wire() as wire:
        wire.send(b"DATA\r\n")
        wire.send(b"one\r\n")
        if complete:
            wire.send(b".\r\n")
            assert codes(wire.advance(2)) == ["451 4.3.0"]
        else:
            assert wire.advance(2) == b""
            assert codes(wire.send(b"two\r\n.\r\n")) == ["451 4.3.0"]
        assert late.told == [b"one\r\n"]
        assert late.ends == ["hook_failed"]
        assert codes(wire.send(MAIL)) == ["250 2.1.0"]


@row("HOOK-01")
@pytest.mark.parametrize("where", ["on_chunk", "on_end"])
@pytest.mark.parametrize(
    "error", [CancelledError(), ValueError(), GeneratorExit(), Odd()], ids=repr
)
def test_what_a_consumer_raises_never_leaves_the_engine(where: str, error: BaseException) -> None:
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
def test_the_end_of_the_process_goes_on_through_a_consumer(error: type[BaseException]) -> None:
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


def test_a_long_body_is_whole_over_a_real_connection(run: Any) -> None:
    async def scenario() -> None:
        late = Late(delay=0.05)  # stands for a look-up; the client goes on meanwhile
        server = Sink().server(on_data=late.on_data)
        async with running(server) as address, await Client.in_data(address) as client:
            assert await client.ask(LONG + b".\r\n") == "250 2.6.0"
        assert b"".join(late.told) == LONG
        assert late.ends == [None]

    run(scenario())
