"""`DataStream`: the body of one message, handed to the consumer as it arrives, with back-pressure.

Its methods are the consumer's side. The engine's side is the functions at the end, so that users do
not find them on a stream.

In: pieces and the end, from the engine. Out: the same to one consumer, as an async iterator or by
the two callables of `consume()`, or the whole body by `read()`. When an iterator lags by more than
HIGH_WATER octets, the engine stops reading from the client until fewer than LOW_WATER are left, so
that a connection's memory is bounded; `read()` is bounded by its limit and the option `size`.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from fastsmtp.errors import MessageAborted, MessageTooLarge

__all__ = ["DataStream"]

HIGH_WATER: Final = 64 * 1024  # octets that may wait for the consumer before reading stops
LOW_WATER: Final = 16 * 1024
# Waiting pieces are joined up to this many octets: if a client sends an octet or two at a time, a
# Python object for each would take twenty times the memory that is counted.
SMALL: Final = 1024

# How far the consumer has come.
_UNTOUCHED: int = 0
_HALF_READ: int = 1
_DONE: int = 2  # it has seen the true end, or has discarded the rest

_HIGH_WATER: int = HIGH_WATER
_LOW_WATER: int = LOW_WATER
_SMALL: int = SMALL
_NOT_READING: int = -1
# Why pieces wait although there is a consumer by `consume`.
_HANDING_OVER: int = 1  # earlier pieces go first
_PAUSED: int = 2
_NO_LIMIT: int = sys.maxsize

type_on_chunk = Callable[[bytes], object]
type_on_end = Callable[[MessageAborted | None], object]


def _nothing() -> None:
    """No-op: after the end there is no back-pressure to release."""


def _pass_on(stream: DataStream, error: BaseException) -> None:
    """The engine is done with the message, so the error goes to the consumer itself."""
    raise error


def _octets(limit: int | None) -> int:
    if limit is None:
        return _NO_LIMIT
    if not isinstance(limit, int):
        raise TypeError(f"limit takes a number of octets, or None, got {limit!r:.80}")
    if limit < 0:
        raise ValueError(f"limit takes a number of octets from 0 on, or None, got {limit!r:.80}")
    return min(limit, _NO_LIMIT)


class DataStream:
    """One message body, dot-unstuffed (RFC 5321 §4.5.2); DATA and BDAT look the same.

    byte_length: octets handed in so far. size_exceeded: the body was longer than the `size` option
    and ends early. bare_newline, has_nul, has_8bit, longest_line (octets without CRLF): what the
    message contains, set at its true end.
    """

    __slots__ = (
        "_aborted",
        "_bound",
        "_buffered",
        "_discarded",
        "_driver",
        "_ended",
        "_has_consumer",
        "_held",
        "_on_chunk",
        "_on_end",
        "_on_failure",
        "_on_room",
        "_pieces",
        "_progress",
        "_waiter",
        "bare_newline",
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
        self._buffered = 0  # octets that wait for the consumer
        self.size_exceeded = False
        self.bare_newline = False
        self.has_nul = False
        self.has_8bit = False
        self.longest_line = 0
        self._pieces: deque[bytes] | None = None
        self._on_chunk: type_on_chunk | None = None
        self._on_end: type_on_end | None = None
        self._has_consumer = False
        self._held = 0  # _HANDING_OVER, _PAUSED or both
        self._discarded = False
        self._progress = _UNTOUCHED
        self._bound = _NOT_READING  # limit of the current `read`, in octets
        self._on_room = on_room
        self._on_failure = on_failure
        self._waiter: asyncio.Future[None] | None = None
        self._driver: Any = None  # of the waiting coroutine, if it can be resumed directly
        self._ended = False
        # The reason, not the exception: a raised one refers to frames that refer to this stream.
        self._aborted: str | None = None

    # For the consumer.

    def consume(self, on_chunk: type_on_chunk, on_end: type_on_end) -> None:
        """Have `on_chunk(piece)` called for each piece and `on_end(error)` exactly once, without a
        Task.

        error: None at the true end, else a `MessageAborted` with the reason. An exception of
        `on_chunk` or `on_end` counts as a failure of the hook: the client gets 451. Raises
        RuntimeError when the stream has a consumer already.
        """
        self._begin()
        self._has_consumer = True
        self._on_chunk = None if self._discarded else on_chunk
        self._on_end = on_end
        self._hand_over()

    def pause(self) -> None:
        """Hold back the pieces of `consume` until `resume`; may be called inside of `on_chunk`.

        When more than HIGH_WATER octets wait, the engine stops reading from the client, as with an
        iterator. The true end waits too; `MessageAborted` does not: `on_end` gets it at once. Does
        nothing after the end; raises RuntimeError without a consumer by `consume`.
        """
        if not self._has_consumer:
            raise RuntimeError("only a consumer by consume() can pause")
        if self._on_end is not None:
            self._held |= _PAUSED

    def resume(self) -> None:
        """Hand over the waiting pieces and continue; may be called at any time and repeatedly.

        `on_chunk` and `on_end` are called inside of this call.
        """
        if self._held & _PAUSED:
            self._held ^= _PAUSED
            if not self._held:
                self._hand_over()

    def _hand_over(self) -> None:
        """Hand over the waiting pieces, and the end if it has come."""
        on_failure = self._on_failure  # the first failure may release it
        self._held = _HANDING_OVER
        try:
            self._deliver()
        except BaseException as error:  # foreign code
            self._aborted = "hook_failed"
            self._held = _HANDING_OVER
            on_failure(self, error)
        finally:
            self._held &= ~_HANDING_OVER
        if is_finished(self):
            try:
                self._tell_end()
            except BaseException as error:
                on_failure(self, error)

    def _deliver(self) -> None:
        """Hand over the waiting pieces. Room for more makes the engine read on at once: its new
        pieces, and the end, have to queue after the waiting ones.
        """
        on_chunk = self._on_chunk
        while self._pieces and self._held == _HANDING_OVER:
            piece = self._pieces.popleft()
            before = self._buffered
            self._buffered = before - len(piece)
            on_chunk(piece)  # type: ignore[misc]  # there is one as long as there are pieces
            if self._buffered <= _LOW_WATER < before:
                self._on_room()

    async def read(self, limit: int | None = None) -> bytes:
        """Return the whole body, or its remainder if pieces were taken already.

        limit: the largest number of octets, None: as many as the option `size` allows. Raises
        MessageTooLarge when the body is longer (the client gets 552 if the hook does not catch it),
        MessageAborted when it will never be complete, RuntimeError when there is another reader or
        the body was discarded, ValueError and TypeError for an invalid limit. A `read` that raises,
        or is cancelled, has taken nothing: the octets can still be read.
        """
        bound = _octets(limit)
        self._begin()
        self._bound = bound
        try:
            if self._buffered > _LOW_WATER:
                self._on_room()
            while not is_finished(self) and self._buffered <= bound:
                self._waiter = asyncio.get_running_loop().create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
        finally:
            self._bound = _NOT_READING
        return self._whole(bound)

    def __aiter__(self) -> DataStream:
        return self

    async def __anext__(self) -> bytes:
        self._begin()
        while not self._pieces:
            if self._aborted is not None:
                raise MessageAborted(self._aborted)
            if self._ended:
                self._progress = _DONE
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._taken()

    def discard(self) -> None:
        """Declare that the rest of the body is not needed: the engine reads and drops it.

        Without this, a hook that begins to read and accepts before it has seen the true end has
        lost the rest: its client gets 451. The end is still reported: iteration waits for it
        without another piece, and `on_end` is called. May be called at any time and repeatedly.
        """
        self._progress = _DONE
        self._discarded = True
        self._on_chunk = None
        before = self._buffered
        self._forget()
        if before > _LOW_WATER:
            self._on_room()
        self.resume()

    def __repr__(self) -> str:
        state = "aborted" if self._aborted else "ended" if self._ended else "open"
        return f"<DataStream {state}, {self.byte_length} octets>"

    def _begin(self) -> None:
        """A consumer begins to read, or continues; RuntimeError for a second consumer."""
        if self._has_consumer or self._waiter is not None or self._bound != _NOT_READING:
            raise RuntimeError("the message has a consumer already")
        if self._progress == _UNTOUCHED:
            self._progress = _HALF_READ

    def _forget(self) -> None:
        if self._pieces:
            self._pieces.clear()
            self._buffered = 0

    def _taken(self) -> bytes:
        assert self._pieces is not None
        piece = self._pieces.popleft()
        before = self._buffered
        self._buffered = before - len(piece)
        if self._buffered <= _LOW_WATER < before:
            self._on_room()
        return piece

    def _whole(self, bound: int) -> bytes:
        """Return the octets of the complete body; raises as `read` does."""
        if self._aborted is not None:
            raise MessageAborted(self._aborted)
        if self._discarded:
            raise RuntimeError("the body was discarded: there is nothing left to read")
        if self._buffered > bound:
            raise MessageTooLarge(bound)
        if self.size_exceeded:
            raise MessageTooLarge(self.byte_length)
        self._progress = _DONE
        body = b"".join(self._pieces) if self._pieces else b""
        self._forget()
        return body

    def _tell_end(self) -> None:
        if self._held:
            return  # the end comes after the last piece
        on_end, self._on_end, self._on_chunk = self._on_end, None, None
        if on_end is not None:
            if self._aborted is None:
                self._progress = _DONE
            on_end(None if self._aborted is None else MessageAborted(self._aborted))
        if self._has_consumer or self._aborted is not None:
            release_stream(self)
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
            driver, self._driver = self._driver, None
            if driver is not None:
                driver.resume()


# The engine's side.


def feed_stream(stream: DataStream, piece: bytes) -> None:
    """Hand in one piece; raises what the consumer's `on_chunk` raises."""
    stream.byte_length += len(piece)
    if stream._on_chunk is not None and not stream._held:
        stream._on_chunk(piece)
        return
    if stream._discarded:
        return
    pieces = stream._pieces
    if pieces is None:
        pieces = stream._pieces = deque()
    if pieces and len(pieces[-1]) + len(piece) <= _SMALL:
        pieces[-1] += piece
    else:
        pieces.append(piece)
    stream._buffered += len(piece)
    if stream._bound == _NOT_READING or stream._buffered > stream._bound:
        stream._wake()


def end_stream(stream: DataStream) -> None:
    """The body is complete, or was cut at `size`."""
    if not is_finished(stream):
        stream._ended = True
        stream._tell_end()


def abort_stream(stream: DataStream, reason: str) -> None:
    """The body will never be complete, or must not be used."""
    if stream._held & _PAUSED:
        # The consumer has not seen the end, if there was one.
        stream._held ^= _PAUSED
        stream._ended = False
        stream._forget()
    if not is_finished(stream):
        stream._aborted = reason
        stream._tell_end()


def drop_stream(stream: DataStream) -> None:
    """The hook has answered: drop what it has not taken. If it reads on, the end must not look like
    that of a complete message.
    """
    stream._forget()
    if stream._held & _PAUSED == 0:
        if stream._progress != _DONE and stream._aborted is None and stream._ended:
            stream._aborted = "answered"
    abort_stream(stream, "answered")
    release_stream(stream)


def resume_with_stream(stream: DataStream, waiter: object, driver: Any) -> bool:
    """Call `driver.resume()` when the consumer can continue; a driver of None: call nothing.
    Returns False, and does nothing, if `waiter` is not the future that this stream waits on.
    """
    if waiter is None or waiter is not stream._waiter:
        return False
    stream._driver = driver
    return True


def release_stream(stream: DataStream) -> None:
    """Drop the engine's callables: they refer to the connection, which refers to the stream."""
    stream._on_room = _nothing
    stream._on_failure = _pass_on


def is_finished(stream: DataStream) -> bool:
    """Whether the body has ended or was aborted."""
    return stream._ended or stream._aborted is not None


def is_half_read(stream: DataStream) -> bool:
    """Whether a consumer has begun to read and has not seen the true end, so that it cannot accept
    the message.
    """
    return stream._progress == _HALF_READ


def is_full(stream: DataStream) -> bool:
    """Whether so much waits for the consumer that reading from the client has to stop."""
    return stream._buffered > _HIGH_WATER and stream._bound == _NOT_READING
