"""How long a batch waits for more items: as long as they are expected and keep arriving.

Clients that were answered together send their next messages together, and one sync for all of them
costs less than one for the first and one for the rest. Measured with 20 clients: a fifth more mail
for a fifth less CPU time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

__all__ = ["MAX_ITEMS", "MAX_OCTETS", "Gathering"]

MAX_ITEMS: Final = 256  # more would delay the first answers, and save hardly any syncs
MAX_OCTETS: Final = 4 * 1024 * 1024
IDLE_TURNS: Final = 8  # turns of the loop without a new item that end the wait for more
LONGEST: Final = 0.001  # seconds, the longest wait of an item for others


class Gathering:
    """The wait of one batch. coming: returns how many more items are expected soon; it may be
    wrong. max_items, max_octets: of a full batch, which waits for nothing.
    """

    def __init__(self, coming: Callable[[], int], max_items: int, max_octets: int) -> None:
        self._coming = coming
        self._max_items = max_items
        self._max_octets = max_octets
        self._known = 0  # how many items there were in the last turn
        self._idle = 0  # turns in a row without a new one
        self._until = 0.0  # the end of the wait, of time.monotonic

    def begin(self) -> None:
        """The first item is there."""
        self._known = self._idle = 0
        self._until = time.monotonic() + LONGEST

    def goes_on(self, count: int, octets: int) -> bool:
        """Whether `count` items of `octets` wait for another turn of the loop: called in each."""
        self._idle = 0 if count > self._known else self._idle + 1
        self._known = count
        return (
            self._idle < IDLE_TURNS
            and 0 < count < self._max_items
            and octets < self._max_octets
            and self._coming() > 0
            and time.monotonic() < self._until
        )
