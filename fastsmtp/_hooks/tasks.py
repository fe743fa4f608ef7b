"""The coroutines of hooks, those of one connection and those of `on_close`: started, settled,
cancelled, and abandoned if they do not end.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from math import inf
from typing import Any, Final

from fastsmtp._counts.families import cell
from fastsmtp._counts.tally import Tally
from fastsmtp._failures import describe
from fastsmtp._hooks.callback import Answer, ends_process
from fastsmtp._hooks.coroutine_driver import timed
from fastsmtp._hooks.failure_log import FailureLog
from fastsmtp._hooks.stalls import STALL, Stalls
from fastsmtp._log import logger
from fastsmtp.session import Session

__all__ = ["CloseHooks", "HookTasks"]

_CLOSE_FAILURES: Final = cell("hook_failures_total", "on_close")

ABANDON: Final = 5.0  # seconds that a cancelled hook has to end
HAS_EAGER_TASKS: Final = sys.version_info >= (3, 12)


def _settle(task: asyncio.Task[Any], answer: Answer) -> None:
    if task.cancelled():
        answer.settle(asyncio.CancelledError(), None)
    elif (error := task.exception()) is not None:
        answer.settle(error, None)
    else:
        answer.settle(None, task.result())


class HookTasks:
    """Running Tasks, each with its answer. on_done: called after the end of each.

    abandon_at: when cancelled Tasks are abandoned, infinity without one. cancel_at: when all are
    cancelled, infinity while their client is connected.
    """

    __slots__ = (
        "_cancelled",
        "_is_starting",
        "_loop",
        "_now",
        "_on_done",
        "_orphans",
        "_tasks",
        "abandon_at",
        "cancel_at",
    )

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
        self._is_starting = False  # inside of the first step of an eager Task
        self._cancelled: set[asyncio.Task[Any]] = set()
        self._orphans: dict[Answer, float] = {}  # answer -> until when; in the order of time
        self.abandon_at = inf
        self.cancel_at = inf

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, task: asyncio.Task[Any]) -> bool:
        return task in self._tasks or (self._is_starting and task is asyncio.current_task())

    @property
    def deadline(self) -> float:
        """When the next Task has to be cancelled or abandoned."""
        return min(self.abandon_at, self.cancel_at, next(iter(self._orphans.values()), inf))

    def look(self, now: float) -> list[str]:
        """Cancel and abandon what is due; returns the names of hooks that are abandoned."""
        names = self._abandon_overdue() if now >= self.abandon_at else []
        for answer in [answer for answer, until in self._orphans.items() if now >= until]:
            del self._orphans[answer]
            self.cancel(answer)
        if now >= self.cancel_at:
            self.cancel_at = inf
            self.cancel_all()
        return names

    def start(self, coroutine: Coroutine[Any, Any, Any], answer: Answer) -> bool:
        """Run the coroutine of a hook as a Task. Return whether its first step is done. It is in
        the next turn if the loop has a task factory, and before Python 3.12, which introduced eager
        Tasks. Raises exceptions that end the process.
        """
        coroutine = timed(coroutine, answer.owner, answer.hook)
        if HAS_EAGER_TASKS and self._loop.get_task_factory() is None:
            self._start_now(coroutine, answer)
            return True
        self.keep(self._loop.create_task(coroutine), answer)
        return False

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
        """`answer` is not needed any more: its coroutine has until `deadline` to end."""
        if answer in self._tasks.values():
            self._orphans[answer] = deadline

    def cancel_all(self) -> None:
        """Cancel all running Tasks."""
        self._cancel(list(self._tasks))

    def _abandon_overdue(self) -> list[str]:
        names = [self._tasks.pop(task).hook for task in self._cancelled]
        self._cancelled.clear()
        self.abandon_at = inf
        return names

    def _cancel(self, tasks: list[asyncio.Task[Any]]) -> None:
        fresh = [task for task in tasks if task not in self._cancelled]
        for task in fresh:
            self._tasks[task].expire()  # cancelled by us, which is not a failure
            task.cancel()
            self._cancelled.add(task)
        if fresh:
            self.abandon_at = self._now() + ABANDON

    def _start_now(self, coroutine: Coroutine[Any, Any, Any], answer: Answer) -> None:
        task = asyncio.Task.__new__(asyncio.Task)
        try:
            self._take_first_step(task, coroutine)
            self.keep(task, answer)
        finally:
            del task  # the traceback of its exception refers to this frame

    def _take_first_step(
        self, task: asyncio.Task[Any], coroutine: Coroutine[Any, Any, Any]
    ) -> None:
        outer, self._is_starting = self._is_starting, True
        try:
            task.__init__(coroutine, loop=self._loop, eager_start=True)  # type: ignore[misc]
        except BaseException as error:
            if ends_process(error):
                task.exception()  # retrieved, so that asyncio does not log it: it is raised here
            raise
        finally:
            self._is_starting = outer
            del task  # as above

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
            task.exception()  # retrieved, so that asyncio does not log it


class _CloseCall:
    """One running call of `on_close`. who: session and client, for the log. clock: when it is
    cancelled, then abandoned.
    """

    __slots__ = ("_stalls", "clock", "host", "is_cancelled", "time", "who")

    clock: asyncio.TimerHandle

    def __init__(self, who: str, host: str, stalls: Stalls, now: Callable[[], float]) -> None:
        self.who = who
        self.host = host
        self._stalls = stalls
        self.time = now  # for `timed`
        self.is_cancelled = False  # by us, which is not a failure

    def tell_stall(self, began: float, hook: str) -> None:
        """A step of the call has perhaps held the loop since `began`."""
        self._stalls.tell(began, self.time(), hook, self.who)


class CloseHooks:
    """The coroutines of `on_close` of one server. Their connections have ended and do not keep
    them.

    timeout: seconds after which each is cancelled; ABANDON seconds later it is abandoned. on_done:
    called after the end of each. tally, failures: where failures are counted, and told.
    """

    __slots__ = ("_calls", "_failures", "_hosts", "_on_done", "_stalls", "_tally", "_timeout")

    def __init__(
        self,
        timeout: float,
        on_done: Callable[[], None],
        tally: Tally,
        stalls: Stalls,
        failures: FailureLog,
    ) -> None:
        self._timeout = timeout
        self._stalls = stalls
        self._failures = failures
        self._on_done = on_done
        self._tally = tally
        self._calls: dict[asyncio.Task[Any], _CloseCall] = {}
        self._hosts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._calls)

    def of_host(self, host: str) -> int:
        """Return how many are running for clients of this host."""
        return self._hosts[host]

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(list(self._calls))

    def call(
        self,
        loop: asyncio.AbstractEventLoop,
        hook: Callable[[Session], Any],
        session: Session,
        host: str,
        client: Callable[[], str],
        now: Callable[[], float],
    ) -> None:
        """Call `on_close`; its exceptions are logged. host: "" if hosts are not counted. client:
        returns the client's name for the log. now: a clock in seconds.
        """
        began = now()
        try:
            result = hook(session)
        except BaseException as error:  # foreign code
            if ends_process(error):
                raise
            self._failed(f"{session.id}: {client()}", error)
            return
        finally:
            if now() - began > STALL:
                self._stalls.tell(began, now(), "on_close", f"{session.id}: {client()}")
        if asyncio.iscoroutine(result):
            call = _CloseCall(f"{session.id}: {client()}", host, self._stalls, now)
            task: asyncio.Task[Any] = loop.create_task(timed(result, call, "on_close"))
            call.clock = loop.call_later(self._timeout, self._expire, task)
            self._calls[task] = call
            if host:
                self._hosts[host] += 1
            task.add_done_callback(self._done)

    def cancel(self, task: asyncio.Task[Any]) -> None:
        """Cancel a running call: the server closes."""
        call = self._calls[task]
        if not call.is_cancelled:
            logger.error("%s: the server closes, and on_close is cancelled", call.who)
            call.is_cancelled = True
            task.cancel()

    def _expire(self, task: asyncio.Task[Any]) -> None:
        call = self._calls[task]
        call.clock = task.get_loop().call_later(ABANDON, self._abandon, task)
        if not call.is_cancelled:
            self._tally.add(_CLOSE_FAILURES)
            logger.error("%s: on_close took too long, and is cancelled", call.who)
            call.is_cancelled = True
            task.cancel()

    def _abandon(self, task: asyncio.Task[Any]) -> None:
        logger.error("%s: on_close does not end, and is abandoned", self._calls[task].who)
        self._forget(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        call = self._calls.get(task)
        if call is None:  # abandoned
            return
        call.clock.cancel()
        if error is not None and not (call.is_cancelled and task.cancelled()):
            self._failed(call.who, error)
        self._forget(task)

    def _failed(self, who: str, error: BaseException) -> None:
        self._tally.add(_CLOSE_FAILURES)
        if not self._failures.repeats("on_close", error):
            logger.error("%s: on_close failed: %s", who, describe(error), exc_info=error)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        host = self._calls.pop(task).host
        if host:
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]
        self._on_done()
