"""One message that is being received, and its final reply, made from the hook's answer.

RFC 5321 §4.2.5, RFC 2033 §4.2, RFC 1870 §6.
"""

from __future__ import annotations

from fastsmtp import replies
from fastsmtp._hooks.callback import Answer
from fastsmtp._smtp.dialogue import Dialogue
from fastsmtp._smtp.hook_replies import Stage, acceptance, rejection, reply_or_failure
from fastsmtp.errors import MessageAborted
from fastsmtp.replies import Reply
from fastsmtp.stream import DataStream, is_half_read

__all__ = ["Message", "final_replies"]

_MESSAGE_QUEUED: Reply = replies.MESSAGE_QUEUED


class Message:
    """One message that is being received. It outlives its connection while the hook is at work."""

    __slots__ = (
        "answer",
        "at_end",
        "began_at",
        "by_chunks",
        "is_aborted",
        "last",
        "recipients",
        "reject_bare",
        "reject_nul",
        "stream",
        "utf8",
    )

    def __init__(self, stream: DataStream, answer: Answer, recipients: int, began_at: int) -> None:
        self.stream = stream
        self.answer = answer
        self.recipients = recipients
        self.began_at = began_at  # in the octets of content of this connection
        self.utf8 = False
        self.reject_bare = True
        self.reject_nul = False
        self.by_chunks = False
        self.last = True  # the current chunk is the last one
        self.at_end = False
        self.is_aborted = False  # it will never be complete


def final_replies(dialogue: Dialogue, message: Message) -> list[Reply]:
    """Return the first that applies: hook's rejection, size, bare newline, NUL, failure,
    acceptance.
    """
    if _is_plain(dialogue, message):
        return [_MESSAGE_QUEUED]
    parser = dialogue.parser
    lmtp = dialogue.policy.lmtp
    overruled: Reply | None = None
    if parser.size_exceeded:
        overruled = dialogue.tables.too_large
    elif message.reject_bare and parser.bare_newline:
        overruled = replies.BARE_NEWLINE
    elif message.reject_nul and parser.has_nul:
        overruled = replies.NUL_IN_MESSAGE
    count = message.recipients if lmtp and message.last else 1
    result = message.answer.result
    failed = message.answer.failed
    if message.answer.error is None and not failed and lmtp and isinstance(result, list):
        if message.last:
            return _lmtp_verdicts(dialogue, message, result, overruled)
        result = None
    reply = None
    error = message.answer.error
    if error is not None and not failed and not isinstance(error, MessageAborted):
        found = _rejected(dialogue, message, error)
        if isinstance(found, Reply):
            reply = found
        else:
            failed = True
            message.answer.report(found)
    elif isinstance(error, MessageAborted):
        failed = True
    if reply is None:
        reply = overruled
    if reply is None and not failed:
        reply = reply_or_failure(message.answer, _accepted(dialogue, message, result))
    return [replies.LOCAL_ERROR if reply is None else reply] * count


def _is_plain(dialogue: Dialogue, message: Message) -> bool:
    """The usual case: no error, and the hook has given no text of its own."""
    answer, parser = message.answer, dialogue.parser
    return (
        answer.error is None
        and answer.result is None
        and not answer.failed
        and not is_half_read(message.stream)
        and not dialogue.policy.lmtp
        and not parser.size_exceeded
        and not (message.reject_bare and parser.bare_newline)
        and not (message.reject_nul and parser.has_nul)
    )


def _accepted(dialogue: Dialogue, message: Message, result: object) -> Reply | Exception:
    if is_half_read(message.stream):
        # A hook that stops early has most often lost the rest, and a 250 would be a false promise.
        return RuntimeError(
            "on_data accepted a message without having read it to its end, so the client got 451:"
            " read it to the end, or, if the rest is not needed, call stream.discard()"
        )
    policy = dialogue.policy
    if isinstance(result, list) and not policy.lmtp:
        return TypeError(
            "on_data answered with a list, so the client got 451: only LMTP has an answer for each"
            " recipient; in SMTP return one text or None for all of them, or raise SMTPError"
        )
    default = replies.MESSAGE_ACCEPTED if policy.lmtp else replies.MESSAGE_QUEUED
    return acceptance(message.answer, result, default, enhanced=policy.enhanced, utf8=message.utf8)


def _rejected(dialogue: Dialogue, message: Message, error: BaseException) -> Reply | Exception:
    tables = dialogue.tables
    return rejection(
        message.answer,
        error,
        Stage.LMTP_MESSAGE if tables.options.lmtp else Stage.MESSAGE,
        replies.MESSAGE_REJECTED,
        enhanced=dialogue.policy.enhanced,
        utf8=message.utf8,
    )


def _lmtp_verdicts(
    dialogue: Dialogue, message: Message, results: list[object], overruled: Reply | None
) -> list[Reply]:
    """One reply per accepted RCPT, in order (RFC 2033 §4.2)."""
    if len(results) != message.recipients:
        text = f"on_data answered for {len(results)} of {message.recipients} recipients"
        message.answer.report(ValueError(text))
    wrong: Exception | None = None  # only the first one is reported
    final_replies: list[Reply] = []
    for result in results[: message.recipients]:
        if isinstance(result, Exception):
            found = _rejected(dialogue, message, result)
        else:
            found = overruled or _accepted(dialogue, message, result)
        if not isinstance(found, Reply):
            wrong = wrong or found
            found = overruled or replies.LOCAL_ERROR
        final_replies.append(found)
    missing = message.recipients - len(final_replies)
    if wrong is not None:
        message.answer.report(wrong)
    return final_replies + [overruled or replies.LOCAL_ERROR] * missing
