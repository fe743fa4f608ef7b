"""The metrics of one spool: its size, the age of its oldest record, and what was drained."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from fastsmtp.delivery.errors import DeliveryError
from fastsmtp.delivery.spool.drainer import Counts
from fastsmtp.delivery.spool.shelf import Shelf
from fastsmtp.metrics import Tally, cell

__all__ = ["Gauges"]

LOOK: Final = 5.0  # seconds between two questions to the store about its oldest record
GIGA: Final = 1_000_000_000  # cells have nanoseconds

_MESSAGES: Final = cell("spool_messages")
_OCTETS: Final = cell("spool_bytes")
_QUOTA: Final = cell("spool_quota_bytes")
_OLDEST: Final = cell("spool_oldest_seconds")
_DRAINED: Final = {
    name: cell("spool_drained_total", name)
    for name in ("delivered", "deferred", "refused", "damaged", "repeated")
}


class Gauges:
    """Remembers what it has counted already, and when the oldest record was received."""

    def __init__(self) -> None:
        self._counted: dict[str, int] = dict.fromkeys(_DRAINED, 0)
        self._received: float | None = None  # the oldest record, None: there is none
        self._look_at = 0.0
        self._looking: asyncio.Task[None] | None = None

    def set(self, tally: Tally, shelf: Shelf, quota: int, counts: Counts) -> None:
        """Write all metrics of a spool that is open."""
        tally.set(_MESSAGES, shelf.count)
        tally.set(_OCTETS, shelf.used)
        tally.set(_QUOTA, quota)
        for name, number in _DRAINED.items():
            so_far = getattr(counts, name)
            tally.add(number, so_far - self._counted[name])
            self._counted[name] = so_far
        if not shelf.count:
            self._received = None
        elif time.monotonic() >= self._look_at and self._looking is None:
            self._look_at = time.monotonic() + LOOK
            self._looking = asyncio.get_running_loop().create_task(self._look(shelf))
        age = 0.0 if self._received is None else max(0.0, time.time() - self._received)
        tally.set(_OLDEST, int(age * GIGA))

    async def _look(self, shelf: Shelf) -> None:
        try:
            oldest = await shelf.ask(lambda store: store.page(0, 1, 1))
            self._received = shelf.record_of(oldest[0]).received if oldest else None
        except (DeliveryError, ValueError):
            pass  # the store has failed, or the record is damaged: both are in the log
        finally:
            self._looking = None
