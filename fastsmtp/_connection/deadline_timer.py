"""The one timer of a connection. It is armed lazily: deadlines move with every command, and the
timer only reads them when it fires.

A deadline that is due waits a few turns of the loop while there is still input to read: after a
stopped process or a blocked loop, clients that have sent in time must not be cut.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from math import inf
from typing import Final, Protocol

from fastsmtp._native import monotonic
from fastsmtp._net.timer_wheel import COARSE, Timers
from fastsmtp._smtp.protocol import SMTPProtocol

__all__ = ["DeadlineTimer"]

GRACE_TURNS: Final = 8  # loop turns that a deadline waits while there is still input to read

_INFINITY: float = inf
_COARSE: float = COARSE


class Owner(Protocol):
    """The interface of a connection for its timer. context: contextvars for the calls, None: any.
    reads: how often octets have arrived.
    """

    context: Context | None
    reads: int

    def on_deadline(self) -> None:
        """The timer has fired: call `fired`."""

    def next_look(self) -> float:
        """When `look` has to be called next."""

    def look(self, now: float) -> None:
        """Do what is due besides the deadline of the dialogue."""

    def expire_in_turn(self, now: float) -> bool:
        """That deadline has passed. False: it waits for a turn, in which `go_on` is called."""


class DeadlineTimer:
    """Calls its owner when a deadline of `protocol`, or one of the owner, has come. now: a clock in
    seconds.

    overdue: the deadline has passed, and waits for the owner's turn.
    """

    def __init__(
        self,
        owner: Owner,
        protocol: SMTPProtocol,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
    ) -> None:
        self._owner: Owner | None = owner
        self._protocol = protocol
        self._loop = loop
        self._other_clock = None if now is time.monotonic else now
        self._timers: Timers | None = None  # None: a timer of the loop for each deadline
        self._handle: asyncio.TimerHandle | None = None
        self._slot = 0  # of `_net.timer_wheel`; 0: in none
        self._at = inf  # when it fires; -inf: never again
        self._grace = 0  # turns of the loop that a deadline has waited
        self.overdue = False

    def use(self, timers: Timers | None) -> None:
        """Wait in `timers`, those of the server, from now on."""
        self._timers = timers

    @property
    def clock(self) -> Callable[[], float]:
        """The clock of `now`."""
        return self._other_clock or time.monotonic

    def now(self) -> float:
        """The time in seconds; the real clock is read without a Python call."""
        return monotonic() if self._other_clock is None else self._other_clock()

    def need(self, deadline: float) -> None:
        """Fire at `deadline` at the latest."""
        if deadline < self._at:
            self._arm(deadline)

    def renew(self) -> None:
        """Fire when the owner has to do something next, and not before."""
        owner = self._owner
        if owner is not None:
            self._arm(min(inf if self._grace else self._protocol.deadline(), owner.next_look()))

    def stop(self) -> None:
        """Never fire again."""
        self._disarm()
        self._at = -inf
        self._owner = None

    def _arm(self, deadline: float) -> None:
        if deadline == _INFINITY or self._owner is None:
            return
        self._disarm()
        self._at = deadline
        wait = deadline - self.now()
        if wait > _COARSE and self._timers is not None:
            self._slot = self._timers.add(self._owner, deadline)
        else:
            self._handle = self._loop.call_later(max(0.0, wait), self._owner.on_deadline)

    def _disarm(self) -> None:
        if self._slot:
            self._timers.remove(self._owner, self._slot)  # type: ignore[union-attr,arg-type]
            self._slot = 0
        elif self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def fired(self) -> None:
        """Do what is due, if anything."""
        owner = self._owner
        self._handle = None
        self._slot = 0
        if owner is None:
            return
        self._at = inf
        now = self.now()
        owner.look(now)
        if now >= self._protocol.deadline():
            self._grace = 0
            self._yield_to_sockets()
        self.renew()

    # The grace of a deadline that is due.

    def _yield_to_sockets(self) -> None:
        """Two turns: the first callback may come before the sockets of its turn are read, the
        second comes after.
        """
        self._grace += 1
        self._loop.call_soon(self._yield_again)

    def _yield_again(self) -> None:
        if self._owner is not None:
            self._loop.call_soon(self._expire, self._owner.reads)

    def _expire(self, reads: int) -> None:
        owner = self._owner
        if owner is None:
            return
        now = self.now()
        if now < self._protocol.deadline():
            self._grace = 0
            self.renew()
        elif reads != owner.reads and self._grace < GRACE_TURNS:
            self._yield_to_sockets()
        else:
            # Many clients may be late at the same time, and this one's input may be waiting for its
            # turn.
            self.overdue = not owner.expire_in_turn(now)

    def end_grace(self) -> None:
        """The deadline has had its effect, or need not wait for a turn any more."""
        self._grace = 0
        self.overdue = False

    def go_on(self) -> None:
        """The turn has come that an overdue deadline has waited for."""
        self.overdue = False
        if self._owner is not None:
            self._expire(self._owner.reads)
