"""Reads the server name out of a ClientHello, before anything else looks at it.

In: the first octets of a TLS connection, as they come. Out: the name that the client asks for and
where the ClientHello ends, or that more octets are needed. It chooses a context by name before the
handshake begins, so that each name has its whole own policy: `SSLContext.sni_callback` changes the
certificate only, and comes when a ticket of another name has been taken already.

It judges the length and the records, because OpenSSL reserves memory for the length that a
ClientHello claims (up to 128 KiB) and tolerates empty records before it. All else is left to
OpenSSL, which is given the same octets. RFC 8446 §4.1.2, §5.1, RFC 6066 §3.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BAD", "HANDSHAKE", "MAX_HELLO_RECORDS", "MORE", "NO_TLS", "read_hello", "server_name"]

HANDSHAKE: Final = 22  # record type, RFC 8446 §5.1
CLIENT_HELLO: Final = 1
SERVER_NAME: Final = 0  # extension type
HOST_NAME: Final = 0
# Octets of a ClientHello. The largest of clients have 2 KiB; BoringSSL takes no more either.
MAX_HELLO: Final = 16 * 1024
MAX_HELLO_RECORDS: Final = 18 * 1024  # octets of it with its records, which may be small

MORE: Final = "more"  # none of them is a name: a name has no capital letters and no space
NO_TLS: Final = "not TLS"
BAD: Final = "not a ClientHello"

MAX_NAME: Final = 255


def server_name(octets: bytes) -> str:
    """Return the name that the client asks for in lower case, "" when there is none.

    MORE: the ClientHello is not whole yet. NO_TLS: the client does not speak TLS. BAD: it is too
    long, or its records are none that a client sends.
    """
    return read_hello(octets)[0]


def read_hello(octets: bytes) -> tuple[str, int]:
    """Return what `server_name` does, and how many octets of `octets` are the ClientHello.

    With MORE it is how many octets there must be at least before another look can say more: looks
    at each octet of many small records would be quadratic.
    """
    if octets and octets[0] != HANDSHAKE:
        return NO_TLS, 0
    message, end = _message(octets)
    if message is None:
        return BAD, 0
    if end > len(octets):
        wanted = min(end, MAX_HELLO_RECORDS)
        return (MORE, wanted) if wanted > len(octets) else (BAD, 0)
    return _name_in(message), end


def _message(octets: bytes) -> tuple[bytes | None, int]:
    """The body of the first handshake message, which may lie in several records, and how many
    octets there are at least when it is whole; None for what no client sends.

    A message that is no ClientHello has no body here: OpenSSL refuses it at once.
    """
    message = bytearray()
    at, end, have = 0, len(octets), 0
    whole = 4  # the header says how many there are
    claimed = 0  # octets of the records so far, those included that are not there yet
    while have < whole:
        if at + 5 > end:
            return b"", end + whole - have
        size = _number(octets, at + 3, 2)  # before it the version, which says nothing
        if octets[at] != HANDSHAKE or not size:  # no fragment is empty, RFC 8446 §5.1
            return None, 0
        # What of the record is there shows whether the message is whole; the record need not be.
        message += octets[at + 5 : at + 5 + size]
        have = len(message)
        claimed += size
        at += 5 + size
        if whole == 4 and have >= 4:
            if message[0] != CLIENT_HELLO:
                return b"", end
            whole += message[1] << 16 | message[2] << 8 | message[3]
            if whole > 4 + MAX_HELLO:
                return None, 0
        # Before we answer, a client has nothing else to say.
        if have >= 4 and claimed > whole:
            return None, 0
    return bytes(message[4:whole]), at


def _name_in(hello: bytes) -> str:
    """An offset that is behind the end stands for what is cut off: nothing is there to be read."""
    at = _behind(hello, 34, 1)  # version, random; session id
    at = _behind(hello, at, 2)  # cipher suites
    at = _behind(hello, at, 1)  # compression methods
    end = _behind(hello, at, 2)
    if end > len(hello):
        return ""
    at += 2
    while at + 4 <= end:
        behind = _behind(hello, at + 2, 2)
        if behind > end:
            return ""
        if _number(hello, at, 2) == SERVER_NAME:
            return _host_name(hello[at + 4 : behind])
        at = behind
    return ""


def _host_name(extension: bytes) -> str:
    """The first name of the list, which is all that clients send."""
    end = _behind(extension, 0, 2)
    if end > len(extension) or end < 5 or extension[2] != HOST_NAME:
        return ""
    behind = _behind(extension, 3, 2)
    return _clean(extension[5:behind]) if behind <= end else ""


def _clean(name: bytes) -> str:
    """What may be a name at all: a key to look up and a text for logs, never a path."""
    if not name or len(name) > MAX_NAME:
        return ""
    label = 0  # octets of it so far
    for octet in name:
        if octet == 46:  # a dot, the last one too, ends a label
            if not label:
                return ""
            label = 0
        elif _is_of_name(octet):
            label += 1
        else:
            return ""
    return name.decode("ascii").lower().removesuffix(".")


def _is_of_name(octet: int) -> bool:
    """A letter, a digit, a hyphen or an underscore."""
    return (
        97 <= octet <= 122 or 48 <= octet <= 57 or 65 <= octet <= 90 or octet == 45 or octet == 95
    )


def _number(octets: bytes, at: int, width: int) -> int:
    """The number of so many octets that stands at `at`; they are there."""
    number = 0
    for offset in range(at, at + width):
        number = number << 8 | octets[offset]
    return number


def _behind(octets: bytes, at: int, width: int) -> int:
    """The offset behind a vector at `at`, whose length takes so many octets."""
    if at + width > len(octets):
        return len(octets) + 1
    return at + width + _number(octets, at, width)
