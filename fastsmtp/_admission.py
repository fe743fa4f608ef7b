"""Between a connection and its server: what the one asks of the other, and how it is counted."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Protocol

from fastsmtp._failures import Place
from fastsmtp._handshakes import Handshakes
from fastsmtp._service import Service
from fastsmtp._timers import Timers
from fastsmtp._tls import ServerTLS
from fastsmtp._turns import Turns

if TYPE_CHECKING:
    from fastsmtp._connection import Connection
    from fastsmtp._lookup import ReverseLookup
    from fastsmtp._registry import ConnectionRegistry

__all__ = ["Server", "host_key"]


class Server(Protocol):
    """What a connection asks of its server."""

    service: Service
    tls: ServerTLS
    handshakes: Handshakes
    lookup: ReverseLookup | None
    timers: Timers | None
    turns: Turns | None
    registry: ConnectionRegistry

    def connected(self, connection: Connection) -> None:
        """The client is about to be greeted: event `connect`."""

    def report(self, error: BaseException, place: Place) -> None:
        """Something of ours or of a hook has failed: event `error`."""


def host_key(address: str) -> str:
    """What `max_clients_per_host` counts: an IPv4 address, or an IPv6 /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False))
