"""The parameters of MAIL and RCPT: one entry per ESMTP keyword.

In: the octets after the path, and the facts that decide. Out: None, with envelope or address
filled, or the `Reply` that refuses the command; then nothing may be kept. RFC 5321 §4.1.1.11.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fastsmtp import replies
from fastsmtp._wire.grammar import Address, decode_xtext, parse_mailbox, split_parameters
from fastsmtp.options import Options
from fastsmtp.replies import Reply
from fastsmtp.session import DeliverBy, Envelope, ValidSince

__all__ = ["MailFacts", "Parameters", "mail_parameters", "rcpt_parameters"]


class MailFacts:
    """The input of the entries of one command, and where they store their results."""

    __slots__ = (
        "address", "authenticated", "envelope", "options", "secure", "smtp_utf8", "wall_time",
    )  # fmt: skip

    def __init__(
        self,
        *,
        options: Options,
        envelope: Envelope,
        address: Address,
        smtp_utf8: bool,
        secure: bool,
        authenticated: bool,
        wall_time: Callable[[], float],
    ) -> None:
        self.options = options
        self.envelope = envelope
        self.address = address
        self.smtp_utf8 = smtp_utf8
        self.secure = secure
        self.authenticated = authenticated
        self.wall_time = wall_time


# Returns the refusal, or the value of the parameter in `args`: its decoded text, True for a flag.
type_apply = Callable[[MailFacts, str | None], Reply | str | bool]

_MT_PRIORITIES: Final = frozenset(str(number) for number in range(-9, 10))  # RFC 6710 §4.1
# Patterns of rare parameters: compiled by `re` on first use, and not in every import.
_BY: Final = "([+-]?[0-9]{1,9});([NRnr])([Tt]?)"  # RFC 2852 §4
_DATE_TIME: Final = (  # RFC 3339 §5.6
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_RRVS: Final = rf"({_DATE_TIME})(?:;([CRcr]))?"  # RFC 7293 §3.1
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
MAX_PARAMETERS: Final = 64  # of one command
MAX_ENVID: Final = 100  # octets as sent, RFC 3461 §4.4
MAX_ORCPT: Final = 500  # octets as sent, RFC 3461 §4.2
MAX_AUTH: Final = 500  # octets as sent, RFC 4954 §5
_NOTIFY: Final = frozenset({"SUCCESS", "FAILURE", "DELAY"})


def _flag(keyword: str, value: str | None) -> Reply | bool:
    return True if value is None else replies.FLAG_WITH_VALUE.formatted(keyword)


def _is_number(value: str, digits: int) -> bool:
    return value.isascii() and value.isdigit() and len(value) <= digits


def _size(facts: MailFacts, value: str | None) -> Reply | str | bool:
    if value is None or not _is_number(value, 20):
        return replies.BAD_PARAMETER.formatted("SIZE")
    limit = facts.options.size
    if limit and int(value) > limit and not facts.options.hide_size:
        return replies.TOO_LARGE.formatted(limit)
    return value


def _body(facts: MailFacts, value: str | None) -> Reply | str | bool:
    with_binary = binarymime_offered(facts.options)
    kinds = ("7BIT", "8BITMIME", "BINARYMIME") if with_binary else ("7BIT", "8BITMIME")
    if value is None or value.upper() not in kinds:
        return replies.BAD_BODY_BINARYMIME if with_binary else replies.BAD_BODY
    facts.envelope.body_type = value.lower()
    return value


def _smtputf8(facts: MailFacts, value: str | None) -> Reply | str | bool:
    facts.envelope.smtp_utf8 = True
    return _flag("SMTPUTF8", value)


def _requiretls(facts: MailFacts, value: str | None) -> Reply | str | bool:
    if value is None and not facts.secure:
        return replies.REQUIRETLS_NOT_PERMITTED
    facts.envelope.require_tls = True
    return _flag("REQUIRETLS", value)


def _ret(facts: MailFacts, value: str | None) -> Reply | str | bool:
    if value is None or value.upper() not in ("FULL", "HDRS"):
        return replies.BAD_RET
    facts.envelope.dsn.ret = value.upper()
    return value


def _envid(facts: MailFacts, value: str | None) -> Reply | str | bool:
    decoded = _xtext(facts, value, MAX_ENVID)
    if decoded is None:
        return replies.BAD_PARAMETER.formatted("ENVID")
    facts.envelope.dsn.envid = decoded
    return decoded


def _auth(facts: MailFacts, value: str | None) -> Reply | str | bool:
    decoded = _xtext(facts, value, MAX_AUTH)
    if decoded is None or not parse_mailbox(decoded, facts.smtp_utf8):
        # Some clients send `<user@host>` or user names; RFC 4954 §5 allows to treat these as `<>`.
        decoded = "<>"
    # RFC 4954 §5: the identity from a client that has not authenticated must not be trusted.
    facts.envelope.auth = decoded if facts.authenticated and decoded != "<>" else ""
    return decoded


def _mt_priority(facts: MailFacts, value: str | None) -> Reply | str | bool:
    if value is None or value not in _MT_PRIORITIES:
        return replies.BAD_PARAMETER.formatted("MT-PRIORITY")
    facts.envelope.mt_priority = int(value)
    return value


def _by(facts: MailFacts, value: str | None) -> Reply | str | bool:
    match = re.fullmatch(_BY, value or "")
    if match is None or (match[2] in "Rr" and int(match[1]) <= 0):
        return replies.BAD_PARAMETER.formatted("BY")
    facts.envelope.deliver_by = DeliverBy(int(match[1]), match[2].upper(), bool(match[3]))
    return match[0]


def _holdfor(facts: MailFacts, value: str | None) -> Reply | str | bool:
    if value is None or not _is_number(value, 9) or int(value) > facts.options.future_release_max:
        return replies.BAD_PARAMETER.formatted("HOLDFOR")
    facts.envelope.hold_for = int(value)
    return value


def _holduntil(facts: MailFacts, value: str | None) -> Reply | str | bool:
    bad = replies.BAD_PARAMETER.formatted("HOLDUNTIL")
    if value is None or not re.fullmatch(_DATE_TIME, value):
        return bad
    try:
        until = datetime.fromisoformat(value.upper())
        now = datetime.fromtimestamp(facts.wall_time(), UTC)
        if not now < until <= now + timedelta(seconds=facts.options.future_release_max):
            return bad
    except (ValueError, OverflowError):  # the 31st of February, the year 0
        return bad
    facts.envelope.hold_until = until
    return value


def _notify(facts: MailFacts, value: str | None) -> Reply | str | bool:
    kinds = list(dict.fromkeys((value or "").upper().split(",")))
    if kinds != ["NEVER"] and not _NOTIFY.issuperset(kinds):
        if "NEVER" in kinds and _NOTIFY.issuperset(set(kinds) - {"NEVER"}):
            return replies.BAD_NOTIFY_NEVER
        return replies.BAD_NOTIFY
    facts.address.dsn.notify = kinds
    return value or ""


def _orcpt(facts: MailFacts, value: str | None) -> Reply | str | bool:
    kind, semicolon, text = (value or "").partition(";")
    decoded = _xtext(facts, text, MAX_ORCPT - len(kind) - 1)
    if not semicolon or not re.fullmatch(_ATOM, kind) or not decoded:
        return replies.BAD_PARAMETER.formatted("ORCPT")
    orcpt = f"{kind};{decoded}"
    facts.address.dsn.orcpt = orcpt
    return orcpt


def _rrvs(facts: MailFacts, value: str | None) -> Reply | str | bool:
    bad = replies.BAD_PARAMETER.formatted("RRVS")
    match = re.fullmatch(_RRVS, value or "")
    if match is None:
        return bad
    try:
        since = datetime.fromisoformat(match[1].upper())
    except ValueError:  # the 31st of February, the year 0
        return bad
    facts.address.valid_since = ValidSince(since, (match[2] or "").upper())
    return match[0]


def _xtext(facts: MailFacts, value: str | None, limit: int) -> str | None:
    """Decode xtext (RFC 3461 §4) of 1 to `limit` octets as sent."""
    if not value or len(value.encode()) > limit:
        return None
    return decode_xtext(value, facts.smtp_utf8)


def chunking_offered(options: Options) -> bool:
    """CHUNKING is on (RFC 3030)."""
    return not options.hide_chunking and "BDAT" not in options.disabled_commands


def binarymime_offered(options: Options) -> bool:
    """BINARYMIME is on, which needs CHUNKING and 8BITMIME (RFC 3030 §3)."""
    return not options.hide_binarymime and not options.hide_8bitmime and chunking_offered(options)


def smtputf8_offered(options: Options) -> bool:
    """SMTPUTF8 is on, which needs 8BITMIME (RFC 6531 §3.1)."""
    return not options.hide_smtputf8 and not options.hide_8bitmime


# keyword -> (its function, whether these options offer it)
_MAIL: Final[dict[str, tuple[type_apply, Callable[[Options], bool]]]] = {
    "SIZE": (_size, lambda options: True),
    "BODY": (_body, lambda options: not options.hide_8bitmime),
    "SMTPUTF8": (_smtputf8, smtputf8_offered),
    "REQUIRETLS": (_requiretls, lambda options: not options.hide_requiretls),
    "RET": (_ret, lambda options: not options.hide_dsn),
    "ENVID": (_envid, lambda options: not options.hide_dsn),
    "AUTH": (_auth, lambda options: "AUTH" not in options.disabled_commands),
    "MT-PRIORITY": (_mt_priority, lambda options: not options.hide_mt_priority),
    "BY": (_by, lambda options: not options.hide_deliverby),
    "HOLDFOR": (_holdfor, lambda options: not options.hide_futurerelease),
    "HOLDUNTIL": (_holduntil, lambda options: not options.hide_futurerelease),
}
_RCPT: Final[dict[str, tuple[type_apply, Callable[[Options], bool]]]] = {
    "NOTIFY": (_notify, lambda options: not options.hide_dsn),
    "ORCPT": (_orcpt, lambda options: not options.hide_dsn),
    "RRVS": (_rrvs, lambda options: not options.hide_rrvs),
}
_EXCLUSIVE: Final = {"HOLDFOR": "HOLDUNTIL", "HOLDUNTIL": "HOLDFOR"}  # RFC 4865 §4


class Parameters:
    """The parameters that one command takes under given options."""

    __slots__ = ("allow_unknown", "offered", "unknown")

    def __init__(
        self, offered: Mapping[str, type_apply], allow_unknown: bool, unknown: Reply
    ) -> None:
        self.offered = offered
        self.allow_unknown = allow_unknown
        self.unknown = unknown

    def apply(self, rest: bytes, facts: MailFacts, extended: bool) -> Reply | None:
        """Apply the parameters from left to right; return the reply to the first fault.

        extended: the client has sent EHLO or LHLO; after HELO there are no parameters (RFC 5321
        §2.2.1).
        """
        args: dict[str, Any] = {}
        parameters = split_parameters(rest, facts.smtp_utf8)
        if len(parameters) > MAX_PARAMETERS:
            return replies.BAD_PARAMETER_SYNTAX
        for keyword, value in parameters:
            if not keyword:
                return replies.BAD_PARAMETER_SYNTAX
            apply = self.offered.get(keyword) if extended else None
            if apply is None and not (
                extended and self.allow_unknown and keyword not in _MAIL and keyword not in _RCPT
            ):
                return self.unknown
            if keyword in args or _EXCLUSIVE.get(keyword) in args:
                return replies.DUPLICATE_PARAMETER
            found = (True if value is None else value) if apply is None else apply(facts, value)
            if type(found) is Reply:
                return found
            args[keyword] = found
        facts.address.args.update(args)
        return None


def _offered(
    table: Mapping[str, tuple[type_apply, Callable[[Options], bool]]], options: Options
) -> dict[str, type_apply]:
    return {keyword: apply for keyword, (apply, offered) in table.items() if offered(options)}


def mail_parameters(options: Options) -> Parameters:
    """Return the parameters of MAIL under `options`."""
    return Parameters(
        _offered(_MAIL, options), options.allow_unknown_params, replies.MAIL_PARAMETER_UNKNOWN
    )


def rcpt_parameters(options: Options) -> Parameters:
    """Return the parameters of RCPT under `options`."""
    return Parameters(
        _offered(_RCPT, options), options.allow_unknown_params, replies.RCPT_PARAMETER_UNKNOWN
    )
