"""The host of a dialogue that is over."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final

from fastsmtp._failures import Place, log_failure, mark
from fastsmtp._hooks.callback import Answer

__all__ = ["NOBODY"]


class Nobody:
    """The host for late calls: it does nothing but log."""

    def start_task(self, coroutine: Coroutine[Any, Any, Any], answer: Answer, stream: Any) -> bool:
        """Close the coroutine: nothing runs any more."""
        coroutine.close()
        return True

    def orphan_task(self, answer: Answer) -> None:
        """No-op: there are no Tasks."""

    def cancel_task(self, answer: Answer) -> None:
        """No-op: there are no Tasks."""

    def wake(self) -> None:
        """No-op: there is no connection."""

    def connected(self) -> None:
        """No-op: there is no connection."""

    def report(self, error: BaseException, place: Place) -> None:
        """Log the error: the server no longer has listeners for it."""
        mark(error, place)
        log_failure(error, place)

    def wall_time(self) -> float:
        """Not used: there are no more replies."""
        return 0.0


NOBODY: Final = Nobody()
