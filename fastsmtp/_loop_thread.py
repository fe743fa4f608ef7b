"""An event loop in a thread of its own, for a server in a program that has no loop.

In: a server, and the coroutine that starts it. Out: a context manager, whose body runs while the
server serves.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, Generic, Protocol, TypeVar

from fastsmtp.running import loop_factory

__all__ = ["serving_in_thread"]

T = TypeVar("T")


class Server(Protocol):
    """What is needed of a server."""

    async def serve_until_stopped(
        self, start: Coroutine[Any, Any, object], *, handle_signals: bool, stop: asyncio.Event
    ) -> bool:
        """Await `start`, serve until `stop` is set, and close."""

    def hurry(self) -> None:
        """Cut the connections."""


@contextmanager
def serving_in_thread(
    server: Server,
    check: Callable[[], object],
    start: Callable[[], Coroutine[Any, Any, T]],
    abandon: Callable[[], object],
) -> Iterator[T]:
    """Serve in a thread while the body runs; yield what `start` returns.

    check: raises an exception if `server` must not be started, or closed. abandon: called in place
    of an end in a forked child, which has no such thread. Raises what `check` and `start` raise,
    and after the body what has ended the loop. The end of the interpreter ends the body.
    """
    thread = _LoopThread(server, check, start, abandon)
    atexit.register(thread.stop)
    try:
        yield thread.start()
    finally:
        atexit.unregister(thread.stop)
        thread.stop()
    thread.raise_error()


class _LoopThread(Generic[T]):
    def __init__(
        self,
        server: Server,
        check: Callable[[], object],
        start: Callable[[], Coroutine[Any, Any, T]],
        abandon: Callable[[], object],
    ) -> None:
        self._server = server
        self._check = check
        self._start = start
        self._abandon = abandon
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._is_stopping = False
        self._ended = threading.Event()
        self._ready: Future[T] = Future()
        self._error: BaseException | None = None
        # A daemon: the interpreter would join another one before it calls `stop`.
        self._thread = threading.Thread(target=self._run, name="fastsmtp-server", daemon=True)

    def start(self) -> T:
        """Return when it serves; raises what the start raises."""
        self._thread.start()
        return self._ready.result()

    def stop(self) -> None:
        """End it and wait for the end; in the thread itself, only begin the end."""
        if os.getpid() != self._process:
            self._abandon()
            return
        self._is_stopping = True
        self._call(self._stop.set)
        if self._thread.ident is None or threading.current_thread() is self._thread:
            return
        try:
            # Not `join`: before Python 3.13 the one after an interrupted one returns at once.
            self._ended.wait()
        except BaseException:  # KeyboardInterrupt: as a second signal, it does not wait any more
            self._call(self._server.hurry)
            self._ended.wait()
            raise
        finally:
            self._thread.join()

    def raise_error(self) -> None:
        """Raise what has ended the loop after the start, if anything has: a hook's SystemExit."""
        if self._error is not None:
            raise self._error

    def _call(self, function: Callable[[], object]) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(function)

    def _run(self) -> None:
        error: BaseException = RuntimeError("the server was closed in its start")
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(self._main())
        except BaseException as raised:
            error = self._error = raised
        if not self._ready.done():
            self._ready.set_exception(error)
        self._ended.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._is_stopping:  # before there was a loop to call
            self._stop.set()
        self._check()
        await self._server.serve_until_stopped(self._begin(), handle_signals=False, stop=self._stop)

    async def _begin(self) -> None:
        self._ready.set_result(await self._start())
