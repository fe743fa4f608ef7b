"""What is held: objects of the engine by kind, and octets of the whole process."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from collections.abc import Callable


def engine_objects() -> Counter[str]:
    """How many objects of each class of the package there are, as far as the collector knows."""
    kinds = (type(found) for found in gc.get_objects())
    ours = (kind for kind in kinds if str(kind.__module__).startswith("fastsmtp"))
    return Counter(kind.__qualname__ for kind in ours)


def growth(work: Callable[[], object], warm_up: Callable[[], object]) -> int:
    """Octets that are held behind `work` and were not before it."""
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
