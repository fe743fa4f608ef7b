"""The directories of a spool that several processes share: each of them has one to itself.

In: the directory that the user has named, which is the first; the others are in `workers/`. Out: a
directory that no process uses, locked. `server.lock` is for the server that these processes are.
"""

from __future__ import annotations

import os
from typing import Final

from fastsmtp.delivery.directories import make_directory
from fastsmtp.delivery.spool.directory import (
    SpoolDirectory,
    SpoolError,
    SpoolInUse,
    locked,
    note_holder,
)

__all__ = ["ServerLock", "claim", "directories"]

OTHERS: Final = "workers"  # the directory of all but the first
MANY: Final = 10_000  # more than processes that a machine has


def directories(path: str) -> list[tuple[int, str]]:
    """Return number and path of each directory of a spool, the first included. Raises OSError."""
    others = os.path.join(os.path.abspath(path), OTHERS)
    try:
        names = os.listdir(others)
    except FileNotFoundError:
        names = []
    numbers = sorted({1, *(int(name) for name in names if name.isascii() and name.isdigit())})
    return [(number, _path_of(path, number)) for number in numbers]


def _path_of(path: str, number: int) -> str:
    path = os.path.abspath(path)
    return path if number == 1 else os.path.join(path, OTHERS, str(number))


def claim(path: str) -> SpoolDirectory:
    """Return the first directory of the spool `path` that no process uses, locked; made if all are
    in use. Raises SpoolError.
    """
    for number in range(1, MANY):
        directory = SpoolDirectory(_path_of(path, number))
        try:
            directory.acquire(create=True)
        except SpoolInUse:
            continue
        return directory
    raise SpoolError(f"the spool {path} has no place for another process")


class ServerLock:
    """Keeps a second server off the spool `path`, however many processes both have.

    path: "" for a server without a spool. descriptor: of a lock that was handed over, -1 for none.
    """

    def __init__(self, path: str, descriptor: int = -1) -> None:
        self._path = path and os.path.abspath(path)
        self.descriptor = descriptor

    def acquire(self) -> None:
        """Lock it, and make the directory if it does not exist. A descriptor that another process
        has handed over is used if it is for this spool. Raises SpoolError.
        """
        if not self._path:
            return
        lock_file = os.path.join(self._path, "server.lock")
        try:
            if self.descriptor >= 0:
                given, found = os.fstat(self.descriptor), os.stat(lock_file)
                if (given.st_dev, given.st_ino) == (found.st_dev, found.st_ino):
                    return
                self.release()
            make_directory(self._path)
            SpoolDirectory(self._path).check(create=True)
            self.descriptor = locked(lock_file, self._path)
        except OSError as error:
            raise SpoolError(
                f"cannot use the spool {self._path}: {error.strerror}: look at its permissions"
            ) from error

    def note_holder(self) -> None:
        """Name this process as the holder, after a hand-over."""
        if self.descriptor >= 0:
            note_holder(self.descriptor)

    def release(self) -> None:
        """Release it; may be called twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
