"""A circuit breaker for a sink that is down: only one try reaches it from time to time."""

from __future__ import annotations

from typing import Final

__all__ = ["Breaker"]

FAILURES: Final = 3  # in a row, after which the sink is down


class Breaker:
    """Counts failures of a sink. Times are seconds of any clock, passed as arguments.

    first, most: seconds of the first pause, which is doubled, and of the longest. until: when the
    next try may reach a sink that is down. reason: why it is down, "" if it is not.
    """

    def __init__(self, first: float, most: float) -> None:
        self.until = 0.0
        self.reason = ""
        self._in_a_row = 0
        self._first = first
        self._most = most
        self._pause = first

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
        """The sink has taken or refused a record; return whether it was down."""
        was_open = self.is_open
        self.reason = ""
        self._in_a_row = 0
        self._pause = self._first
        return was_open

    def trust(self) -> None:
        """The sink answers, but no record has shown yet that it takes them: it is up until the next
        failure, and the pause after that is a longer one.
        """
        self.reason = ""
        self._in_a_row = FAILURES - 1

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
            self._pause = min(2 * self._pause, self._most)
        return not was_open
