"""How the files of a batch are synced: each by itself, or the whole file system by one `syncfs`.

One `syncfs` costs about as much as the fsync of one file, so it is worth it from two files on, and
more so with a slow disk. But it also writes pending data of other programs, which can take seconds.
So both are measured during use, and the faster one for the number of files is chosen.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from statistics import median
from typing import Final

from fastsmtp.delivery.maildir._commit import HAS_SYNCFS

__all__ = ["SyncChoice", "reports_errors"]

KEPT: Final = 5  # measurements of each way; their median ignores a single slow one
# The other way is tried again after this many times its last duration: that costs 2 % at most.
RETRY: Final = 50


def reports_errors(release: str) -> bool:
    """Whether `syncfs` of this release of Linux reports write errors: since 5.8."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= (5, 8)


class SyncChoice:
    """Chooses, for the Maildirs of one file system. Used by several threads without a lock: a lost
    measurement does no harm.
    """

    def __init__(self) -> None:
        self._is_possible = HAS_SYNCFS and reports_errors(os.uname().release)
        self._all = _Way()  # one `syncfs`
        self._each = _Way()  # the fsync of one file

    def takes_all(self, count: int, now: float | None = None) -> bool:
        """Return whether to sync `count` files by one `syncfs`."""
        if count < 2 or not self._is_possible:
            return False
        now = time.monotonic() if now is None else now
        if now >= self._all.retry_at:
            return True
        if now >= self._each.retry_at:
            return False
        return self._all.seconds < count * self._each.seconds

    def note(self, all_: bool, count: int, seconds: float, now: float | None = None) -> None:
        """Note how long the sync of `count` files took."""
        way, amount = (self._all, 1) if all_ else (self._each, count)
        way.note(seconds, amount, time.monotonic() if now is None else now)


class _Way:
    """seconds: what one takes. retry_at: when to measure it again, a time of `time.monotonic`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.retry_at = float("-inf")
        self._last: deque[float] = deque(maxlen=KEPT)

    def note(self, seconds: float, amount: int, now: float) -> None:
        self._last.append(seconds / amount)
        self.seconds = median(self._last)
        self.retry_at = now + RETRY * self.seconds * amount
