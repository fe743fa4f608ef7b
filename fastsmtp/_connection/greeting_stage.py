"""What stands before the greeting: its delay and the reverse lookup, at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastsmtp._net.reverse_dns import ReverseLookup

__all__ = ["Prelude", "is_known"]


def is_known(
    loop: asyncio.AbstractEventLoop, lookup: ReverseLookup | None, address: str
) -> tuple[bool, str | None]:
    """Whether there is no name to wait for, and the name, if it is known."""
    if lookup is None or not address:
        return True, None
    return lookup.known(loop, address)


class Prelude:
    """Calls `on_done(name)` when both have ended; `cancel` ends both at once, and then it does not.

    name: of the client, None when there is none. greet_delay: seconds.
    """

    __slots__ = ("_address", "_delay", "_left", "_lookup", "_name", "_on_done")

    def __init__(self, on_done: Callable[[str | None], None]) -> None:
        self._on_done = on_done
        self._left = 0
        self._name: str | None = None
        self._delay: asyncio.TimerHandle | None = None
        self._lookup: ReverseLookup | None = None  # it is to call `_looked_up`
        self._address = ""

    def begin(
        self,
        loop: asyncio.AbstractEventLoop,
        lookup: ReverseLookup | None,
        address: str,
        greet_delay: float,
    ) -> None:
        """Begin both; where there is nothing to wait for, all is done before this returns."""
        self._left = 1
        known, self._name = is_known(loop, lookup, address)
        if not known and lookup is not None:
            self._left += 1
            self._lookup = lookup
            self._address = address
            lookup.begin(address, self._looked_up)
        if greet_delay:
            self._left += 1
            self._delay = loop.call_later(greet_delay, self._one_done)
        self._one_done()

    def cancel(self) -> None:
        """The connection has ended, or is refused."""
        if self._delay is not None:
            self._delay.cancel()
        if self._lookup is not None:
            self._lookup.abandon(self._address, self._looked_up)
        self._let_go()

    def _looked_up(self, name: str | None) -> None:
        self._name = name
        self._one_done()

    def _one_done(self) -> None:
        if self._left:
            self._left -= 1
            if not self._left:
                on_done = self._on_done
                self._let_go()
                on_done(self._name)

    def _let_go(self) -> None:
        """What refers back to this object or its owner would wait for the collector."""
        self._left = 0
        self._delay = self._lookup = None
        self._on_done = _ignore


def _ignore(name: str | None) -> None:
    """Nobody waits any more."""
