"""The records of a spool for the event loop: put, ask, change; and how much space is left.

One thread does the work on the file, in batches: see `keeper`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from fastsmtp.blocking import call_in_thread
from fastsmtp.delivery.batcher import Batcher
from fastsmtp.delivery.body_files import BodyFile, BodyFiles
from fastsmtp.delivery.errors import DeliveryError, Full, Unavailable, Unclear
from fastsmtp.delivery.log import logger
from fastsmtp.delivery.record import Record, encode_record, parse_record
from fastsmtp.delivery.sink import BodyWriter, Receipt
from fastsmtp.delivery.spool.directory import SpoolDirectory, SpoolError
from fastsmtp.delivery.spool.keeper import (
    CHECK_SECONDS,
    OPEN,
    Changes,
    Close,
    Item,
    Keeper,
    damage_of,
)
from fastsmtp.delivery.spool.salvage import undo_replacement
from fastsmtp.delivery.spool.store import Entry, NewRecord, Store, storable

__all__ = ["Shelf"]

T = TypeVar("T")

# Seconds after which a spool that is full or has failed is checked again.
LOOK_AGAIN: Final = 1.0


class Opening:
    """A start: whether its thread has opened the store, and whether it was cancelled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_finished = self._is_abandoned = False

    def finish(self) -> bool:
        """The store is open; return whether anybody waits for it."""
        with self._lock:
            self._is_finished = True
            return not self._is_abandoned

    def abandon(self) -> bool:
        """Nobody waits any more; return whether the store is open, and is to be closed."""
        with self._lock:
            self._is_abandoned = True
            return self._is_finished


class Shelf:
    """The records in one directory; `start` locks it.

    quota: octets that the records may have, with their bodies. reserve: octets of the disk that
    they must leave free. coming: returns how many records are expected soon. on_batch: called with
    the number of items of each batch. newest: number of the
    newest record. was_cut: the last process that used the spool did not close it. on_new: called
    when records have arrived.
    """

    def __init__(
        self,
        directory: SpoolDirectory,
        *,
        quota: int,
        reserve: int,
        coming: Callable[[], int] = int,
        on_batch: Callable[[int], object] | None = None,
    ) -> None:
        self.directory = directory
        self.count = 0
        self.newest = 0
        self.was_cut = False
        self.on_new: Callable[[], None] = _nothing
        self._quota = quota
        self._keeper = Keeper(directory.database, reserve=reserve)
        self._batcher: Batcher[Item, Any] = Batcher(
            self._keeper.commit, name="fastsmtp-spool", coming=coming, on_batch=on_batch
        )
        self._bodies = BodyFiles(directory.bodies, self._over_quota)
        self._look: asyncio.TimerHandle | None = None
        self._openings = threading.Lock()
        self._is_open = False
        self._serves = False
        self._stored = 0  # octets of stored records
        self._coming = 0  # octets of records that are being added
        self._undoing: set[asyncio.Task[None]] = set()

    @property
    def used(self) -> int:
        """Octets that count towards the quota."""
        return self._stored + self._coming + self._bodies.arriving

    # Its life.

    async def start(self, *, serves: bool) -> None:
        """Lock, open and check the spool. Raises SpoolError.

        serves: for a server, which makes the directory, and notes its start and end.
        """
        loop, opening = asyncio.get_running_loop(), Opening()
        call = functools.partial(self._open, serves, opening)
        future = call_in_thread(loop, call, "fastsmtp-spool-start")
        try:
            found = await future
        except asyncio.CancelledError:
            if opening.abandon():
                self._undo_opening()
            raise
        if isinstance(found, BaseException):
            raise found
        self._batcher.start()
        self._bodies.start()
        self._is_open = True
        self._serves = serves

    def _open(self, serves: bool, opening: Opening) -> None:
        # A start after one that was cancelled waits until the thread of that one has ended: a
        # connection that one thread closes while another uses it crashes the process.
        with self._openings:
            if self._keeper.is_open:
                raise RuntimeError(f"the spool {self.directory.path} is open: `close` it first")
            self.directory.acquire(create=serves)
            try:
                self._open_store(serves)
                is_wanted = opening.finish()
            except BaseException:
                self._undo_opening()
                raise
            if not is_wanted:
                self._undo_opening()

    def _undo_opening(self) -> None:
        self._keeper.close()
        self.directory.release()

    def _open_store(self, serves: bool) -> None:
        path = self.directory.path
        try:
            undo_replacement(self.directory.database)
            store = self._keeper.open()
            found = store.check(CHECK_SECONDS)
            self.was_cut = bool(store.fact(OPEN))
            if not found:
                self._recover(store)
            if serves and not found:
                self.directory.note_use()
                self._keeper.note_use()
        except sqlite3.DatabaseError as error:
            if damage_of(str(error)):
                found = [str(error)]
            elif "locked" in str(error):
                database = self.directory.database
                raise SpoolError(f"another program has opened {database}: end it") from error
            else:
                raise SpoolError(f"cannot use the spool {path}: {error}") from error
        except OSError as error:
            raise SpoolError(f"cannot use the spool {path}: {error.strerror}") from error
        if found:
            raise SpoolError(
                f"the spool {path} is damaged ({found[0].splitlines()[0]}): "
                f"run fastsmtp spool repair {path}"
            )

    def _recover(self, store: Store) -> None:
        """Count the records, and remove bodies whose records were never written."""
        removed = self._bodies.remove_all_but(store.bodies())
        if removed:
            logger.info(
                "removed %d bodies without a record from %s", removed, self.directory.bodies
            )
        store.shrink()
        self.count, self._stored, self.newest = _totals(store)

    async def close(self, patience: float, *, is_clean: bool = True) -> None:
        """Write waiting records, for at most `patience` seconds, and release the directory.

        is_clean: nothing that was delivered may be delivered again by the next process.
        """
        if not self._is_open:
            return
        self._is_open = False
        if self._look is not None:
            self._look.cancel()
        deadline = time.monotonic() + patience
        self._batcher.add(Close(is_clean=self._serves and is_clean), 0)
        await self._batcher.close(patience)
        await self._bodies.close(max(0.0, deadline - time.monotonic()))
        if self._keeper.is_closed:
            if self._keeper.is_empty:
                self.directory.note_empty()
            self.directory.release()
        # Otherwise the thread hangs in the disk, and so would we: the process's end unlocks it.

    # Records in.

    def refusal(self) -> DeliveryError | None:
        """Return why no record can be accepted now, None if one can."""
        if self._keeper.failure:
            return Unavailable(f"the spool has failed: {self._keeper.failure}")
        if self._keeper.is_full:
            return Full("the disk of the spool is full")
        if self.used >= self._quota:
            return Full(f"the spool has reached its quota of {self._quota} octets")
        return None

    def put(self, record: Record) -> asyncio.Future[Receipt]:
        """Add a record; the future has its number once that is durable."""
        octets = encode_record(record, hashes=False)
        body = None
        size = len(octets)
        if not isinstance(record.body, bytes):
            body = os.path.basename(record.body.path)
            size += record.size
            if isinstance(record.body, BodyFile):
                record.body.has_arrived()
        if error := self.refusal() or self._beyond_quota(size):
            self._look_again()
            self._forget_body(body)
            failed: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed
        added: asyncio.Future[Receipt] = self._batcher.add(
            NewRecord(storable(record.id), octets, size, body), len(octets)
        )
        self._coming += size
        # The first callback: when the caller's are called, the record is counted.
        added.add_done_callback(functools.partial(self._added, size, body))
        return added

    def _over_quota(self) -> DeliveryError | None:
        """Of bodies on their way; called in threads."""
        return self._beyond_quota(0)

    def _beyond_quota(self, size: int) -> DeliveryError | None:
        if self.used + size <= self._quota:
            return None
        return Full(f"{size} octets more are beyond the spool's quota of {self._quota}")

    def _added(self, size: int, body: str | None, added: asyncio.Future[Receipt]) -> None:
        self._coming -= size
        if added.cancelled():
            self.count_anew()  # the record may be stored nevertheless
        elif (error := added.exception()) is not None:
            self._look_again()
            if not isinstance(error, Unclear):
                self._forget_body(body)
        else:
            self.count += 1
            self._stored += size
            self.newest = max(self.newest, int(str(added.result())))
            self.on_new()

    def _forget_body(self, name: str | None) -> None:
        """Remove the body of a record that was certainly not added."""
        if name is not None:
            self._bodies.remove_later(name)

    def count_anew(self) -> None:
        """Ask the store for its totals; the answer comes after those of all earlier batches."""

        def counted(answer: asyncio.Future[tuple[int, int, int]]) -> None:
            if not answer.cancelled() and answer.exception() is None:
                self.count, self._stored, newest = answer.result()
                self.newest = max(self.newest, newest)
                self.on_new()

        self._batcher.add(_totals, 0).add_done_callback(counted)

    def _look_again(self) -> None:
        """Have the thread check the disk again, until there is no fault."""
        if self._look is None and self._is_open:
            self._look = asyncio.get_running_loop().call_later(LOOK_AGAIN, self._look_now)

    def _look_now(self) -> None:
        self._look = None

        def looked(done: asyncio.Future[None]) -> None:
            if done.exception() is not None or self._keeper.is_full:
                self._look_again()

        self._batcher.add(_nothing_of, 0).add_done_callback(looked)

    # Records out.

    async def ask(self, question: Callable[[Store], T]) -> T:
        """Return the result of `question`, called in the thread. Raises DeliveryError."""
        answer: T = await self._batcher.add(question, 0)
        return answer

    async def remove(self, records: Sequence[Entry]) -> None:
        """Remove records, and then their bodies. Raises DeliveryError; then none was removed."""
        await self.change(Changes(gone=tuple(entry.seq for entry in records)), records)

    async def change(self, changes: Changes, gone: Iterable[Entry] = ()) -> None:
        """Make changes; `gone` are the records that they remove. Raises DeliveryError."""
        are_all_gone = await self._batcher.add(
            changes, sum(len(each.octets) for each in changes.new)
        )
        if are_all_gone:
            self.count += len(changes.new) - len(changes.gone)
            self._stored += sum(each.size for each in changes.new)
            self._stored -= sum(each.size for each in gone)
        else:
            self.count_anew()  # some were removed already
        names = [each.body for each in gone if each.body is not None]
        if names:
            await self.ask(functools.partial(self._remove_bodies, names))

    def undo(self, number: int) -> None:
        """Remove a record soon, if it still exists."""
        task = asyncio.create_task(self._undo(number))
        self._undoing.add(task)
        task.add_done_callback(self._undoing.discard)

    async def _undo(self, number: int) -> None:
        try:
            entry = await self.ask(lambda store: store.entry(number))
            if entry is not None:
                await self.remove([entry])
        except DeliveryError as error:
            logger.warning("record %d stays in the spool: %s", number, error)

    def _remove_bodies(self, names: list[str], store: Store) -> None:
        named = store.bodies(names)
        for name in names:
            if name not in named:
                self._bodies.remove(name)

    def record_of(self, entry: Entry) -> Record:
        """Return the record. Raises ValueError if it is damaged."""
        record = parse_record(entry.octets, self._bodies.stored)
        if storable(record.id) != entry.id:
            raise ValueError(f"the record says that its id is {record.id}")
        return record

    def begin(self) -> BodyWriter:
        """Begin the body of a record in a file of its own."""
        return self._bodies.begin()


def _nothing() -> None:
    pass


def _nothing_of(store: Store) -> None:
    pass


def _totals(store: Store) -> tuple[int, int, int]:
    """Number of records, their octets, number of the newest."""
    return (*store.totals(), store.next - 1)
