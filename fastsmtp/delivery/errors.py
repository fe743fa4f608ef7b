"""Why a message was not delivered: the reply for its client, and the reason for the log.

The two are separate on purpose: the reply never contains texts of the system or other programs.
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar, Final

from fastsmtp.errors import SMTPError
from fastsmtp.log_text import escaped

__all__ = [
    "DeliveryError",
    "Full",
    "Refused",
    "TooLarge",
    "Unavailable",
    "Unclear",
    "delivery_error",
    "reason_of",
]

LONGEST_REASON: Final = 300  # characters

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class DeliveryError(Exception):
    """A sink has not accepted a message. `str(error)` is the reason, for the log.

    Raise one of the subclasses.
    """

    text: ClassVar[str] = "Message could not be stored, try again later"
    code: ClassVar[int] = 451
    enhanced_code: ClassVar[str] = "4.3.0"

    @property
    def reply(self) -> SMTPError:
        """The refusal that the client gets."""
        return SMTPError(self.text, self.code, self.enhanced_code)


class Unavailable(DeliveryError):
    """Certainly nothing was stored: 451 4.3.0."""


class Unclear(DeliveryError):
    """It is unknown whether the message was stored: 451 4.3.0, so that it may be stored twice but
    is not lost.
    """


class Full(DeliveryError):
    """There is no space now, and nothing was stored: 452 4.3.1."""

    text = "Insufficient system storage, try again later"
    code = 452
    enhanced_code = "4.3.1"


class TooLarge(DeliveryError):
    """The sink never accepts a message of this size: 552 5.3.4."""

    text = "Message is too large for its destination"
    code = 552
    enhanced_code = "5.3.4"


class Refused(DeliveryError):
    """Another server has refused the message; its reply is passed on unchanged.

    reply: code, enhanced code and text of that server. reason: for the log, "": the text.
    """

    def __init__(self, reply: SMTPError, reason: str = "") -> None:
        super().__init__(reason or reply.message)
        self._reply = reply

    @property
    def reply(self) -> SMTPError:
        """The other server's refusal."""
        return self._reply


def delivery_error(error: BaseException) -> DeliveryError:
    """Return the DeliveryError for an exception of a sink: `Full` if the system has no space for a
    file, `Unavailable` for other errors of the system, `Unclear` for all others.
    """
    if isinstance(error, DeliveryError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        name = errno.errorcode.get(error.errno, error.errno)
        kind = Full if error.errno in _NO_ROOM else Unavailable
        return kind(f"{name}:{os.strerror(error.errno)}")
    return Unclear(f"{type(error).__name__}: {error}")


def reason_of(error: BaseException) -> str:
    """Return the reason of an exception for people: one bounded line, even if the text is that of
    another program; of an error of the system, its text without what the event loop adds to it.
    """
    text = str(error)
    if isinstance(error, OSError):
        # The errors of host name lookups have numbers of their own, negative ones.
        number = error.errno or 0
        text = os.strerror(number) if number > 0 else error.strerror or text
    return escaped(text or type(error).__name__, LONGEST_REASON, plain=" ")
