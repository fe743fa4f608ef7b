"""Makes the reply from a hook's answer: code, enhanced code and text, all safe for the wire.

In: an error and its stage, or the text of an acceptance. Out: a `Reply`, or an exception that
states why the answer is invalid. RFC 5321 §4.2, RFC 2034, RFC 3463.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Any, Final

from fastsmtp import replies
from fastsmtp._failures import shown, text_of
from fastsmtp._hooks.callback import Answer
from fastsmtp._smtp.warnings import warn
from fastsmtp.errors import REFUSAL_CODES, is_refusal_code
from fastsmtp.replies import Reply

__all__ = ["Stage", "acceptance", "connect_rejection", "rejection", "reply_or_failure"]


class Stage(IntEnum):
    """Where in the dialogue a hook answers; the columns of the table below."""

    AUTH = 0
    MAIL = 1
    RCPT = 2
    MESSAGE = 3
    LMTP_MESSAGE = 4
    CONNECT = 5


# Code of the application -> enhanced code by stage; RFC 3463 §3, RFC 5248.
_ENHANCED: Final[dict[int, tuple[str, str, str, str, str]]] = {
    421: ("4.7.0", "4.7.0", "4.7.0", "4.7.0", "4.7.0"),
    432: ("4.7.12", "4.7.0", "4.7.0", "4.7.0", "4.7.0"),
    450: ("4.7.0", "4.7.1", "4.2.1", "4.7.1", "4.2.1"),
    451: ("4.7.0", "4.3.0", "4.3.0", "4.3.0", "4.3.0"),
    452: ("4.7.0", "4.3.1", "4.2.2", "4.3.1", "4.2.2"),
    454: ("4.7.0", "4.7.0", "4.7.0", "4.7.0", "4.7.0"),
    530: ("5.7.0", "5.7.0", "5.7.0", "5.7.0", "5.7.0"),
    534: ("5.7.9", "5.7.0", "5.7.0", "5.7.0", "5.7.0"),
    535: ("5.7.8", "5.7.0", "5.7.0", "5.7.0", "5.7.0"),
    538: ("5.7.11", "5.7.0", "5.7.0", "5.7.0", "5.7.0"),
    550: ("5.7.0", "5.7.1", "5.1.1", "5.7.1", "5.7.1"),
    551: ("5.7.0", "5.7.1", "5.1.6", "5.7.1", "5.1.6"),
    552: ("5.7.0", "5.3.4", "5.2.2", "5.3.4", "5.2.2"),
    553: ("5.7.0", "5.1.7", "5.1.3", "5.6.0", "5.6.0"),
    554: ("5.7.0", "5.7.1", "5.7.1", "5.6.0", "5.6.0"),
    556: ("5.7.0", "5.1.10", "5.1.10", "5.1.10", "5.1.10"),
}
_CODE: Final = r"([245]\.(?:0|[1-9][0-9]{0,2})\.(?:0|[1-9][0-9]{0,2}))"
_LEADING_CODE: Final = _CODE + r"(?:[ \t]+|(?=[\r\n])|\Z)"


# A reply code of RFC 5321 §4.2 at the start of a text; a hyphen begins a line of a longer reply.
_REPLY_CODE: Final = r"\s*([2-5][0-9][0-9])(?:-|(?=\s)|\Z)"


def rejection(
    answer: Answer,
    error: BaseException,
    stage: Stage,
    default: Reply,
    *,
    enhanced: bool,
    utf8: bool,
) -> Reply | Exception:
    """Return the reply to a hook's `error`, or an exception if it is invalid.

    answer: of that hook. default: for a code, text or enhanced code that the error does not have.
    enhanced: ENHANCEDSTATUSCODES is on.
    """
    try:
        code = getattr(error, "response_code", None)
        own_code = getattr(error, "enhanced_code", None)
        text = _cut(answer, text_of(error))
    except Exception as reason:  # properties and __str__ of a user's exception
        return _unreadable(reason)
    if code is None:
        code = default.code
    elif not is_refusal_code(code):
        return ValueError(f"an error has the response_code {shown(code)}: {REFUSAL_CODES}")
    code = int(code)
    if stage == Stage.CONNECT or not enhanced:
        return Reply(code, None, (text.strip("\r\n") and text) or default.text, utf8=utf8)
    own = _valid_enhanced(answer, own_code, code)
    moved, text = _split_enhanced(answer, text, code)
    enhanced_code = own or moved
    if enhanced_code is None and code == default.code:
        enhanced_code = default.enhanced_code
    if enhanced_code is None:
        row = _ENHANCED.get(code)
        enhanced_code = row[stage] if row else f"{code // 100}.0.0"
    return Reply(code, enhanced_code, (text.strip("\r\n") and text) or default.text, utf8=utf8)


def connect_rejection(answer: Answer, default: Reply, failure: Reply) -> Reply:
    """Return the reply to the error of `answer` that replaces the greeting."""
    assert answer.error is not None
    reply = rejection(answer, answer.error, Stage.CONNECT, default, enhanced=False, utf8=False)
    return reply_or_failure(answer, reply, failure)


def acceptance(
    answer: Answer, text: Any, default: Reply, *, enhanced: bool, utf8: bool
) -> Reply | Exception:
    """Return the reply to a message that was accepted with `text`, or an exception for an invalid
    text.
    """
    if text is None:
        return default
    if not isinstance(text, str):
        return TypeError(
            f"{answer.hook} answered with {type(text)}: a text or None accepts; to reject, raise"
            " SMTPError or pass the error to callback"
        )
    text = _cut(answer, text)
    if text[:1].isalpha():  # no code of either kind: the usual text
        return Reply(default.code, default.enhanced_code, text, utf8=utf8)
    found = re.match(_REPLY_CODE, text)
    if found is not None:
        if found[1] != "250":
            return ValueError(
                f"{answer.hook} accepted with a text that begins with the reply code {found[1]}: to"
                " reject, raise SMTPError(text, code) or pass it to callback"
            )
        text = text[found.end() :].lstrip()
    enhanced_code = default.enhanced_code
    if enhanced:
        moved, text = _split_enhanced(answer, text, default.code)
        enhanced_code = moved or enhanced_code
    if not text.strip("\r\n"):
        return (
            default
            if enhanced_code == default.enhanced_code
            else Reply(default.code, enhanced_code, default.text)
        )
    return Reply(default.code, enhanced_code, text, utf8=utf8)


def reply_or_failure(
    answer: Answer, found: Reply | Exception, failure: Reply = replies.LOCAL_ERROR
) -> Reply:
    """Return the reply; for an invalid answer, report it and return `failure`."""
    if isinstance(found, Reply):
        return found
    answer.report(found)
    return failure


def _unreadable(reason: Exception) -> Exception:
    error = RuntimeError("code and text of a hook's error cannot be read")
    error.__cause__ = reason
    return error


def _valid_enhanced(answer: Answer, value: object, code: int) -> str | None:
    """Return `value` if it is an enhanced code whose class is that of `code` (RFC 2034 §4)."""
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch(_CODE, value) and value[0] == str(code)[0]:
        return value
    message = "dropped the enhanced code %s, which does not fit %d"
    _warn(answer, message, shown(value), code)
    return None


def _split_enhanced(answer: Answer, text: str, code: int) -> tuple[str | None, str]:
    """Split an enhanced code off the start of `text`."""
    match = re.match(_LEADING_CODE, text)
    if match is None:
        return None, text
    return _valid_enhanced(answer, match[1], code), text[match.end() :]


def _cut(answer: Answer, text: str) -> str:
    if len(text) > replies.MAX_TEXT:
        _warn(answer, "cut the text of a reply from %d characters", len(text))
        return text[: replies.MAX_TEXT]
    return text


def _warn(answer: Answer, message: str, *values: object) -> None:
    warn(answer.owner, (answer.hook, message), f"%s: {message}", answer.hook, *values)
