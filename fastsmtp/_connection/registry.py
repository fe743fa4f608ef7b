"""The connections of a server: places, limits, and the wait for the last one to end.

In: connections as they come and end. Out: the reply to one above the limit, and an event when all
have ended with all their hooks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, Protocol

from fastsmtp._counts.families import cell
from fastsmtp._hooks.failure_log import FailureLog
from fastsmtp._hooks.tasks import CloseHooks
from fastsmtp._smtp.server_tables import ServerTables
from fastsmtp.descriptors import max_lingering
from fastsmtp.networks import host_key
from fastsmtp.options import Options
from fastsmtp.replies import Reply
from fastsmtp.session import Session

__all__ = ["ConnectionRegistry", "Refusal", "Registered"]

LINGER_CHECK: Final = 0.05  # seconds between two checks whether all remaining connections linger

_TOTAL: int = cell("connections_total")
_NOW: int = cell("open_connections")
_LIMIT_ALL: int = cell("connections_refused_total", "max_clients")
_LIMIT_HOST: int = cell("connections_refused_total", "max_clients_per_host")
_CLOSING: int = cell("connections_refused_total", "closing")

# The registry of the server whose hooks, or Tasks that they have started, run in this context.
_serving: ContextVar[ConnectionRegistry | None] = ContextVar("fastsmtp.serving", default=None)


class Registered(Protocol):
    """The interface of a connection for its server. counted_host: the host that `admit_host` has
    counted it for, "" for none.
    """

    session: Session
    counted_host: str

    def client_name(self) -> str:
        """The client, for the log."""

    @property
    def lingers(self) -> bool:
        """Whether it only waits for the client's end."""

    def runs(self, task: asyncio.Task[Any]) -> bool:
        """Whether `task` runs a hook of this connection."""

    def has_hook_at_work(self) -> bool:
        """Whether a hook of this connection has not ended, or not answered, yet."""

    def shut_down(self) -> None:
        """The server is closing: send 421 as soon as the protocol allows it."""

    def abort(self) -> None:
        """Cut the connection now."""

    def give_up(self) -> None:
        """Cancel the hooks that are still at work."""


class Refusal(NamedTuple):
    """Why a client gets no place, as in the metrics, and the reply."""

    limit: str
    reply: Reply


class ConnectionRegistry:
    """The connections of one server.

    connections: admitted ones that have not ended; `on_close` may still be running. refused: those
    that only have to read their 421. closing: no client is admitted any more. callers: connections,
    and Tasks of `on_close`, whose hooks have called `close()`: it cannot wait for them while they
    wait for it.

    A client that is gone takes no place while its `on_close` is at work. The memory of such calls
    must be bounded too: calls beyond the number of places count as clients, for the limit of all
    and for that of a host.
    """

    def __init__(self, options: Options, tables: ServerTables, failures: FailureLog) -> None:
        self._tables = tables
        self._tally = tables.tally
        self._max_clients = options.max_clients
        self._max_per_host = options.max_clients_per_host
        self._hosts: dict[str, int] = {}  # clients of each
        self._max_lingering = max_lingering()
        self._all_gone = asyncio.Event()
        self.connections: set[Registered] = set()
        self.refused: set[Registered] = set()
        self.close_hooks = CloseHooks(
            options.hook_timeout, self._look_for_the_last, self._tally, tables.stalls, failures
        )
        self.closing = False
        self.callers: set[object] = set()
        self._rest_is_gone = asyncio.Event()

    @property
    def is_empty(self) -> bool:
        """Whether there are no connections and no hook is at work."""
        return not (self.connections or self.refused or self.close_hooks)

    def everyone(self) -> list[Registered]:
        """Return the admitted and the refused connections."""
        return [*self.connections, *self.refused]

    def admit(self, connection: Registered) -> Refusal | None:
        """Give a connection a place, or return what refuses it."""
        limit = self._max_clients
        refusal = None
        self._tally.add(_TOTAL)
        self._tally.add(_NOW)
        if limit and len(self.connections) + max(0, len(self.close_hooks) - limit) >= limit:
            refusal = Refusal("max_clients", self._tables.too_many_clients)
            self._tally.add(_LIMIT_ALL)
        if self.closing:
            refusal = Refusal("closing", self._tables.closing_at_greeting)
            self._tally.add(_CLOSING)
        (self.connections if refusal is None else self.refused).add(connection)
        return refusal

    def admit_host(self, connection: Registered, address: str) -> Refusal | None:
        """Count a client of this address, or return what refuses it."""
        limit = self._max_per_host
        if limit:
            key = host_key(address)
            count = self._hosts.get(key, 0)
            if count + max(0, self.close_hooks.of_host(key) - limit) >= limit:
                self.connections.discard(connection)
                self.refused.add(connection)
                self._tally.add(_LIMIT_HOST)
                return Refusal("max_clients_per_host", self._tables.too_many_from_host)
            self._hosts[key] = count + 1
            connection.counted_host = key
        return None

    def may_linger(self) -> bool:
        """Whether a refused connection may wait for its client's FIN, or is closed at once."""
        return len(self.refused) <= self._max_lingering

    def call_on_close(
        self,
        loop: asyncio.AbstractEventLoop,
        hook: Callable[[Session], Any],
        client: Registered,
        now: Callable[[], float],
    ) -> None:
        """Call the hook for a client that is gone; a coroutine continues without its connection.
        now: a clock in seconds.
        """
        host = client.counted_host
        self.close_hooks.call(loop, hook, client.session, host, client.client_name, now)

    def finished(self, connection: Registered) -> None:
        """A connection has ended with all its hooks."""
        self._tally.add(_NOW, -1)
        if connection in self.refused:
            self.refused.discard(connection)
        elif connection in self.connections:
            self.connections.discard(connection)
            self.callers.discard(connection)
            key = connection.counted_host
            if key:
                self._hosts[key] -= 1
                if not self._hosts[key]:
                    del self._hosts[key]
        self._look_for_the_last()

    # The end.

    @contextmanager
    def marked_context(self) -> Iterator[None]:
        """Mark the context for `add_callers`: that of connections whose listeners are opened here,
        of their hooks, and of the Tasks that these start.
        """
        token = _serving.set(self)
        try:
            yield
        finally:
            _serving.reset(token)

    def add_callers(self, task: asyncio.Task[Any] | None) -> bool:
        """`close()` was called in `task`. Return whether hooks may wait for that.

        In a Task that a hook has started, any running hook may be the one that waits for it.
        """
        found: set[object] = {one for one in self.connections if task and one.runs(task)}
        found |= {hook for hook in self.close_hooks if hook is task}
        if not found and _serving.get() is self:
            found |= {one for one in self.connections if one.has_hook_at_work()}
            found |= set(self.close_hooks)
        if not self._rest_is_gone.is_set():
            self.callers |= found
            self._look_for_the_last()
        return bool(found)

    async def wait_for_the_last(self) -> None:
        """Wait until all have ended, the callers of `close()` only after `release_callers`.
        Lingering connections are not waited for: each got its 421, some time to send the octets in
        transit, and a FIN.
        """
        self._look_for_the_last()
        while not self._all_gone.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_CHECK):
                    await self._all_gone.wait()
            left = self.left()
            if not [connection for connection in left if not connection.lingers]:
                for connection in left:
                    connection.abort()

    async def wait_for_the_rest(self) -> None:
        """Wait until all except the callers of `close()` have ended."""
        await self._rest_is_gone.wait()

    def release_callers(self) -> None:
        """All others have ended: `close()` returns in hooks, and then waits for these."""
        self._rest_is_gone.set()
        self._all_gone.clear()

    def left(self) -> list[Registered]:
        """Return the connections that are waited for."""
        of_callers = self._rest_is_gone.is_set()
        return [one for one in self.everyone() if (one in self.callers) == of_callers]

    def give_up(self) -> None:
        """Cancel the hooks that are still at work; their answers do not count."""
        for hook in self._close_hooks_left():
            self.close_hooks.cancel(hook)
        for connection in self.left():
            connection.give_up()

    def wait_no_more(self) -> None:
        """Abandon the remaining connections."""
        self._all_gone.set()

    def _close_hooks_left(self) -> list[asyncio.Task[Any]]:
        if self._rest_is_gone.is_set():
            return list(self.close_hooks)
        return [hook for hook in self.close_hooks if hook not in self.callers]

    def _look_for_the_last(self) -> None:
        if self.closing and not self.left() and not self._close_hooks_left():
            self._all_gone.set()
