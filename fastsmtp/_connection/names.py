"""The addresses of both ends of a transport in canonical form, and whether it is a UNIX socket."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from fastsmtp._net.epoll_transport import SocketTransport
from fastsmtp.networks import peer_address
from fastsmtp.session import Session

__all__ = ["take_names"]


def take_names(transport: asyncio.Transport | SocketTransport, session: Session) -> bool:
    """Write the addresses of both ends into `session`; True: it is a UNIX socket."""
    if isinstance(transport, SocketTransport):
        direct = transport
        session.remote_address, session.remote_port = direct.peer_address, direct.peer_port
        session.local_address, session.local_port = direct.own_address, direct.own_port
        return direct.is_unix()
    peer, own = _name(transport, "peername"), _name(transport, "sockname")
    session.remote_address, session.remote_port = peer_address(peer)
    session.local_address, session.local_port = peer_address(own)
    sock = transport.get_extra_info("socket")
    return sock is not None and sock.family == getattr(socket, "AF_UNIX", None)


def _name(transport: asyncio.BaseTransport, which: str) -> Any:
    """The kernel's answer about a socket; None if the peer has reset it already."""
    try:
        return transport.get_extra_info(which)
    except OSError:
        return None
