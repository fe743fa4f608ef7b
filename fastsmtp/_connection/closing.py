"""How the connections of a closing server end: messages first, then a cut.

In: calls of `drain` and `hurry`. Out: all connections have ended or were abandoned.
"""

from __future__ import annotations

import asyncio
from typing import Final

from fastsmtp._connection.registry import ConnectionRegistry

__all__ = ["Closing"]

CUT_GRACE: Final = 0.4  # seconds that hooks have to end after a cut, and again after a cancellation


class Closing:
    """Ends all connections of `registry`, once. patience: seconds before the rest is cut."""

    def __init__(self, registry: ConnectionRegistry, patience: float) -> None:
        self._registry = registry
        self._patience = patience
        self._at_once = False
        self._loop: asyncio.AbstractEventLoop | None = None  # that of `drain`, once it has begun
        self._cuts: list[asyncio.TimerHandle] = []

    async def drain(self) -> None:
        """Send 421 to all, and wait until they have ended; first those whose hooks have not called
        `close()`, then the others.
        """
        self._loop = asyncio.get_running_loop()
        # Connections that the kernel had established already are accepted in this turn, and refused
        # in `ConnectionRegistry.admit`.
        await asyncio.sleep(0)
        for connection in self._registry.everyone():
            connection.shut_down()
        await self._let_end(self._loop, self._patience)
        self._registry.release_callers()
        await self._let_end(self._loop, max(self._patience, CUT_GRACE))

    def hurry(self) -> None:
        """Cut the remaining connections now, or as soon as `drain` begins."""
        self._at_once = True
        if self._loop is not None:
            self._cut(self._loop)

    async def _let_end(self, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        self._cuts = [loop.call_later(0.0 if self._at_once else patience, self._cut, loop)]
        try:
            await self._registry.wait_for_the_last()
        finally:
            self._cancel_cuts()

    def _cancel_cuts(self) -> None:
        for cut in self._cuts:
            cut.cancel()

    def _cut(self, loop: asyncio.AbstractEventLoop) -> None:
        """End all that remains."""
        self._cancel_cuts()
        for connection in self._registry.left():
            connection.abort()
        # An aborted body ends its hook; a hook that continues is cancelled, and one that ignores
        # that is abandoned.
        self._cuts = [loop.call_later(CUT_GRACE, self._give_up, loop)]

    def _give_up(self, loop: asyncio.AbstractEventLoop) -> None:
        self._registry.give_up()
        self._cuts = [loop.call_later(CUT_GRACE, self._registry.wait_no_more)]
