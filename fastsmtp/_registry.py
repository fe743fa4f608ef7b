"""Who is connected to a server: places, limits, and the wait for the last one to leave.

In: connections as they come and end. Out: the reply to one that is too many, and an event when all
have gone with all their hooks.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from fastsmtp._admission import host_key
from fastsmtp._service import Service
from fastsmtp._tasks import CloseHooks
from fastsmtp.options import Options
from fastsmtp.replies import Reply

if TYPE_CHECKING:
    from fastsmtp._connection import Connection

__all__ = ["ConnectionRegistry"]

# Refused clients that may take their time to read the 421. Each holds a descriptor, which clients
# that were let in may need for their files.
MAX_LINGERING: Final = 16
LINGER_CHECK: Final = 0.05  # seconds between two looks whether all that is left only lingers


class ConnectionRegistry:
    """The connections of one server.

    connections: those that were let in and have not ended with all their hooks but `on_close`.
    refused: those that only have to read their 421. closing: nobody is let in any more.
    """

    def __init__(self, options: Options, service: Service) -> None:
        self._options = options
        self._service = service
        self._hosts: Counter[str] = Counter()
        self._all_gone = asyncio.Event()
        self.connections: set[Connection] = set()
        self.refused: set[Connection] = set()
        self.close_hooks = CloseHooks(options.hook_timeout, self._look_for_the_last)
        self.closing = False

    @property
    def is_empty(self) -> bool:
        """Nobody is connected, and no hook of anybody is at work."""
        return not (self.connections or self.refused or self.close_hooks)

    def everyone(self) -> list[Connection]:
        """Return those that were let in and those that were refused."""
        return [*self.connections, *self.refused]

    def admit(self, connection: Connection) -> Reply | None:
        """Give a connection its place; the reply says why there is none."""
        limit = self._options.max_clients
        refusal = None
        # Coroutines of on_close hold no places, unless there are more of them than places.
        if limit and len(self.connections) + max(0, len(self.close_hooks) - limit) >= limit:
            refusal = self._service.too_many_clients
        if self.closing:
            refusal = self._service.closing_at_greeting
        (self.connections if refusal is None else self.refused).add(connection)
        return refusal

    def admit_host(self, connection: Connection, address: str) -> Reply | None:
        """Count a client of this address; the reply says why it is one too many."""
        limit = self._options.max_clients_per_host
        if limit:
            key = host_key(address)
            if self._hosts[key] >= limit:
                self.connections.discard(connection)
                self.refused.add(connection)
                return self._service.too_many_from_host
            self._hosts[key] += 1
        return None

    def may_linger(self) -> bool:
        """Whether a refused connection may wait for its client's FIN, or is closed at once."""
        return len(self.refused) <= MAX_LINGERING

    def finished(self, connection: Connection) -> None:
        """A connection has ended with all its hooks."""
        if connection in self.refused:
            self.refused.discard(connection)
        elif connection in self.connections:
            self.connections.discard(connection)
            if self._options.max_clients_per_host and connection.counted_address:
                key = host_key(connection.counted_address)
                self._hosts[key] -= 1
                if self._hosts[key] <= 0:
                    del self._hosts[key]
        self._look_for_the_last()

    # The end.

    async def wait_for_the_last(self) -> None:
        """Wait until all have gone. When all that is left lingers, nobody waits for that: each has
        had its 421, a moment to send what was on its way, and a FIN.
        """
        self._look_for_the_last()
        while not self._all_gone.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_CHECK):
                    await self._all_gone.wait()
            left = self.everyone()
            if all(connection.lingers for connection in left):
                for connection in left:
                    connection.abort()

    def give_up(self) -> None:
        """Cancel the hooks that are still at work, and wait for no answer of them."""
        self.close_hooks.cancel_all()
        for connection in list(self.connections):
            connection.give_up()

    def wait_no_more(self) -> None:
        """Whatever is left is left behind."""
        self._all_gone.set()

    def _look_for_the_last(self) -> None:
        if self.closing and self.is_empty:
            self._all_gone.set()
