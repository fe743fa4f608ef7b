"""Dispatch off the short way: what is looked at before a command, and the faults of lines.

The order is that of the rules: unknown verbs, BDAT and its octets, synchronisation, counters,
authentication. `_smtp.protocol` comes here for those verbs only whose flags are watched. RFC 5321
§4.2.4, §7.8; RFC 2920 §3.1.
"""

from __future__ import annotations

from typing import Final

from fastsmtp import replies
from fastsmtp._log import logger
from fastsmtp._parser import Command, Fault, FaultKind
from fastsmtp._smtp.auth import fail_auth, forget_auth
from fastsmtp._smtp.data import Content
from fastsmtp._smtp.dialogue import Exchange
from fastsmtp._smtp.states import Flag, State
from fastsmtp.replies import Reply

# As C has them.
_JUNK: int = Flag.JUNK
_SYNC: int = Flag.SYNC
_UNKNOWN: int = Flag.UNKNOWN
_BDAT: int = Flag.BDAT
_AUTHENTICATED: int = Flag.AUTHENTICATED
_COUNTED: int = Flag.COUNTED
_UPGRADE: int = Flag.UPGRADE
_SWITCH: int = Flag.SWITCH
_CONNECTED: int = int(State.CONNECTED)
_NOT_IMPLEMENTED: Reply = replies.NOT_IMPLEMENTED

__all__ = ["answer_fault", "is_answered"]

_FAULTS: Final[dict[int, tuple[Reply, bool]]] = {  # kind -> reply, does it close
    FaultKind.LINE_TOO_LONG: (replies.LINE_TOO_LONG, False),
    FaultKind.LINE_ENDLESS: (replies.LINE_ENDLESS, True),
    FaultKind.BARE_LF: (replies.BARE_LF, True),
    FaultKind.CONTROL_CHARACTER: (replies.INVALID_CHARACTER, False),
    FaultKind.FOREIGN_PROTOCOL: (replies.NOT_SMTP, True),
    FaultKind.TOO_MUCH_DATA: (replies.TOO_MUCH_DATA, True),
    FaultKind.AUTH_LINE_TOO_LONG: (replies.AUTH_LINE_TOO_LONG, False),
}


def is_answered(
    dialogue: Exchange, command: Command, refusals: tuple[Reply | None, ...], flags: int
) -> bool:
    """Look at what the short way leaves out; True: the command is answered and not executed."""
    first_line, dialogue.first_line = dialogue.first_line, False
    if first_line:
        dialogue.watch_lines()
    if flags & _UNKNOWN:
        _answer_unknown(dialogue, command, flags, first_line)
        return True
    if flags & _BDAT:
        content: Content = dialogue.content  # type: ignore[assignment]  # it is one
        content.begin_chunk(command.argument, _bdat_refusal(dialogue, refusals))
        return True
    if (
        flags & _SYNC
        and dialogue.parser.buffered
        and (flags & _SWITCH or dialogue.rules.strict_pipelining)
    ):
        if flags & _SWITCH:
            logger.warning(
                "%s: octets behind STARTTLS from %s, which would have been taken for encrypted",
                dialogue.session.id,
                dialogue.client(),
            )
        dialogue.reply_and_close(replies.SYNCHRONIZATION)
        return True
    if flags & _COUNTED and _strike_unauthenticated(dialogue):
        dialogue.reply(replies.TOO_MANY_UNAUTHENTICATED)
        return True
    if flags & _JUNK and dialogue.counters.strike_junk():
        dialogue.reply(replies.TOO_MANY_JUNK)
        return True
    if flags & _UPGRADE and _must_upgrade(dialogue):
        dialogue.reply(replies.UPGRADE_REQUIRED)
        return True
    if flags & _AUTHENTICATED and _must_authenticate(dialogue):
        dialogue.reply(dialogue.service.auth_required_reply)
        return True
    return False


def _answer_unknown(dialogue: Exchange, command: Command, flags: int, first_line: bool) -> None:
    word = command.word
    if first_line and (word.endswith(b":") or word.startswith(b"SSH-")):
        dialogue.reply(replies.NOT_SMTP)
    elif dialogue.counters.strike_unrecognized():
        dialogue.reply(replies.TOO_MANY_UNRECOGNIZED)
    elif flags & Flag.CLOSE:
        dialogue.reply_and_close(replies.UNRECOGNIZED)
    else:
        dialogue.reply(replies.UNRECOGNIZED)


def _bdat_refusal(dialogue: Exchange, refusals: tuple[Reply | None, ...]) -> Reply | None:
    """Why a chunk is refused; the reply comes behind its octets."""
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
        return dialogue.service.auth_required_reply
    return refusal


def _must_upgrade(dialogue: Exchange) -> bool:
    return dialogue.rules.needs_upgrade and not dialogue.secure


def _must_authenticate(dialogue: Exchange) -> bool:
    return (
        dialogue.rules.auth_required and not dialogue.authenticated and dialogue.state != _CONNECTED
    )


def _strike_unauthenticated(dialogue: Exchange) -> bool:
    return (
        dialogue.rules.auth_required
        and not dialogue.authenticated
        and dialogue.counters.strike_unauthenticated()
    )


def answer_fault(dialogue: Exchange, fault: Fault) -> None:
    """A line or body that is not what it should be."""
    dialogue.first_line = False
    reply, closes = _FAULTS[fault.kind]
    if fault.kind == FaultKind.TOO_MUCH_DATA:
        dialogue.content.abort("too_much_data")
    if closes:
        dialogue.reply_and_close(reply)
    elif fault.kind == FaultKind.AUTH_LINE_TOO_LONG:
        fail_auth(dialogue, reply)
    else:
        forget_auth(dialogue)  # an exchange ends by a line that is none
        dialogue.reply(reply)
