"""STARTTLS, and the dialogue after a handshake of either kind. RFC 3207 §4, RFC 8314 §3."""

from __future__ import annotations

from fastsmtp import replies
from fastsmtp._hooks.callback import Answer
from fastsmtp._smtp.dialogue import Dialogue
from fastsmtp._smtp.hook_replies import connect_rejection
from fastsmtp._smtp.states import State

__all__ = ["go_on_inside", "greet_inside", "handle_starttls"]


def handle_starttls(dialogue: Dialogue, argument: bytes) -> None:
    """Reply 220 and forget the client's earlier commands: after it nothing is plaintext."""
    if dialogue.secure:
        dialogue.reply(replies.TLS_ACTIVE)
    elif dialogue.state in (State.IN_BDAT, State.BDAT_FAILED):
        dialogue.reply(replies.IN_TRANSACTION)
    elif argument:
        dialogue.reply(replies.STARTTLS_SYNTAX)
    else:
        dialogue.reply(replies.READY_FOR_TLS)
        dialogue.reset_greeting()
        dialogue.forget_user()
        dialogue.await_handshake()


def go_on_inside(dialogue: Dialogue) -> None:
    """The handshake after STARTTLS is done: call `on_secure`; the client greets again."""
    hook = dialogue.hooks.on_secure
    if hook is None:
        dialogue.resume()
    else:
        dialogue.ask("on_secure", hook, dialogue.tls.for_hook(), _answered_inside)


def _answered_inside(dialogue: Dialogue, answer: Answer) -> None:
    """Continue, or close without a reply, since no command waits for one."""
    if answer.error is None and not answer.failed:
        dialogue.resume()
    else:
        dialogue.close()


def greet_inside(dialogue: Dialogue) -> None:
    """`on_connect` has accepted the client: call `on_secure` under implicit TLS, then greet."""
    hook = dialogue.hooks.on_secure
    if hook is None or dialogue.tls is None or dialogue.state != State.OPENING:
        dialogue.greet()
    else:
        dialogue.ask("on_secure", hook, dialogue.tls.for_hook(), _answered_before_greeting)


def _answered_before_greeting(dialogue: Dialogue, answer: Answer) -> None:
    """Greet, or refuse: with the hook's reply code instead of the greeting, else by closing."""
    tables = dialogue.tables
    if answer.error is None and not answer.failed:
        dialogue.greet()
        return
    if answer.error is not None and not answer.failed:
        if not _has_code(answer.error):
            dialogue.close()
            return
        refused = tables.connection_refused
        reply = connect_rejection(answer, refused, tables.not_available)
        dialogue.reply_and_close(reply)
        return
    dialogue.reply_and_close(tables.not_available)


def _has_code(error: BaseException) -> bool:
    """Whether a hook has given a reply code. If a user's property raises: True, for `rejection`."""
    try:
        return getattr(error, "response_code", None) is not None
    except Exception:
        return True
