"""The directories of a Maildir: made, opened, checked; names for its files; leftovers.

No data from a client is part of a path: names are made of time, process, random octets and our host
name. All calls block, so call them in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import socket
import stat
import time
from typing import Final

from fastsmtp.delivery.directories import make_directory, remove_file, sync_directory
from fastsmtp.delivery.log import logger
from fastsmtp.delivery.maildir._commit import Place

__all__ = ["Box"]

# A file that was not changed for this long does not belong to a running delivery (the Maildir
# specification has the same limit).
LEFTOVER_SECONDS: Final = 36 * 3600
MAX_HOST: Final = 64  # characters of our host name in a file name, which has at most 255

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_OUR_NAME: Final = re.compile(r"[0-9]+\.M[0-9]+P[0-9]+R[0-9a-f]{16}\.[A-Za-z0-9.-]+")


class Box:
    """A directory with `cur`, `new` and `tmp`, made when it is missing.

    path: absolute. Raises OSError when the directory cannot be made or written to; a full disk is
    not an error here, because mail is then refused with 452 until there is space again.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.new = os.path.join(path, "new")
        self.tmp = os.path.join(path, "tmp")
        self._host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:MAX_HOST] or "localhost"
        for directory in (path, self.new, self.tmp, os.path.join(path, "cur")):
            make_directory(directory)
        self._check_writable()

    def open(self) -> Place:
        """Return the directories, opened; raises OSError."""
        with contextlib.ExitStack() as opened:
            descriptors = []
            for path in (self.tmp, self.new):
                descriptors.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
                opened.callback(os.close, descriptors[-1])
            place = Place(*descriptors)
            opened.pop_all()
        return place

    def open_again(self) -> Place:
        """Open them after a fault, and check that they can be written to and synced."""
        self._check_writable()
        sync_directory(self.new)
        return self.open()

    def unique_name(self) -> str:
        """Return a unique file name, even if clocks jump or process numbers and hosts repeat."""
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        process = os.getpid()
        chance = secrets.token_hex(8)
        return f"{seconds}.M{nanoseconds // 1000:06}P{process}R{chance}.{self._host}"

    def remove(self, name: str) -> None:
        """Remove a message from `new`, unless a mail reader has moved it meanwhile."""
        remove_file(os.path.join(self.new, name))

    def remove_leftovers(self) -> int:
        """Remove unfinished files of dead processes from `tmp`; return how many.

        A delivery holds a lock on its file, and the kernel releases the lock when the process dies.
        So a file of ours that can be locked is a leftover, even if its process number is in use
        again. On a file system without locks, age decides. Files of other programs are left alone.
        """
        removed = 0
        with os.scandir(self.tmp) as entries:
            for entry in entries:
                if _OUR_NAME.fullmatch(entry.name) and _remove_leftover(entry.path):
                    removed += 1
        return removed

    def _check_writable(self) -> None:
        if not os.access(self.new, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.new)
        path = os.path.join(self.tmp, self.unique_name())
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            # Without a lock on it, the clean-up of another process may remove the file first.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            logger.warning("no room in %s: %s", self.path, error.strerror)


def _remove_leftover(path: str) -> bool:
    """Remove one file of ours from tmp/ if it is not being written any more."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # removed meanwhile, or not ours after all
        return False
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            if time.time() - facts.st_mtime < LEFTOVER_SECONDS:
                return False
        os.unlink(path)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
