"""The values of the command line: every text checked, and converted into a `Config`.

In: the texts as typed. Out: an immutable value. An invalid text raises ValueError with one line:
the option, the text, and what it takes. Nothing here touches the network or the disk.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = [
    "DEFAULT_LISTEN",
    "DEFAULT_MAILDIR",
    "DEFAULT_SIZE",
    "DEFAULT_SPOOL_QUOTA",
    "Config",
    "Kind",
    "Listener",
    "domain_key",
    "make_config",
    "parse_domain",
    "parse_listener",
    "parse_listeners",
    "parse_size",
]

# Loopback and an unprivileged port: by default, other hosts cannot reach the server.
DEFAULT_LISTEN: Final = "127.0.0.1:2525"
DEFAULT_MAILDIR: Final = "./mail"
DEFAULT_SIZE: Final = "25M"  # the default of the engine's option `size`

DEFAULT_SPOOL_QUOTA: Final = "8G"

MAX_SOCKET_PATH: Final = 107  # octets: sun_path of Linux has 108 with the NUL at its end
MAX_SIZE: Final = 2**62 - 1  # octets; the maximum of the engine's option `size`
MAX_DOMAIN: Final = 255  # octets, RFC 5321 §4.5.3.1.2

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE: Final = re.compile(r"([0-9]{1,19})([kKmMgG]?)")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
# RFC 5321 §4.1.2: Domain, and the two address literals that the engine accepts.
_DOMAIN: Final = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_LITERAL: Final = re.compile(r"\[(?:([0-9.]+)|[Ii][Pp][Vv]6:([0-9A-Fa-f:.]+))\]")


class Kind(Enum):
    """The protocol of a listener. The value is the prefix of its address."""

    SMTP = ""
    LMTP = "lmtp:"
    SMTPS = "smtps://"  # TLS before the first octet, RFC 8314 §3.3
    SUBMISSION = "submission://"  # STARTTLS and AUTH before all else; RFC 6409, RFC 8314 §3.3


DEFAULT_PORTS: Final = {Kind.SMTPS: 465, Kind.SUBMISSION: 587}


@dataclass(frozen=True, slots=True)
class Listener:
    """One address to listen on: a UNIX socket when `path` is not empty, else TCP."""

    host: str = ""
    port: int = 0
    path: str = ""
    kind: Kind = Kind.SMTP

    def __str__(self) -> str:
        if self.path:
            place = self.path
        elif ":" in self.host:
            place = f"[{self.host}]:{self.port}"
        else:
            place = f"{self.host}:{self.port}"
        return f"{self.kind.value}{place}"


@dataclass(frozen=True, slots=True)
class Config:
    """The checked options of `fastsmtp serve`.

    maildir: absolute path. spool: absolute path, "" for none; spool_quota: octets that it may hold.
    size: octets, 0 for no limit. domains: keys of `domain_key`; empty:
    every domain. name: our own host name, for the greeting and the trace header. cert, key,
    client_ca, users: absolute paths, "" if not given. ciphers: an OpenSSL cipher list, "" for
    OpenSSL's own.
    """

    listeners: tuple[Listener, ...]
    maildir: str
    size: int
    domains: frozenset[str]
    verbose: bool
    name: str
    cert: str = ""
    key: str = ""
    client_ca: str = ""
    users: str = ""
    ciphers: str = ""
    reject_nul: bool = False
    spool: str = ""
    spool_quota: int = 0


def make_config(
    *,
    listen: Iterable[str],
    maildir: str,
    size: str,
    domains: Iterable[str] = (),
    verbose: bool = False,
    cert: str | None = None,
    key: str | None = None,
    client_ca: str | None = None,
    users: str | None = None,
    ciphers: str | None = None,
    reject_nul: bool = False,
    spool: str | None = None,
    spool_quota: str = DEFAULT_SPOOL_QUOTA,
) -> Config:
    """Check all options together; raises ValueError for the first that is wrong."""
    listeners = parse_listeners(listen)
    _check_logins(listeners, users)
    maildir, spool = _directories(maildir, spool)
    if key is not None and cert is None:
        raise ValueError("--key: the certificate is missing, give it with --cert")
    if ciphers is not None and not (ciphers and ciphers.isascii() and ciphers.isprintable()):
        raise ValueError("--ciphers: an OpenSSL cipher list is needed")
    return Config(
        listeners=listeners,
        maildir=maildir,
        size=parse_size(size),
        domains=frozenset(parse_domain(domain) for domain in domains),
        verbose=verbose,
        name=_own_name(),
        cert=_file("--cert", cert),
        key=_file("--key", key),
        client_ca=_file("--client-ca", client_ca),
        users=_file("--users", users),
        ciphers=ciphers or "",
        reject_nul=reject_nul,
        spool=spool,
        spool_quota=_spool_quota(spool_quota),
    )


def _check_logins(listeners: Iterable[Listener], users: str | None) -> None:
    for listener in listeners:
        if listener.kind is Kind.SUBMISSION and users is None:
            raise ValueError(f"--listen: {listener} needs --users: otherwise no client can log in")


def _directories(maildir: str, spool: str | None) -> tuple[str, str]:
    """Return both as whole paths, "" for no spool."""
    delivery = _directory("--maildir", maildir)
    queue = "" if spool is None else _directory("--spool", spool)
    if queue == delivery:
        raise ValueError("--spool: it cannot be the Maildir, give it a directory of its own")
    return delivery, queue


def _directory(option: str, path: str) -> str:
    """Return the whole path of a directory; what is there is seen at the start."""
    if not path or "\0" in path:
        raise ValueError(f"{option}: a directory is needed")
    return os.path.abspath(path)


def _spool_quota(text: str) -> int:
    quota = parse_size(text, "--spool-quota")
    if quota == 0:
        raise ValueError("--spool-quota: a spool without room takes no mail")
    return quota


def parse_listeners(listen: Iterable[str]) -> tuple[Listener, ...]:
    """Read the addresses to listen on, all different; raises ValueError."""
    listeners = tuple(parse_listener(text) for text in listen)
    if not listeners:
        raise ValueError("--listen: at least one address is needed")
    for position, listener in enumerate(listeners):
        if listener in listeners[:position] and (listener.path or listener.port):
            raise ValueError(f"--listen: {listener} is given twice")
    return listeners


def _file(option: str, path: str | None) -> str:
    """Return the absolute path of a file, "" for None; its existence is checked at the start."""
    if path is None:
        return ""
    if not path or "\0" in path:
        raise ValueError(f"{option}: a file is needed")
    return os.path.abspath(path)


def _own_name() -> str:
    """Return our host name, or "localhost" when the host has no usable name."""
    name = socket.gethostname()
    return name if _HOST.fullmatch(name) else "localhost"


def parse_listener(text: str) -> Listener:
    """Read `host:port`, `[v6]:port`, `port`, or `lmtp:` and one of these or a socket's path, or
    `smtps://host` or `submission://host`, both with or without a port.
    """
    scheme, slashes, authority = text.partition("://")
    if slashes:
        return _parse_url(text, scheme.lower() + slashes, authority)
    scheme, colon, rest = text.partition(":")
    if colon and f"{scheme.lower()}://" in (kind.value for kind in DEFAULT_PORTS):
        raise _bad_listener(text)
    lmtp = bool(colon) and scheme.lower() == "lmtp"
    place = rest if lmtp else text
    if "/" in place:
        if not lmtp:
            raise _bad_listener(text, "a socket path needs lmtp: in front of it")
        return Listener(path=_checked_path(text, place), kind=Kind.LMTP)
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
    if not _HOST.fullmatch(host):
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
        "it takes host:port, [v6]:port, port, lmtp:host:port, lmtp:/path.sock, smtps://host:port"
        " or submission://host:port"
    )
    return ValueError(f"--listen: {text!r} is not an address to listen on; {wanted}")


def parse_size(text: str, option: str = "--size") -> int:
    """Read octets, a number with or without k, M or G (powers of 1024, any case); 0: no limit."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{option}: {text!r} is not a size; it takes octets such as 500000, or 500k, 25M, 1G"
        )
    octets = int(match[1]) * _UNITS[match[2].lower()]
    if octets > MAX_SIZE:
        raise ValueError(f"{option}: {text} is more than the largest size, {MAX_SIZE}")
    return octets


def parse_domain(text: str) -> str:
    """Check a domain or address literal and return its `domain_key`; a final dot is dropped."""
    literal = _LITERAL.fullmatch(text)
    if literal is not None:
        try:
            ipaddress.ip_address(literal[1] or literal[2])
        except ValueError:
            raise ValueError(f"--domain: {text!r} is not an address literal") from None
        return domain_key(text)
    key = domain_key(text.removesuffix("."))
    if len(key) > MAX_DOMAIN or not _DOMAIN.fullmatch(key):
        raise ValueError(f"--domain: {text!r} is not a domain; it takes names such as example.org")
    return key


def domain_key(domain: str) -> str:
    """Return the form by which domains are compared: lower case, internationalised labels as
    A-labels.

    A domain without such a form, which cannot be configured, is only lower-cased.
    """
    if domain.isascii():
        return domain.lower()
    return ".".join(map(_label_key, domain.split(".")))


def _label_key(label: str) -> str:
    """A U-label as its A-label. Labels that the codec would rewrite, such as a full-width dot or a
    sharp s, are different names, so they stay unchanged.
    """
    lower = label.lower()
    try:
        key = lower.encode("idna")
        return key.decode("ascii") if key.decode("idna") == lower else lower
    except UnicodeError:
        return lower
