"""Where the next hop is, and how to talk to it: checked values, no I/O."""

from __future__ import annotations

import re
import socket
import ssl
from ipaddress import ip_address
from typing import Final, NamedTuple, TypedDict

__all__ = ["NextHop", "NextHopOptions", "Patience", "next_hop"]

FORWARDS: Final = ("", "xclient", "proxy")
TLS: Final = ("off", "starttls", "implicit")
SMTP, SMTPS, LMTP = 25, 465, 24
_BREAKS: Final = re.compile("[\x00-\x20\x7f]")


class Patience(NamedTuple):
    """How long to wait, in seconds. The values of RFC 5321 §4.5.3.2 are for clients that nobody
    waits for; ours waits for its own reply, and the engine's hooks end after 30 and 240 seconds.

    connect: until the connection can be used: TCP, TLS, greeting, EHLO, login. command: for each
    reply. block: for the next hop to read. final: for the reply to a message.
    """

    connect: float = 10.0
    command: float = 15.0
    block: float = 120.0
    final: float = 200.0


class NextHop(NamedTuple):
    """path: of a UNIX socket, "" for host and port. tls: "off", "starttls" or "implicit". context:
    None with "off". server_name: to which its certificate must belong. name: ours, for EHLO.
    """

    host: str
    port: int
    path: str
    lmtp: bool
    tls: str
    context: ssl.SSLContext | None
    server_name: str
    user: str
    password: str
    name: str
    forward: str

    def __str__(self) -> str:
        if self.path:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class NextHopOptions(TypedDict, total=False):
    """The arguments of `Relay` besides host and port, of which all have defaults."""

    lmtp: bool
    tls: str | None
    ca: str
    verify: bool
    server_name: str
    cert: str
    key: str
    user: str
    password: str
    name: str
    forward: str


def next_hop(
    host: str,
    port: int | None,
    *,
    lmtp: bool = False,
    tls: str | None = None,
    ca: str = "",
    verify: bool = True,
    server_name: str = "",
    cert: str = "",
    key: str = "",
    user: str = "",
    password: str = "",
    name: str = "",
    forward: str = "",
) -> NextHop:
    """Return the next hop, as the arguments of `Relay` name it; raises ValueError."""
    if not host:
        raise ValueError("host: a next hop has a name, an address, or the path of a UNIX socket")
    _check_host(host)
    path = host if host.startswith("/") else ""
    is_here = bool(path) or _is_here(host)
    tls = tls or ("off" if is_here else "starttls")
    _one_of("tls", tls, TLS)
    _one_of("forward", forward, FORWARDS)
    if path and port:
        raise ValueError("port: a UNIX socket has none")
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"port: takes a number from 1 to 65535, got {port}")
    if _BREAKS.search(name):
        raise ValueError(f"name: takes a host name, got {name!r}")
    _check_login(user, password, is_plaintext=tls == "off" and not is_here)
    if tls == "off" and (ca or cert or key or not verify):
        raise ValueError('tls: it is "off", so certificates and their verification have no use')
    usual = LMTP if lmtp else SMTPS if tls == "implicit" else SMTP
    context = None if tls == "off" else _context(ca, verify, cert, key)
    return NextHop(
        *(host, 0 if path else port or usual, path, lmtp, tls, context, server_name or host),
        *(user, password, name or socket.gethostname() or "localhost", forward),
    )


def _check_login(user: str, password: str, *, is_plaintext: bool) -> None:
    if "\0" in user + password:
        raise ValueError("user and password: neither can have a NUL")
    if bool(user) != bool(password):
        raise ValueError("user and password: one is of no use without the other")
    if user and is_plaintext:
        raise ValueError('password: it would cross the network in plaintext with tls = "off"')


def _check_host(host: str) -> None:
    if host.startswith("/"):
        is_good = "\0" not in host
    else:
        is_good = _BREAKS.search(host) is None and _has_idna(host)
    if not is_good:
        raise ValueError(f"host: takes a name, an address or a path, got {host!r:.80}")


def _has_idna(host: str) -> bool:
    """Whether a resolver can be asked for it."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: takes one of {', '.join(filter(None, known))}, got {value!r}")


def _is_here(host: str) -> bool:
    """Whether the host is this machine by its name alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _context(ca: str, verify: bool, cert: str, key: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"ca: {ca} cannot be used: {_reason(error)}") from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert:
        try:
            context.load_cert_chain(cert, key or None)
        except OSError as error:
            raise ValueError(f"cert, key: {cert} cannot be used: {_reason(error)}") from error
    elif key:
        raise ValueError("key: it is of no use without cert")
    return context


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "it holds no certificate"
    return error.strerror or str(error)
