"""Memory for the counts of all processes of one service, which outlives each of them.

The parent maps it before it forks. A process gets a page of its own; when it has ended, its counts
stay, and the next process continues them. So counters never go back, even after kill -9.
"""

from __future__ import annotations

import mmap
from typing import Final

from fastsmtp.gateway.admin.recent import Recent
from fastsmtp.metrics import Tally, cell, clear_gauges

__all__ = ["MAX_PAGES", "Page", "Pages"]

# Workers, those that drain after reloads, and the parent. Only what is used takes memory.
MAX_PAGES: Final = 4096
_SIZE: Final = -(-(Tally.SIZE + Recent.SIZE) // mmap.PAGESIZE) * mmap.PAGESIZE
_STARTS: Final = cell("process_starts_total")


class Page:
    """The page of one process. tally: its counts; recent: its latest refusals."""

    def __init__(self, number: int, memory: memoryview) -> None:
        self.number: Final = number
        self.tally: Final = Tally(memory)
        self.recent: Final = Recent(memory[Tally.SIZE :])

    @property
    def is_used(self) -> bool:
        """Whether a process has ever had it."""
        return self.tally.values(_STARTS + 1)[_STARTS] > 0


class Pages:
    """All pages of a service. The first `take` gets the first page, and so on."""

    def __init__(self, count: int = MAX_PAGES) -> None:
        memory = memoryview(mmap.mmap(-1, count * _SIZE))
        self._memory = memory
        self._count = count
        self._free = list(range(count - 1, -1, -1))
        self._known: list[Page] = []  # the used ones at the start, as far as they were looked at

    def take(self) -> Page:
        """Return the page for a process that is about to start. Raises IndexError without one."""
        page = self._page(self._free.pop())
        page.tally.add(_STARTS)
        return page

    def give_back(self, page: Page) -> None:
        """The process of `page` has ended."""
        clear_gauges(page.tally)
        self._free.append(page.number)
        self._free.sort(reverse=True)

    def used(self) -> list[Page]:
        """Return all pages that a process has ever had."""
        while len(self._known) < self._count:
            page = self._page(len(self._known))
            if not page.is_used:
                break
            self._known.append(page)
        return list(self._known)

    def total(self, number: int) -> int:
        """Return the sum of one cell over all processes."""
        return sum(page.tally.values(number + 1)[number] for page in self.used())

    def _page(self, number: int) -> Page:
        return Page(number, self._memory[number * _SIZE : (number + 1) * _SIZE])
