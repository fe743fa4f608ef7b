"""Hooks that have a beginning and an end: those that are asynchronous context managers.

They are entered before a server listens, so that what is wrong with them is an error at the start,
and left in the reverse order when the last client has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack

__all__ = ["Lifespans"]


class Lifespans:
    """The hooks of one server that were entered."""

    def __init__(self) -> None:
        self._stack: AsyncExitStack | None = None
        self._entering = asyncio.Lock()  # two calls of `listen` may run side by side

    async def enter(self, hooks: Iterable[object]) -> None:
        """Enter those of `hooks` that can be, in their order, once.

        Raises what one of them raises; those before it were left again then.
        """
        async with self._entering:
            if self._stack is not None:
                return
            async with AsyncExitStack() as stack:
                # One object may be several hooks.
                for hook in {id(hook): hook for hook in hooks}.values():
                    if hasattr(type(hook), "__aenter__"):
                        await stack.enter_async_context(hook)  # type: ignore[arg-type]  # is one
                self._stack = stack.pop_all()

    async def leave(self) -> None:
        """Leave them all."""
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()
