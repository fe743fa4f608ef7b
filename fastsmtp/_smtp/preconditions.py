"""The slow path of dispatch: checks before a command, and faults of lines.

The order is that of the rules: unknown verbs, BDAT and its octets, synchronisation, counters,
authentication. `_smtp.protocol` comes here only for verbs whose flags are watched. RFC 5321 §4.2.4,
§7.8; RFC 2920 §3.1.
"""

from __future__ import annotations

from typing import Final

from fastsmtp import replies
from fastsmtp._parser import Command, Fault, FaultKind
from fastsmtp._smtp.auth import fail_auth, forget_auth
from fastsmtp._smtp.data import MailData
from fastsmtp._smtp.dialogue import Dialogue
from fastsmtp._smtp.states import Flag, State
from fastsmtp._smtp.warnings import warn
from fastsmtp.replies import Reply

# As C has them.
_JUNK: int = Flag.JUNK
_ENDS_GROUP: int = Flag.ENDS_GROUP
_UNKNOWN: int = Flag.UNKNOWN
_BDAT: int = Flag.BDAT
_NEEDS_AUTH: int = Flag.NEEDS_AUTH
_COUNTS_UNAUTHENTICATED: int = Flag.COUNTS_UNAUTHENTICATED
_NEEDS_TLS: int = Flag.NEEDS_TLS
_STARTS_TLS: int = Flag.STARTS_TLS
_CONNECTED: int = int(State.CONNECTED)
_NOT_IMPLEMENTED: Reply = replies.NOT_IMPLEMENTED

_INJECTED: Final = "octets after STARTTLS, which would have been treated as encrypted"

__all__ = ["answer_fault", "check_preconditions"]

_FAULTS: Final[dict[int, tuple[Reply, bool]]] = {  # kind -> reply, whether it closes
    FaultKind.LINE_TOO_LONG: (replies.LINE_TOO_LONG, False),
    FaultKind.LINE_ENDLESS: (replies.LINE_ENDLESS, True),
    FaultKind.BARE_LF: (replies.BARE_LF, True),
    FaultKind.CONTROL_CHARACTER: (replies.INVALID_CHARACTER, False),
    FaultKind.FOREIGN_PROTOCOL: (replies.NOT_SMTP, True),
    FaultKind.TOO_MUCH_DATA: (replies.TOO_MUCH_DATA, True),
    FaultKind.AUTH_LINE_TOO_LONG: (replies.AUTH_LINE_TOO_LONG, False),
}


def check_preconditions(
    dialogue: Dialogue, command: Command, refusals: tuple[Reply | None, ...], flags: int
) -> bool:
    """Make the checks of the slow path; True: the command was answered and is not executed."""
    if dialogue.trace is not None:
        dialogue.trace.command(dialogue, command)
    first_line, dialogue.first_line = dialogue.first_line, False
    if first_line:
        dialogue.watch_lines()
    if flags & _UNKNOWN:
        _answer_unknown(dialogue, command, flags, first_line)
        return True
    if flags & _BDAT:
        mail_data: MailData = dialogue.mail_data  # type: ignore[assignment]  # it is one
        mail_data.begin_chunk(command.argument, _bdat_refusal(dialogue, refusals))
        return True
    if (
        flags & _ENDS_GROUP
        and dialogue.parser.buffered
        and (flags & _STARTS_TLS or _has_to_wait(dialogue))
    ):
        if flags & _STARTS_TLS:
            warn(dialogue, ("STARTTLS", dialogue.client()), _INJECTED)
        dialogue.reply_and_close(replies.SYNCHRONIZATION)
        return True
    if flags & _COUNTS_UNAUTHENTICATED and _strike_unauthenticated(dialogue):
        dialogue.reply(replies.TOO_MANY_UNAUTHENTICATED)
        return True
    if flags & _JUNK and dialogue.counters.strike_junk():
        dialogue.reply(replies.TOO_MANY_JUNK)
        return True
    if flags & _NEEDS_TLS and _must_upgrade(dialogue):
        dialogue.reply(replies.UPGRADE_REQUIRED)
        return True
    if flags & _NEEDS_AUTH and _must_authenticate(dialogue):
        dialogue.reply(dialogue.tables.auth_required_reply)
        return True
    return False


def _has_to_wait(dialogue: Dialogue) -> bool:
    """Whether input between such a command and its reply ends the connection."""
    return dialogue.policy.strict_pipelining and not dialogue.trusts(
        dialogue.options.pipelining_exclusions
    )


def _answer_unknown(dialogue: Dialogue, command: Command, flags: int, first_line: bool) -> None:
    word = command.word
    if first_line and (word.endswith(b":") or word.startswith(b"SSH-")):
        dialogue.reply(replies.NOT_SMTP)
    elif dialogue.counters.strike_unrecognized():
        dialogue.reply(replies.TOO_MANY_UNRECOGNIZED)
    elif flags & Flag.CLOSE:
        dialogue.reply_and_close(replies.UNRECOGNIZED)
    else:
        dialogue.reply(replies.UNRECOGNIZED)


def _bdat_refusal(dialogue: Dialogue, refusals: tuple[Reply | None, ...]) -> Reply | None:
    """The reply that refuses a chunk, sent after its octets; None to accept it."""
    refusal = refusals[dialogue.state]
    if refusal is _NOT_IMPLEMENTED:
        return refusal
    if dialogue.state != _CONNECTED and not dialogue.extended:
        return _NOT_IMPLEMENTED
    if _strike_unauthenticated(dialogue):
        return replies.TOO_MANY_UNAUTHENTICATED
    if _must_upgrade(dialogue):
        return replies.UPGRADE_REQUIRED
    if _must_authenticate(dialogue):
        return dialogue.tables.auth_required_reply
    return refusal


def _must_upgrade(dialogue: Dialogue) -> bool:
    return dialogue.policy.needs_upgrade and not dialogue.secure


def _must_authenticate(dialogue: Dialogue) -> bool:
    return (
        dialogue.policy.auth_required
        and not dialogue.authenticated
        and dialogue.state != _CONNECTED
    )


def _strike_unauthenticated(dialogue: Dialogue) -> bool:
    return (
        dialogue.policy.auth_required
        and not dialogue.authenticated
        and dialogue.counters.strike_unauthenticated()
    )


def answer_fault(dialogue: Dialogue, fault: Fault) -> None:
    """Answer a malformed line or body."""
    dialogue.first_line = False
    if dialogue.trace is not None:
        dialogue.trace.fault(dialogue, fault.kind)
    reply, closes = _FAULTS[fault.kind]
    if fault.kind == FaultKind.TOO_MUCH_DATA:
        dialogue.mail_data.abort("too_much_data")
    if closes:
        dialogue.reply_and_close(reply)
    elif fault.kind == FaultKind.AUTH_LINE_TOO_LONG:
        fail_auth(dialogue, reply)
    else:
        forget_auth(dialogue)  # a malformed line ends the exchange
        dialogue.reply(reply)
