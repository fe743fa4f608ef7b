"""VRFY: who is this user? Without the hook `on_vrfy` nobody is told. RFC 5321 §3.5, §4.1.1.6."""

from __future__ import annotations

import re
from typing import Final

from fastsmtp import replies
from fastsmtp._hooks.callback import Answer
from fastsmtp._smtp.dialogue import Dialogue
from fastsmtp._smtp.hook_replies import Stage, acceptance, rejection, reply_or_failure
from fastsmtp._smtp.parameters import smtputf8_offered
from fastsmtp.replies import Reply

__all__ = ["handle_vrfy"]

_MAILBOX: Final = r"<[^<>\s]+>"  # a 250 has to show one, RFC 5321 §3.5.1


def handle_vrfy(dialogue: Dialogue, argument: bytes) -> None:
    """VRFY, which does not reveal by itself whether a user exists: RFC 5321 §3.5.3, §7.3."""
    hook = dialogue.hooks.on_vrfy
    if not argument:
        dialogue.reply(replies.VRFY_SYNTAX)
    elif hook is None:
        dialogue.reply(replies.VRFY)
    else:
        query, utf8 = _query(dialogue, argument)
        if isinstance(query, Reply):
            dialogue.reply(query)
            return
        dialogue.ask("on_vrfy", hook, query, lambda owner, answer: _answered(owner, answer, utf8))


def _query(dialogue: Dialogue, argument: bytes) -> tuple[str | Reply, bool]:
    """Return what is asked for, or the refusal; and whether the reply may be UTF-8 (RFC 6531
    §3.7.4.2).
    """
    query, space, last = argument.rpartition(b" ")
    utf8 = bool(space) and last.upper() == b"SMTPUTF8" and smtputf8_offered(dialogue.options)
    asked = (query if utf8 else argument).strip()
    try:
        return (asked.decode() if utf8 else asked.decode("ascii")), utf8
    except UnicodeDecodeError:
        return (replies.VRFY_SYNTAX if utf8 else replies.NEEDS_SMTPUTF8), utf8


def _answered(dialogue: Dialogue, answer: Answer, utf8: bool) -> None:
    enhanced = dialogue.policy.enhanced
    found: Reply | Exception
    if answer.failed:
        found = replies.LOCAL_ERROR
    elif answer.error is not None:
        default = replies.VRFY_REJECTED
        found = rejection(answer, answer.error, Stage.RCPT, default, enhanced=enhanced, utf8=utf8)
    elif answer.result is None:
        found = replies.VRFY
    else:
        default = replies.VRFY_FOUND
        found = acceptance(answer, answer.result, default, enhanced=enhanced, utf8=utf8)
        if isinstance(found, Reply) and re.search(_MAILBOX, found.text) is None:
            found = ValueError(
                "on_vrfy answered with a text without a mailbox in angle brackets, such as"
                " 'Anne <anne@example.org>'; None tells nothing, SMTPError rejects"
            )
    dialogue.reply(reply_or_failure(answer, found))
