"""Commands without a message: our greeting and the client's, RSET, NOOP, HELP, QUIT. RFC 5321 §3.1,
§4.1.1.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastsmtp import replies
from fastsmtp._failures import shown
from fastsmtp._hooks.callback import Answer, meaningless
from fastsmtp._smtp import helo
from fastsmtp._smtp.dialogue import Dialogue
from fastsmtp._smtp.hook_replies import connect_rejection
from fastsmtp._smtp.starttls import greet_inside
from fastsmtp._smtp.states import State
from fastsmtp._wire.grammar import parse_hostname_token
from fastsmtp.options import session_options

_CONNECTED: int = int(State.CONNECTED)


def connect(dialogue: Dialogue) -> None:
    """Call `on_connect`, then greet or refuse."""
    hook = dialogue.hooks.on_connect
    if hook is None:
        greet_inside(dialogue)
    else:
        dialogue.ask_without_subject("on_connect", hook, _connect_answered)


def _connect_answered(dialogue: Dialogue, answer: Answer) -> None:
    """Greet, or refuse instead of the greeting (RFC 5321 §3.1)."""
    tables = dialogue.tables
    if answer.error is None and not answer.failed:
        if answer.result is not None and not _takes_options(dialogue, answer):
            dialogue.reply_and_close(tables.not_available)
            return
        greet_inside(dialogue)
        return
    reply = tables.not_available
    if answer.error is not None and not answer.failed:
        reply = connect_rejection(answer, tables.connection_refused, reply)
    dialogue.reply_and_close(reply)


def _takes_options(dialogue: Dialogue, answer: Answer) -> bool:
    """Serve the client by the options that `on_connect` has answered with; False: it has failed."""
    given = answer.result
    if not isinstance(given, Mapping):
        answer.report(meaningless("on_connect", given))
        return False
    try:
        dialogue.serve_by(dialogue.tables.for_session(session_options(given)))
    except (TypeError, ValueError) as error:
        told = f"on_connect returned {shown(given)}: {error}; raise SMTPError to reject"
        answer.report(TypeError(told))
        return False
    return True


def handle_ehlo(dialogue: Dialogue, argument: bytes) -> None:
    """EHLO, and LHLO of LMTP: RFC 5321 §4.1.1.1, RFC 2033 §4.1."""
    tables = dialogue.tables
    verb = "LHLO" if tables.options.lmtp else "EHLO"
    name = parse_hostname_token(argument)
    if name is None:
        dialogue.reply(replies.EHLO_SYNTAX.formatted(verb))
        return
    hook = dialogue.hooks.on_helo
    if hook is not None:
        helo.ask(dialogue, hook, verb, name)
        return
    dialogue.greeted(verb, name)
    dialogue.reply(tables.ehlo_reply(dialogue))


def handle_helo(dialogue: Dialogue, argument: bytes) -> None:
    """HELO: after it no extension applies, RFC 5321 §2.2.1."""
    name = parse_hostname_token(argument)
    if name is None:
        dialogue.reply(replies.HELO_SYNTAX)
        return
    hook = dialogue.hooks.on_helo
    if hook is not None:
        helo.ask(dialogue, hook, "HELO", name)
        return
    dialogue.greeted("HELO", name)
    dialogue.reply(dialogue.tables.helo_reply(dialogue.client_hostname))


def handle_rset(dialogue: Dialogue, argument: bytes) -> None:
    """RSET: RFC 5321 §4.1.1.5."""
    if argument:
        dialogue.reply(replies.RSET_SYNTAX)
        return
    if dialogue.state != _CONNECTED:
        dialogue.end_transaction()
    elif dialogue.xforward is not None:
        dialogue.forget_forwarded()
    dialogue.reply(replies.FLUSHED)


def handle_noop(dialogue: Dialogue, argument: bytes) -> None:
    """NOOP with any argument: RFC 5321 §4.1.1.9."""
    dialogue.reply(replies.OK)


def handle_help(dialogue: Dialogue, argument: bytes) -> None:
    """HELP with any argument: RFC 5321 §4.1.1.8."""
    dialogue.reply(replies.HELP)


def handle_quit(dialogue: Dialogue, argument: bytes) -> None:
    """QUIT: RFC 5321 §4.1.1.10."""
    if argument:
        dialogue.reply(replies.QUIT_SYNTAX)
    else:
        # QUIT is the last of a group (RFC 2920 §3.1), so a client that sends more is not done.
        dialogue.parted = not dialogue.out and not dialogue.parser.buffered
        dialogue.reply_and_close(replies.BYE)
