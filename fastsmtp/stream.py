"""`DataStream`: the body of one message, handed to the consumer as it arrives, with credit.

In: pieces and the end, from the engine. Out: the same to one consumer, as an async iterator, by
`read()`, or by the two callables of `consume()`. When the consumer lags by more than HIGH_WATER
octets the engine stops reading from the client until fewer than LOW_WATER are left, so that a
connection's memory is bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from fastsmtp.errors import MessageAborted

__all__ = ["DataStream"]

HIGH_WATER: Final = 64 * 1024  # octets that wait for the consumer before the client has to
LOW_WATER: Final = 16 * 1024

type_on_chunk = Callable[[bytes], object]
type_on_end = Callable[[MessageAborted | None], object]


def _nothing() -> None:
    """Who has been told the end holds up nobody any more."""


def _pass_on(stream: DataStream, error: BaseException) -> None:
    """The engine is done with the message: the error is its consumer's own business."""
    raise error


class DataStream:
    """One message body, dot-unstuffed (RFC 5321 §4.5.2); DATA and BDAT look the same.

    byte_length: octets handed in so far. size_exceeded: the body was longer than the `size` option
    and ends early. bare_newline, has_nul, has_8bit, longest_line (octets without CRLF): what was
    seen, there at the true end of the message.
    """

    __slots__ = (
        "_aborted",
        "_delivering",
        "_driver",
        "_ended",
        "_has_consumer",
        "_on_chunk",
        "_on_end",
        "_on_failure",
        "_on_room",
        "_pieces",
        "_waiter",
        "bare_newline",
        "buffered",
        "byte_length",
        "has_8bit",
        "has_nul",
        "longest_line",
        "size_exceeded",
    )

    def __init__(
        self,
        on_room: Callable[[], object],
        on_failure: Callable[[DataStream, BaseException], object] = _pass_on,
    ) -> None:
        self.byte_length = 0
        self.buffered = 0
        self.size_exceeded = False
        self.bare_newline = False
        self.has_nul = False
        self.has_8bit = False
        self.longest_line = 0
        self._pieces: deque[bytes] | None = None
        self._on_chunk: type_on_chunk | None = None
        self._on_end: type_on_end | None = None
        self._has_consumer = False
        self._delivering = False  # `consume` hands over what came before it was called
        self._on_room = on_room
        self._on_failure = on_failure
        self._waiter: asyncio.Future[None] | None = None
        self._driver: Any = None  # of the coroutine that waits, if it can be called at once
        self._ended = False
        # The reason, not the exception: one that was raised holds the frames that hold this stream.
        self._aborted: str | None = None

    # For the consumer.

    def consume(self, on_chunk: type_on_chunk, on_end: type_on_end) -> None:
        """Have `on_chunk(piece)` called for each piece and `on_end(error)` exactly once, without a
        Task.

        error: None at the true end, else the `MessageAborted` that says why there will be no more.
        What `on_chunk` or `on_end` raises counts as failing of the hook: the client gets 451.
        Raises RuntimeError when the stream has a consumer already.
        """
        if not self._is_free():
            raise RuntimeError("the message has a consumer already")
        self._has_consumer = True
        self._on_chunk = on_chunk
        self._on_end = on_end
        on_failure = self._on_failure  # the first failure may end the engine's interest
        self._delivering = True
        try:
            self._deliver(on_chunk)
        except BaseException as error:  # foreign code
            self._aborted = "hook_failed"
            on_failure(self, error)
        finally:
            self._delivering = False
        if self.finished:
            try:
                self._tell_end()
            except BaseException as error:
                on_failure(self, error)

    def _deliver(self, on_chunk: type_on_chunk) -> None:
        """Hand over what waits. Room lets the engine go on at once: what it brings then, pieces
        and the end too, has to wait for its turn behind them.
        """
        while self._pieces:
            piece = self._pieces.popleft()
            before = self.buffered
            self.buffered = before - len(piece)
            on_chunk(piece)
            if self.buffered <= LOW_WATER < before:
                self._on_room()

    async def read(self) -> bytes:
        """Return the next piece, b"" at the end.

        Raises MessageAborted when the body will never be complete, RuntimeError when somebody else
        is reading.
        """
        if not self._is_free():
            raise RuntimeError("the message has a consumer already")
        while not self._pieces:
            if self._aborted is not None:
                raise MessageAborted(self._aborted)
            if self._ended:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._taken()

    def __aiter__(self) -> DataStream:
        return self

    async def __anext__(self) -> bytes:
        piece = self._taken() if self._pieces and self._is_free() else await self.read()
        if not piece:
            raise StopAsyncIteration
        return piece

    def __repr__(self) -> str:
        state = "aborted" if self._aborted else "ended" if self._ended else "open"
        return f"<DataStream {state}, {self.byte_length} octets>"

    # For the engine.

    @property
    def finished(self) -> bool:
        """The consumer was told the end, or that there will be none."""
        return self.is_finished()

    def is_finished(self) -> bool:
        """`finished`, as C asks for it."""
        return self._ended or self._aborted is not None

    def feed(self, piece: bytes) -> None:
        """Hand in one piece; raises what the consumer's `on_chunk` raises."""
        self.byte_length += len(piece)
        if self._on_chunk is not None and not self._delivering:
            self._on_chunk(piece)
            return
        if self._pieces is None:
            self._pieces = deque()
        self._pieces.append(piece)
        self.buffered += len(piece)
        self._wake()

    def end(self) -> None:
        """The body is complete, or was cut at `size`."""
        if not self.is_finished():
            self._ended = True
            self._tell_end()

    def abort(self, reason: str) -> None:
        """The body will never be complete, or must not be used."""
        if not self.is_finished():
            self._aborted = reason
            self._tell_end()

    def drop(self) -> None:
        """The hook has answered: what it has not taken is forgotten, and what it might still read
        must not look like the end of a whole message.
        """
        if self._pieces:
            self._pieces.clear()
            self.buffered = 0
            if self._aborted is None:
                self._aborted = "answered"
        self.abort("answered")
        self.let_go()

    def _is_free(self) -> bool:
        """Nobody else is reading."""
        return not self._has_consumer and self._waiter is None

    def _taken(self) -> bytes:
        assert self._pieces is not None
        piece = self._pieces.popleft()
        before = self.buffered
        self.buffered = before - len(piece)
        if self.buffered <= LOW_WATER < before:
            self._on_room()
        return piece

    def _tell_end(self) -> None:
        if self._delivering:
            return  # it comes behind the last piece
        on_end, self._on_end, self._on_chunk = self._on_end, None, None
        if on_end is not None:
            on_end(None if self._aborted is None else MessageAborted(self._aborted))
        if self._has_consumer or self._aborted is not None:
            self.let_go()
        self._wake()

    def let_go(self) -> None:
        """These are bound to what holds this stream, or holds the connection."""
        self._on_room = _nothing
        self._on_failure = _pass_on

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
            driver, self._driver = self._driver, None
            if driver is not None:
                driver.resume()
