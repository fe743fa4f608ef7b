"""Hands waiting messages over to another machine, many at a time, and tries again.

In: records, on the event loop. Out: a future for each. Whatever waits goes together into `send`, a
coroutine; meanwhile the next batch gathers. A message that got no answer is sent again with the
same id, until its deadline. Order is not kept.

The callers bound the queue: a client has one message at a time, and `deliver` counts the octets of
all of them.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from fastsmtp.delivery.errors import (
    DeliveryError,
    Full,
    Refused,
    TooLarge,
    Unavailable,
    Unclear,
    delivery_error,
    reason_of,
)
from fastsmtp.delivery.gathering import MAX_ITEMS, MAX_OCTETS, Gathering
from fastsmtp.delivery.handoff.availability import Availability
from fastsmtp.delivery.log import logger
from fastsmtp.delivery.record import Record
from fastsmtp.delivery.sink import Receipt

__all__ = ["DEADLINE", "Dispatcher", "Send"]

# Takes records; returns a receipt or an exception for each, or raises one for all.
Send: TypeAlias = Callable[[list[Record]], Awaitable[Sequence[Receipt | BaseException]]]

DEADLINE: Final = 30.0  # seconds
FIRST_PAUSE: Final = 0.1  # seconds until a message is sent again, doubled up to MOST_PAUSE
MOST_PAUSE: Final = 5.0
ENDING: Final = 1.0  # seconds for a cancelled `send` to end
CLOSING: Final = "the sink is closing"

# What a try may end with to be repeated; all else is final for its record.
_TRIED_AGAIN: Final = (Unavailable, Unclear, OSError, EOFError)


class _Entry:
    """One message. until: its deadline. tries: that have failed. is_unclear: one of them may have
    stored it. is_alone: it is sent in a batch of its own, because a batch with it has failed.
    reason: of the latest failure.
    """

    __slots__ = ("future", "is_alone", "is_unclear", "octets", "reason", "record", "tries", "until")

    def __init__(
        self, record: Record, octets: int, future: asyncio.Future[Receipt], until: float
    ) -> None:
        self.record = record
        self.octets = octets
        self.future = future
        self.until = until
        self.tries = 0
        self.is_unclear = False
        self.is_alone = False
        self.reason = ""


class Dispatcher:
    """A queue of messages, and the tasks that send them.

    send: called with at most `max_items` records of at most `max_octets` together, or a single
    larger one. `Unavailable`: certainly nothing was stored, it is tried again. `Unclear`, OSError
    and EOFError: something may have been stored, it is tried again. All other exceptions are final,
    those of libraries included; of a batch, they are final for each record that raises them when it
    is sent alone. It is cancelled when the deadline of all its records is over.

    name: of the other side, for log lines. parallel: how many batches at a time. deadline: seconds
    in which a message is tried again; then its future raises `Unclear`, or `Unavailable` if no try
    can have stored it. coming: returns how many more messages are expected soon. on_batch: called
    with the number of messages of each batch.
    """

    def __init__(
        self,
        send: Send,
        availability: Availability,
        *,
        name: str,
        parallel: int = 1,
        max_items: int = MAX_ITEMS,
        max_octets: int = MAX_OCTETS,
        deadline: float = DEADLINE,
        coming: Callable[[], int] = int,
        on_batch: Callable[[int], object] = int,
    ) -> None:
        self._send = send
        self._availability = availability
        self._name = name
        self._parallel = parallel
        self._max_items = max_items
        self._max_octets = max_octets
        self._deadline = deadline
        self._gathering = Gathering(coming, max_items, max_octets)
        self._on_batch = on_batch
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._open: dict[_Entry, None] = {}  # all without an answer, the oldest first
        self._waiting: deque[_Entry] = deque()
        self._octets = 0  # of these
        self._running: dict[asyncio.Task[None], list[_Entry]] = {}
        self._pauses: set[asyncio.TimerHandle] = set()  # until messages are sent again
        self._expiry: asyncio.TimerHandle | None = None
        self._is_looking = False  # in each turn of the loop
        self._is_closing = False
        self._emptied: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Start, on the running loop; possible again after `close`. Raises RuntimeError when it was
        started before and not closed.
        """
        if self._loop is not None and not self._is_closing:
            raise RuntimeError(f"{self._name} was started before")
        self._is_closing = False
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()

    def add(self, record: Record, octets: int) -> asyncio.Future[Receipt]:
        """Return a future for the receipt of `record`; it raises `DeliveryError`. octets: what the
        record takes on the way.

        Raises RuntimeError before `start`, in a forked child, and on another loop.
        """
        loop = self._loop
        if loop is None:
            raise RuntimeError(f"{self._name} was not started: `await sink.start()` comes first")
        if os.getpid() != self._process:
            raise RuntimeError(f"{self._name} was started in the parent of this process")
        if asyncio.get_running_loop() is not loop:
            raise RuntimeError(f"{self._name} was started on another event loop")
        future: asyncio.Future[Receipt] = loop.create_future()
        if self._is_closing:
            _fail(future, Unavailable(CLOSING))
            return future
        entry = _Entry(record, octets, future, loop.time() + self._deadline)
        self._open[entry] = None
        if self._expiry is None:
            self._expiry = loop.call_at(entry.until, self._expire)
        self._waiting.append(entry)
        self._octets += octets
        self.look()
        return future

    async def close(self, patience: float) -> None:
        """Send the waiting messages, for at most `patience` seconds; the rest gets an error."""
        loop = self._loop
        if loop is None or self._is_closing:
            self._is_closing = True
            return
        self._is_closing = True
        if self._open:
            self._emptied = loop.create_future()
            await asyncio.wait([self._emptied], timeout=patience)
        self._stop(CLOSING)
        if self._running:
            await asyncio.wait([*self._running], timeout=ENDING)

    def _stop(self, reason: str) -> None:
        """Answer all messages, and end what runs."""
        for handle in [*self._pauses, *([self._expiry] if self._expiry is not None else [])]:
            handle.cancel()
        self._pauses.clear()
        self._expiry = None
        begun = self._begun()
        for entry in [*self._open]:
            self._give_up(entry, reason, is_begun=entry in begun)
        self._waiting.clear()
        self._octets = 0
        for task in self._running:
            task.cancel()

    # Which messages.

    def look(self) -> None:
        """Send what waits, if that is possible: called when something has changed."""
        if self._waiting and not self._is_looking and self._has_room():
            assert self._loop is not None
            self._is_looking = True
            self._gathering.begin()
            self._loop.call_soon(self._look)

    def _has_room(self) -> bool:
        return len(self._running) < self._parallel and not self._availability.is_down

    def _look(self) -> None:
        """Begin batches, unless more messages keep arriving."""
        assert self._loop is not None
        if self._gathering.goes_on(len(self._waiting), self._octets):
            self._loop.call_soon(self._look)
            return
        self._is_looking = False
        while self._has_room():
            batch = self._taken()
            if not batch:
                break
            task = self._loop.create_task(self._run(batch))
            self._running[task] = batch
            task.add_done_callback(self._ended)

    def _taken(self) -> list[_Entry]:
        """Take the messages of the next batch out of the queue."""
        batch: list[_Entry] = []
        room = self._max_octets
        while self._waiting and len(batch) < self._max_items:
            entry = self._waiting[0]
            is_over = entry.future.done()  # cancelled, or its deadline is over
            if not is_over and batch and (entry.is_alone or entry.octets > room):
                break
            self._waiting.popleft()
            self._octets -= entry.octets
            if is_over:
                self._forget(entry)
                continue
            room -= entry.octets
            batch.append(entry)
            if entry.is_alone:
                break
        return batch

    # One batch.

    async def _run(self, batch: list[_Entry]) -> None:
        results: Sequence[Receipt | BaseException] = ()
        try:
            results = await self._send([entry.record for entry in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"send of {len(batch)} records returned {len(results)} results")
        except Exception as error:
            if self._is_of_one(batch, error):
                self._send_alone(batch, error)
                return
            results = [error] * len(batch)
        self._settle(batch, results)

    def _is_of_one(self, batch: list[_Entry], error: Exception) -> bool:
        """Whether one of the records may be the reason for a failure of all of them."""
        if len(batch) == 1 or isinstance(error, (Unavailable, Full)):
            return False
        # A lost connection concerns all, unless it is lost again.
        return not isinstance(error, _TRIED_AGAIN) or max([entry.tries for entry in batch]) > 0

    def _send_alone(self, batch: list[_Entry], error: Exception) -> None:
        is_unclear = not isinstance(error, (TooLarge, Refused))
        if not isinstance(error, (DeliveryError, *_TRIED_AGAIN)):
            logger.error("%s: a batch has failed", self._name, exc_info=error)
        for entry in batch:
            entry.is_alone = True
            entry.is_unclear = entry.is_unclear or is_unclear
            entry.reason = reason_of(error)
        self._put_back(batch)

    def _settle(self, batch: list[_Entry], results: Sequence[Receipt | BaseException]) -> None:
        """Answer the messages of a batch, and keep those that are to be sent again."""
        again: list[_Entry] = []
        failure: DeliveryError | None = None
        is_up = False
        for entry, result in zip(batch, results, strict=True):
            is_failure = isinstance(result, _TRIED_AGAIN)
            is_up = is_up or not is_failure
            if entry.future.done() or not is_failure:
                self._answer(entry, result)
                continue
            failure = _error_of(result)  # type: ignore[arg-type]  # it is one
            entry.is_unclear = entry.is_unclear or not isinstance(failure, Unavailable)
            entry.reason = str(failure)
            entry.tries += 1
            again.append(entry)
        self._on_batch(len(batch))
        if is_up:
            self._availability.answered()
        elif failure is not None:
            self._availability.failed(failure)
        if again:
            self._send_again(again)

    def _answer(self, entry: _Entry, result: Receipt | BaseException) -> None:
        if isinstance(result, BaseException):
            if not isinstance(result, (DeliveryError, *_TRIED_AGAIN)):
                logger.error("%s: id=%s has failed", self._name, entry.record.id, exc_info=result)
            _fail(entry.future, delivery_error(result))
        elif not entry.future.done():
            entry.future.set_result(result)
        self._forget(entry)

    def _send_again(self, entries: list[_Entry]) -> None:
        """Put messages back into the queue, after a pause."""
        assert self._loop is not None

        def put_back() -> None:
            self._pauses.discard(handle)
            self._put_back(entries)

        pause = FIRST_PAUSE * 2.0 ** min(entries[0].tries - 1, 16)
        handle = self._loop.call_later(min(pause, MOST_PAUSE), put_back)
        self._pauses.add(handle)

    def _put_back(self, entries: list[_Entry]) -> None:
        self._waiting.extendleft(reversed(entries))
        self._octets += sum([entry.octets for entry in entries])
        self.look()

    def _ended(self, task: asyncio.Task[None]) -> None:
        batch = self._running.pop(task)
        if task.cancelled() and _is_open(batch):
            # Not by us: what the library waited for was cancelled.
            self._settle(batch, [Unclear("it was cancelled")] * len(batch))
        self.look()

    # The end of a message.

    def _expire(self) -> None:
        """Answer the messages whose deadline is over, and end batches that are for nobody."""
        assert self._loop is not None
        self._expiry = None
        now = self._loop.time()
        begun = self._begun()
        for entry in [*self._open]:
            if entry.until > now:
                self._expiry = self._loop.call_at(entry.until, self._expire)
                break
            reason = entry.reason or f"no answer within {self._deadline:g} seconds"
            self._give_up(entry, reason, is_begun=entry in begun)
        for task, batch in self._running.items():
            if not _is_open(batch):
                task.cancel()
                self._availability.failed(Unclear(f"no answer within {self._deadline:g} seconds"))
        # Those that are over would stay in memory while the other side is down.
        self._waiting = deque([entry for entry in self._waiting if not entry.future.done()])
        self._octets = sum([entry.octets for entry in self._waiting])
        self.look()

    def _begun(self) -> set[_Entry]:
        return {entry for batch in self._running.values() for entry in batch}

    def _give_up(self, entry: _Entry, reason: str, *, is_begun: bool) -> None:
        kind = Unclear if is_begun or entry.is_unclear else Unavailable
        _fail(entry.future, kind(reason))
        self._forget(entry)

    def _forget(self, entry: _Entry) -> None:
        """It has its answer."""
        self._open.pop(entry, None)
        if not self._open and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)


def _is_open(batch: list[_Entry]) -> bool:
    """Whether a message of the batch has no answer yet."""
    for entry in batch:  # noqa: SIM110 - compiled, a loop is plainer than a generator
        if not entry.future.done():
            return True
    return False


def _error_of(error: BaseException) -> DeliveryError:
    """Return the error of a try that is repeated: `Unavailable` if certainly nothing was sent."""
    if isinstance(error, DeliveryError):
        return error
    is_unsent = isinstance(error, (ConnectionRefusedError, socket.gaierror))
    return (Unavailable if is_unsent else Unclear)(reason_of(error))


def _fail(future: asyncio.Future[Receipt], error: DeliveryError) -> None:
    if not future.done():
        future.set_exception(error)
        # Retrieved here, so that asyncio does not log it if the waiter is gone.
        future.exception()
