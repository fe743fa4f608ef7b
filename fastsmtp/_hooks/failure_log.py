"""Failures of foreign code in the log: of many with one cause, one line and a count."""

from __future__ import annotations

from functools import partial

from fastsmtp._failures import describe
from fastsmtp._log import logger
from fastsmtp.repeats import INTERVAL, Repeats, cause_of

__all__ = ["FailureLog"]


class FailureLog:
    """The failures of one server."""

    def __init__(self) -> None:
        self._repeats = Repeats()

    def repeats(self, what: str, error: BaseException) -> bool:
        """Whether a failure of `what` from the same place was told a short time ago; then this one
        is counted, and told at the end of the interval. Otherwise the caller has to tell it.
        """
        cause = cause_of(what, error)
        if self._repeats.is_told(cause):
            return True
        self._repeats.add(cause, partial(_tell_more, what, describe(error)))
        return False

    def end(self) -> None:
        """Tell what is not told yet: the server ends."""
        self._repeats.end()


def _tell_more(what: str, text: str, count: int) -> None:
    logger.error("%s failed: %s: %d more times in %d seconds", what, text, count, INTERVAL)
