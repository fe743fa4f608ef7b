"""The file of a spool: encoded records, and the troubles of some of them.

An SQLite database in WAL mode that one connection of one thread uses: a batch of changes is one
transaction, one `fdatasync` of the log. Checkpoints of the log are made explicitly, not by SQLite
during a commit, which would not report their failure.

All calls block, and raise sqlite3.Error.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from fastsmtp.delivery.directories import sync_directory
from fastsmtp.delivery.spool.directory import SpoolError

__all__ = [
    "FORMAT",
    "PAGE",
    "Entry",
    "NewRecord",
    "State",
    "Store",
    "Trouble",
    "open_database",
    "storable",
]

FORMAT: Final = 1  # PRAGMA user_version; a change of the tables is a new number
APPLICATION: Final = 0x46535350  # PRAGMA application_id, "FSSP"
OLDEST_LIBRARY: Final = (3, 24, 0)  # the oldest SQLite that the statements below work with

# Measured with records of 1 KiB and 50 KiB: pages of 16 KiB need 40 % less CPU time than SQLite's
# 4 KiB for the large ones, and no more for the small ones; 32 and 64 KiB waste a third of the disk.
PAGE: Final = 16 * 1024
CACHE_KIB: Final = 8 * 1024
# Octets in the log that cause a checkpoint. 4 MiB cost 5 % more CPU time, 64 MiB save none; and
# each octet in the log is read at the next start after a crash.
LOG_OCTETS: Final = 16 * 1024 * 1024
PAGES_OF_A_CHANGE: Final = 4  # that a transaction writes besides those of its records, about
STATEMENTS: Final = 64  # that stay prepared: one for each number of records in a batch

# An empty spool whose file is larger than this is shrunk.
KEPT_OCTETS: Final = 64 * 1024 * 1024

LONGEST_TEXT: Final = 2048  # characters of an id or a reason
_TABLES: Final = f"""
    BEGIN;
    CREATE TABLE record (
        seq INTEGER PRIMARY KEY,     -- the order of arrival
        id TEXT NOT NULL,
        size INTEGER NOT NULL,       -- octets of the record and of its body, for the quota
        body TEXT,                   -- name of the file with the body, NULL: it is in the record
        octets BLOB NOT NULL         -- encode_record()
    );
    CREATE INDEX record_body ON record (body) WHERE body IS NOT NULL;
    CREATE TABLE trouble (           -- of records that could not simply be delivered
        seq INTEGER PRIMARY KEY,
        state TEXT NOT NULL,         -- deferred, refused or damaged
        attempts INTEGER NOT NULL,
        due REAL NOT NULL,           -- Unix time before which a deferred one is not tried again
        reason TEXT NOT NULL
    );
    CREATE INDEX trouble_due ON trouble (due) WHERE state = 'deferred';
    CREATE TABLE fact (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    PRAGMA application_id = {APPLICATION};
    PRAGMA user_version = {FORMAT};
    COMMIT;
"""


class State:
    """The states of a record. WAITING has no row of trouble; REFUSED and DAMAGED are kept until an
    operator decides.
    """

    WAITING: Final = "waiting"
    DEFERRED: Final = "deferred"
    REFUSED: Final = "refused"
    DAMAGED: Final = "damaged"


class Trouble(NamedTuple):
    """Why a record has not been delivered. due: Unix time, for DEFERRED. reason: storable."""

    state: str
    attempts: int
    due: float
    reason: str


def storable(text: str) -> str:
    """Return a text that SQLite can store: lone surrogates are escaped, long texts cut."""
    return text[:LONGEST_TEXT].encode("utf-8", "backslashreplace").decode("utf-8")


class NewRecord(NamedTuple):
    """A record to add. id: storable. trouble: if it has one from the beginning."""

    id: str
    octets: bytes
    size: int
    body: str | None = None
    trouble: Trouble | None = None


class Entry(NamedTuple):
    """A stored record."""

    seq: int
    id: str
    size: int
    octets: bytes
    body: str | None
    trouble: Trouble | None


def open_database(path: str) -> sqlite3.Connection:
    """Open the file, or make it; if it is damaged or newer, nothing is changed.

    Raises SpoolError, OSError, sqlite3.Error.
    """
    if sqlite3.sqlite_version_info < OLDEST_LIBRARY:
        raise SpoolError(f"SQLite {sqlite3.sqlite_version} is too old for a spool: it takes 3.24")
    # For its owner alone, whatever the umask; SQLite's log gets the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    connection = sqlite3.connect(
        path,
        timeout=0,
        isolation_level=None,
        check_same_thread=False,  # the batcher ensures one thread at a time
        cached_statements=STATEMENTS,
    )
    try:
        # Exclusive before anything is read: then the index of the log is in private memory.
        for setting in (
            "locking_mode = EXCLUSIVE",
            f"page_size = {PAGE}",
            "synchronous = FULL",
            "secure_delete = OFF",  # on in Debian: would overwrite all drained records with zeros
            "wal_autocheckpoint = 0",
            f"cache_size = -{CACHE_KIB}",
            "cell_size_check = ON",
            "temp_store = MEMORY",
        ):
            connection.execute(f"PRAGMA {setting}")
        _check_format(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_format(connection: sqlite3.Connection, path: str) -> None:
    application = _number(connection, "PRAGMA application_id")
    found = _number(connection, "PRAGMA user_version")
    is_empty = _number(connection, "SELECT count(*) FROM sqlite_master") == 0
    if not is_empty and application != APPLICATION:
        raise SpoolError(f"{path} is the database of another program: name another spool")
    if found > FORMAT:
        raise SpoolError(
            f"{path} was written by a newer fastsmtp (format {found}, this one knows {FORMAT}): "
            "use that version"
        )
    if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise SpoolError(f"the file system of {path} cannot hold a spool: use a local disk")
    if is_empty:
        connection.executescript(_TABLES)
        sync_directory(os.path.dirname(path))


def _number(connection: sqlite3.Connection, statement: str) -> int:
    return int(connection.execute(statement).fetchone()[0])


class Store:
    """The records of a spool. first: the least number that a new record may get."""

    def __init__(self, path: str, *, first: int = 1) -> None:
        self._path = path
        self._connection = open_database(path)
        try:
            self.next = max(first, self._scalar("SELECT coalesce(max(seq), 0) + 1 FROM record"))
        except BaseException:
            self._connection.close()
            raise
        self._in_log = 0

    # Changes.

    def write(
        self,
        new: Sequence[NewRecord] = (),
        gone: Sequence[int] = (),
        troubles: Sequence[tuple[int, Trouble]] = (),
    ) -> tuple[range, bool]:
        """Make all these changes durably, or none.

        Returns the numbers of the new records, and whether all records to remove existed.
        """
        numbers = range(self.next, self.next + len(new))
        begun = [(seq, record.trouble) for seq, record in zip(numbers, new, strict=True)]
        found = [*troubles, *((seq, trouble) for seq, trouble in begun if trouble is not None)]
        removed = 0
        if gone or found:
            with self._transaction():
                self._insert(numbers, new)
                removed = self._delete(gone)
                # Not of a record that was removed meanwhile: a later one may get its number.
                self._connection.executemany(
                    "INSERT OR REPLACE INTO trouble SELECT seq, ?, ?, ?, ? FROM record"
                    " WHERE seq = ?",
                    [(*trouble, seq) for seq, trouble in found],
                )
        else:
            # One statement is a transaction by itself, and releases the GIL once for all of it.
            self._insert(numbers, new)
        self.next = numbers.stop
        self._in_log += PAGES_OF_A_CHANGE * PAGE + sum(len(record.octets) for record in new)
        return numbers, removed == len(gone)

    def _insert(self, numbers: range, new: Sequence[NewRecord]) -> None:
        if not new:
            return
        values: list[object] = []
        for seq, record in zip(numbers, new, strict=True):
            values += (seq, record.id, record.size, record.body, record.octets)
        rows = ",".join(["(?,?,?,?,?)"] * len(new))
        self._connection.execute(f"INSERT INTO record VALUES {rows}", values)

    def _delete(self, gone: Sequence[int]) -> int:
        if not gone:
            return 0
        # Padded to a power of two, so that there are few different statements.
        numbers = [*gone, *[0] * ((1 << (len(gone) - 1).bit_length()) - len(gone))]
        marks = ",".join("?" * len(numbers))
        # Each page that loses a record is written to the log: a run of numbers has few pages, a
        # single number has one. SQLite does not report the length of its log.
        touched = f"SELECT coalesce(sum(min(size, {PAGE})), 0) FROM record WHERE seq IN ({marks})"
        known = set(gone)
        runs = sum(seq - 1 not in known for seq in known)
        self._in_log += self._connection.execute(touched, numbers).fetchone()[0] + runs * PAGE
        self._connection.execute(f"DELETE FROM trouble WHERE seq IN ({marks})", numbers)
        return self._connection.execute(
            f"DELETE FROM record WHERE seq IN ({marks})", numbers
        ).rowcount

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back already
                self._connection.execute("ROLLBACK")
            raise

    def carry_over(self, *, always: bool = False) -> None:
        """Make a checkpoint if the log is long; then the log begins at its start again."""
        if always or self._in_log >= LOG_OCTETS:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._in_log = 0

    def reindex(self) -> None:
        """Make the indexes again: `check` does not find one that differs from its table."""
        self._connection.execute("REINDEX")

    def shrink(self) -> None:
        """Free disk space that an empty spool does not need."""
        if os.path.getsize(self._path) > KEPT_OCTETS and self.is_empty():
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def set_fact(self, name: str, value: int) -> None:
        self._connection.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))

    # Questions.

    def fact(self, name: str) -> int:
        """Return a stored number, 0 if there is none."""
        row = self._connection.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def is_empty(self) -> bool:
        return self._scalar("SELECT count(*) FROM (SELECT 1 FROM record LIMIT 1)") == 0

    def totals(self) -> tuple[int, int]:
        """Return how many records there are, and how many octets they have with their bodies."""
        count, octets = self._connection.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM record"
        ).fetchone()
        return count, octets

    def counts(self) -> dict[str, int]:
        """Return how many records there are in each state that has any."""
        found = {
            str(state): int(count)
            for state, count in self._connection.execute(
                "SELECT state, count(*) FROM trouble GROUP BY state"
            )
        }
        waiting = self.totals()[0] - sum(found.values())
        return ({State.WAITING: waiting} if waiting else {}) | found

    def bodies(self, names: Sequence[str] | None = None) -> set[str]:
        """Return the names of files with bodies of records, all or those that are in `names`."""
        if names is None:
            # From the table: a damaged index, which `check` does not find, must cost no body.
            everything = "SELECT body FROM record NOT INDEXED WHERE body IS NOT NULL"
            return {row[0] for row in self._connection.execute(everything)}
        one = "SELECT body FROM record WHERE body IS NOT NULL AND body = ?"
        return {name for name in names if self._connection.execute(one, (name,)).fetchone()}

    def fresh(self, after: int, count: int, octets: int) -> list[Entry]:
        """Return records without trouble after number `after`, the oldest first: at most `count`,
        and no more once they have `octets`.
        """
        return self._entries(
            "WHERE record.seq > ? AND trouble.seq IS NULL ORDER BY record.seq",
            (after,),
            count,
            octets,
        )

    def due(
        self, after: float, until: float, busy: Sequence[int], count: int, octets: int
    ) -> list[Entry]:
        """Return records that are deferred to a time after `after` and not after `until`, without
        the `busy` ones, in the same way.
        """
        numbers = ",".join(map(str, busy))
        return self._entries(
            "WHERE trouble.state = 'deferred' AND trouble.due > ? AND trouble.due <= ?"
            f" AND trouble.seq NOT IN ({numbers}) ORDER BY trouble.due",
            (after, until),
            count,
            octets,
            tables="trouble JOIN record USING (seq)",
        )

    def next_due(self, after: float) -> float | None:
        """Return when the next deferred record becomes due after `after`, None without one."""
        (found,) = self._connection.execute(
            "SELECT min(due) FROM trouble WHERE state = 'deferred' AND due > ?", (after,)
        ).fetchone()
        return None if found is None else float(found)

    def page(self, after: int, count: int, octets: int) -> list[Entry]:
        """Return records of any state after number `after`, in the same way."""
        return self._entries("WHERE record.seq > ? ORDER BY record.seq", (after,), count, octets)

    def entry(self, seq: int) -> Entry | None:
        """Return one record."""
        found = self._entries("WHERE record.seq = ?", (seq,), 1, 0)
        return found[0] if found else None

    def numbers_of(self, id: str) -> list[int]:
        """Return the numbers of the records with an id: one, or more where a message was split."""
        return [
            row[0] for row in self._connection.execute("SELECT seq FROM record WHERE id = ?", (id,))
        ]

    def _entries(
        self,
        condition: str,
        values: tuple[object, ...],
        count: int,
        octets: int,
        tables: str = "record LEFT JOIN trouble USING (seq)",
    ) -> list[Entry]:
        found: list[Entry] = []
        rows = self._connection.execute(
            "SELECT record.seq, record.id, record.size, record.octets, record.body, trouble.state,"
            " trouble.attempts, trouble.due, trouble.reason"
            f" FROM {tables} {condition} LIMIT {count:d}",
            values,
        )
        for seq, id, size, content, body, *trouble in rows:
            as_trouble = None if trouble[0] is None else Trouble(*trouble)
            found.append(Entry(seq, id, size, content, body, as_trouble))
            octets -= len(content)
            if octets <= 0:
                break
        rows.close()
        return found

    def _scalar(self, statement: str) -> int:
        return _number(self._connection, statement)

    # Its life.

    def check(self, seconds: float) -> list[str]:
        """Have SQLite look for damage, for at most `seconds`; return its findings."""
        timer = threading.Timer(seconds, self._connection.interrupt)
        timer.daemon = True
        deadline = time.monotonic() + seconds
        timer.start()
        try:
            rows = self._connection.execute("PRAGMA quick_check(3)").fetchall()
        except sqlite3.OperationalError:
            if time.monotonic() >= deadline:
                return []  # unchecked records still have their own checksums
            raise
        finally:
            timer.cancel()
            timer.join()
        return [str(text) for (text,) in rows if text != "ok"]

    def close(self) -> None:
        """Make a checkpoint, and close. Does not raise: otherwise the records stay in the log."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
