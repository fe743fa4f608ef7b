"""The headers that a final delivery puts on top of a message: Return-Path, Delivered-To, Received.

In: a record. Out: octets, each line ended by CRLF and never longer than 998 octets. RFC 5321 §4.4;
RFC 3848 and RFC 6531 §4.3 for the word after `with`; dates by RFC 5322 §3.3. The name of a user who
has logged in is left out: `with` says that somebody has.

What a client says of itself is hostile until shown harmless: a name of letters, digits, dots,
hyphens and underscores goes in as it is, all else stands in a comment, with every character that
could mean something replaced by "?". So parentheses are balanced and there is one header, whatever
reads it.

Of the message itself only the first octet is read, so no header of its sender's can mislead here.
"""

from __future__ import annotations

import re
from datetime import datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import Final

from fastsmtp.delivery.record import Recipient, Record

__all__ = ["trace_headers"]

MAX_NAME: Final = 255  # octets of a domain, RFC 5321 §4.5.3.1.2
MAX_STRANGE_NAME: Final = 64  # characters of one that is none
MAX_ADDRESS: Final = 512  # characters; a path has at most 256 octets (RFC 5321 §4.5.3.1.3)
CACHED: Final = 1024  # clients whose part of the header is kept: half a KiB each

_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?")
_LITERAL: Final = re.compile(r"\[[A-Za-z0-9.:]{1,64}\]")
_UNSAFE_IN_COMMENT: Final = re.compile(r"[^A-Za-z0-9._:\[\]-]")
# Controls, line separators, invisible and bidirectional marks, lone surrogates. None is printable.
_UNSAFE_IN_HEADER: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]"
)
_DOT_STRING: Final = re.compile(r"[^\x00-\x20\x7f-\x9f\"(),:;<>@\[\\\]]+")


def trace_headers(record: Record, first: bytes) -> bytes:
    """Return the headers for `record`, to stand before its body.

    first: the beginning of the body. There is a Delivered-To for each recipient, for there is one
    copy of the message for all of them; who may read it may know whom it was for.
    """
    client = record.client
    recipients = record.rcpt_to
    delivered = "".join([f"Delivered-To: {_header_text(each.address)}\r\n" for each in recipients])
    return (
        f"Return-Path: <{_header_text(record.mail_from)}>\r\n{delivered}"
        f"Received: from {_client(client.helo, client.name, client.address)}\r\n"
        f"\tby {_by(record.node)} with {client.protocol} id {record.id}{_security(client.tls)}"
        f"{_for(recipients)}; {_date(int(record.received))}\r\n{_separator(first)}"
        # Addresses of an SMTPUTF8 transaction go in as UTF-8 (RFC 6532 §3.2).
    ).encode("utf-8", "replace")


def _separator(first: bytes) -> str:
    """Return what must stand between our headers and the message.

    One that begins with a space would go on with our last header field, as if we had written it; it
    has no header of its own (RFC 5322 §2.2.3), so an empty line makes it what it is, a body.
    """
    return "\r\n" if first[:1] in (b" ", b"\t") else ""


@lru_cache(2)  # of this second and of the one before
def _date(second: int) -> str:
    # format_datetime has English names in a table of its own: no locale gets at them.
    return format_datetime(datetime.fromtimestamp(second).astimezone())


@lru_cache(8)
def _by(name: str) -> str:
    return _masked(name, MAX_NAME)


@lru_cache(64)
def _security(tls: str) -> str:
    """Return version and cipher suite of TLS by its standard name, for those who look into a header
    (RFC 8314 §4.3).
    """
    words = [_masked(word, MAX_STRANGE_NAME) for word in tls.split()]
    return f" ({' '.join(words)})" if words else ""


@lru_cache(CACHED)
def _client(greeted_as: str, host_name: str, address: str) -> str:
    """Return the From-domain of RFC 5321 §4.4, with what is known of the client in a comment."""
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
    """Return the literal of RFC 5321 §4.1.3, "" where there is no address (a UNIX socket)."""
    if not address:
        return ""
    masked = _masked(address, MAX_STRANGE_NAME)
    return f"[IPv6:{masked}]" if ":" in masked else f"[{masked}]"


def _is_name(text: str) -> bool:
    return len(text) <= MAX_NAME and bool(_NAME.fullmatch(text) or _LITERAL.fullmatch(text))


def _masked(text: str, limit: int) -> str:
    return _UNSAFE_IN_COMMENT.sub("?", text[:limit])


def _for(recipients: tuple[Recipient, ...]) -> str:
    """Return the `for` clause, "" for none.

    With several recipients it would tell each of the others (RFC 5321 §7.6). A quoted local part
    may hold ";" and parentheses, on which simple readers of this header stumble, and Postmaster
    without domain is no Path.
    """
    if len(recipients) != 1:
        return ""
    address = recipients[0].address
    local_part, _, domain = address.rpartition("@")
    if not domain or not _DOT_STRING.fullmatch(local_part):
        return ""
    return f"\r\n\tfor <{_header_text(address)}>"


def _header_text(text: str) -> str:
    """Return an address for a header; what the engine's grammar keeps out stays out here, too."""
    if len(text) <= MAX_ADDRESS and text.isprintable():
        return text
    return _UNSAFE_IN_HEADER.sub("?", text[:MAX_ADDRESS])
