"""A circuit breaker for a sink that is down: only one record tries it from time to time."""

from __future__ import annotations

from typing import Final

__all__ = ["Breaker"]

FAILURES: Final = 3  # in a row, after which the sink is down
FIRST_PAUSE: Final = 1.0  # seconds, doubled up to MOST
MOST: Final = 60.0


class Breaker:
    """Counts failures of a sink. Times are seconds of any clock, passed as arguments.

    until: when the next record may try a sink that is down. reason: why it is down, "" if it is
    not.
    """

    def __init__(self) -> None:
        self.until = 0.0
        self.reason = ""
        self._in_a_row = 0
        self._pause = FIRST_PAUSE

    @property
    def is_open(self) -> bool:
        """Whether the sink is down."""
        return bool(self.reason)

    def room(self, parallel: int, in_flight: int, now: float) -> int:
        """Return how many more records may try the sink."""
        if not self.is_open:
            return parallel - in_flight
        return 1 if in_flight == 0 and now >= self.until else 0

    def succeed(self) -> bool:
        """The sink has answered; return whether it was down."""
        was_open = self.is_open
        self.reason = ""
        self._in_a_row = 0
        self._pause = FIRST_PAUSE
        return was_open

    def fail(self, reason: str, now: float) -> bool:
        """The sink has failed; return whether it is down from now on and was up before."""
        self._in_a_row += 1
        if self._in_a_row < FAILURES:
            return False
        was_open = self.is_open
        self.reason = reason or "it has failed"
        if now >= self.until:
            # Records that were in flight when it went down count as one failure.
            self.until = now + self._pause
            self._pause = min(2 * self._pause, MOST)
        return not was_open
