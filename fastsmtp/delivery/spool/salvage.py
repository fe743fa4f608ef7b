"""Makes a new database from the readable records of a damaged one.

In: the database of a spool that SQLite calls malformed. Out: a new one in its place; the old one is
kept beside it, and so are the files with bodies that no record names any more.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from fastsmtp.delivery.directories import make_directory, sync_directory
from fastsmtp.delivery.spool.directory import SpoolDirectory
from fastsmtp.delivery.spool.store import (
    PAGE,
    NewRecord,
    Store,
    Trouble,
    open_database,
)

__all__ = ["Salvage", "salvage", "undo_replacement"]

FARTHEST: Final = 1 << 40  # numbers of a gap that are searched; no spool has had so many records
_READ_NEXT: Final = (
    "SELECT seq, id, octets, body, size FROM record WHERE seq > ? ORDER BY seq LIMIT 1"
)
BATCH: Final = 256


class Salvage(NamedTuple):
    """The result for a damaged spool.

    records: how many were read. gaps: places at which records may be missing. kept: path of the
    damaged file. bodies: how many files with bodies no record names.
    """

    records: int
    gaps: int
    kept: str
    bodies: int


def salvage(directory: SpoolDirectory) -> Salvage:
    """Replace the database; the directory is locked by the caller.

    Raises OSError and sqlite3.Error if the new file cannot be written; then nothing has changed.
    """
    undo_replacement(directory.database)
    fresh = f"{directory.database}.new"
    grafted = f"{directory.database}.graft"
    for path in (fresh, grafted):
        _remove_database(path)
    try:
        with _opened(directory.database, grafted) as damaged:
            new = Store(fresh)
            try:
                records, gaps = _copy(damaged, new)
                new.carry_over(always=True)
                named = new.bodies()
            finally:
                new.close()
        if os.path.exists(f"{fresh}-wal"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), fresh)
        kept = f"{directory.database}.damaged-{time.time_ns() // 1_000_000_000}"
        _replace(directory.database, fresh, kept)
    finally:
        for path in (fresh, grafted):
            _remove_database(path)
    return Salvage(records, gaps, kept, _set_apart(directory.bodies, named, f"{kept}.bodies"))


@contextlib.contextmanager
def _opened(path: str, grafted: str) -> Iterator[sqlite3.Connection]:
    try:
        connection = open_database(path)
    except sqlite3.DatabaseError:
        # The first page identifies the file: it is the same in each spool, except for numbers that
        # are not needed for reading.
        _graft(path, grafted)
        connection = open_database(grafted)
    with contextlib.closing(connection):
        yield connection


def _graft(path: str, grafted: str) -> None:
    """Make a copy of the file with the first page of a new database."""
    Store(grafted).close()
    with open(grafted, "rb") as file:
        first = bytearray(file.read(PAGE))
    shutil.copyfile(path, grafted)
    with contextlib.suppress(FileNotFoundError):
        shutil.copyfile(f"{path}-wal", f"{grafted}-wal")
    # Octets 28-31: how many pages there are (https://www.sqlite.org/fileformat2.html, 1.3).
    first[28:32] = (os.path.getsize(grafted) // PAGE).to_bytes(4, "big")
    with open(grafted, "r+b") as file:
        file.write(first)


def _copy(damaged: sqlite3.Connection, new: Store) -> tuple[int, int]:
    """Return how many records were read, and at how many places some may be missing."""
    troubles = _troubles(damaged)
    position = records = gaps = 0
    batch: list[NewRecord] = []
    while True:
        try:
            row = damaged.execute(_READ_NEXT, (position,)).fetchone()
        except sqlite3.Error:
            gaps += 1
            behind = _past_gap(damaged, position)
            if behind is None:
                break
            position = behind
            continue
        if row is None:
            break
        position, id, octets, body, size = row
        batch.append(NewRecord(str(id), bytes(octets), int(size), body, troubles.get(position)))
        records += 1
        if len(batch) == BATCH:
            new.write(batch)
            batch.clear()
    new.write(batch)
    return records, gaps


def _troubles(damaged: sqlite3.Connection) -> dict[int, Trouble]:
    found: dict[int, Trouble] = {}
    # If these are lost, refused records are tried once more.
    with contextlib.suppress(sqlite3.Error):
        for seq, *trouble in damaged.execute("SELECT * FROM trouble"):
            found[seq] = Trouble(*trouble)
    return found


def _past_gap(connection: sqlite3.Connection, after: int) -> int | None:
    """Return the least number from `after` on after which a record can be read, None if there is
    no such record.
    """

    def is_readable(number: int) -> bool:
        try:
            connection.execute(_READ_NEXT, (number,)).fetchone()
        except sqlite3.Error:
            return False
        return True

    if is_readable(after):
        return after
    step = 1
    while not is_readable(after + step):
        step *= 2
        if step > FARTHEST:
            return None
    low, high = after + step // 2, after + step
    while high - low > 1:
        middle = (low + high) // 2
        if is_readable(middle):
            high = middle
        else:
            low = middle
    return high


def _replace(database: str, fresh: str, kept: str) -> None:
    """Put the new file in place; at every moment there is a file that the next start would find."""
    log = f"{database}-wal"
    os.link(database, kept)
    with contextlib.suppress(FileNotFoundError):
        os.rename(log, f"{kept}-wal")
    os.rename(fresh, database)
    sync_directory(os.path.dirname(database))


def undo_replacement(database: str) -> None:
    """Give the database its log back, which may have records, if a replacement was cut short."""
    for kept in glob.glob(f"{glob.escape(database)}.damaged-*[0-9]"):
        if os.path.exists(database) and os.path.samefile(kept, database):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{kept}-wal", f"{database}-wal")
            os.unlink(kept)
            sync_directory(os.path.dirname(database))


def _set_apart(bodies: str, named: set[str], target: str) -> int:
    """Move the files that no record names: the next start would remove them."""
    left = [name for name in os.listdir(bodies) if name not in named]
    if left:
        make_directory(target)
        for name in left:
            os.rename(os.path.join(bodies, name), os.path.join(target, name))
        sync_directory(target)
        sync_directory(bodies)
    return len(left)


def _remove_database(path: str) -> None:
    for name in (path, f"{path}-wal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
