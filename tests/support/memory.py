"""What is held: objects of the engine by kind, and octets of the whole process."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Under AddressSanitizer memory is its allocator's: nothing that is freed is used again, and the
# counts of the C library are all zero.
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")
needs_own_memory = pytest.mark.skipif(
    sys.platform != "linux" or SANITIZED,
    reason="reads /proc/self/smaps_rollup, which shows the memory of AddressSanitizer under it",
)
needs_malloc = pytest.mark.skipif(
    SANITIZED or sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="asks the allocator of the GNU C library",
)


@contextmanager
def collector_off() -> Iterator[None]:
    """What is freed in here is freed without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def engine_objects() -> Counter[str]:
    """How many objects of each class of the package there are, as far as the collector knows."""
    kinds = (type(found) for found in gc.get_objects())
    ours = (kind for kind in kinds if str(kind.__module__).startswith("fastsmtp"))
    return Counter(kind.__qualname__ for kind in ours)


def growth(work: Callable[[], object], warm_up: Callable[[], object]) -> int:
    """Octets that are held after `work` and were not before it."""
    tracemalloc.start()
    try:
        warm_up()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        kept = work()
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        del kept
    finally:
        tracemalloc.stop()
    return after - before


def private_octets() -> int:
    """Octets of memory that this process alone has, those of C libraries included. Linux only."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


class _MallInfo(ctypes.Structure):
    """`struct mallinfo2` of the GNU C library."""

    _fields_ = [
        *[(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")],
        *[(name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks")],
        ("keepcost", ctypes.c_size_t),
    ]


def malloced_octets() -> int:
    """Octets that C code and large Python objects hold: what was freed and kept by the allocator is
    not among them. Only with the GNU C library, for allocations of the main thread.
    """
    told = ctypes.CDLL(None).mallinfo2
    told.restype = _MallInfo
    info = told()
    return int(info.uordblks + info.hblkhd)


def resident_octets(pid: int) -> int:
    """Octets that a process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
