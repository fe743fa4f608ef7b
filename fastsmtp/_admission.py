"""What a connection asks of its server."""

from __future__ import annotations

from typing import Protocol

from fastsmtp._failures import Place
from fastsmtp._handshakes import Handshakes
from fastsmtp._lookup import ReverseLookup
from fastsmtp._registry import ConnectionRegistry, Registered
from fastsmtp._service import Service
from fastsmtp._timers import Timers
from fastsmtp._tls import ServerTLS
from fastsmtp._turns import Turns

__all__ = ["Server"]


class Server(Protocol):
    """What a connection asks of its server."""

    service: Service
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
