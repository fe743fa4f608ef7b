"""How the files of a batch are synced: each by itself, or the whole file system by one `syncfs`.

One `syncfs` costs about as much as the fsync of one file, so it pays from two files on, and the
more the slower the disk flushes. But it also writes what other programs have left to be written,
which can take seconds. So both are measured as they are used, and the one that takes less time for
the number of files is taken.
"""

from __future__ import annotations

import os
import re
import time
from typing import Final

from fastsmtp.delivery.maildir._commit import HAS_SYNCFS

__all__ = ["SyncChoice", "reports_errors"]

# Seconds after which a measurement says nothing any more. Where `syncfs` takes long, it is what is
# lost in them: one slow batch.
STALE: Final = 60.0
WEIGHT: Final = 0.2  # of the last measurement; a single slow one must not decide


def reports_errors(release: str) -> bool:
    """Whether `syncfs` of this release of Linux says that something could not be written: 5.8."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= (5, 8)


class SyncChoice:
    """Chooses, for the Maildirs of one file system. Used by several threads: a measurement that is
    lost to another one does no harm.
    """

    def __init__(self) -> None:
        self._is_possible = HAS_SYNCFS and reports_errors(os.uname().release)
        self._seconds = {True: 0.0, False: 0.0}  # of one `syncfs`; of the fsync of one file
        self._measured = {True: -STALE, False: -STALE}  # when

    def takes_all(self, count: int, now: float | None = None) -> bool:
        """Return whether to sync `count` files by one `syncfs`."""
        if count < 2 or not self._is_possible:
            return False
        now = time.monotonic() if now is None else now
        for all_ in (True, False):
            if now - self._measured[all_] >= STALE:
                return all_
        return self._seconds[True] < count * self._seconds[False]

    def note(self, all_: bool, count: int, seconds: float, now: float | None = None) -> None:
        """Note how long the sync of `count` files took."""
        now = time.monotonic() if now is None else now
        took = seconds if all_ else seconds / count
        if now - self._measured[all_] < STALE:
            took = WEIGHT * took + (1 - WEIGHT) * self._seconds[all_]
        self._seconds[all_] = took
        self._measured[all_] = now
