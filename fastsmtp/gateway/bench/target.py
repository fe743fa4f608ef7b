"""The server that a run sends to, and whether it may.

In: the target as typed. Out: socket addresses, every one of them checked. Clients connect to these
and never look the name up again, so a name that changes its address cannot redirect a run.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any, Final, NamedTuple

from fastsmtp.blocking import call_in_thread
from fastsmtp.gateway.config import Kind, parse_listener
from fastsmtp.networks import Networks

__all__ = ["Address", "BenchError", "Target", "addresses", "parse_target"]

# Loopback, and what RFC 1918 and RFC 4193 set aside for private networks.
NEARBY: Final = Networks(
    ("127.0.0.0/8", "::1", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)


class BenchError(Exception):
    """A run cannot start. The text is one line for the operator."""


class Target(NamedTuple):
    """A server: a UNIX socket when `path` is not empty, else TCP. tls: from the first octet."""

    text: str
    host: str
    port: int
    path: str
    lmtp: bool
    tls: bool


class Address(NamedTuple):
    """Where to connect to. place: what `socket.connect` takes; text: for people."""

    family: int
    place: Any
    text: str


def parse_target(text: str) -> Target:
    """Read `host:port`, `[v6]:port` or `port`, the same after `lmtp:`, a path after `smtp:` or
    `lmtp:`, or `smtps://host`. Raises ValueError, one line.
    """
    try:
        found = parse_listener(text)
    except ValueError:
        raise ValueError(
            f"{text!r:.80} is not a server to send to; it takes host:port, [v6]:port, port,"
            " lmtp:host:port, lmtp:/path.sock, smtp:/path.sock or smtps://host:port"
        ) from None
    if found.kind is Kind.SUBMISSION:
        raise ValueError(f"{text}: submission needs a login; bench sends without one")
    if not found.path and found.port == 0:
        raise ValueError(f"{text}: no server has the port 0")
    lmtp, tls = found.kind is Kind.LMTP, found.kind is Kind.SMTPS
    return Target(str(found), found.host, found.port, found.path, lmtp, tls)


async def addresses(target: Target, *, anywhere: bool) -> list[Address]:
    """Look `target` up, once, and return its addresses.

    Raises BenchError if there is none, and, unless `anywhere`, if one of them is neither a loopback
    nor a private address.
    """
    if target.path:
        return [Address(socket.AF_UNIX, target.path, target.path)]
    look_up = partial(socket.getaddrinfo, target.host, target.port, type=socket.SOCK_STREAM)
    found = await call_in_thread(asyncio.get_running_loop(), look_up, "fastsmtp-lookup")
    if isinstance(found, BaseException):
        reason = getattr(found, "strerror", None) or found
        raise BenchError(f"cannot look up {target.host}: {reason}") from found
    places = dict.fromkeys((family, place) for family, _, _, _, place in found)
    for _, place in places:
        if not (anywhere or NEARBY.match(str(place[0]))):
            raise BenchError(
                f"{target.text}: {place[0]} is neither a loopback nor a private address; if the"
                " server is yours, or its owner has agreed, repeat this with --anywhere"
            )
    return [Address(family, place, _shown(place)) for family, place in places]


def _shown(place: tuple[Any, ...]) -> str:
    return f"[{place[0]}]:{place[1]}" if ":" in str(place[0]) else f"{place[0]}:{place[1]}"
