"""The hook `on_helo`: whether a greeting is accepted, and which extensions our answer has.

A refused greeting changes nothing: the client stays in the state that it was in. RFC 5321 §4.1.1.1,
§4.1.4.
"""

from __future__ import annotations

import re
from typing import Any, Final

from fastsmtp import replies
from fastsmtp._failures import shown
from fastsmtp._hooks.callback import Answer
from fastsmtp._smtp.dialogue import Dialogue
from fastsmtp._smtp.hook_replies import connect_rejection
from fastsmtp.session import ClientGreeting

__all__ = ["ask"]

# ehlo-keyword *( SP ehlo-param ); with "250-" and CRLF it is a line of 512 octets.
_KEYWORD: Final = r"[A-Za-z0-9][A-Za-z0-9-]*(?: [!-~]+)*"
MAX_KEYWORD: Final = 506  # octets
MAX_KEYWORDS: Final = 100


def ask(dialogue: Dialogue, hook: Any, command: str, name: str) -> None:
    """Call `hook` with the greeting of the client, and accept or refuse it."""
    keywords = () if command == "HELO" else dialogue.tables.keywords(dialogue)
    greeting = ClientGreeting(command, name, keywords)
    dialogue.ask(
        "on_helo", hook, greeting, lambda owner, answer: _answered(owner, answer, greeting)
    )


def _answered(dialogue: Dialogue, answer: Answer, greeting: ClientGreeting) -> None:
    if answer.error is not None or answer.failed:
        reply = replies.GREETING_FAILED
        if answer.error is not None and not answer.failed:
            reply = connect_rejection(answer, replies.GREETING_REJECTED, reply)
        dialogue.reply(reply)
        return
    try:
        keywords = _keywords(answer.result, greeting)
    except (TypeError, ValueError) as error:
        answer.report(error)
        dialogue.reply(replies.GREETING_FAILED)
        return
    dialogue.greeted(greeting.command, greeting.name)
    tables, name = dialogue.tables, dialogue.client_hostname
    is_helo = greeting.command == "HELO"
    dialogue.reply(tables.helo_reply(name) if is_helo else tables.ehlo_reply_of((name, *keywords)))


def _keywords(result: Any, greeting: ClientGreeting) -> tuple[str, ...]:
    """Return the lines for our answer; raises TypeError and ValueError for what cannot be one."""
    if result is None:
        return greeting.keywords
    if not isinstance(result, list | tuple):
        raise TypeError(
            f"on_helo answered with {shown(result)}: a list of keywords or None accepts; to"
            " reject, raise SMTPError or pass the error to callback"
        )
    if len(result) > MAX_KEYWORDS:
        raise ValueError(f"on_helo answered with {len(result)} keywords, more than {MAX_KEYWORDS}")
    for line in result:
        if not isinstance(line, str):
            raise TypeError(f"on_helo answered with a keyword of {type(line)}, which is not a str")
        if len(line) > MAX_KEYWORD or re.fullmatch(_KEYWORD, line) is None:
            raise ValueError(f"on_helo answered with {line[:80]!r}, which is not a line of EHLO")
    return tuple(result)
