"""The command table: verb → handler, states in which it is allowed, flags.

Data only, used by `_smtp.protocol`; verbs are not compared anywhere else.
RFC 5321 §4.1.1, §4.1.4; RFC 2033 §4.
"""

from __future__ import annotations

from typing import Final

from fastsmtp import replies
from fastsmtp._counts.families import stage_number
from fastsmtp._parser import Verb
from fastsmtp._smtp.auth import handle_auth, handle_auth_line
from fastsmtp._smtp.data import handle_data
from fastsmtp._smtp.mail_rcpt import handle_mail, handle_rcpt
from fastsmtp._smtp.parameters import chunking_offered
from fastsmtp._smtp.server_tables import Row
from fastsmtp._smtp.simple_verbs import (
    handle_ehlo,
    handle_helo,
    handle_help,
    handle_noop,
    handle_quit,
    handle_rset,
)
from fastsmtp._smtp.starttls import handle_starttls
from fastsmtp._smtp.states import Flag
from fastsmtp._smtp.vrfy import handle_vrfy
from fastsmtp._smtp.xclient import handle_xclient, handle_xforward
from fastsmtp.options import Options
from fastsmtp.replies import Reply

__all__ = ["command_rows"]

_OK: Final[tuple[Reply | None, ...]] = (None,) * 6


def _always(reply: Reply) -> tuple[Reply | None, ...]:
    return (reply,) * 6


def _not_after(reply: Reply) -> tuple[Reply | None, ...]:
    """The command needs a greeting and no open transaction."""
    return (replies.HELO_FIRST, None, reply, reply, reply, reply)


_UNKNOWN_ROW: Final = Row(None, _always(replies.UNRECOGNIZED), Flag.UNKNOWN)
_NOT_IMPLEMENTED: Final = Row(None, _always(replies.NOT_IMPLEMENTED), Flag.NONE)
_NEED_RCPT: Final = (
    replies.HELO_FIRST,
    replies.NEED_MAIL,
    replies.NEED_RCPT,
    None,
)
_JUNK: Final = Flag.JUNK | Flag.COUNTS_UNAUTHENTICATED
_GREETING: Final = Flag.ENDS_GROUP | _JUNK
_LATER: Final = Flag.NEEDS_TLS | _JUNK
_MAIL: Final = Flag.NEEDS_TLS | Flag.NEEDS_AUTH | Flag.COUNTS_UNAUTHENTICATED
_STARTTLS_ROW: Final = Row(
    handle_starttls, _OK, Flag.ENDS_GROUP | Flag.STARTS_TLS | Flag.COUNTS_UNAUTHENTICATED
)

_TABLE: Final[dict[Verb, Row]] = {
    Verb.HELO: Row(handle_helo, _OK, Flag.NEEDS_TLS | _GREETING),
    Verb.EHLO: Row(handle_ehlo, _OK, _GREETING),
    Verb.LHLO: _UNKNOWN_ROW,
    Verb.MAIL: Row(handle_mail, _not_after(replies.NESTED_MAIL), _MAIL),
    Verb.RCPT: Row(
        handle_rcpt,
        (
            replies.HELO_FIRST,
            replies.NEED_MAIL,
            None,
            None,
            replies.NOT_AFTER_BDAT,
            replies.NOT_AFTER_BDAT,
        ),
        _MAIL,
    ),
    Verb.DATA: Row(
        handle_data,
        (*_NEED_RCPT, replies.NOT_AFTER_BDAT, replies.NOT_AFTER_BDAT),
        Flag.ENDS_GROUP | _MAIL,
    ),
    Verb.BDAT: Row(None, (*_NEED_RCPT, None, None), Flag.BDAT | _MAIL),
    Verb.RSET: Row(handle_rset, _OK, _LATER),
    Verb.NOOP: Row(handle_noop, _OK, _JUNK),
    Verb.VRFY: Row(handle_vrfy, _OK, _LATER),
    Verb.HELP: Row(handle_help, _OK, _LATER),
    Verb.QUIT: Row(handle_quit, _OK, Flag.NONE),
    Verb.AUTH: Row(
        handle_auth, _not_after(replies.IN_TRANSACTION), Flag.NEEDS_TLS | Flag.ENDS_GROUP
    ),
    Verb.AUTH_LINE: Row(handle_auth_line, _OK, Flag.ENDS_GROUP),
    Verb.STARTTLS: _NOT_IMPLEMENTED,  # if TLS is not configured
    # Trust is checked before the state, so the handler checks both.
    Verb.XCLIENT: Row(handle_xclient, _OK, Flag.NEEDS_TLS | Flag.COUNTS_UNAUTHENTICATED),
    Verb.XFORWARD: Row(handle_xforward, _OK, _LATER),
    Verb.EXPN: _NOT_IMPLEMENTED,
    Verb.SEND: _NOT_IMPLEMENTED,
    Verb.SOML: _NOT_IMPLEMENTED,
    Verb.SAML: _NOT_IMPLEMENTED,
    Verb.TURN: _NOT_IMPLEMENTED,
    Verb.ETRN: _NOT_IMPLEMENTED,
    Verb.PROXY: Row(None, _always(replies.NOT_SMTP), Flag.NONE),
    Verb.HTTP: Row(None, _always(replies.HTTP), Flag.NONE),
    Verb.UNKNOWN: _UNKNOWN_ROW,
}


# Under which stage the replies to a command are counted and logged.
_STAGES: Final[dict[Verb, str]] = {
    Verb.HELO: "helo",
    Verb.EHLO: "helo",
    Verb.LHLO: "helo",
    Verb.STARTTLS: "starttls",
    Verb.AUTH: "auth",
    Verb.AUTH_LINE: "auth",
    Verb.MAIL: "mail",
    Verb.RCPT: "rcpt",
    Verb.DATA: "data",
    Verb.BDAT: "bdat",
}


def _in_lmtp(row: Row) -> Row:
    """In LMTP the reply to a missing greeting names LHLO (RFC 2033 §4.1)."""
    refusals = tuple(
        replies.LHLO_FIRST if refusal is replies.HELO_FIRST else refusal for refusal in row.refusals
    )
    return row._replace(refusals=refusals)


def command_rows(options: Options, tls: bool = False) -> tuple[Row, ...]:
    """Return the table under `options`, indexed by verb. tls: there is a certificate."""
    table = dict(_TABLE)
    if tls:
        table[Verb.STARTTLS] = _STARTTLS_ROW
    if options.lmtp:
        table = {verb: _in_lmtp(row) for verb, row in table.items()}
        table[Verb.LHLO] = Row(handle_ehlo, _OK, _GREETING)
        for verb in (Verb.HELO, Verb.EHLO):
            refusal = replies.NOT_IN_LMTP.formatted(verb.name)
            table[verb] = Row(None, _always(refusal), Flag.NONE)
    if not chunking_offered(options):
        refusals = _always(replies.NOT_IMPLEMENTED)
        table[Verb.BDAT] = table[Verb.BDAT]._replace(refusals=refusals)
    for name in options.disabled_commands:
        table[Verb[name]] = _UNKNOWN_ROW
    if "BDAT" in options.disabled_commands:  # its octets would be read as commands
        table[Verb.BDAT] = _UNKNOWN_ROW._replace(flags=Flag.UNKNOWN | Flag.CLOSE)
    return tuple(
        table[verb]._replace(
            flags=table[verb].flags | Flag.LINE,
            stage=stage_number(_STAGES.get(verb, "other")),
        )
        for verb in sorted(table)
    )
