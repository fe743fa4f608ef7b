"""New workers, all ready or none of them: at the start, at a reload, for one more slot.

In: the numbers of the slots. Out: the workers, or why there are none. The first one is started
alone, so that a mistake is reported once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from fastsmtp.gateway.workers.child import STATUS_FAILED, Child
from fastsmtp.gateway.workers.parent import Failure, Parent, Plan

__all__ = ["Rollout"]


class Rollout:
    """Starts workers for `numbers`. at_once: all after the first at the same time, because nobody
    is served yet; else one by one. done: called at the end, with None or the failure.
    """

    def __init__(
        self,
        parent: Parent,
        plan: Plan,
        numbers: Iterable[int],
        *,
        count: int,
        at_once: bool,
        done: Callable[[Failure | None], object],
    ) -> None:
        self.fresh: dict[int, Child] = {}
        self._parent = parent
        self._plan = plan
        self._waiting = deque(numbers)
        self._count = count
        self._at_once = at_once
        self._done = done

    def begin(self) -> None:
        """Start the first."""
        number = self._waiting.popleft()
        try:
            child = self._parent.fork(number, self._plan, self._count)
        except OSError as error:
            self._fail((f"cannot start a worker: {error.strerror}", STATUS_FAILED))
            return
        self.fresh[number] = child
        child.on_ready = self._is_ready
        child.on_end = self._has_ended

    def _is_ready(self, _child: Child) -> None:
        while self._waiting:
            self.begin()
            if not self._at_once:
                return
        if self.fresh and all(child.ready_at is not None for child in self.fresh.values()):
            self._done(None)

    def _has_ended(self, child: Child) -> None:
        del self.fresh[child.number]
        self._fail(child.failure or (f"a worker has ended: {child.reason()}", STATUS_FAILED))

    def _fail(self, failure: Failure) -> None:
        self._waiting.clear()
        for child in self.fresh.values():
            child.forget()
            child.drain([])
        self.fresh.clear()
        self._done(failure)
