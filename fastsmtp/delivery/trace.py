"""The headers that a final delivery puts on top of a message: Return-Path, Delivered-To, Received.

In: a record. Out: octets, each line ended by CRLF and never longer than 998 octets. RFC 5321 §4.4;
RFC 3848 and RFC 6531 §4.3 for the word after `with`; dates by RFC 5322 §3.3. The name of the user
is left out: `with` shows that there was a login.

Data from a client is treated as hostile: a name of letters, digits, dots, hyphens and underscores
is copied, all else goes into a comment, with every special character replaced by "?". So
parentheses are balanced and there is one header for every parser.

Of the message itself only the first octet is read, so its own headers have no influence here.
"""

from __future__ import annotations

import re
from datetime import datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import Final

from fastsmtp.delivery.record import Client, Recipient, Record

__all__ = ["trace_headers"]

MAX_NAME: Final = 255  # octets of a domain, RFC 5321 §4.5.3.1.2
MAX_STRANGE_NAME: Final = 64  # characters of a name that is not a domain
MAX_ADDRESS: Final = 512  # characters; a path has at most 256 octets (RFC 5321 §4.5.3.1.3)
CACHED: Final = 1024  # clients whose part of the header is cached: half a KiB each

_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?")
_LITERAL: Final = re.compile(r"\[[A-Za-z0-9.:]{1,64}\]")
_UNSAFE_IN_COMMENT: Final = re.compile(r"[^A-Za-z0-9._:\[\]-]")
# Controls, line separators, invisible and bidirectional marks, lone surrogates. None is printable.
_UNSAFE_IN_HEADER: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]"
)
_DOT_STRING: Final = re.compile(r"[^\x00-\x20\x7f-\x9f\"(),:;<>@\[\\\]]+")


def trace_headers(record: Record, first: bytes) -> bytes:
    """Return the headers for `record`, to be put before its body.

    first: the beginning of the body. There is a Delivered-To for each recipient, because all of
    them share one copy of the message; its readers may know all recipients.
    """
    client = record.client
    recipients = record.rcpt_to
    delivered = "".join([f"Delivered-To: {_header_text(each.address)}\r\n" for each in recipients])
    return (
        f"Return-Path: <{_header_text(record.mail_from)}>\r\n{delivered}"
        f"{_origin(client, record.node)}{record.id}{_security(client.tls)}"
        f"{_for(recipients)}; {_date(int(record.received))}\r\n{_separator(first)}"
        # Addresses of an SMTPUTF8 transaction are UTF-8 (RFC 6532 §3.2).
    ).encode("utf-8", "replace")


def _separator(first: bytes) -> str:
    """Return the separator between our headers and the message.

    A message that begins with a space would continue our last header field, as if we had written
    it; it has no header of its own (RFC 5322 §2.2.3), so after an empty line it is all body.
    """
    return "\r\n" if first[:1] in (b" ", b"\t") else ""


@lru_cache(2)  # of this second and of the one before
def _date(second: int) -> str:
    # format_datetime always uses English names, whatever the locale.
    return format_datetime(datetime.fromtimestamp(second).astimezone())


@lru_cache(64)
def _security(tls: str) -> str:
    """Return version and cipher suite of TLS by its standard name, for people who read the header
    (RFC 8314 §4.3).
    """
    words = [_masked(word, MAX_STRANGE_NAME) for word in tls.split()]
    return f" ({' '.join(words)})" if words else ""


@lru_cache(CACHED)
def _origin(client: Client, node: str) -> str:
    """Return the beginning of Received, up to the id."""
    return (
        f"Received: from {_client(client.helo, client.name, client.address)}\r\n"
        f"\tby {_masked(node, MAX_NAME)} with {client.protocol} id "
    )


def _client(greeted_as: str, host_name: str, address: str) -> str:
    """Return the From-domain of RFC 5321 §4.4, with the known facts of the client in a comment."""
    literal = _literal(address)
    known = [_masked(host_name, MAX_NAME)] if host_name and not host_name.startswith("[") else []
    if literal:
        known.append(literal)
    if _is_name(greeted_as):
        name = greeted_as
    else:
        name = literal or "unknown"
        if greeted_as:
            known.insert(0, f"helo={_masked(greeted_as, MAX_STRANGE_NAME)}")
    return f"{name} ({' '.join(known)})" if known else name


def _literal(address: str) -> str:
    """Return the literal of RFC 5321 §4.1.3, "" without an address (a UNIX socket)."""
    if not address:
        return ""
    masked = _masked(address, MAX_STRANGE_NAME)
    return f"[IPv6:{masked}]" if ":" in masked else f"[{masked}]"


def _is_name(text: str) -> bool:
    return len(text) <= MAX_NAME and bool(_NAME.fullmatch(text) or _LITERAL.fullmatch(text))


def _masked(text: str, limit: int) -> str:
    return _UNSAFE_IN_COMMENT.sub("?", text[:limit])


def _for(recipients: tuple[Recipient, ...]) -> str:
    """Return the `for` clause, "" to leave it out.

    With several recipients it would show each of them the others (RFC 5321 §7.6). A quoted local
    part may contain ";" and parentheses, which confuse simple parsers, and Postmaster without a
    domain is not a Path.
    """
    if len(recipients) != 1:
        return ""
    address = recipients[0].address
    local_part, _, domain = address.rpartition("@")
    if not domain or not (local_part.isalnum() or _DOT_STRING.fullmatch(local_part)):
        return ""
    return f"\r\n\tfor <{_header_text(address)}>"


def _header_text(text: str) -> str:
    """Return an address for a header, without characters that the engine's grammar refuses."""
    if len(text) <= MAX_ADDRESS and text.isprintable():
        return text
    return _UNSAFE_IN_HEADER.sub("?", text[:MAX_ADDRESS])
