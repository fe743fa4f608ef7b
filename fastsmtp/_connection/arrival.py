"""The steps of a client from its socket to its dialogue: a place, PROXY header, TLS, greeting.

Each step puts the connection into the stage that waits for it, or continues at once if there is
nothing to wait for.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from fastsmtp._connection.deadline_timer import DeadlineTimer
from fastsmtp._connection.greeting_stage import GreetingWait, is_known
from fastsmtp._connection.names import take_names
from fastsmtp._connection.output import Output
from fastsmtp._connection.proxy_stage import ProxyHeaderWait
from fastsmtp._connection.registry import Refusal, Registered
from fastsmtp._connection.server_state import ServerState
from fastsmtp._connection.stages import LINGERING, Stage, Talking
from fastsmtp._connection.tls_stage import Handshake, SecureClient
from fastsmtp._smtp.protocol import SMTPProtocol
from fastsmtp._tls.contexts import ListenerTLS

__all__ = ["arrive", "let_in", "prepare", "shake_hands"]


class Arriving(SecureClient, Registered, Protocol):
    """A connection that is being admitted. tls: that of its listener. talking: the stage of its
    dialogue.
    """

    server: ServerState
    loop: asyncio.AbstractEventLoop
    protocol: SMTPProtocol
    output: Output
    timer: DeadlineTimer
    tls: ListenerTLS
    talking: Talking

    def enter(self, stage: Stage) -> None:
        """Leave the current stage for `stage`."""


def arrive(connection: Arriving) -> None:
    """Take the addresses, then a place among the server's connections."""
    server, session, protocol = connection.server, connection.session, connection.protocol
    is_unix = take_names(connection.output.transport, session)
    protocol.client_is(session.remote_address, is_unix)
    refusal = server.registry.admit(connection)
    balancers = server.tables.options.use_proxy
    if refusal is not None:
        _refuse(connection, refusal)
    elif balancers and protocol.trusts(balancers):
        # The peer is a balancer: its PROXY header comes first.
        connection.enter(ProxyHeaderWait(session, protocol))
        protocol.await_balancer(connection.timer.now())
        connection.timer.need(protocol.deadline())
    else:
        let_in(connection, None if is_unix else session.remote_address)


def let_in(connection: Arriving, address: str | None) -> None:
    """Count the client among those of its host. address: the effective one, None: not counted."""
    if address:
        refusal = connection.server.registry.admit_host(connection, address)
        if refusal is not None:
            _refuse(connection, refusal)
            return
    if connection.tls.implicit:
        connection.protocol.begin_handshake(connection.timer.now())
        shake_hands(connection)
        connection.timer.need(connection.protocol.deadline())
    else:
        prepare(connection)


def _refuse(connection: Arriving, refusal: Refusal) -> None:
    connection.enter(LINGERING)
    output, protocol = connection.output, connection.protocol
    connection.server.refused(connection, *refusal)
    # Under implicit TLS no reply is possible before the handshake, so there is no wait.
    if not connection.tls.implicit:
        output.write(refusal.reply.wire, connection.timer.now())
        if protocol.trace is not None:
            protocol.trace.output(protocol, refusal.reply.wire)
        if connection.server.registry.may_linger():
            connection.close()
            return
    output.drop_unread()
    output.transport.close()


def shake_hands(connection: Arriving) -> None:
    """Begin TLS, with the current certificates."""
    contexts = connection.tls.contexts
    assert contexts is not None
    parts = connection.protocol, connection.output
    handshakes = connection.server.handshakes
    connection.enter(Handshake(connection, *parts, contexts, handshakes, connection.loop))


def prepare(connection: Arriving) -> None:
    """Wait for the greeting delay and the client's name, if necessary."""
    session, server = connection.session, connection.server
    address = session.remote_address
    session.client_hostname = f"[{address}]" if address else "localhost"
    delay = server.tables.options.greet_delay
    known, name = is_known(connection.loop, server.lookup, address)
    if known and not delay:
        connection.start(name)
        return
    wait = GreetingWait(connection, connection.talking)
    connection.enter(wait)
    wait.begin(connection.loop, None if known else server.lookup, address, name, delay)
