"""Which message may start when: their number, the rate, the end.

With a rate, the time of a message begins when it was due, not when a connection was free for it. So
a server that stalls delays all messages that were due meanwhile, and the percentiles show it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import Protocol

from fastsmtp.gateway.bench.plan import Plan

__all__ = ["Schedule", "Waiting"]


class Waiting(Protocol):
    """A client that has nothing to send yet."""

    def wake(self) -> None:
        """Ask the schedule again."""


class Schedule:
    """Gives out the messages of a run. taken: how many were given out."""

    def __init__(self, plan: Plan) -> None:
        self.taken = 0
        self.began = 0.0
        self._messages = plan.messages
        self._rate = plan.rate
        self._duration = plan.duration
        self._is_stopped = False
        self._waiting: deque[Waiting] = deque()
        self._due: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Start the clock of rate and duration."""
        self.began = perf_counter()
        if self._duration:
            self._end = asyncio.get_running_loop().call_later(self._duration, self.stop)

    @property
    def is_over(self) -> bool:
        """Whether no more messages start."""
        return self._is_stopped or self.taken == self._messages > 0

    def take(self, now: float) -> float | None:
        """Return when the message that may start now is due, None if none may.

        now: of `time.perf_counter`.
        """
        if self.is_over:
            return None
        due = self.began + self.taken / self._rate if self._rate else now
        if due > now:
            return None
        self.taken += 1
        if self.taken == self._messages:
            self._wake_all()
        return due

    def give_back(self) -> None:
        """A message that was taken was not begun after all."""
        self.taken -= 1

    def wait(self, client: Waiting) -> None:
        """Wake `client` when the next message is due, or at the end."""
        self._waiting.append(client)
        if self._due is None:
            self._arm()

    def forget(self, client: Waiting) -> None:
        """`client` does not wait any more."""
        if client in self._waiting:
            self._waiting.remove(client)

    def stop(self) -> None:
        """Let no more messages start."""
        self._is_stopped = True
        for timer in (self._due, self._end):
            if timer is not None:
                timer.cancel()
        self._wake_all()

    def _arm(self) -> None:
        delay = self.began + self.taken / self._rate - perf_counter()
        self._due = asyncio.get_running_loop().call_later(max(delay, 0.0), self._wake_due)

    def _wake_due(self) -> None:
        self._due = None
        missing = int((perf_counter() - self.began) * self._rate) + 1 - self.taken
        clients = [self._waiting.popleft() for _ in range(min(missing, len(self._waiting)))]
        for client in clients:
            client.wake()
        if self._waiting and self._due is None:
            self._arm()

    def _wake_all(self) -> None:
        waiting = list(self._waiting)
        self._waiting.clear()
        for client in waiting:
            client.wake()
