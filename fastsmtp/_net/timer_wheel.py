"""The deadlines of many connections on one timer of the event loop.

A normal connection has two or three deadlines that never fire. A timer of the loop for each costs
more than a command, and memory for every idle client. So deadlines are kept in one slot per second,
checked once a second while there are any: a deadline fires up to a second late, never early. A
deadline that is due sooner than `COARSE` gets a timer of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Final, Protocol

from fastsmtp._log import logger

__all__ = ["COARSE", "Timers"]

COARSE: Final = 2.0  # seconds; for longer deadlines a second more is acceptable


class Waiting(Protocol):
    """Object with a deadline; its `str` is for the log. context: contextvars for the call, None:
    any.
    """

    context: Context | None

    def on_deadline(self) -> None:
        """The deadline has come. Must not raise: other deadlines follow."""


class Timers:
    """Deadlines on the clock `now`, in seconds, of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now: Callable[[], float]) -> None:
        self._loop = loop
        self._now = now
        self._slots: dict[int, set[Waiting]] = {}  # second -> objects with a deadline before it
        self._context = copy_context()  # of no connection
        self._handle: asyncio.TimerHandle | None = None
        self._looked_at = 0  # up to this second all slots are empty

    def add(self, waiting: Waiting, deadline: float) -> int:
        """Call `waiting.on_deadline()` after `deadline`; returns the slot for `remove`."""
        if self._handle is None:
            self._looked_at = int(self._now())
            self._arm()
        second = int(deadline)
        if second < deadline:
            second += 1
        second = max(second, self._looked_at + 1)
        slot = self._slots.get(second)
        if slot is None:
            slot = self._slots[second] = set()
        slot.add(waiting)
        return second

    def remove(self, waiting: Waiting, second: int) -> None:
        """Forget a deadline."""
        slot = self._slots.get(second)
        if slot is not None:
            slot.discard(waiting)

    def stop(self) -> None:
        """Forget all deadlines."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._slots.clear()

    def _arm(self) -> None:
        self._handle = self._loop.call_later(1.0, self._look, context=self._context)

    def _look(self) -> None:
        now = int(self._now())
        due = [second for second in self._slots if second <= now]
        self._looked_at = now
        self._arm()
        for second in sorted(due):
            for waiting in self._slots.pop(second):
                try:
                    if waiting.context is None:
                        waiting.on_deadline()
                    else:
                        waiting.context.run(waiting.on_deadline)
                except Exception:  # of one connection, whatever it is
                    logger.error("%s: a deadline could not be kept", waiting, exc_info=True)
        if not any(self._slots.values()):
            self.stop()
