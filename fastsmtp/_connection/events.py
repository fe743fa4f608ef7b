"""The events of a server, and their listeners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastsmtp._failures import describe
from fastsmtp._hooks.callback import ends_process
from fastsmtp._hooks.failure_log import FailureLog
from fastsmtp._log import logger
from fastsmtp._smtp.tracing import Tracing

__all__ = ["Events"]

EVENTS: Final = ("listening", "connect", "transaction", "trace", "error", "close")

type_listener = Callable[..., Any]


class Events:
    """Calls the listeners of each event, in the order in which they were added. failures: tells
    theirs.

    is_observed: whether `transaction` has one. tracing: whose wire the event `trace` tells, None:
    nobody's.
    """

    def __init__(self, failures: FailureLog) -> None:
        self._failures = failures
        # (listener, whether it is called only once)
        self._listeners: dict[str, list[tuple[type_listener, bool]]] = {e: [] for e in EVENTS}
        self.is_observed = False
        self.tracing: Tracing | None = None

    def add(self, event: str, listener: type_listener, *, once: bool) -> None:
        """Have `listener` called at each `event`, or at the next one only. Raises ValueError."""
        self._of(event).append((listener, once))
        self.is_observed = bool(self._listeners["transaction"])

    def remove(self, event: str, listener: type_listener) -> None:
        """Remove `listener`. Raises ValueError for an unknown event."""
        found = self._of(event)
        found[:] = [entry for entry in found if entry[0] != listener]
        self.is_observed = bool(self._listeners["transaction"])

    def has_listener(self, event: str) -> bool:
        """Whether `event` has a listener."""
        return bool(self._listeners[event])

    def emit(self, event: str, *arguments: Any, connection: object = None) -> None:
        """Call the listeners of `event`; log their exceptions, with `connection` if given."""
        listeners = self._listeners[event]
        for entry in list(listeners):
            if entry[1]:
                listeners.remove(entry)
                self.is_observed = bool(self._listeners["transaction"])
            try:
                entry[0](*arguments)
            except BaseException as error:  # foreign code
                if ends_process(error):
                    raise
                what = f"a listener of {event!r}"
                if not self._failures.repeats(what, error):
                    start, who = ("", ()) if connection is None else ("%s: ", (connection,))
                    text = f"{start}%s failed: %s"
                    logger.error(text, *who, what, describe(error), exc_info=error)

    def _of(self, event: str) -> list[tuple[type_listener, bool]]:
        if event not in self._listeners:
            raise ValueError(f"unknown event {event!r}: it is one of {', '.join(EVENTS)}")
        return self._listeners[event]
