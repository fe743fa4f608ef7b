"""The coroutines of hooks, those of one connection and those of `on_close`: started, settled,
cancelled, and in the end left behind.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterator
from math import inf
from typing import Any, Final

from fastsmtp._hooks import Answer, ends_process
from fastsmtp._log import logger
from fastsmtp.session import Session

__all__ = ["CloseHooks", "HookTasks", "warn_of_stall"]

STALL: Final = 1.0  # seconds of one call after which the log says that a hook holds the loop
ABANDON: Final = 5.0  # seconds that a cancelled hook has to end


def warn_of_stall(seconds: float, session_id: str = "") -> None:
    """Say so when something has held the event loop for too long. session_id: "" where the
    connection is not known.
    """
    if seconds > STALL:
        of_session = f"{session_id}: " if session_id else ""
        logger.warning("%sa hook held the event loop for %.1f s", of_session, seconds)


def _settle(task: asyncio.Task[Any], answer: Answer) -> None:
    if task.cancelled():
        answer.settle(asyncio.CancelledError(), None)
    elif (error := task.exception()) is not None:
        answer.settle(error, None)
    else:
        answer.settle(None, task.result())


class HookTasks:
    """Tasks that are at work, each with its answer. on_done: called after each that has ended.

    abandon_at: when those that were cancelled are left behind, infinity when none was.
    """

    __slots__ = ("_cancelled", "_loop", "_now", "_on_done", "_orphans", "_tasks", "abandon_at")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
        on_done: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._now = now
        self._on_done = on_done
        self._tasks: dict[asyncio.Task[Any], Answer] = {}
        self._cancelled: set[asyncio.Task[Any]] = set()
        self._orphans: dict[Answer, float] = {}  # answer -> until when; in the order of time
        self.abandon_at = inf

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, task: asyncio.Task[Any]) -> bool:
        return task in self._tasks

    @property
    def deadline(self) -> float:
        """When something is to be cancelled or left behind."""
        return min(self.abandon_at, next(iter(self._orphans.values()), inf))

    def start(self, coroutine: Coroutine[Any, Any, Any], answer: Answer) -> None:
        """Run the coroutine of a hook by the loop's task factory: it begins in the next turn."""
        self.keep(self._loop.create_task(coroutine), answer)
        # Called behind the first step; the server sees later ones as it looks at its loop.
        self._loop.call_soon(self._look_for_stall, self._now())

    def keep(self, task: asyncio.Task[Any], answer: Answer) -> None:
        """`task` is at work for `answer`."""
        if task.done():
            _settle(task, answer)
        else:
            self._tasks[task] = answer
            task.add_done_callback(self._done)

    def cancel(self, answer: Answer) -> None:
        """Cancel the coroutine of `answer`, if it has one."""
        self._cancel([task for task, owner in self._tasks.items() if owner is answer])

    def orphan(self, answer: Answer, deadline: float) -> None:
        """Nobody waits for `answer` any more: its coroutine has until `deadline` to end."""
        if answer in self._tasks.values():
            self._orphans[answer] = deadline

    def cancel_orphans(self, now: float) -> None:
        """Cancel those whose time is over."""
        for answer in [answer for answer, until in self._orphans.items() if now >= until]:
            del self._orphans[answer]
            self.cancel(answer)

    def cancel_all(self) -> None:
        """Cancel all that is at work."""
        self._cancel(list(self._tasks))

    def abandon_overdue(self) -> list[str]:
        """Leave behind what was cancelled and does not end; returns the names of those hooks."""
        names = [self._tasks.pop(task).hook for task in self._cancelled]
        self._cancelled.clear()
        self.abandon_at = inf
        return names

    def _cancel(self, tasks: list[asyncio.Task[Any]]) -> None:
        fresh = [task for task in tasks if task not in self._cancelled]
        for task in fresh:
            self._tasks[task].expire()  # that it was cancelled is our doing, not a failure
            task.cancel()
            self._cancelled.add(task)
        if fresh:
            self.abandon_at = self._now() + ABANDON

    def _look_for_stall(self, began: float) -> None:
        warn_of_stall(self._now() - began)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._cancelled.discard(task)
        if not self._cancelled:
            self.abandon_at = inf
        answer = self._tasks.pop(task, None)
        if answer is not None:
            self._orphans.pop(answer, None)
            _settle(task, answer)
            self._on_done()
        elif not task.cancelled():
            task.exception()  # looked at, so that nobody is told that it never was


class CloseHooks:
    """The coroutines of `on_close` of one server. Their clients have gone, so no connection keeps
    them.

    timeout: seconds that each has, then it is cancelled; ABANDON seconds later it is left behind.
    on_done: called after each.
    """

    __slots__ = ("_clocks", "_late", "_on_done", "_timeout")

    def __init__(self, timeout: float, on_done: Callable[[], None]) -> None:
        self._timeout = timeout
        self._on_done = on_done
        self._clocks: dict[asyncio.Task[Any], asyncio.TimerHandle] = {}
        self._late: set[asyncio.Task[Any]] = set()  # cancelled by us

    def __len__(self) -> int:
        return len(self._clocks)

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(list(self._clocks))

    def call(
        self,
        loop: asyncio.AbstractEventLoop,
        hook: Callable[[Session], Any],
        session: Session,
        client: Callable[[], str],
    ) -> None:
        """Call `on_close`; what it raises is logged. client: returns its name for the log."""
        try:
            result = hook(session)
        except BaseException as error:  # foreign code
            if ends_process(error):
                raise
            logger.error("%s: %s: on_close failed", session.id, client(), exc_info=True)
            return
        if asyncio.iscoroutine(result):
            task = loop.create_task(result)
            who = f"{session.id}: {client()}"
            self._clocks[task] = loop.call_later(self._timeout, self._expire, task, who)
            task.add_done_callback(functools.partial(self._done, who))

    def _expire(self, task: asyncio.Task[Any], who: str) -> None:
        logger.error("%s: on_close took too long, and is cancelled", who)
        task.cancel()
        self._late.add(task)
        self._clocks[task] = task.get_loop().call_later(ABANDON, self._abandon, task, who)

    def _abandon(self, task: asyncio.Task[Any], who: str) -> None:
        logger.error("%s: on_close does not end, and is left behind", who)
        del self._clocks[task]
        self._late.discard(task)
        self._on_done()

    def _done(self, who: str, task: asyncio.Task[Any]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        clock = self._clocks.pop(task, None)
        if clock is None:
            return
        clock.cancel()
        was_late = task in self._late
        self._late.discard(task)
        if error is not None and not (was_late and task.cancelled()):
            logger.error("%s: on_close failed", who, exc_info=error)
        self._on_done()
