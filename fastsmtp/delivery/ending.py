"""Closes a sink to the end, even if the caller that waits for it is cancelled.

A program that gives `close` less time than its patience, or is interrupted in it, would otherwise
be left with a lock, a database and threads that nobody can release any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["to_the_end"]


async def to_the_end(ending: Coroutine[Any, Any, None]) -> None:
    """Wait for `ending`, which has a time limit of its own; a cancellation has its effect then."""
    task = asyncio.ensure_future(ending)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
