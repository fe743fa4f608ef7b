"""What a connection asks of its server."""

from __future__ import annotations

from typing import Protocol

from fastsmtp._connection.registry import ConnectionRegistry, Registered
from fastsmtp._failures import Place
from fastsmtp._net.reverse_dns import ReverseLookup
from fastsmtp._net.timer_wheel import Timers
from fastsmtp._net.turns import Turns
from fastsmtp._smtp.server_tables import ServerTables
from fastsmtp._tls.contexts import ServerTLS
from fastsmtp._tls.handshake_queue import Handshakes

__all__ = ["Server"]


class Server(Protocol):
    """What a connection asks of its server."""

    tables: ServerTables
    tls: ServerTLS
    handshakes: Handshakes
    lookup: ReverseLookup | None
    timers: Timers | None
    turns: Turns | None
    registry: ConnectionRegistry

    def connected(self, connection: Registered) -> None:
        """The client is about to be greeted: event `connect`."""

    def report(self, error: BaseException, place: Place) -> None:
        """Something of ours or of a hook has failed: event `error`."""
