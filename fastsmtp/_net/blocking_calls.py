"""Calls that block, each in a daemon thread of its own: nothing ever waits for such a thread.

An executor would not do: the event loop joins the threads of its own when it is closed, and the
interpreter those of all executors when it ends, so that one call that hangs keeps the process.
How many run at a time is the caller's business: there is no queue here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["call_in_thread"]

T = TypeVar("T")


def call_in_thread(
    loop: asyncio.AbstractEventLoop, call: Callable[[], T], name: str
) -> asyncio.Future[T | BaseException]:
    """Return a future of `loop` for what `call` returns, or for what it raises, as a value too:
    asyncio would log an error that nobody has asked for.

    The future stays pending when the loop is closed first. Raises RuntimeError when no thread can
    be started.
    """
    future: asyncio.Future[T | BaseException] = loop.create_future()

    def run() -> None:
        outcome: T | BaseException
        try:
            outcome = call()
        except BaseException as error:
            outcome = error
        try:
            loop.call_soon_threadsafe(_settle, future, outcome)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def _settle(future: asyncio.Future[T], outcome: T) -> None:
    if not future.done():  # it may have been cancelled
        future.set_result(outcome)
