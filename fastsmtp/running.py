"""What it takes to run a server as a process: the loop that it has, and a start that a signal ends.

In: a start, and the event that a signal sets. Out: whether the start was waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["begin_unless_stopped", "loop_factory"]


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes a loop: uvloop's where that is installed, else None for asyncio's own."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop


async def begin_unless_stopped(start: Coroutine[Any, Any, object], stop: asyncio.Event) -> bool:
    """Wait for `start`, which may take as long as the system's resolver; once `stop` is set it is
    called off. Return whether it has come to its end; raises what it raises.
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
