"""The directory of a spool: its permissions, its files, and the lock of the process that uses it.

`spool.db` (and `spool.db-wal` while it is open) has the records, `bodies/` the large bodies, `lock`
the number of the process that uses it, `control` is the socket of that process. `empty` says that
the last one has left no record, so that nobody has to open the database to see that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import stat
from typing import Final

from fastsmtp.delivery.directories import make_directory, sync_directory

__all__ = ["SpoolDirectory", "SpoolError", "SpoolInUse", "locked", "note_holder"]

# The files of a spool, and those of a file system in its root directory.
_OURS: Final = ("spool.db", "lock", "server.lock")
_ANYWHERE: Final = frozenset({"lost+found"})
_OF_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


class SpoolError(ValueError):
    """A spool cannot be used. The text is one line for the user, with what to do."""


class SpoolInUse(SpoolError):
    """Another process uses the spool."""


class SpoolDirectory:
    """The paths in a spool. path: absolute or not; nothing is accessed before `acquire`."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self.database = os.path.join(self.path, "spool.db")
        self.bodies = os.path.join(self.path, "bodies")
        self.control = os.path.join(self.path, "control")
        self._lock_file = os.path.join(self.path, "lock")
        self._empty = os.path.join(self.path, "empty")
        self._lock = -1

    def acquire(self, *, create: bool) -> None:
        """Check the directory and lock it, unless that was done. create: make it if it does not
        exist.

        Raises SpoolError, and SpoolInUse if another process has the lock.
        """
        if self._lock >= 0:
            return
        try:
            self.check(create=create)
            self._lock = locked(self._lock_file, self.path)
        except OSError as error:
            raise SpoolError(
                f"cannot use the spool {self.path}: {error.strerror}: look at its permissions"
            ) from error
        try:
            make_directory(self.bodies)
        except OSError as error:
            self.release()
            raise SpoolError(f"cannot write to the spool {self.path}: {error.strerror}") from error

    def release(self) -> None:
        """Release the lock; may be called twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def note_use(self) -> None:
        """Note, before the first record comes, that this is not an empty spool. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._empty)
            sync_directory(self.path)

    def note_empty(self) -> None:
        """Note that there is no record; a note that is lost only costs a look."""
        with contextlib.suppress(OSError):
            os.close(os.open(self._empty, os.O_WRONLY | os.O_CREAT, 0o600))

    @property
    def exists(self) -> bool:
        """Whether a server has used it."""
        return os.path.exists(self.database)

    @property
    def is_known_empty(self) -> bool:
        """Whether there is certainly no record in it."""
        return os.path.exists(self._empty)

    def check(self, *, create: bool) -> None:
        """Raise SpoolError for a directory that cannot be a spool of ours, and OSError."""
        if not os.path.lexists(self.path):
            if not create:
                raise SpoolError(f"there is no spool {self.path}: name the one of the server")
            make_directory(self.path)
        facts = os.stat(self.path)
        if not stat.S_ISDIR(facts.st_mode):
            raise SpoolError(f"{self.path} is not a directory: name another one for the spool")
        if facts.st_uid != os.geteuid():
            raise SpoolError(
                f"the spool {self.path} belongs to {_user(facts.st_uid)}: run this as that user"
            )
        if facts.st_mode & _OF_OTHERS:
            raise SpoolError(f"others can write to the spool {self.path}: chmod 700 it")
        held = set(os.listdir(self.path)) - _ANYWHERE
        if not held.intersection(_OURS) and (held or not create):
            raise SpoolError(
                f"{self.path} is not a spool, and it has other files in it: name a new directory"
                if held
                else f"there is no spool in {self.path}: name the one of the server"
            )


def locked(lock_file: str, path: str) -> int:
    """Return the descriptor of a lock on the spool in `path`; it ends when that is closed.

    Raises SpoolInUse, and OSError.
    """
    lock = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 32).decode("ascii", "replace").strip()
        os.close(lock)
        raise SpoolInUse(
            f"the spool {path} is in use by process {holder or 'unknown'}: "
            "end that one first, or give each its own"
        ) from None
    except BaseException:
        os.close(lock)
        raise
    note_holder(lock)
    return lock


def note_holder(lock: int) -> None:
    """Write the number of this process into the file of a lock, for people."""
    with contextlib.suppress(OSError):  # a full disk
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"the user with number {number}"
