"""Turns waiting changes into transactions; a store that has failed is not used until it was opened
again and checked.

A `Keeper` lives in the one thread of a spool's batcher. The event loop reads only `failure` and
`is_full`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from fastsmtp.delivery.directories import remove_file, sync_directory
from fastsmtp.delivery.errors import Full, Unavailable, Unclear, delivery_error
from fastsmtp.delivery.log import logger
from fastsmtp.delivery.spool.store import PAGE, NewRecord, Store, Trouble

__all__ = ["OPEN", "Changes", "Close", "Item", "Keeper", "damage_of"]

CHECK_SECONDS: Final = 10.0  # 4 GiB at the speed of a plain disk; the rest relies on checksums
# Seconds between two attempts to open a store that has failed, and between two checks of the disk.
PAUSE: Final = 1.0
OPEN: Final = "open"  # a fact: 1 while a server uses the spool
_DAMAGED: Final = ("malformed", "not a database")
_MASK: Final = 0xFF  # of the code that is not extended
_FULL: Final = 13  # SQLITE_FULL
_WRITE_FAILED: Final = 778  # SQLITE_IOERR_WRITE
PROBE: Final = 2 * PAGE  # octets; a frame of the log, which did not fit, is a little over one page


class Changes(NamedTuple):
    """The changes of the drainer or a command, for one transaction."""

    gone: tuple[int, ...] = ()
    troubles: tuple[tuple[int, Trouble], ...] = ()
    new: tuple[NewRecord, ...] = ()


class Close(NamedTuple):
    """The last item: close the store. is_clean: also note that the process has closed it."""

    is_clean: bool


Item: TypeAlias = NewRecord | Changes | Close | Callable[[Store], Any]


class Keeper:
    """The store of a spool, and whether it can be trusted.

    reserve: octets of the disk that new records must leave free, so that there is always space to
    note deliveries. failure: why nothing can be stored now, "" if it can.
    """

    def __init__(self, path: str, *, reserve: int) -> None:
        self._path = path
        self._reserve = reserve
        self._next = 1
        self._retry_at = 0.0
        self._unlooked = 0  # octets of records since the disk was checked
        self._look_again_at = 0.0
        self._store: Store | None = None
        self.failure = ""
        self.is_full = False
        self.is_closed = False
        self.is_empty = False  # as it was closed

    @property
    def is_open(self) -> bool:
        """Whether the store is open."""
        return self._store is not None

    def open(self) -> Store:
        """Open the store. Raises sqlite3.Error and SpoolError."""
        self.is_closed = False
        self._store = Store(self._path, first=self._next)
        return self._store

    def note_use(self) -> None:
        """Note that a server uses the store. A full disk must not prevent the start."""
        assert self._store is not None
        try:
            self._store.set_fact(OPEN, 1)
        except sqlite3.Error as error:
            if not self._shortage(error):
                raise
            self.is_full = True

    def close(self) -> None:
        """Close the store, if it is open."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def commit(self, items: list[Item]) -> Sequence[Any]:
        """Execute the items; return a result or an exception for each: for a new record its number
        as a text, for changes whether all records to remove existed.

        Raises OSError if the disk is full; then nothing was changed.
        """
        last = items[-1]
        if isinstance(last, Close):
            before = self.commit(items[:-1]) if len(items) > 1 else ()
            self._end(last)
            return [*before, None]
        store = self._trusted()
        if store is None:
            return [Unavailable(self.failure)] * len(items)
        self._look_at_disk()
        results: list[Any] = [None] * len(items)
        written = [number for number, item in enumerate(items) if isinstance(item, tuple)]
        if written:
            for number, result in zip(
                written, self._write(store, [items[number] for number in written]), strict=True
            ):
                results[number] = result
        for number, item in enumerate(items):
            if not isinstance(item, tuple):
                results[number] = self._ask(item)
        return results

    def _end(self, last: Close) -> None:
        if self._store is not None and last.is_clean:
            with contextlib.suppress(sqlite3.Error):
                self._store.set_fact(OPEN, 0)
                self.is_empty = not self._store.totals()[0]
        self.close()
        self.is_closed = True

    # Changes.

    def _write(self, store: Store, items: list[Any]) -> list[Any]:
        new = [item for item in items if isinstance(item, NewRecord)]
        if self.is_full and new:
            full = Full(f"the disk has less than {self._reserve} octets left")
            rest = [item for item in items if not isinstance(item, NewRecord)]
            done = iter(self._write(store, rest) if rest else [])
            return [full if isinstance(item, NewRecord) else next(done) for item in items]
        changes = [item for item in items if isinstance(item, Changes)]
        try:
            numbers, are_all_gone = store.write(
                [*new, *(record for change in changes for record in change.new)],
                [seq for change in changes for seq in change.gone],
                [trouble for change in changes for trouble in change.troubles],
            )
        except sqlite3.Error as error:
            if number := self._shortage(error):
                self.is_full = True
                raise OSError(number, os.strerror(number)) from error
            self._distrust(error)
            return [Unclear(_reason(error))] * len(items)
        self._next = store.next
        self._unlooked += sum(len(item.octets) for item in new)
        receipts = map(str, numbers)
        results = [
            next(receipts) if isinstance(item, NewRecord) else are_all_gone for item in items
        ]
        self._carry_over(store)
        return results

    def _look_at_disk(self) -> None:
        """Check whether there is space for new records; not for each batch, to save time."""
        now = time.monotonic()
        if self.is_full or self._unlooked * 8 >= self._reserve or now >= self._look_again_at:
            facts = os.statvfs(os.path.dirname(self._path))
            self.is_full = facts.f_bavail * facts.f_frsize < self._reserve
            self._unlooked = 0
            self._look_again_at = now + PAUSE

    def _carry_over(self, store: Store) -> None:
        """Keep the log short. Committed records are safe, even if this fails."""
        try:
            store.carry_over()
        except sqlite3.Error as error:
            if self._shortage(error):
                self.is_full = True
            else:
                self._distrust(error)

    def _ask(self, question: Callable[[Store], Any]) -> Any:
        if self._store is None:
            return Unavailable(self.failure)
        try:
            return question(self._store)
        except sqlite3.Error as error:
            if self._shortage(error):
                self.is_full = True
                return Full(_reason(error))
            self._distrust(error)
            return Unavailable(_reason(error))
        except Exception as error:
            return error

    def _shortage(self, error: sqlite3.Error) -> int:
        """Return the errno if a write has failed because there is no room for it, else 0.

        SQLite has a code of its own for a full disk. An exhausted quota and a file that may not
        grow are write errors like any other there, and do not show their errno: so a file beside
        the store is written. In both cases SQLite has undone the change.
        """
        code = getattr(error, "sqlite_errorcode", 0)
        if code & _MASK == _FULL:
            return errno.ENOSPC
        return _probe(self._path) if code == _WRITE_FAILED else 0

    # A store that has failed.

    def _tell(self, failure: str) -> None:
        """Log why the store cannot be opened, once for each reason."""
        if failure == self.failure:
            return
        self.failure = failure
        hint = (
            f": stop the server and run fastsmtp spool repair {os.path.dirname(self._path)}"
            if damage_of(failure)
            else ""
        )
        logger.error(
            "the spool %s cannot be used, mail is refused: %s%s", self._path, failure, hint
        )

    def _distrust(self, error: sqlite3.Error) -> None:
        """Close a store whose state on disk is unknown, and open it again."""
        self.failure = _reason(error)
        logger.error("the spool %s has failed and is opened again: %s", self._path, self.failure)
        self.close()
        self._retry_at = 0.0
        self._trusted()

    def _trusted(self) -> Store | None:
        """Return the store; if it has failed, try to open it from time to time."""
        if self._store is not None or time.monotonic() < self._retry_at:
            return self._store
        self._retry_at = time.monotonic() + PAUSE
        try:
            _renew_log(f"{self._path}-wal")
            store = self.open()
            store.carry_over(always=True)
            store.reindex()
            if found := store.check(CHECK_SECONDS):
                raise sqlite3.DatabaseError(f"malformed: {found[0]}")
        except (OSError, ValueError, sqlite3.Error) as error:
            self.close()
            self._tell(str(error))
            return None
        if self.failure:
            logger.warning("the spool %s was opened again and is sound", self._path)
        self.failure = ""
        return store


def damage_of(text: str) -> str:
    """Return SQLite's finding in one line, "" if it is not about damage."""
    return text.splitlines()[0] if any(word in text for word in _DAMAGED) else ""


def _renew_log(path: str) -> None:
    """Write the log again, so that all of it is on disk.

    After a failed sync the kernel may treat pages as clean that the disk never got; records that
    are appended after such pages would be lost with the next power cut.
    """
    try:
        with open(path, "rb") as file:
            octets = file.read()
    except FileNotFoundError:
        return
    renewed = f"{path}.new"
    descriptor = os.open(renewed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(descriptor)
        os.rename(renewed, path)
    except BaseException:
        remove_file(renewed)  # it would take room on a full disk
        raise
    sync_directory(os.path.dirname(path))


def _probe(path: str) -> int:
    """Return why a file beside the store cannot be as long as that, if it is for lack of room."""
    lengths = [os.path.getsize(each) for each in (path, f"{path}-wal") if os.path.exists(each)]
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(path)) as file:
            file.seek(max(lengths, default=0))
            file.write(bytes(PROBE))
            file.flush()
    except OSError as error:
        return error.errno or 0 if isinstance(delivery_error(error), Full) else 0
    return 0


def _reason(error: sqlite3.Error) -> str:
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return f"{name}:{error}"
