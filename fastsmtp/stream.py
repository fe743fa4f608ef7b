"""`DataStream`: the body of one message, handed to the consumer as it arrives, with credit.

Its methods are the consumer's side. The engine's side are the functions at the end, which users do
not see where they look at a stream.

In: pieces and the end, from the engine. Out: the same to one consumer, as an async iterator or by
the two callables of `consume()`, or the whole body by `read()`. When an iterator lags by more than
HIGH_WATER octets the engine stops reading from the client until fewer than LOW_WATER are left, so
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

HIGH_WATER: Final = 64 * 1024  # octets that wait for the consumer before the client has to
LOW_WATER: Final = 16 * 1024
# Pieces that wait are joined up to this many octets: an object of Python's for every octet or two
# that a client sends by itself would take twenty times what is counted.
SMALL: Final = 1024

# How far the consumer has come.
_UNTOUCHED: int = 0
_HALF_READ: int = 1
_DONE: int = 2  # it has seen the true end, or has said that it does not want to

_HIGH_WATER: int = HIGH_WATER
_LOW_WATER: int = LOW_WATER
_SMALL: int = SMALL
_NOT_READING: int = -1
# Why pieces wait although there is a consumer by callables.
_HANDING_OVER: int = 1  # what has waited goes first
_PAUSED: int = 2
_NO_LIMIT: int = sys.maxsize

type_on_chunk = Callable[[bytes], object]
type_on_end = Callable[[MessageAborted | None], object]


def _nothing() -> None:
    """No-op: after the end there is no back-pressure to release."""


def _pass_on(stream: DataStream, error: BaseException) -> None:
    """The engine is done with the message: the error is its consumer's own business."""
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
    and ends early. bare_newline, has_nul, has_8bit, longest_line (octets without CRLF): what was
    seen, there at the true end of the message.
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
        self._bound = _NOT_READING  # of the `read` that is under way, in octets
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
        self._begin()
        self._has_consumer = True
        self._on_chunk = None if self._discarded else on_chunk
        self._on_end = on_end
        self._hand_over()

    def pause(self) -> None:
        """Have the pieces of `consume` wait, until `resume`; may be called inside of `on_chunk`.

        More than HIGH_WATER octets that wait stop the reading from the client, as with an iterator.
        The true end waits too. That the body will never be complete does not: `on_end` gets it at
        once. Does nothing after the end; raises RuntimeError without a consumer by `consume`.
        """
        if not self._has_consumer:
            raise RuntimeError("only a consumer by consume() can pause")
        if self._on_end is not None:
            self._held |= _PAUSED

    def resume(self) -> None:
        """Hand over what has waited, and go on; may be called at any time, twice too.

        `on_chunk` and `on_end` are called inside of this call.
        """
        if self._held & _PAUSED:
            self._held ^= _PAUSED
            if not self._held:
                self._hand_over()

    def _hand_over(self) -> None:
        """Give the consumer what waits, and the end if that has come."""
        on_failure = self._on_failure  # the first failure may end the engine's interest
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
        """Hand over what waits. Room lets the engine go on at once: what it brings then, pieces
        and the end too, has to wait for its turn behind them.
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
        """Return the whole body; behind pieces that were taken already, all that is left of it.

        limit: the most octets that are taken, None: as many as the option `size` allows. Raises
        MessageTooLarge when the body is longer than that (the client hears 552 if the hook lets it
        through), MessageAborted when it will never be complete, RuntimeError when somebody else is
        reading or the body was discarded, ValueError and TypeError for what is no limit. A `read`
        that raises, or is cancelled, has taken nothing: what has come can still be read.
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
        """Say that the rest of the body is not wanted: the engine reads it and drops it.

        Without this, a hook that begins to read and accepts before it has seen the true end is
        taken to have lost the rest: its client hears 451. The end is still told: iteration waits
        for it without another piece, and `on_end` is called. May be called at any time, twice too.
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
        """A consumer begins to read, or goes on; RuntimeError when it is a second one."""
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
        """Return all that has come, if that is to its end; raises as `read` does."""
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
            return  # it comes behind the last piece
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
        # Its consumer has not heard of the end, if there was one.
        stream._held ^= _PAUSED
        stream._ended = False
        stream._forget()
    if not is_finished(stream):
        stream._aborted = reason
        stream._tell_end()


def drop_stream(stream: DataStream) -> None:
    """The hook has answered: what it has not taken is forgotten, and what it might still read must
    not look like the end of a whole message.
    """
    stream._forget()
    if stream._held & _PAUSED == 0:
        if stream._progress != _DONE and stream._aborted is None and stream._ended:
            stream._aborted = "answered"
    abort_stream(stream, "answered")
    release_stream(stream)


def resume_with_stream(stream: DataStream, waiter: object, driver: Any) -> bool:
    """Call `driver.resume()` as soon as what the consumer waits for is there, None: nothing.
    Returns False, and does nothing, where `waiter` is not what the stream has it wait for.
    """
    if waiter is None or waiter is not stream._waiter:
        return False
    stream._driver = driver
    return True


def release_stream(stream: DataStream) -> None:
    """Drop the engine's callables: they are bound to what holds the stream, or the connection."""
    stream._on_room = _nothing
    stream._on_failure = _pass_on


def is_finished(stream: DataStream) -> bool:
    """Whether the consumer was told the end, or that there will be none."""
    return stream._ended or stream._aborted is not None


def is_half_read(stream: DataStream) -> bool:
    """Whether a consumer has begun to read and has not seen the true end: what it accepts is not
    the message.
    """
    return stream._progress == _HALF_READ


def is_full(stream: DataStream) -> bool:
    """Whether the consumer lags so far behind that the client has to wait."""
    return stream._buffered > _HIGH_WATER and stream._bound == _NOT_READING
