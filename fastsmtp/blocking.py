"""Things that could block the event loop: blocking calls, and paths that are not regular files.

A call runs in a daemon thread of its own, and nothing ever waits for such a thread. An executor
would not do: the event loop joins the threads of its default executor when it is closed, and the
interpreter those of all executors when it exits, so that one hanging call keeps the process alive.
The caller limits how many run at a time: there is no queue here.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["call_in_thread", "read_at_once"]

T = TypeVar("T")


def call_in_thread(
    loop: asyncio.AbstractEventLoop, call: Callable[[], T], name: str
) -> asyncio.Future[T | BaseException]:
    """Return a future of `loop` with the result of `call`, or with its exception as a value:
    asyncio would log an exception that is never retrieved.

    The future stays pending if the loop is closed first. Raises RuntimeError when no thread can be
    started.
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
        except RuntimeError:  # the loop is closed
            pass

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def _settle(future: asyncio.Future[T], outcome: T) -> None:
    if not future.done():  # it may have been cancelled
        future.set_result(outcome)


def read_at_once(path: str, limit: int) -> tuple[bytes, int]:
    """Return up to `limit` octets of a file, and its mode; never wait for another process.

    Raises OSError, and ValueError for a FIFO or a terminal.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISFIFO(mode):
            raise ValueError("it is a FIFO, which cannot be read a second time")
        octets: bytes | None = file.read(limit)
    if octets is None:
        raise ValueError("there is nothing to read without waiting for it")
    return octets, mode


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
