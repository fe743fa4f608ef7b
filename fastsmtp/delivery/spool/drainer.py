"""Moves records from a spool into another sink, the oldest first, and never gives one up.

A record whose sink fails is tried again later, with the same id; one that the sink refuses
permanently (5xx) or that is damaged stays until an operator decides. The sink's answer is noted
after MARK_SECONDS and a commit: after a crash in between, the record is delivered a second time.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Awaitable, Sequence
from typing import Any, Final

from fastsmtp.delivery.breaker import Breaker
from fastsmtp.delivery.errors import DeliveryError, Full, Unavailable, Unclear, delivery_error
from fastsmtp.delivery.log import logger
from fastsmtp.delivery.record import Record, encode_record
from fastsmtp.delivery.sink import Receipt, Sink
from fastsmtp.delivery.spool.handover import BodyDamaged, hand_over
from fastsmtp.delivery.spool.keeper import Changes
from fastsmtp.delivery.spool.shelf import Shelf
from fastsmtp.delivery.spool.store import Entry, NewRecord, State, Store, Trouble, storable
from fastsmtp.log_text import clean

__all__ = ["Counts", "Drainer"]

# Seconds that a delivery waits to be noted together with the next ones: at most twenty syncs a
# second, and after a crash only the records of this time are delivered twice.
MARK_SECONDS: Final = 0.05
MARKS: Final = 256
NOTE_AGAIN: Final = 1.0  # seconds, after a note could not be written, or the store has failed
FETCH_OCTETS: Final = 4 * 1024 * 1024
# Seconds until a record is tried again, doubled up to MOST_DELAY; up to MOST_PAUSE while the sink
# itself is down.
FIRST_DELAY: Final = 2.0
MOST_DELAY: Final = 3600.0
# Seconds until a sink that is down is tried again, doubled up to MOST_PAUSE.
FIRST_PAUSE: Final = 1.0
MOST_PAUSE: Final = 60.0
# Failures of the sink itself; all others concern one record.
_OF_THE_SINK: Final = (Unavailable, Unclear, Full)


class Counts:
    """What a drainer has done since its start.

    delivered, deferred, refused, damaged: records; a record is counted each time it is deferred.
    repeated: records given to the sink although an earlier try may have stored them: tries with an
    unknown result, or in flight when the last process ended without closing.
    """

    def __init__(self) -> None:
        self.delivered = 0
        self.deferred = 0
        self.refused = 0
        self.damaged = 0
        self.repeated = 0


class Drainer:
    """Drains a shelf into a sink, at most `parallel` records at a time."""

    def __init__(self, shelf: Shelf, sink: Sink, *, parallel: int) -> None:
        self.counts = Counts()
        self.breaker = Breaker(FIRST_PAUSE, MOST_PAUSE)
        self._shelf = shelf
        self._sink = sink
        self._parallel = parallel
        self._in_flight: set[int] = set()  # numbers of records that the sink has
        self._busy: set[int] = set()  # and of those whose result is not noted yet
        self._position = 0  # number of the newest record that was begun
        self._next_due: float | None = 0.0
        self._may_be_there = parallel + MARKS if shelf.was_cut else 0
        self._gone: list[Entry] = []
        self._marking: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._pending: set[asyncio.Future[Any]] = set()  # puts and notes
        self._run: asyncio.Task[None] | None = None
        self._closing = False
        self._cannot_note = False  # and that was logged

    def start(self) -> None:
        """Begin to drain."""
        self._shelf.on_new = self._wake.set
        self._run = asyncio.create_task(self._drain_until_closed())

    def is_under_way(self, seq: int) -> bool:
        """Whether the sink has a record now, or its answer is not noted yet."""
        return seq in self._busy

    def is_begun(self, seq: int) -> bool:
        """Whether a new record was given to the sink, or will be at once."""
        return seq <= self._position

    def look(self) -> None:
        """Deferred records have become due."""
        self._look_for_due(0.0)
        self._wake.set()

    async def close(self, patience: float) -> bool:
        """Begin no more records, and wait for those in flight for at most `patience` seconds;
        return whether what became of all of them is noted.
        """
        self._closing = True
        self._shelf.on_new = _nothing
        self._wake.set()
        deadline = time.monotonic() + patience
        if self._run is not None:
            await asyncio.wait([self._run], timeout=patience)
            self._run.cancel()
        while self._in_flight and (left := deadline - time.monotonic()) > 0:
            self._wake.clear()
            await _within(left, self._wake.wait())
        self._mark()
        if self._pending:
            await asyncio.wait(self._pending, timeout=max(0.0, deadline - time.monotonic()))
        for future in self._pending:
            future.cancel()
        return not self._busy

    # Which records.

    async def _drain_until_closed(self) -> None:
        while not self._closing:
            try:
                await self._drain()
            except Exception:  # a fault of ours must not stop all draining
                logger.exception("draining the spool %s has failed", self._shelf.directory.path)
                await asyncio.sleep(NOTE_AGAIN)

    async def _drain(self) -> None:
        while not self._closing:
            self._wake.clear()
            room = self.breaker.room(self._parallel, len(self._in_flight), time.monotonic())
            # Only when half is free: records are fetched in batches.
            enough = 1 if self.breaker.is_open else (self._parallel + 1) // 2
            # Records that are not noted are delivered again after a crash, so they are limited.
            room = min(room, self._parallel + MARKS - len(self._busy))
            if room < enough:
                is_paused = self.breaker.is_open and not self._in_flight
                await self._sleep(self.breaker.until - time.monotonic() if is_paused else None)
            elif not await self._fetch(room):
                due = self._next_due
                await self._sleep(None if due is None else min(due - time.time(), MOST_DELAY))

    async def _sleep(self, seconds: float | None) -> None:
        """Wait until something has changed, or for `seconds`."""
        if seconds is None:
            await self._wake.wait()
        elif seconds > 0:
            await _within(seconds, self._wake.wait())

    async def _fetch(self, room: int) -> bool:
        """Begin records; return whether there were any."""
        now = time.time()
        newest = self._shelf.newest
        # One that is due later than any delay was put there before the clock was set back.
        has_due = self._next_due is not None and not now < self._next_due <= now + MOST_DELAY
        if has_due:
            self._next_due = None
        elif self._position >= newest:
            return False
        busy = tuple(self._busy) if has_due else None
        try:
            found, next_due = await self._shelf.ask(
                functools.partial(_pick, self._position, room, now, busy)
            )
        except DeliveryError:
            # The store has failed, and is opened again as soon as possible.
            if has_due:
                self._look_for_due(now)
            await asyncio.sleep(NOTE_AGAIN)
            return True
        self._look_for_due(next_due)
        for entry in found:
            if entry.trouble is None:
                self._position = entry.seq
            self._begin(entry)
        if not found:
            self._position = newest  # all remaining records up to there have trouble
        return bool(found)

    def _look_for_due(self, due: float | None) -> None:
        if due is not None and (self._next_due is None or due < self._next_due):
            self._next_due = due

    # One record.

    def _begin(self, entry: Entry) -> None:
        self._busy.add(entry.seq)
        try:
            record = self._shelf.record_of(entry)
        except (ValueError, OSError) as error:
            self._set_damaged(entry, error)
            return
        if self._may_be_there > 0:
            self._may_be_there -= 1
            self.counts.repeated += 1
        self._in_flight.add(entry.seq)
        try:
            answer = hand_over(self._sink, record)
        except Exception as error:  # foreign code
            self._ended(entry, record, delivery_error(error))
        else:
            self._keep(answer)
            answer.add_done_callback(functools.partial(self._answered, entry, record))

    def _answered(self, entry: Entry, record: Record, answer: asyncio.Future[Receipt]) -> None:
        if answer.cancelled():
            if not self._closing:
                self._ended(entry, record, Unclear("it was cancelled"))
            return
        error = answer.exception()
        if isinstance(error, BodyDamaged):
            self._in_flight.discard(entry.seq)
            self._set_damaged(entry, error)
        elif error is not None:
            self._ended(entry, record, delivery_error(error))
        else:
            self._ended(entry, record, answer.result())

    # How it ended.

    def _ended(self, entry: Entry, record: Record, outcome: Receipt | DeliveryError) -> None:
        self._in_flight.discard(entry.seq)
        self._tell_breaker(outcome)
        if isinstance(outcome, str):
            self._set_gone(entry)
        elif isinstance(outcome, DeliveryError):
            self._change(Changes(troubles=((entry.seq, self._trouble(entry, outcome)),)))
        else:
            self._split(entry, record, outcome)
        if len(self._in_flight) <= self._parallel // 2:
            self._wake.set()

    def _tell_breaker(self, outcome: Receipt | DeliveryError) -> None:
        if not isinstance(outcome, _OF_THE_SINK):
            if self.breaker.succeed():
                logger.warning("the spool %s drains again", self._shelf.directory.path)
        elif self.breaker.fail(str(outcome), time.monotonic()):
            logger.error(
                "the spool %s cannot be drained, and mail waits in it: %s",
                self._shelf.directory.path,
                clean(str(outcome)),
            )

    def _trouble(self, entry: Entry, error: DeliveryError) -> Trouble:
        attempts = 1 if entry.trouble is None else entry.trouble.attempts + 1
        if _is_final(error):
            self.counts.refused += 1
            logger.error(
                "spooled id=%s number=%d is refused, and kept: %s",
                clean(entry.id),
                entry.seq,
                clean(str(error)),
            )
            return Trouble(State.REFUSED, attempts, 0.0, storable(str(error)))
        self.counts.deferred += 1
        if isinstance(error, Unclear):
            self.counts.repeated += 1
        # While the sink is down, its breaker limits the tries: they must not cost a record an hour
        # when the sink is back.
        is_down = self.breaker.is_open and isinstance(error, _OF_THE_SINK)
        most = MOST_PAUSE if is_down else MOST_DELAY
        due = time.time() + min(FIRST_DELAY * 2.0 ** min(attempts - 1, 16), most)
        return Trouble(State.DEFERRED, attempts, due, storable(str(error)))

    def _split(self, entry: Entry, record: Record, fates: Receipt) -> None:
        """Keep the record only for the recipients that have not got it."""
        failed = [
            (recipient, fate)
            for recipient, fate in zip(record.rcpt_to, fates, strict=True)
            if isinstance(fate, DeliveryError)
        ]
        if not failed:
            self._set_gone(entry)
            return
        body = len(record.body) if isinstance(record.body, bytes) else record.size
        parts: dict[bool, list[int]] = {}
        for number, (_, fate) in enumerate(failed):
            assert isinstance(fate, DeliveryError)
            parts.setdefault(_is_final(fate), []).append(number)
        new = []
        for numbers in parts.values():
            part = self._shelf.record_of(entry)
            part.rcpt_to = tuple(failed[number][0] for number in numbers)
            octets = encode_record(part, hashes=False)
            size = len(octets) + (0 if entry.body is None else body)
            error = failed[numbers[0]][1]
            assert isinstance(error, DeliveryError)
            new.append(NewRecord(entry.id, octets, size, entry.body, self._trouble(entry, error)))
        self._change(Changes(gone=(entry.seq,), new=tuple(new)), entry)

    def _set_damaged(self, entry: Entry, error: Exception) -> None:
        self.counts.damaged += 1
        logger.error(
            "spooled id=%s number=%d is damaged, and set aside: %s",
            clean(entry.id),
            entry.seq,
            clean(str(error)),
        )
        attempts = 0 if entry.trouble is None else entry.trouble.attempts
        trouble = Trouble(State.DAMAGED, attempts, 0.0, storable(str(error)))
        self._change(Changes(troubles=((entry.seq, trouble),)))

    # Notes of it in the store.

    def _set_gone(self, entry: Entry) -> None:
        self.counts.delivered += 1
        self._gone.append(entry)
        if len(self._gone) >= MARKS:
            self._mark()
        elif self._marking is None:
            self._marking = asyncio.get_running_loop().call_later(MARK_SECONDS, self._mark)

    def _mark(self) -> None:
        """Remove the delivered records."""
        if self._marking is not None:
            self._marking.cancel()
            self._marking = None
        gone, self._gone = self._gone, []
        if gone:
            self._change(Changes(gone=tuple(entry.seq for entry in gone)), *gone)

    def _change(self, changes: Changes, *gone: Entry) -> None:
        self._keep(asyncio.ensure_future(self._changed(changes, gone)))

    async def _changed(self, changes: Changes, gone: Sequence[Entry]) -> None:
        """Make the changes as soon as possible; until then no record is begun again."""
        while True:
            try:
                await self._shelf.change(changes, gone)
                break
            except DeliveryError as error:
                if not self._cannot_note:
                    self._cannot_note = True
                    logger.error(
                        "the spool %s cannot note what was delivered, and waits: %s",
                        self._shelf.directory.path,
                        error,
                    )
                await asyncio.sleep(NOTE_AGAIN)
            if changes.new and await self._was_made(changes):
                self._shelf.count_anew()
                break
        self._cannot_note = False
        self._busy.difference_update(changes.gone, [seq for seq, _ in changes.troubles])
        for trouble in (*(it for _, it in changes.troubles), *(new.trouble for new in changes.new)):
            # Not before: a record that is busy is not found, and would not be looked for again.
            if trouble is not None and trouble.state == State.DEFERRED:
                self._look_for_due(trouble.due)
        self._wake.set()

    async def _was_made(self, changes: Changes) -> bool:
        """Whether a change was made although it has failed: it must not add its records twice."""
        while True:
            try:
                return await self._shelf.ask(lambda store: store.entry(changes.gone[0])) is None
            except DeliveryError:  # the store cannot be opened now
                await asyncio.sleep(NOTE_AGAIN)

    def _keep(self, task: asyncio.Future[Any]) -> None:
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)


def _pick(
    position: int, room: int, now: float, busy: tuple[int, ...] | None, store: Store
) -> tuple[list[Entry], float | None]:
    """Return records to begin, and when to look for deferred ones again; in the store's thread.

    busy: numbers of those in flight; None: no deferred one is due.
    """
    found: list[Entry] = []
    next_due = None
    if busy is not None:
        for after, until in ((-math.inf, now), (now + MOST_DELAY, math.inf)):
            if len(found) < room:
                found += store.due(after, until, busy, room - len(found), FETCH_OCTETS)
        next_due = now if found else store.next_due(now)
    if len(found) < room:
        found += store.fresh(position, room - len(found), FETCH_OCTETS)
    return found, next_due


def _is_final(error: DeliveryError) -> bool:
    return (error.reply.response_code or 0) >= 500


async def _within(seconds: float, awaitable: Awaitable[object]) -> None:
    try:
        async with asyncio.timeout(seconds):
            await awaitable
    except TimeoutError:
        pass


def _nothing() -> None:
    pass
