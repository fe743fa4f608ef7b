"""The context managers of a server: its `lifespan`, and hooks that are context managers.

In: asynchronous context managers. Out: they are entered before a server listens, so that their
failure is an error at the start, and exited in the reverse order after the last client. Each is
exited even if others fail; errors of exits are logged, and so is the failure of one that is added
to a server that listens already.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

from fastsmtp._log import logger
from fastsmtp.running import AT_START

__all__ = ["Lifespan", "check_lifespan", "managers_of"]

Manager: TypeAlias = AbstractAsyncContextManager[object]

_TAKES: Final = "lifespan takes a function that returns an asynchronous context manager"

# The lifespan whose managers, or Tasks that they have started, run in this context.
_current: ContextVar[Lifespan | None] = ContextVar("fastsmtp.lifespan", default=None)


def check_lifespan(factory: object) -> None:
    """Raise TypeError if `factory` cannot be the argument `lifespan` of a server."""
    if factory is not None and not callable(factory):
        raise TypeError(f"{_TAKES}, not {type(factory).__name__}")


def managers_of(
    server: object, factory: Callable[[Any], Manager] | None, hooks: Iterable[object]
) -> list[Manager]:
    """Return the managers to enter for `server`, in this order. Raises TypeError if `factory` has
    not made a context manager.
    """
    # One object may be several hooks.
    different = {id(hook): hook for hook in hooks}.values()
    managers = [hook for hook in different if isinstance(hook, AbstractAsyncContextManager)]
    if factory is None:
        return managers
    made: object = factory(server)
    if not isinstance(made, AbstractAsyncContextManager):
        if inspect.iscoroutine(made):
            made.close()  # otherwise Python warns that it was never awaited
        advice = "decorate it with contextlib.asynccontextmanager"
        raise TypeError(f"{_TAKES}, not {type(made).__name__}: {advice}")
    return [made, *managers]


class Lifespan:
    """One start and one clean-up, both in a Task of its own: a task group or a timeout that is open
    in between belongs to the Task that has entered it. Without managers the start is over at once.
    has_failed: something was logged.
    """

    def __init__(self, managers: Iterable[Manager]) -> None:
        self.has_failed = False
        self._managers = list(managers)
        self._started = asyncio.Event()  # or the start has failed
        self._error: BaseException | None = None
        self._is_entering = bool(self._managers)
        self._is_leaving = False
        self._changed = asyncio.Event()  # there is one more manager, or it is time to leave
        if not self._managers:
            self._started.set()
        self._task = asyncio.get_running_loop().create_task(self._live())

    @property
    def is_over(self) -> bool:
        """Whether all are exited, or could not be entered."""
        return self._task.done()

    @property
    def is_current(self) -> bool:
        """Whether the caller is one of the managers, or a Task that one has started."""
        return _current.get() is self

    async def wait_started(self) -> None:
        """Wait until all are entered. If this call is cancelled, the start is too.

        Raises what one of them raises; then those before it are exited.
        """
        if self.is_current and not self._started.is_set():
            raise RuntimeError("listen() would wait for itself in the start of a lifespan")
        try:
            await self._started.wait()
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait((self._task,))
            raise
        if isinstance(self._error, asyncio.CancelledError):
            raise RuntimeError("the start was cancelled")
        if self._error is not None:
            raise self._error

    def add(self, manager: Manager) -> None:
        """Enter one more, which is exited before all others; a no-op for one that is there."""
        if not any(each is manager for each in self._managers):
            self._managers.append(manager)
            self._changed.set()

    async def leave(self) -> None:
        """Exit them all; cancel a start that is in progress."""
        self._is_leaving = True
        self._changed.set()
        if self._is_entering:
            self._task.cancel()
        await asyncio.wait((self._task,))

    def hurry(self) -> None:
        """Cancel the current clean-up; the next one follows."""
        if self._is_leaving:
            self._task.cancel()

    async def _live(self) -> None:
        _current.set(self)
        entered: list[Manager] = []
        try:
            if self._is_entering:
                for manager in self._managers:  # there are more if one of them sets a hook
                    await manager.__aenter__()
                    entered.append(manager)
                self._is_entering = False
                self._started.set()
            await self._enter_late_ones(entered)
        except BaseException as error:  # of the start, or because a task group has cancelled us
            error.add_note(AT_START)
            self._error = error
        for manager in reversed(entered):
            try:
                # Without an error of another manager: a generator without `finally` would skip its
                # clean-up.
                await manager.__aexit__(None, None, None)
            except BaseException as error:
                self.has_failed = True
                logger.error("a clean-up at the end of the server has failed", exc_info=error)
        self._started.set()

    async def _enter_late_ones(self, entered: list[Manager]) -> None:
        """Enter those that are added, until it is time to leave."""
        while not self._is_leaving:
            if len(entered) == len(self._managers):
                self._changed.clear()
                await self._changed.wait()
                continue
            manager = self._managers[len(entered)]
            self._is_entering = True
            try:
                await manager.__aenter__()
                entered.append(manager)
            except Exception as error:
                del self._managers[len(entered)]  # so that it can be added again
                logger.error("a hook of a server that listens cannot be entered", exc_info=error)
            self._is_entering = False
