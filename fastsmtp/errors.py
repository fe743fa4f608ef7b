"""What is raised, and by whom.

* `SMTPError`: a hook refuses; its code, enhanced code and text become the reply.
* `MessageAborted`: the engine reports that a message body will never be complete.
* `MessageTooLarge`: the engine reports that a body is longer than `read` may return; a hook that
  does not catch it has refused the message.
* Wrong use of the API is a `TypeError`, `ValueError` or `RuntimeError` of the standard library.

No input of a peer raises an exception; its errors get replies.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MessageAborted", "MessageTooLarge", "SMTPError"]

REFUSAL_CODES: Final = "a refusal has an int from 400 to 599"


def is_refusal_code(code: object) -> bool:
    """Whether `code` is a reply code of 4xx or 5xx, in RFC 5321's list or not (§4.2)."""
    return isinstance(code, int) and not isinstance(code, bool) and 400 <= code <= 599


class SMTPError(Exception):
    """A refusal that a hook raises, or passes to `callback(error)`.

    message: text of the reply; CR and LF make further lines of the same reply. Empty: the default
    text. response_code: 400 to 599, sent as it is; None: that of a subclass, else the default of
    the hook. enhanced_code: such as "5.7.1"; dropped unless it is in the class of the code (RFC
    2034, RFC 3463); None: that of a subclass, else by code. Raises TypeError for a code that is not
    an int or is given as the message, ValueError for an int outside of 400 to 599.
    """

    response_code: int | None = None
    enhanced_code: str | None = None

    def __init__(
        self,
        message: str = "",
        response_code: int | None = None,
        enhanced_code: str | None = None,
    ) -> None:
        given: object = message
        if isinstance(given, int):
            raise TypeError(f"the message comes first: SMTPError(text, code), got {given!r:.20}")
        if response_code is not None and not is_refusal_code(response_code):
            is_int = isinstance(response_code, int) and not isinstance(response_code, bool)
            kind = ValueError if is_int else TypeError
            raise kind(f"response_code: {REFUSAL_CODES}, got {response_code!r:.20}")
        super().__init__(message)
        self.message = message
        if response_code is not None:
            self.response_code = response_code
        if enhanced_code is not None:
            self.enhanced_code = enhanced_code


class MessageAborted(Exception):
    """The consumer of a message body will not get the whole of it; nothing was acknowledged.

    reason: "disconnected", "timeout", "shutdown", "reset", "bare_newline", "nul", "hook_timeout",
    "hook_failed", or "answered" (the hook gave its answer before it had read the whole body).
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the message was aborted: {reason}")
        self.reason = reason


class MessageTooLarge(SMTPError):
    """`DataStream.read` found a body that is longer than its limit, or than the option `size`.

    limit: the octets that a body may have. If the hook does not catch it, the message is refused
    permanently with 552 5.3.4 (RFC 1870 §6.3).
    """

    def __init__(self, limit: int) -> None:
        super().__init__(f"Error: message exceeds fixed maximum message size {limit}", 552, "5.3.4")
        self.limit = limit
