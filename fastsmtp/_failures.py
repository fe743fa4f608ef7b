"""Failures: where one has happened, and its line in the log.

In: an exception and a `Place`. Out: attributes on the exception for listeners of the event `error`,
and a bounded line that names session, client and stage. For an unexpected exception of a hook, the
line has the traceback and explains how to reject.
"""

from __future__ import annotations

import reprlib
from contextlib import suppress
from typing import Final, NamedTuple

from fastsmtp._log import logger
from fastsmtp.log_text import escaped

__all__ = ["Place", "describe", "log_failure", "mark", "shown", "text_of"]

MAX_TEXT: Final = 200  # characters of an exception's text in a log line

_short: Final = reprlib.Repr()
_short.maxstring = _short.maxother = 80

_WAY_TO_REJECT: Final = "; to reject, raise SMTPError or pass the error to callback"


class Place(NamedTuple):
    """Where something has failed.

    stage: the name of a hook, "tls" or "socket". remote_address: of the client; of the proxy if
    the proxy does not know its client; "unix" for a UNIX socket. client: the same for a log line,
    with the proxy.
    """

    session_id: str
    stage: str
    remote_address: str
    client: str


def mark(error: BaseException, place: Place) -> None:
    """Set the attributes of `error` that listeners of the event `error` expect."""
    with suppress(Exception):  # an exception class of a user may take no attributes
        error.session_id = place.session_id  # type: ignore[attr-defined]
        error.remote_address = place.remote_address  # type: ignore[attr-defined]
        error.stage = place.stage  # type: ignore[attr-defined]


def log_failure(error: BaseException, place: Place) -> None:
    """Log a failure for which there is no listener; a TLS failure has its own log line already."""
    if place.stage == "socket":
        logger.info(
            "%s: %s: connection lost inside a transaction: %s",
            place.session_id,
            place.client,
            describe(error),
        )
    elif place.stage != "tls":
        # The engine's own errors have no traceback, and their text explains what to do.
        was_raised = error.__traceback__ is not None
        logger.error(
            "%s: %s: %s failed: %s%s",
            place.session_id,
            place.client,
            place.stage,
            describe(error),
            _WAY_TO_REJECT if was_raised else "",
            exc_info=error,
        )


def shown(value: object) -> str:
    """Return a short repr of what a hook answered; never raises."""
    try:
        return _short.repr(value)
    except Exception:  # `__repr__` of a user's object
        return f"an object of {type(value)}"


def describe(error: BaseException) -> str:
    """Return type and text of `error`, clean and bounded."""
    try:
        text = escaped(text_of(error), MAX_TEXT, plain=" ")
    except Exception:  # `__str__` of a user's exception
        text = "its text cannot be shown"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def text_of(error: BaseException) -> str:
    """Return the text of `error`. An `ssl.SSLError` whose arguments are not a number and a text
    would show them as a tuple.
    """
    text = str(error)
    if isinstance(error, OSError) and text == str(error.args):
        return " ".join(map(str, error.args))
    return text
