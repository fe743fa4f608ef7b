"""MAIL and RCPT for the next hop, by what it offers.

In: facts of an envelope. Out: command lines. Raised: `Refused` for what the next hop cannot carry:
a parameter that would change what becomes of the message is never dropped.

Without DSN at the next hop (RFC 3461 §5.2.2), NOTIFY=SUCCESS is refused, because nobody would send
the report. RET, ENVID, ORCPT, and NOTIFY of FAILURE, DELAY or NEVER are left out: the next hop
reports failures in its own way, and NEVER must not lose the message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from fastsmtp import Address
from fastsmtp.delivery.errors import Refused
from fastsmtp.delivery.record import Recipient, Record
from fastsmtp.errors import SMTPError
from fastsmtp.session import Session

__all__ = [
    "Offers",
    "Sender",
    "mail_command",
    "rcpt_command",
    "recipient_of",
    "sender_of",
    "sender_of_session",
]

_UNSAFE: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
# The end of a path, except in a quoted string (RFC 5321 §4.1.2).
_BREAKS: Final = re.compile("[<> ]")
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_XTEXT: Final = re.compile(r"[^!-*,-<>-~]")
# Parameters of MAIL beyond those of a `Record`: the keyword of EHLO that each needs.
_OTHERS: Final = {
    "REQUIRETLS": "REQUIRETLS",
    "MT-PRIORITY": "MT-PRIORITY",
    "BY": "DELIVERBY",
    "HOLDFOR": "FUTURERELEASE",
    "HOLDUNTIL": "FUTURERELEASE",
}
# They concern this server alone, or are part of `Sender`.
_KNOWN: Final = frozenset({"SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "AUTH"})
_OF_RECIPIENT: Final = frozenset({"NOTIFY", "ORCPT"})

Others: TypeAlias = tuple[tuple[str, str | bool], ...]


class Offers:
    """What the next hop offers: the keywords in the lines of its reply to EHLO, with their
    arguments.

    size: the largest message in octets, 0 if it states none (RFC 1870 §4).
    """

    __slots__ = ("has_8bit", "has_dsn", "has_pipelining", "has_utf8", "keywords", "size")

    def __init__(self, lines: Sequence[bytes] = ()) -> None:
        words = (line[4:].decode("ascii", "replace").upper().split() for line in lines[1:])
        self.keywords: Mapping[str, list[str]] = {word[0]: word[1:] for word in words if word}
        self.has_8bit = "8BITMIME" in self.keywords
        self.has_dsn = "DSN" in self.keywords
        self.has_utf8 = "SMTPUTF8" in self.keywords
        self.has_pipelining = "PIPELINING" in self.keywords
        size = "".join(self.keywords.get("SIZE", ())[:1])
        self.size = int(size) if size.isascii() and size.isdigit() and len(size) <= 20 else 0


class Sender(NamedTuple):
    """The facts of MAIL. size: octets, 0 if unknown. others: further parameters as the client gave
    them.
    """

    address: str
    size: int = 0
    smtp_utf8: bool = False
    body_type: str = "7bit"
    ret: str | None = None
    envid: str | None = None
    others: Others = ()


def sender_of(record: Record, size: int) -> Sender:
    """Return the facts of a record. size: octets of its message, 0 if unknown."""
    return Sender(
        *(record.mail_from, size, record.smtp_utf8, record.body_type, record.ret, record.envid)
    )


def sender_of_session(address: str, args: Mapping[str, str | bool], session: Session) -> Sender:
    """Return the facts of the MAIL command that a client has just sent."""
    if not args:
        return Sender(address)
    envelope = session.envelope
    size = args.get("SIZE")
    return Sender(
        address,
        int(size) if isinstance(size, str) else 0,
        envelope.smtp_utf8,
        envelope.body_type,
        envelope.dsn.ret,
        envelope.dsn.envid,
        tuple((keyword, value) for keyword, value in args.items() if keyword not in _KNOWN),
    )


def recipient_of(address: Address) -> Recipient:
    """Return the facts of the RCPT command that a client has just sent; raises Refused for a
    parameter that is not carried over.
    """
    if not address.args:
        return Recipient(address.address)
    for keyword in address.args:
        if keyword not in _OF_RECIPIENT:
            raise _refused(f"The next hop is not sent {keyword}", 555, "5.5.4")
    return Recipient(address.address, tuple(address.dsn.notify), address.dsn.orcpt)


def mail_command(offers: Offers, sender: Sender) -> bytes:
    """Return MAIL with its parameters; raises Refused."""
    parts = [f"MAIL FROM:<{_path(offers, sender.address, sender.smtp_utf8)}>"]
    if "SIZE" in offers.keywords and sender.size:
        if 0 < offers.size < sender.size:
            raise _refused(f"The next hop takes at most {offers.size} octets", 552, "5.3.4")
        parts.append(f"SIZE={sender.size}")
    if sender.body_type == "binarymime":
        raise _refused("The next hop is not sent binary messages", 554, "5.6.3")
    if sender.body_type == "8bitmime":
        if not offers.has_8bit:
            raise _refused("The next hop does not take 8-bit messages", 554, "5.6.3")
        parts.append("BODY=8BITMIME")
    if sender.smtp_utf8:
        if not offers.has_utf8:
            raise _refused("The next hop does not take SMTPUTF8 messages", 550, "5.6.7")
        parts.append("SMTPUTF8")
    if offers.has_dsn:
        parts += [f"RET={sender.ret}"] if sender.ret else []
        parts += [f"ENVID={_xtext(sender.envid, sender.smtp_utf8)}"] if sender.envid else []
    return _line([*parts, *_offered(offers, sender.others)])


def rcpt_command(offers: Offers, recipient: Recipient, smtp_utf8: bool) -> bytes:
    """Return RCPT with its parameters; raises Refused."""
    parts = [f"RCPT TO:<{_path(offers, recipient.address, smtp_utf8)}>"]
    if offers.has_dsn:
        parts += [f"NOTIFY={','.join(recipient.notify)}"] if recipient.notify else []
        if recipient.orcpt:
            kind, _, text = recipient.orcpt.partition(";")
            parts.append(f"ORCPT={kind};{_xtext(text, smtp_utf8)}")
    elif "SUCCESS" in recipient.notify:
        raise _refused("The next hop does not report successful delivery", 555, "5.5.4")
    return _line(parts)


def _offered(offers: Offers, others: Others) -> list[str]:
    for keyword, _ in others:
        if _OTHERS.get(keyword, keyword) not in offers.keywords:
            code = (550, "5.7.30") if keyword == "REQUIRETLS" else (555, "5.5.4")  # RFC 8689 §5
            raise _refused(f"The next hop does not offer {keyword}", *code)
    return [keyword if value is True else f"{keyword}={value}" for keyword, value in others]


def _path(offers: Offers, address: str, smtp_utf8: bool) -> str:
    if _UNSAFE.search(address) or _BREAKS.search(_QUOTED.sub("", address)):
        raise _refused("Bad address syntax", 553, "5.1.3")
    if not address.isascii() and not (smtp_utf8 and offers.has_utf8):
        raise _refused("The next hop does not take this address without SMTPUTF8", 553, "5.6.7")
    return address


def _line(parts: list[str]) -> bytes:
    line = " ".join(parts)
    if _UNSAFE.search(line):
        raise _refused("Bad parameter syntax", 501, "5.5.4")
    return f"{line}\r\n".encode()


def _xtext(text: str, smtp_utf8: bool) -> str:
    """Encode xtext (RFC 3461 §4); with SMTPUTF8 other characters stay (RFC 6533 §3)."""

    def hexadecimal(found: re.Match[str]) -> str:
        character = found[0]
        if smtp_utf8 and not character.isascii():
            return character
        return "".join(f"+{octet:02X}" for octet in character.encode("utf-8", "replace"))

    return _XTEXT.sub(hexadecimal, text)


def _refused(text: str, code: int, enhanced_code: str) -> Refused:
    return Refused(SMTPError(text, code, enhanced_code))
