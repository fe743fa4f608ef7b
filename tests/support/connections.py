"""Connections of a test's server, or of one between, which end as they like: nothing is left.

    connections = Connections(talk)
    server = await asyncio.start_server(connections.accept, "127.0.0.1", 0)
    ...
    server.close()
    await connections.end()

A peer that goes away ends a talk, and is reported by nobody: uvloop raises RuntimeError for a write
to a transport that is closed, where asyncio drops the octets.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

__all__ = ["Connections", "closed", "tell"]

type_talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Connections:
    """Runs `talk(reader, writer)` for each connection, and closes it when that returns or raises.

    Errors of a lost connection are dropped, others are reported by asyncio.
    """

    def __init__(self, talk: type_talk) -> None:
        self._talk = talk
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._is_over = False

    def __len__(self) -> int:
        return len(self._open)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """For `asyncio.start_server`, which may call it once more after the server's `close()`."""
        if self._is_over:
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._open.pop)

    def cut(self) -> None:
        """Reset all connections, and cancel what they wait for."""
        for task, writer in self._open.items():
            writer.transport.abort()
            task.cancel()

    async def end(self) -> None:
        """Cut all connections; after this none is left and none is accepted."""
        self._is_over = True
        while self._open:
            self.cut()
            await asyncio.wait([*self._open])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with _lost(writer):
                await self._talk(reader, writer)
        finally:
            await closed(writer)


@contextlib.contextmanager
def _lost(writer: asyncio.StreamWriter) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError):
        pass
    except RuntimeError:
        if not writer.is_closing():
            raise


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection, and wait until all is sent and the descriptor is free."""
    writer.close()
    try:
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    except asyncio.CancelledError:
        writer.transport.abort()
        raise


def tell(writer: asyncio.StreamWriter, octets: bytes) -> None:
    """Write, without waiting; what is written to a lost connection is lost, on each loop."""
    if not writer.is_closing():
        writer.write(octets)
