"""Commits waiting items together: one sync for many messages.

In: items, from the event loop. Out: a future for each. A thread takes all waiting items, up to
MAX_ITEMS or MAX_OCTETS, and calls `commit` with them; meanwhile the next batch gathers. The loop
wakes the threads once for all items of one of its turns, and is woken once for all answers of a
batch.

A single item is committed alone and at once. If more are expected (`coming`), it waits for them as
long as they keep arriving (`gathering`). For the same reason a thread that has just answered a
large batch does not begin with the few items that have come meanwhile: it holds them for those of
the clients that it has answered. Measured with 20 clients: a spool accepts the same mail for 0.9
times the CPU time. Clients that take longer than that are not waited for again and again.

The callers bound the queue: a client has one message at a time, and `deliver` counts the octets of
all of them.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, Generic, TypeVar

from fastsmtp.delivery.errors import DeliveryError, Unavailable, Unclear, delivery_error
from fastsmtp.delivery.gathering import MAX_ITEMS, MAX_OCTETS, Gathering
from fastsmtp.delivery.log import logger
from fastsmtp.repeats import INTERVAL, Repeats, cause_of

__all__ = ["Batcher"]

SHARE: Final = 4  # items that a thread takes even if others are idle: a sync for fewer costs more
HOLDING: Final = 0.002  # seconds after an answer, the longest that a few items are held for more
ENOUGH: Final = 5  # items that are worth a sync of their own
MOST_UNHELD: Final = 64  # batches that are not held after holding was of no use several times
CLOSING: Final = "the sink is closing"

T = TypeVar("T")
R = TypeVar("R")


class _Entry(Generic[T, R]):
    __slots__ = ("future", "item", "octets")

    def __init__(self, item: T, octets: int, future: asyncio.Future[R]) -> None:
        self.item = item
        self.octets = octets
        self.future = future


class Batcher(Generic[T, R]):
    """A queue with threads that commit the items in it.

    commit: called in a thread with at most `max_items` items of at most `max_octets` together, or a
    single larger one; returns one result or exception for each. If it raises, it must have undone
    everything: the items are tried again one by one. threads: how many batches at a time; several
    share the waiting items among the idle ones, and their order is not kept. coming: called on the
    loop, returns how many more items are expected soon; it may be wrong. on_batch: called on the
    loop after each batch, with the number of its items.
    """

    def __init__(
        self,
        commit: Callable[[list[T]], Sequence[R | BaseException]],
        *,
        name: str,
        threads: int = 1,
        max_items: int = MAX_ITEMS,
        max_octets: int = MAX_OCTETS,
        coming: Callable[[], int] = int,
        on_batch: Callable[[int], object] | None = None,
    ) -> None:
        self._on_batch = on_batch
        self._commit = commit
        self._name = name
        self._failures = Repeats()
        self._max_items = max_items
        self._max_octets = max_octets
        self._gathering = Gathering(coming, max_items, max_octets)
        self._count = threads
        self._alive = 0  # threads that have not ended
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._turn: list[_Entry[T, R]] = []  # not yet for the threads
        self._octets = 0  # of them
        # Shared with the threads, under the condition.
        self._condition = threading.Condition(threading.Lock())
        self._waiting: deque[_Entry[T, R]] = deque()
        self._begun: set[_Entry[T, R]] = set()
        self._resting = 0  # threads that wait for items
        self._last = 0  # items of the last batch
        self._answered_at = 0.0  # when a batch was last answered, of time.monotonic
        self._in_vain = 0  # batches not to hold after the next time that it was of no use
        self._unheld = 0  # of them, those to come
        self._closing = False
        self._ended: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Start, on the running loop; possible again after `close`.

        Raises RuntimeError when it was started before and not closed, while a commit from before
        `close` has not ended, and when no thread can be started.
        """
        if self._loop is not None and not self._closing:
            raise RuntimeError(f"{self._name} was started before")
        if self._alive:
            raise RuntimeError(f"{self._name}: a commit from before close() has not ended")
        self._closing, self._ended = False, None
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        for number in range(self._count):
            # A daemon: a hanging disk must not keep the process alive. Its items get no answer.
            thread = threading.Thread(target=self._run, name=f"{self._name}-{number}", daemon=True)
            thread.start()
            self._alive += 1

    def add(self, item: T, octets: int) -> asyncio.Future[R]:
        """Return a future for the result of `commit` for `item`; it raises `DeliveryError`.

        Raises RuntimeError before `start`, in a forked child, and on another loop. An item whose
        future is cancelled before its batch begins is left out.
        """
        loop = self._loop
        if loop is None:
            raise RuntimeError(f"{self._name} was not started: `await sink.start()` comes first")
        if os.getpid() != self._process:
            raise RuntimeError(f"{self._name} was started in the parent of this process")
        if asyncio.get_running_loop() is not loop:
            raise RuntimeError(f"{self._name} was started on another event loop")
        future: asyncio.Future[R] = loop.create_future()
        if self._closing:
            _fail(future, Unavailable(CLOSING))
            return future
        if not self._turn:
            self._octets = 0
            self._gathering.begin()
            loop.call_soon(self._end_turn)
        self._turn.append(_Entry(item, octets, future))
        self._octets += octets
        return future

    async def close(self, patience: float) -> None:
        """Commit the waiting items, for at most `patience` seconds; the rest gets an error."""
        loop = self._loop
        if loop is None or self._closing:
            self._closing = True
            return
        self._show()
        self._ended = loop.create_future()
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        await asyncio.wait([self._ended], timeout=patience)
        with self._condition:
            left = [*self._waiting]
            self._waiting.clear()
            begun = [*self._begun]
        for entries, error in ((left, Unavailable), (begun, Unclear)):
            for entry in entries:
                _fail(entry.future, error(CLOSING))
        self._failures.end()

    # On the loop.

    def _end_turn(self) -> None:
        """Pass the gathered items to the threads, unless more keep arriving."""
        if self._gathering.goes_on(len(self._turn), self._octets):
            assert self._loop is not None
            self._loop.call_soon(self._end_turn)
        else:
            self._show()

    def _show(self) -> None:
        """Pass the gathered items to the threads."""
        turn, self._turn = self._turn, []
        if turn:
            with self._condition:
                self._waiting.extend(turn)
                self._condition.notify()

    def _answer(self, batch: list[_Entry[T, R]], results: Sequence[R | BaseException]) -> None:
        for entry, result in zip(batch, results, strict=True):
            if isinstance(result, BaseException):
                _fail(entry.future, delivery_error(result))
            elif not entry.future.done():
                entry.future.set_result(result)
        if self._on_batch is not None:
            self._on_batch(len(batch))
        with self._condition:
            self._begun.difference_update(batch)

    def _tell_failure(self, error: BaseException) -> None:
        cause = cause_of(self._name, error)
        if not self._failures.is_told(cause):
            logger.error("%s: a commit has failed", self._name, exc_info=error)
            self._failures.add(cause, self._tell_more)

    def _tell_more(self, count: int) -> None:
        logger.error(
            "%s: a commit has failed: %d more times in %d seconds", self._name, count, INTERVAL
        )

    def _thread_has_ended(self) -> None:
        self._alive -= 1
        if not self._alive and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    # In the threads.

    def _run(self) -> None:
        assert self._loop is not None
        try:
            while batch := self._take():
                results = self._results(batch)
                self._loop.call_soon_threadsafe(self._answer, batch, results)
                self._answered_at = time.monotonic()
                del batch, results  # otherwise they stay in memory until the next batch
            self._loop.call_soon_threadsafe(self._thread_has_ended)
        except RuntimeError:  # the loop is closed
            pass

    def _take(self) -> list[_Entry[T, R]]:
        """Wait for items and return those of the next batch; an empty list: it is the end."""
        while True:
            try:
                return self._taken()
            except MemoryError:  # nothing was taken, and others may give some back
                time.sleep(HOLDING)

    def _taken(self) -> list[_Entry[T, R]]:
        with self._condition:
            self._hold()
            while not self._waiting:  # another thread may have taken those that were held
                if self._closing:
                    return []
                self._resting += 1
                try:
                    self._condition.wait()
                finally:
                    self._resting -= 1
                self._hold()
            share = -(-len(self._waiting) // (self._resting + 1))
            most = min(max(SHARE, share), self._max_items)
            batch: list[_Entry[T, R]] = []
            room = self._max_octets
            for entry in islice(self._waiting, most):
                room -= entry.octets
                if batch and room < 0:
                    break
                batch.append(entry)
            # What needs memory is before this: an item that is taken gets an answer.
            self._begun.update(batch)
            for _ in batch:
                self._waiting.popleft()
            self._last = len(batch)
            if self._waiting:
                self._condition.notify()
        return batch

    def _hold(self) -> None:
        """Wait, with the lock, for more items if a much larger batch was answered just now."""
        enough = min(self._last // 2, ENOUGH)
        until = self._answered_at + HOLDING
        if not 0 < len(self._waiting) < enough or time.monotonic() >= until:
            return
        if self._unheld:
            self._unheld -= 1
            return
        while len(self._waiting) < enough and not self._closing:
            left = until - time.monotonic()
            if left <= 0:
                self._unheld = self._in_vain
                self._in_vain = min(2 * self._in_vain + 1, MOST_UNHELD)
                return
            self._condition.wait(left)
        self._in_vain = 0

    def _results(self, batch: list[_Entry[T, R]]) -> Sequence[R | BaseException]:
        """Return a result or an exception for each item, even if `commit` fails."""
        is_wanted = [not entry.future.cancelled() for entry in batch]
        items = [entry.item for entry, wanted in zip(batch, is_wanted, strict=True) if wanted]
        found = iter(self._committed(items) if items else ())
        return [next(found) if wanted else Unavailable("cancelled") for wanted in is_wanted]

    def _committed(self, items: list[T]) -> Sequence[R | BaseException]:
        try:
            results = self._commit(items)
            if len(results) == len(items):
                return results
            raise RuntimeError(f"commit of {len(items)} items returned {len(results)} results")
        except BaseException as error:  # a thread must not end without an answer
            if not isinstance(error, (OSError, DeliveryError)):
                assert self._loop is not None
                self._loop.call_soon_threadsafe(self._tell_failure, error)
            if len(items) == 1:
                return [error]
        return [result for item in items for result in self._committed([item])]


def _fail(future: asyncio.Future[R], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        # Retrieved here, so that asyncio does not log it if the waiter is gone.
        future.exception()
