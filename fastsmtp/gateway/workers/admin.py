"""The process that shows metrics, as the parent keeps it: begun first, started again if it ends."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from fastsmtp.delivery.errors import reason_of
from fastsmtp.gateway.admin.address import AdminAddress
from fastsmtp.gateway.admin.start import serve_admin
from fastsmtp.gateway.workers.child import Child
from fastsmtp.gateway.workers.parent import STATUS_FAILED, Parent

__all__ = ["AdminKeeper"]

PAUSE: Final = 1.0  # seconds before it is started again


class AdminKeeper:
    """Keeps it. address: where it listens, None: there is no such process."""

    def __init__(self, parent: Parent, address: AdminAddress | None) -> None:
        self._parent = parent
        self._address = address

    def begin(self, then: Callable[[], object]) -> None:
        """Start it, and call `then` when it listens; the parent ends if it cannot."""
        if self._address is None:
            then()
            return

        def ready(child: Child) -> None:
            self._parent.notes.say(f"metrics and state on {child.facts['where']}")
            self._keep(child)
            then()

        def failed(child: Child) -> None:
            self._parent.fail(child.failure or (child.reason(), STATUS_FAILED))

        child = self._fork()
        child.on_ready, child.on_end = ready, failed

    def _fork(self) -> Child:
        assert self._address is not None
        return self._parent.fork_helper(partial(serve_admin, self._address, self._parent.pages))

    def _keep(self, child: Child) -> None:
        child.forget()
        child.on_end = self._has_ended

    def _has_ended(self, child: Child) -> None:
        reason = child.reason()
        self._parent.notes.complain(f"the process of metrics: {reason}; another one starts")
        self._parent.reactor.call_later(PAUSE, self._restart)

    def _restart(self) -> None:
        if self._parent.is_stopping:
            return
        try:
            self._keep(self._fork())
        except OSError as error:
            self._parent.notes.complain(f"the process of metrics: {reason_of(error)}")
            self._parent.reactor.call_later(PAUSE, self._restart)
