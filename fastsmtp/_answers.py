"""Makes the reply of what a hook answered: code, enhanced code and text, all safe for the wire.

In: an error and the stage at which it came. Out: a `Reply`, or None for an answer that is nonsense.
RFC 5321 §4.2, RFC 2034, RFC 3463.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Any, Final

from fastsmtp import replies
from fastsmtp._log import logger
from fastsmtp.replies import Reply

__all__ = ["Stage", "acceptance", "rejection"]


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


def _is_reply_code(code: object) -> bool:
    return type(code) is int and 400 <= code <= 599 and code // 10 % 10 <= 5


def _valid_enhanced(value: object, code: int) -> str | None:
    """Return `value` if it is an enhanced code whose class is that of `code` (RFC 2034 §4)."""
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch(_CODE, value) and value[0] == str(code)[0]:
        return value
    logger.warning("dropped the enhanced code %.40r, which does not fit %d", value, code)
    return None


def _split_enhanced(text: str, code: int) -> tuple[str | None, str]:
    """Move an enhanced code at the start of `text` out of it."""
    match = re.match(_LEADING_CODE, text)
    if match is None:
        return None, text
    return _valid_enhanced(match[1], code), text[match.end() :]


def _cut(text: str) -> str:
    if len(text) > replies.MAX_TEXT:
        logger.warning("cut the text of a reply from %d characters", len(text))
        return text[: replies.MAX_TEXT]
    return text


def rejection(
    error: BaseException, stage: Stage, default: Reply, *, enhanced: bool, utf8: bool
) -> Reply | None:
    """Return the reply to a hook's `error`, None when its code is nonsense.

    default: its code, text and enhanced code serve where the error has none. enhanced:
    ENHANCEDSTATUSCODES is on.
    """
    try:
        code = getattr(error, "response_code", None)
        own_code = getattr(error, "enhanced_code", None)
        text = _cut(str(error))
    except Exception:  # properties and __str__ of a user's exception
        logger.error("the text of a hook's error cannot be had", exc_info=True)
        return None
    if code is None:
        code = default.code
    elif not _is_reply_code(code):
        logger.error("a hook rejected with %.40r, which is no reply code of 4xx or 5xx", code)
        return None
    if stage == Stage.CONNECT or not enhanced:
        return Reply(code, None, (text.strip("\r\n") and text) or default.text, utf8=utf8)
    own = _valid_enhanced(own_code, code)
    moved, text = _split_enhanced(text, code)
    enhanced_code = own or moved
    if enhanced_code is None and code == default.code:
        enhanced_code = default.enhanced_code
    if enhanced_code is None:
        row = _ENHANCED.get(code)
        enhanced_code = row[stage] if row else f"{code // 100}.0.0"
    return Reply(code, enhanced_code, (text.strip("\r\n") and text) or default.text, utf8=utf8)


def acceptance(text: Any, default: Reply, *, enhanced: bool, utf8: bool) -> Reply | None:
    """Return the reply to an accepted message; None when `text` is neither a str nor None."""
    if text is None:
        return default
    if not isinstance(text, str):
        return None
    text = _cut(text)
    enhanced_code = default.enhanced_code
    if enhanced:
        moved, text = _split_enhanced(text, default.code)
        enhanced_code = moved or enhanced_code
    if not text.strip("\r\n"):
        return (
            default
            if enhanced_code == default.enhanced_code
            else Reply(default.code, enhanced_code, default.text)
        )
    return Reply(default.code, enhanced_code, text, utf8=utf8)
