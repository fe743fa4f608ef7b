"""The metrics of one relay: its connections, and the transactions that wait for one."""

from __future__ import annotations

from typing import Final

from fastsmtp.delivery.relay.pool import Pool
from fastsmtp.metrics import Tally, cell

__all__ = ["Gauges"]

_STATES: Final = {
    state: cell("relay_connections", state) for state in ("idle", "in_use", "opening")
}
_WAITING: Final = cell("relay_waiting_messages")
_COUNTS: Final = {
    "opened": cell("relay_connections_opened_total"),
    "waits": cell("relay_waits_total"),
}


class Gauges:
    """Remembers what it has counted already."""

    def __init__(self) -> None:
        self._counted = dict.fromkeys(_COUNTS, 0)

    def set(self, tally: Tally, pool: Pool) -> None:
        """Write all of them."""
        for state, number in _STATES.items():
            tally.set(number, getattr(pool, state))
        tally.set(_WAITING, pool.waiting)
        for name, number in _COUNTS.items():
            so_far = getattr(pool, name)
            tally.add(number, so_far - self._counted[name])
            self._counted[name] = so_far
