"""Keeps connections to one next hop open for further messages: bounded in number and idle time.

A connection belongs to one transaction at a time. If all are in use, transactions wait in their
order, and get `Full` after their patience. A next hop that refuses a further connection with 421
while it has some of ours gets no more than these for some seconds; transactions wait for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from fastsmtp.delivery.errors import Full, Unavailable
from fastsmtp.delivery.relay.connection import HopConnection, Origin
from fastsmtp.delivery.relay.replies import OpeningFailed

__all__ = ["Pool"]

CLOSING: Final = "the sink is closing"
CROWDED: Final = 10.0  # seconds in which a next hop gets no more connections than it has taken

# A connection, or None: the waiter may open one of its own.
_Waiter = asyncio.Future[HopConnection | None]


class Pool:
    """open: makes a connection for an origin. max_connections: with those that are being opened.
    idle_timeout: seconds after which an unused one is closed. on_wait: called when all are in use;
    may give some back. opened, waits: connections that were opened, and transactions that had to
    wait for one, so far. It can be opened again after `close`.
    """

    def __init__(
        self,
        open: Callable[[Origin | None], Awaitable[HopConnection]],
        *,
        max_connections: int,
        idle_timeout: float,
    ) -> None:
        self._open = open
        self._max = max_connections
        self._taken = max_connections  # what the next hop has taken, when it took no more
        self._taken_until = 0.0  # when to try more again, of the loop's clock
        self._idle_timeout = idle_timeout
        self.on_wait: Callable[[], object] = _ignore
        self.opened = self.waits = 0
        self._idle: list[HopConnection] = []  # the one used last is the last
        self._used: set[HopConnection] = set()
        self._opening = 0  # connections that are being opened, or may be
        self._waiting: dict[_Waiter, Origin | None] = {}  # in their order
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def waiting(self) -> int:
        """How many transactions wait for a connection."""
        return len(self._waiting)

    @property
    def idle(self) -> int:
        """How many connections are kept for the next transaction."""
        return len(self._idle)

    @property
    def in_use(self) -> int:
        """How many have a transaction."""
        return len(self._used)

    @property
    def opening(self) -> int:
        """How many are being opened."""
        return self._opening

    def start(self) -> None:
        """Open connections again after `close`."""
        self._is_closed = False

    async def acquire(self, origin: Origin | None, patience: float) -> HopConnection:
        """Return a connection for `origin`, one that is open if possible.

        Raises Full if none is free within `patience` seconds, and what `open` raises.
        """
        deadline = asyncio.get_running_loop().time() + patience
        connection = self._idle_for(origin)
        while connection is None:
            if self._is_closed:
                raise Unavailable(CLOSING)
            if self._has_place():
                self._opening += 1
            elif self._idle:
                self._opening += 1
                self._idle.pop(0).quit()  # it has told the next hop of another client
            else:
                connection = await self._waited(origin, deadline)
            if connection is None:
                connection = await self._opened(origin) or self._idle_for(origin)
        self._used.add(connection)
        return connection

    def _open_or_opening(self) -> int:
        return len(self._used) + self._opening + len(self._idle)

    def _has_place(self) -> bool:
        is_crowded = asyncio.get_running_loop().time() < self._taken_until
        return self._open_or_opening() < (min(self._taken, self._max) if is_crowded else self._max)

    def release(self, connection: HopConnection) -> None:
        """Take a connection back on which no transaction is open."""
        if not connection.is_settled or self._is_closed:
            self.discard(connection)
            return
        waiter, origin = self._first_waiting()
        if waiter is not None and origin == connection.origin:
            waiter.set_result(connection)  # it stays one of those in use
            return
        self._used.discard(connection)
        if waiter is not None:
            connection.quit()
            self._opening += 1
            waiter.set_result(None)
            return
        connection.idle_since = asyncio.get_running_loop().time()
        connection.on_lost = self._lost_while_idle
        self._idle.append(connection)
        self._watch()

    def discard(self, connection: HopConnection) -> None:
        """End a connection that is in use."""
        self._used.discard(connection)
        if connection.is_settled:
            connection.quit()
        else:
            connection.fail("it is not used again")
        self._offer_place()

    def drop_idle(self) -> None:
        """Close the idle ones: one of them was dead."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.quit()

    def fail_used(self) -> None:
        """End those in use, at the end of the sink."""
        for connection in [*self._used]:
            connection.fail(CLOSING)

    def close(self) -> None:
        """Close the idle ones, and give no more away."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.drop_idle()
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(Unavailable(CLOSING))

    def _idle_for(self, origin: Origin | None) -> HopConnection | None:
        for place in range(len(self._idle) - 1, -1, -1):
            if self._idle[place].origin == origin:
                connection = self._idle.pop(place)
                connection.on_lost = _nothing
                return connection
        return None

    async def _waited(self, origin: Origin | None, deadline: float) -> HopConnection | None:
        loop = asyncio.get_running_loop()
        waiter: _Waiter = loop.create_future()
        self._waiting[waiter] = origin
        self.waits += 1
        timer = loop.call_at(deadline, self._give_up, waiter)
        self.on_wait()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._return(waiter.result())
            raise
        finally:
            timer.cancel()
            self._waiting.pop(waiter, None)

    def _give_up(self, waiter: _Waiter) -> None:
        if not waiter.done():
            count = self._open_or_opening()
            waiter.set_exception(Full(f"all {count} connections to the next hop are in use"))

    def _return(self, connection: HopConnection | None) -> None:
        """Take back what a waiter got that was cancelled at the same time."""
        if connection is not None:
            self.release(connection)
        else:
            self._opening -= 1
            self._offer_place()

    async def _opened(self, origin: Origin | None) -> HopConnection | None:
        """Return a new connection, None if the next hop takes no more than it has."""
        try:
            connection = await self._open(origin)
        except BaseException as error:
            self._opening -= 1
            others = self._open_or_opening()
            is_crowded = isinstance(error, OpeningFailed) and error.is_crowded and others > 0
            if is_crowded:
                self._taken = others
                self._taken_until = asyncio.get_running_loop().time() + CROWDED
            self._offer_place()
            if is_crowded:
                return None
            raise
        self._opening -= 1
        self.opened += 1
        if self._is_closed:
            connection.quit()
            raise Unavailable(CLOSING)
        return connection

    def _offer_place(self) -> None:
        """A connection has ended: the next that waits may open one."""
        waiter = self._first_waiting()[0] if self._has_place() else None
        if waiter is not None:
            self._opening += 1
            waiter.set_result(None)

    def _first_waiting(self) -> tuple[_Waiter | None, Origin | None]:
        """Take the first that still waits out of the queue; return it, and its origin."""
        for waiter, origin in self._waiting.items():
            if not waiter.done():
                del self._waiting[waiter]
                return waiter, origin
        return None, None

    def _lost_while_idle(self, connection: HopConnection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
            self._offer_place()

    def _watch(self) -> None:
        if self._timer is None and self._idle:
            loop = asyncio.get_running_loop()
            oldest = self._idle[0].idle_since + self._idle_timeout
            self._timer = loop.call_later(max(0.0, oldest - loop.time()), self._close_old)

    def _close_old(self) -> None:
        self._timer = None
        limit = asyncio.get_running_loop().time() - self._idle_timeout
        while self._idle and self._idle[0].idle_since <= limit:
            self._idle.pop(0).quit()
        self._watch()


def _ignore() -> None:
    pass


def _nothing(connection: HopConnection) -> None:
    pass
