"""The headers that a final delivery puts on top of a message: Return-Path, Delivered-To, Received.

In: the facts of a session. Out: octets, each line ended by LF (see `delivery.maildir` for why not
CRLF), never longer than 998 octets. RFC 5321 §4.4; RFC 3848 and RFC 6531 §4.3 for the word behind
`with`; dates by RFC 5322 §3.3. Who has logged in is not told: `with` says that somebody has.

What a client says of itself is hostile until shown harmless: a name of letters, digits, dots,
hyphens and underscores goes in as it is, all else stands in a comment, with every character that
could mean something replaced by "?". So parentheses are balanced and there is one header, whatever
reads it.

Nothing of the message itself is read here, so there is no header of its sender's to be misled by.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from email.utils import format_datetime
from typing import Final

from fastsmtp import Address
from fastsmtp.session import Session

__all__ = ["received", "trace_headers"]

MAX_NAME: Final = 255  # octets of a domain, RFC 5321 §4.5.3.1.2
MAX_STRANGE_NAME: Final = 64  # characters of one that is none
MAX_ADDRESS: Final = 512  # characters; a path has at most 256 octets (RFC 5321 §4.5.3.1.3)

_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?")
_LITERAL: Final = re.compile(r"\[[A-Za-z0-9.:]{1,64}\]")
_UNSAFE_IN_COMMENT: Final = re.compile(r"[^A-Za-z0-9._:\[\]-]")
# Controls, line separators, invisible and bidirectional marks, lone surrogates.
_UNSAFE_IN_HEADER: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]"
)
_DOT_STRING: Final = re.compile(r"[^\x00-\x20\x7f-\x9f\"(),:;<>@\[\\\]]+")


def trace_headers(session: Session, name: str, when: datetime) -> bytes:
    """Return the headers for the transaction of `session`, to stand before its message.

    name: our own host name. when: an aware time. There is a Delivered-To for each recipient, for
    there is one file per message in the one mailbox of all; who may read it may know whom it was
    for.
    """
    envelope = session.envelope
    sender = "" if envelope.mail_from is None else envelope.mail_from.address
    recipients = [recipient.address for recipient in envelope.rcpt_to]
    lines = [f"Return-Path: <{_header_text(sender)}>"]
    lines += [f"Delivered-To: {_header_text(recipient)}" for recipient in recipients]
    lines.append(
        received(
            client=_client(
                session.host_name_appears_as, session.client_hostname, session.remote_address
            ),
            by=_masked(name, MAX_NAME),
            protocol=session.transmission_type,
            identity=f"{session.id}-{session.transaction}",
            security=_security(session),
            recipient=_recipient_for_received(envelope.rcpt_to),
            when=when,
        )
    )
    # Addresses of an SMTPUTF8 transaction go in as UTF-8 (RFC 6532 §3.2).
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def received(
    *,
    client: str,
    by: str,
    protocol: str,
    identity: str,
    recipient: str,
    when: datetime,
    security: str = "",
) -> str:
    """Return one folded Received header without its last line end; `recipient` "": no `for`;
    security: a comment about TLS.
    """
    # format_datetime has English names in a table of its own: no locale gets at them.
    ending = f"; {format_datetime(when)}"
    clause = f"\n\tfor <{recipient}>" if recipient else ""
    comment = f" ({security})" if security else ""
    return (
        f"Received: from {client}\n\tby {by} with {protocol} id {identity}{comment}{clause}{ending}"
    )


def _security(session: Session) -> str:
    """Return version and cipher suite of TLS by its standard name, as RFC 8314 §4.3 wants them told
    to who looks into a header.
    """
    tls = session.tls_options
    if not session.secure or not tls:
        return ""
    return " ".join(_masked(tls[key], MAX_STRANGE_NAME) for key in ("version", "standard_name"))


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


def _recipient_for_received(recipients: Sequence[Address]) -> str:
    """Return the mailbox for the `for` clause, "" for none.

    With several recipients it would tell each of the others (RFC 5321 §7.6). A quoted local part
    may hold ";" and parentheses, on which simple readers of this header stumble, and Postmaster
    without domain is no Path.
    """
    if len(recipients) != 1:
        return ""
    recipient = recipients[0]
    if not recipient.domain or not _DOT_STRING.fullmatch(recipient.local_part):
        return ""
    return _header_text(recipient.address)


def _header_text(text: str) -> str:
    """Return an address for a header; what the engine's grammar keeps out stays out here, too."""
    return _UNSAFE_IN_HEADER.sub("?", text[:MAX_ADDRESS])
