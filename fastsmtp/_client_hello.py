"""Reads the server name out of a ClientHello, before anything else looks at it.

In: the first octets of a TLS connection, as they come. Out: the name that the client asks for, or
that more octets are needed. It chooses a context by name before the handshake begins, so that each
name has its whole own policy: `SSLContext.sni_callback` changes the certificate only, and comes
when a ticket of another name has been taken already. It judges nothing: what is malformed has no
name, and OpenSSL, which is given the same octets, refuses it. RFC 8446 §4.1.2, RFC 6066 §3.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["MORE", "NO_TLS", "read_hello", "server_name"]

HANDSHAKE: Final = 22  # record type, RFC 8446 §5.1
CLIENT_HELLO: Final = 1
SERVER_NAME: Final = 0  # extension type
HOST_NAME: Final = 0
MAX_HELLO: Final = 32 * 1024  # octets that are looked through; the largest of clients have 2 KiB

MORE: Final = "more"  # neither is a name: a name has no capital letters and no space
NO_TLS: Final = "not TLS"

# What may be a name at all. It is a key to look up and a text for logs, never a path.
_NAME: Final = rb"[0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]+)*\.?"
MAX_NAME: Final = 255


class _Short(Exception):
    """The octets end before the structure does."""


class _Reader:
    """A cursor over octets; raises `_Short` at their end."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._octets) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise _Short
        self._at += count
        return self._octets[self._at - count : self._at]

    def number(self, octets: int) -> int:
        return int.from_bytes(self.take(octets), "big")

    def vector(self, octets: int) -> _Reader:
        """What follows a length of so many octets."""
        return _Reader(self.take(self.number(octets)))


def server_name(octets: bytes) -> str:
    """Return the name that the client asks for in lower case, "" when there is none.

    MORE: the ClientHello is not whole yet. NO_TLS: the client does not speak TLS.
    """
    return read_hello(octets)[0]


def read_hello(octets: bytes) -> tuple[str, int]:
    """Return what `server_name` does, and with MORE how many octets there must be at least before
    another look can say more: looks at each octet of many small records would be quadratic.
    """
    if octets and octets[0] != HANDSHAKE:
        return NO_TLS, 0
    message, missing = _message(octets)
    if missing:
        wanted = min(len(octets) + missing, MAX_HELLO)
        return (MORE, wanted) if len(octets) < MAX_HELLO else ("", 0)
    try:
        return _name_in(_Reader(message)), 0
    except _Short:
        return "", 0


def _message(octets: bytes) -> tuple[bytes, int]:
    """The body of the first handshake message, which may lie in several records, and how many
    octets of it are missing; b"" for what is none.
    """
    pieces: list[bytes] = []
    at = have = 0
    whole = 4  # the header says how many there are
    while have < whole:
        if at + 5 > len(octets):
            return b"", whole - have
        size = octets[at + 3] << 8 | octets[at + 4]  # before it the version, which says nothing
        if octets[at] != HANDSHAKE or not size:  # no fragment is empty, RFC 8446 §5.1
            return b"", 0
        # What of the record is there shows whether the message is whole; the record need not be.
        pieces.append(octets[at + 5 : at + 5 + size])
        have += len(pieces[-1])
        at += 5 + size
        if whole == 4 and have >= 4:
            pieces = [b"".join(pieces)]
            if pieces[0][0] != CLIENT_HELLO:
                return b"", 0
            whole += int.from_bytes(pieces[0][1:4], "big")
    return b"".join(pieces)[4:whole], 0


def _name_in(hello: _Reader) -> str:
    hello.take(34)  # version, random
    hello.vector(1)  # session id
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression methods
    if not hello.left:
        return ""
    extensions = hello.vector(2)
    while extensions.left:
        kind = extensions.number(2)
        extension = extensions.vector(2)
        if kind == SERVER_NAME:
            names = extension.vector(2)
            if names.number(1) != HOST_NAME:
                return ""
            return _clean(names.take(names.number(2)))
    return ""


def _clean(name: bytes) -> str:
    if len(name) > MAX_NAME or not re.fullmatch(_NAME, name):
        return ""
    return name.decode("ascii").lower().removesuffix(".")
