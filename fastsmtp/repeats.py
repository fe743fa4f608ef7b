"""What may happen many times a second for one cause: the first time is told, then how often more.

In: causes. Out: whether to tell, and the number of those that were not told, at the end of each
interval in which there were some.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Final

__all__ = ["INTERVAL", "Repeats", "cause_of"]

INTERVAL: Final = 10.0  # seconds
MAX_CAUSES: Final = 256  # told in one interval; the others count as one
MAX_TEXT: Final = 80  # characters of the text of an exception


class _Cause:
    """One cause. until: the end of its interval. count: how often it was not told."""

    __slots__ = ("count", "tell_more", "timer", "until")

    def __init__(self, until: float, tell_more: Callable[[int], object]) -> None:
        self.until = until
        self.tell_more = tell_more
        self.count = 0
        self.timer: asyncio.TimerHandle | None = None  # from the first repetition on


class Repeats:
    """The causes of the last interval. Without a running loop, each of them is told."""

    def __init__(self) -> None:
        self._causes: dict[Hashable, _Cause] = {}

    def is_told(self, cause: Hashable) -> bool:
        """Whether the cause was told in this interval; then it is counted."""
        loop = _running_loop()
        if loop is None:
            return False
        found = self._causes.get(cause)
        if found is None and len(self._causes) >= MAX_CAUSES:
            self._forget_old(loop.time())
            found = self._causes.get(None)
        if found is None or (not found.count and loop.time() >= found.until):
            return False
        found.count += 1
        if found.timer is None:
            found.timer = loop.call_at(found.until, self._end_interval, loop, found)
        return True

    def add(self, cause: Hashable, tell_more: Callable[[int], object]) -> None:
        """The cause is told now. tell_more: called with the number of those that are not."""
        loop = _running_loop()
        if loop is not None:
            key = cause if len(self._causes) < MAX_CAUSES or cause in self._causes else None
            self._causes[key] = _Cause(loop.time() + INTERVAL, tell_more)

    def end(self) -> None:
        """Tell what is not told yet: the server ends."""
        causes, self._causes = self._causes, {}
        for found in causes.values():
            if found.timer is not None:
                found.timer.cancel()
            if found.count:
                found.tell_more(found.count)

    def _end_interval(self, loop: asyncio.AbstractEventLoop, found: _Cause) -> None:
        count, found.count = found.count, 0
        found.timer = None
        found.until = loop.time() + INTERVAL
        found.tell_more(count)

    def _forget_old(self, now: float) -> None:
        self._causes = {
            cause: found
            for cause, found in self._causes.items()
            if found.count or now < found.until
        }


def cause_of(what: str, error: BaseException) -> Hashable:
    """Return the cause of a failure of `what`: the type of the exception and the place that has
    raised it; the beginning of its text if it was not raised.
    """
    place = error.__traceback__
    if place is None:
        try:
            return what, type(error), str(error)[:MAX_TEXT]
        except Exception:  # `__str__` of a user's exception
            return what, type(error)
    while place.tb_next is not None:
        place = place.tb_next
    return what, type(error), place.tb_frame.f_code.co_filename, place.tb_lineno


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
