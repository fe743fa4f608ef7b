"""The state that a server and its connections share.

In: the options and hooks of one server, and the loop that it listens on. Out: all objects that its
connections share, and the two events that they report to it.
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from fastsmtp._connection.events import Events
from fastsmtp._connection.registry import ConnectionRegistry, Registered
from fastsmtp._counts.tally import Tally
from fastsmtp._failures import Place, log_failure, mark
from fastsmtp._hooks.binding import Hooks
from fastsmtp._hooks.failure_log import FailureLog
from fastsmtp._net.epoll_transport import Sockets
from fastsmtp._net.listener import own_sockets
from fastsmtp._net.reverse_dns import reverse_lookup
from fastsmtp._net.timer_wheel import Timers
from fastsmtp._net.turns import Turns
from fastsmtp._smtp.outcomes import outcome_of
from fastsmtp._smtp.protocol import SMTPProtocol
from fastsmtp._smtp.server_tables import ServerTables
from fastsmtp._smtp.start import make_tables
from fastsmtp._smtp.tracing import Tracing
from fastsmtp._tls.contexts import ListenerTLS, ServerTLS
from fastsmtp._tls.handshake_queue import Handshakes
from fastsmtp.networks import Networks, host_key
from fastsmtp.options import HOOKS, Options
from fastsmtp.repeats import Repeats
from fastsmtp.replies import Reply
from fastsmtp.transactions import Outcome

if TYPE_CHECKING:
    from fastsmtp._options.given import NetworkList

__all__ = ["ServerState"]

_FACTS_OF_CONNECT: Final = (
    "id",
    "local_address",
    "local_port",
    "remote_address",
    "remote_port",
    "host_name_appears_as",
    "client_hostname",
)


class Refused(Registered, Protocol):
    """A connection without a dialogue."""

    protocol: SMTPProtocol


class ServerState:
    """The engine's side of one `SMTPServer`, held by it and by each of its connections, from the
    first `listen` to the end of `close`; the next life has a state of its own.

    tally: where all of them count. earlier: that of the life before, whose certificates and
    listeners of events go on. sockets:
    accepts connections in place of the loop, None: the loop does it. timers, turns: of the loop,
    None before the server listens.
    """

    def __init__(
        self, options: Options, hooks: Hooks, tally: Tally, earlier: ServerState | None = None
    ) -> None:
        self.options = options
        self.hooks = hooks
        self.tally = tally
        self.failures: FailureLog = FailureLog() if earlier is None else earlier.failures
        self.events: Events = Events(self.failures) if earlier is None else earlier.events
        self.refusals = Repeats()
        self.tls: ServerTLS = ServerTLS(options) if earlier is None else earlier.tls
        self.handshakes = Handshakes(tally)
        self.tables = self._make_tables(tls=self.tls.is_configured)
        self.registry = ConnectionRegistry(options, self.tables, self.failures)
        self.lookup = reverse_lookup(options, time.monotonic)
        self.sockets: Sockets | None = None
        self.timers: Timers | None = None
        self.turns: Turns | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()

    @property
    def is_forked(self) -> bool:
        """Whether this is a forked child of the process that listens."""
        return self._process != os.getpid()

    def use_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """The server listens on `loop`, in this process."""
        if loop is not self._loop:
            self._loop = loop
            self._process = os.getpid()
            self.turns = Turns(loop)
            self.sockets = own_sockets(self.turns)
            self.timers = Timers(loop, time.monotonic)

    def tls_of_listener(self, *, secure: bool) -> ListenerTLS:
        """Return the TLS of one listener; for `secure` without a certificate, make one. Raises
        ValueError if that is not possible.
        """
        if secure and not self.options.secured and not self.tls.is_configured:
            self.tls.make_certificate()
            self.tables = self._make_tables(tls=True)
        return self.tls.listener(secure)

    def _make_tables(self, *, tls: bool) -> ServerTables:
        tables = make_tables(self.options, self.hooks, tls=tls, tally=self.tally)
        tables.observer = self.events
        tables.tracing = self.events.tracing
        return tables

    def trace(self, networks: NetworkList) -> None:
        """Trace clients of `networks` that connect from now on, and no others."""
        found = Networks(networks)
        self.events.tracing = self.tables.tracing = Tracing(found) if found else None

    def connected(self, connection: Registered) -> None:
        """The client is about to be greeted: event `connect`."""
        if self.events.has_listener("connect"):
            session = connection.session
            facts = {name: getattr(session, name) for name in _FACTS_OF_CONNECT}
            self.events.emit("connect", facts, connection=connection)

    def report(self, error: BaseException, place: Place) -> None:
        """A hook, TLS or the socket has failed: event `error`. Without a listener it is logged, a
        failure of TLS in any case.
        """
        mark(error, place)
        if place.stage == "tls":  # caused by clients, so there may be many: only some are logged
            self.handshakes.failed(error, place)
        if self.events.has_listener("error"):
            self.events.emit("error", error, connection=f"{place.session_id}: {place.client}")
        elif place.stage not in HOOKS or not self.failures.repeats(place.stage, error):
            log_failure(error, place)

    def refused(self, connection: Refused, limit: str, reply: Reply) -> None:
        """A client was refused before its dialogue: event `transaction`, once for each host in an
        interval, and then the number of the others. limit: why.
        """
        if not self.events.is_observed:
            return
        session, protocol = connection.session, connection.protocol
        cause = (limit, host_key(session.remote_address))
        if self.refusals.is_told(cause):
            return
        session.notes["reason"] = limit
        outcome = outcome_of(protocol, "refused", reply.wire.decode().rstrip())
        self.events.emit("transaction", outcome, connection=protocol)
        self.refusals.add(cause, partial(self._tell_more, outcome))

    def _tell_more(self, outcome: Outcome, count: int) -> None:
        notes = {**outcome.notes, "more": str(count)}
        self.events.emit("transaction", outcome._replace(notes=notes))

    async def end(self) -> None:
        """All connections have ended or are abandoned: end what ran for them."""
        self.failures.end()
        self.refusals.end()
        self.tables.warnings.end()
        if self.lookup is not None:
            await self.lookup.close()
        if self.timers is not None and self.registry.is_empty:
            self.timers.stop()

    def abandon_sockets(self) -> None:
        """Close the descriptors in a forked child; the parent continues."""
        if self.sockets is not None:
            self.sockets.abandon()
