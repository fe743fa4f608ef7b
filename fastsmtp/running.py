"""Running a server as a process: the event loop, signals, and a start that they can interrupt.

In: a start, and the event that a signal sets. Out: whether the start was completed.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

__all__ = [
    "AT_START",
    "begin_unless_stopped",
    "check_can_run",
    "handling",
    "loop_factory",
    "was_raised_at_start",
]

# The note on errors of a start: an OSError may come from a database, or from the port.
AT_START: Final = "raised at the start of the server's lifespan"


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the factory of uvloop's loops where uvloop is installed, else None for asyncio's."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop


def was_raised_at_start(error: BaseException) -> bool:
    """Return whether the lifespan of a server, or a hook that is a context manager, raised this."""
    return AT_START in getattr(error, "__notes__", ())


def check_can_run(*, handle_signals: bool) -> None:
    """Raise RuntimeError if a new loop cannot run here, or, with `handle_signals`, get signals."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError(
            "run() starts an event loop, and one is running here:"
            " await server.listen(…) and server.serve_forever() in it"
        )
    if handle_signals and threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "run() handles signals, which only the main thread can:"
            " call run(…, handle_signals=False) in another one"
        )


@contextmanager
def handling(
    loop: asyncio.AbstractEventLoop, signals: Mapping[str, Callable[[], object]]
) -> Iterator[None]:
    """Have `loop` call a function for each signal, by name; signals that the system does not have
    are skipped.
    """
    numbers = [getattr(signal, name) for name in signals if hasattr(signal, name)]
    with suppress(NotImplementedError):  # Windows
        for number in numbers:
            loop.add_signal_handler(number, signals[number.name])
    try:
        yield
    finally:
        with suppress(NotImplementedError):
            for number in numbers:
                loop.remove_signal_handler(number)


async def begin_unless_stopped(start: Coroutine[Any, Any, object], stop: asyncio.Event) -> bool:
    """Wait for `start`, which may take as long as the system's resolver, and cancel it once `stop`
    is set. Return whether it was completed; raises what it raises.
    """
    starting, stopping = asyncio.ensure_future(start), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        has_begun = starting.done()
        if has_begun:
            starting.result()
        return has_begun
    finally:
        for task in (starting, stopping):
            task.cancel()
        await asyncio.wait((starting, stopping))
