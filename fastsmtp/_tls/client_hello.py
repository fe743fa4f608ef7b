"""Reads the server name from a ClientHello, before OpenSSL gets it.

In: the first octets of a TLS connection, as they arrive. Out: the name that the client asks for and
the end of the ClientHello, or that more octets are needed. So the context is chosen by name before
the handshake begins, and each name has a complete policy of its own: `SSLContext.sni_callback`
changes only the certificate, and is called after a ticket of another name may have been accepted.

It checks the length and the records, because OpenSSL reserves memory for the length that a
ClientHello claims (up to 128 KiB) and accepts empty records before it. All else is left to OpenSSL,
which gets the same octets. RFC 8446 §4.1.2, §5.1, RFC 6066 §3.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BAD", "HANDSHAKE", "MAX_HELLO_RECORDS", "MORE", "NO_TLS", "read_hello", "server_name"]

HANDSHAKE: Final = 22  # record type, RFC 8446 §5.1
CLIENT_HELLO: Final = 1
SERVER_NAME: Final = 0  # extension type
HOST_NAME: Final = 0
# Octets of a ClientHello. The largest real ones have 2 KiB; BoringSSL has the same limit.
MAX_HELLO: Final = 16 * 1024
MAX_HELLO_RECORDS: Final = 18 * 1024  # octets of it with record headers; records may be small

MORE: Final = "more"  # like NO_TLS and BAD not a result for a name
NO_TLS: Final = "not TLS"
BAD: Final = "not a ClientHello"

MAX_NAME: Final = 255


def server_name(octets: bytes) -> str:
    """Return the name that the client asks for in lower case, "" without one.

    MORE: the ClientHello is not complete yet. NO_TLS: the client does not speak TLS. BAD: it is too
    long, or its records are malformed.
    """
    return read_hello(octets)[0]


def read_hello(octets: bytes) -> tuple[str, int]:
    """Return the result of `server_name`, and how many octets of `octets` are the ClientHello.

    With MORE, the number is the least that is needed before the next call: with many small records,
    a call for each new octet would be quadratic.
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
    """The body of the first handshake message, which may be in several records, and the least
    number of octets at which it is complete; None for malformed records.

    A message that is not a ClientHello has no body here: OpenSSL refuses it at once.
    """
    message = bytearray()
    at, end, have = 0, len(octets), 0
    whole = 4  # until the header gives the length
    claimed = 0  # octets of the records so far, by their headers
    while have < whole:
        if at + 5 > end:
            return b"", end + whole - have
        size = _number(octets, at + 3, 2)  # after the version, which is meaningless here
        if octets[at] != HANDSHAKE or not size:  # no fragment is empty, RFC 8446 §5.1
            return None, 0
        # The message may be complete before its last record is.
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
        # A client must not send anything else before our answer.
        if have >= 4 and claimed > whole:
            return None, 0
    return bytes(message[4:whole]), at


def _name_in(hello: bytes) -> str:
    """The server name in a ClientHello. If a field is cut off, its offset is beyond the end, and
    nothing is read there.
    """
    at = _after(hello, 34, 1)  # version, random; session id
    at = _after(hello, at, 2)  # cipher suites
    at = _after(hello, at, 1)  # compression methods
    end = _after(hello, at, 2)
    if end > len(hello):
        return ""
    at += 2
    while at + 4 <= end:
        after = _after(hello, at + 2, 2)
        if after > end:
            return ""
        if _number(hello, at, 2) == SERVER_NAME:
            return _host_name(hello[at + 4 : after])
        at = after
    return ""


def _host_name(extension: bytes) -> str:
    """The first name of the list, which is all that clients send."""
    end = _after(extension, 0, 2)
    if end > len(extension) or end < 5 or extension[2] != HOST_NAME:
        return ""
    after = _after(extension, 3, 2)
    return _clean(extension[5:after]) if after <= end else ""


def _clean(name: bytes) -> str:
    """Return `name` in lower case, "" if malformed: a lookup key and a text for logs, no path."""
    if not name or len(name) > MAX_NAME:
        return ""
    label = 0  # octets of the current label
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
    """The number of `width` octets at `at`, which must exist."""
    number = 0
    for offset in range(at, at + width):
        number = number << 8 | octets[offset]
    return number


def _after(octets: bytes, at: int, width: int) -> int:
    """The offset after a vector at `at` that begins with a length of `width` octets."""
    if at + width > len(octets):
        return len(octets) + 1
    return at + width + _number(octets, at, width)
