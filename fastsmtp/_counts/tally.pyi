"""A block of 64-bit counters, in memory of this process or in pages that processes share.

One process writes, any number read: a cell is aligned and as wide as a register, so that a reader
never sees half of a number. `_counts.families` names the cells.
"""

from typing import Final, final

from typing_extensions import Buffer

CELLS: Final[int]
TIMES: Final[tuple[float, ...]]
SIZES: Final[tuple[int, ...]]

@final
class Tally:
    """The counters of a server, or of a process with several.

    memory: a writable buffer of at least `Tally.SIZE` octets with zeroes or the counts of an
    earlier process, such as `mmap.mmap(-1, Tally.SIZE)` before a fork; None: of this process alone.
    Raises ValueError if it is too short, or not aligned to 8 octets.
    """

    SIZE: Final[int]
    def __new__(cls, memory: Buffer | None = None) -> Tally: ...
    def add(self, cell: int, amount: int = 1) -> int:
        """Add `amount` to a cell. Raises IndexError."""

    def set(self, cell: int, value: int) -> int:
        """Set a cell. Raises IndexError."""

    def observe(self, cell: int, seconds: float) -> int:
        """Count a duration in the histogram that begins at `cell`. Raises IndexError."""

    def observe_size(self, cell: int, size: int) -> int:
        """Count a number in the histogram that begins at `cell`. Raises IndexError."""

    def values(self, count: int = ...) -> list[int]:
        """Return the first `count` cells, by default all."""
