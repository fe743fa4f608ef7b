"""The addresses to listen on: every form in which they are written.

In: texts. Out: a `Listener` for each. Raised: ValueError with one line. Nothing here touches the
network.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

__all__ = ["DEFAULT_LISTEN", "HOST", "Kind", "Listener", "check_distinct", "parse_listener"]

# Loopback and an unprivileged port: by default, other hosts cannot reach the server.
DEFAULT_LISTEN: Final = "127.0.0.1:2525"

MAX_SOCKET_PATH: Final = 107  # octets: sun_path of Linux has 108 with the NUL at its end

HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_PORT: Final = re.compile(r"[0-9]{1,5}")


class Kind(Enum):
    """The protocol of a listener. The value is the prefix of its address."""

    SMTP = ""
    LMTP = "lmtp:"
    SMTPS = "smtps://"  # TLS before the first octet, RFC 8314 §3.3
    SUBMISSION = "submission://"  # STARTTLS and AUTH before all else; RFC 6409, RFC 8314 §3.3


SMTP_SOCKET: Final = "smtp:"  # before the path of a socket; TCP addresses have no prefix
DEFAULT_PORTS: Final = {Kind.SMTPS: 465, Kind.SUBMISSION: 587}


def _no_options() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Listener:
    """One address to listen on: a UNIX socket when `path` is not empty, else TCP.

    options: engine options of this listener alone; addresses are compared without them.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    kind: Kind = Kind.SMTP
    options: Mapping[str, Any] = field(default_factory=_no_options, compare=False)

    def __str__(self) -> str:
        if self.path:
            return f"{self.kind.value or SMTP_SOCKET}{self.path}"
        if ":" in self.host:
            return f"{self.kind.value}[{self.host}]:{self.port}"
        return f"{self.kind.value}{self.host}:{self.port}"


def check_distinct(listeners: Iterable[Listener]) -> None:
    """Raise ValueError if two are the same, unless any free port is asked for."""
    seen: set[Listener] = set()
    for listener in listeners:
        if listener in seen:
            raise ValueError(f"{listener} is given twice")
        if listener.path or listener.port:
            seen.add(listener)


def parse_listener(text: str) -> Listener:
    """Read `host:port`, `[v6]:port`, `port`, or `lmtp:` and one of these or a socket's path, or
    `smtp:` and such a path, or `smtps://host` or `submission://host`, both with or without a port.

    Raises ValueError.
    """
    scheme, slashes, authority = text.partition("://")
    if slashes:
        return _parse_url(text, scheme.lower() + slashes, authority)
    scheme, colon, rest = text.partition(":")
    if colon and f"{scheme.lower()}://" in (kind.value for kind in DEFAULT_PORTS):
        raise _bad_listener(text)
    lmtp = bool(colon) and scheme.lower() == "lmtp"
    if "/" in text:
        if not lmtp and scheme.lower() != "smtp":
            raise _bad_listener(text, "a socket path needs smtp: or lmtp: in front of it")
        kind = Kind.LMTP if lmtp else Kind.SMTP
        return Listener(path=_checked_path(text, rest), kind=kind)
    place = rest if lmtp else text
    host, port = _parse_host_and_port(text, place)
    if lmtp and port == 25:
        raise _bad_listener(text, "LMTP must not be spoken on port 25 (RFC 2033 §5)")
    return Listener(host=host, port=port, kind=Kind.LMTP if lmtp else Kind.SMTP)


def _parse_url(text: str, scheme: str, authority: str) -> Listener:
    kind = next((kind for kind in DEFAULT_PORTS if kind.value == scheme), None)
    if kind is None:
        raise _bad_listener(text)
    if authority.isdigit():  # probably a port; the system would read it as the host 0.0.x.y
        raise _bad_listener(text, f"a host is needed: {kind.value}host:port")
    if authority.endswith("]") or ":" not in authority:
        authority = f"{authority}:{DEFAULT_PORTS[kind]}"
    host, port = _parse_host_and_port(text, authority)
    return Listener(host=host, port=port, kind=kind)


def _parse_host_and_port(text: str, place: str) -> tuple[str, int]:
    if _PORT.fullmatch(place):
        return "127.0.0.1", _checked_port(text, place)
    host, colon, port = place.rpartition(":")
    if not colon or not _PORT.fullmatch(port):
        raise _bad_listener(text)
    if not host:
        raise _bad_listener(text, "for all addresses write 0.0.0.0:port or [::]:port")
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise _bad_listener(text, f"{host} is not an IPv6 address") from None
        return host[1:-1], _checked_port(text, port)
    if ":" in host:
        raise _bad_listener(text, "an IPv6 address needs brackets")
    if not HOST.fullmatch(host):
        raise _bad_listener(text)
    return host, _checked_port(text, port)


def _checked_port(text: str, port: str) -> int:
    if int(port) > 65535:
        raise _bad_listener(text, "a port is at most 65535")
    return int(port)


def _checked_path(text: str, path: str) -> str:
    if path.endswith("/") or "\0" in path:
        raise _bad_listener(text, "the path must name a socket")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise _bad_listener(text, f"a socket path has at most {MAX_SOCKET_PATH} octets")
    return path


def _bad_listener(text: str, why: str = "") -> ValueError:
    wanted = why or (
        "it takes host:port, [v6]:port, port, lmtp:host:port, lmtp:/path.sock, smtp:/path.sock,"
        " smtps://host:port or submission://host:port"
    )
    return ValueError(f"{text!r:.120} is not an address to listen on; {wanted}")
