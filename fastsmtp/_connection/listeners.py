"""The listening sockets of a server: opened together, checked once a second, revived.

In: bound sockets. Out: their addresses, and connections by the given factory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from fastsmtp._connection.registry import ConnectionRegistry
from fastsmtp._counts.families import cell
from fastsmtp._counts.tally import Tally
from fastsmtp._hooks.stalls import Stalls
from fastsmtp._log import logger
from fastsmtp._net.epoll_transport import Sockets
from fastsmtp._net.listener import Listener

__all__ = ["Listeners"]

_LAG: Final = cell("loop_lag_seconds")
_STALLS: Final = cell("loop_stalls_total")
_READY: Final = cell("ready")
_STARTED: Final = cell("start_time_seconds")

CHECK: Final = 1.0  # seconds between two checks of the listening sockets


class Listeners:
    """The listeners of one server. Their connections run in the marked context of `registry`."""

    def __init__(self, registry: ConnectionRegistry, tally: Tally) -> None:
        self._registry = registry
        self._tally = tally
        self._open: list[Listener] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._check: asyncio.TimerHandle | None = None
        self._check_due = 0.0
        self._stalls = Stalls(tally)  # that nobody else has noticed
        self._stalls_before = 0  # how many were counted at the last check
        self._reviving: asyncio.Task[None] | None = None

    @property
    def addresses(self) -> list[tuple[str, int] | str]:
        """(host, port) or the path of each, in the order in which they were added."""
        return [listener.address for listener in self._open]

    async def open(
        self, bound: list[Listener], factory: Callable[[], Any], sockets: Sockets | None
    ) -> None:
        """Begin to accept on `bound`; raises OSError. They are the caller's until `add`."""
        with self._registry.marked_context():
            for listener in bound:
                await listener.open(factory, sockets)

    def add(self, opened: list[Listener]) -> None:
        """Take over these listeners."""
        self._open += opened

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to check whether they are alive, unless that has begun."""
        if self._check is None:
            self._loop = loop
            self._tally.set(_READY, 1)
            self._tally.set(_STARTED, time.time_ns())
            self._look()

    def _look(self) -> None:
        assert self._loop is not None
        now = self._loop.time()
        if self._check is not None:
            late = now - self._check_due
            if self._count_stalls() == self._stalls_before:  # nobody has noticed this one
                self._stalls.tell(now - late, now, "")
            self._tally.observe(_LAG, late)
        self._stalls_before = self._count_stalls()
        self._check_due = now + CHECK
        self._check = self._loop.call_later(CHECK, self._look)
        dead = [listener for listener in self._open if not listener.is_alive]
        if dead and self._reviving is None:
            self._reviving = self._loop.create_task(self._revive(dead))

    def _count_stalls(self) -> int:
        return self._tally.values(_STALLS + 1)[_STALLS]

    async def _revive(self, dead: list[Listener]) -> None:
        for listener in dead:
            try:
                with self._registry.marked_context():
                    await listener.revive()
            except OSError as error:
                logger.error("listening on %s: %s", listener.address, error)
            if listener not in self._open:  # closed meanwhile
                listener.close()
        self._reviving = None

    def close_one(self, address: tuple[str, int] | str) -> None:
        """Stop accepting on one address; raises ValueError for one that is not listened on."""
        found = [listener for listener in self._open if listener.address == address]
        if not found:
            raise ValueError(f"the server does not listen on {address!r:.120}")
        self._open.remove(found[0])
        found[0].close()

    def close(self) -> None:
        """Stop accepting."""
        self._tally.set(_READY, 0)
        if self._check is not None:
            self._check.cancel()
        if self._reviving is not None:
            self._reviving.cancel()
        for listener in self._open:
            listener.close()
        self._open.clear()

    async def wait_closed(self) -> None:
        """Wait until no listener is being revived."""
        if self._reviving is not None:
            with suppress(asyncio.CancelledError):
                await self._reviving

    def abandon(self) -> None:
        """Close the descriptors in a forked child; the parent continues to listen."""
        for listener in self._open:
            listener.abandon()
        self._open.clear()
