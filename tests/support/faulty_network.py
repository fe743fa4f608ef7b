"""A network between a client and a server that stops to pass octets, as a test says.

`Between` listens on a port of 127.0.0.1 and connects each client to the server. A direction that is
`swallowed` loses its octets and keeps the connection; a new connection is whole unless `all_new` is
set. `delay` holds octets back. `loses` is asked about what comes from the server: if it returns
True, that is lost and the connection reset.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

__all__ = ["Between", "between"]

PIECE = 65536


class _Path:
    """One connection. lost: the directions whose octets are lost."""

    def __init__(self, lost: set[str]) -> None:
        self.lost = lost
        self.writers: list[asyncio.StreamWriter] = []


class Between:
    """port: where it listens. swallow: "to_server", "to_client". passed: octets by direction."""

    def __init__(self, server: int) -> None:
        self.port = 0
        self.delay = 0.0
        self.loses: Callable[[bytes], bool] = lambda octets: False
        self.all_new: set[str] = set()
        self.accepted = 0
        self.lost_octets = 0
        self._server = server
        self._paths: set[_Path] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def swallow(self, *directions: str) -> None:
        """Lose the octets of these directions on all connections that there are."""
        for path in self._paths:
            path.lost.update(directions)

    def cut(self) -> None:
        """Reset all connections."""
        for path in self._paths:
            for writer in path.writers:
                writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        path = _Path(set(self.all_new))
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._server)
        except OSError:
            writer.transport.abort()
            return
        path.writers += [writer, back]
        self._paths.add(path)
        for direction, source, target in (
            ("to_server", reader, back),
            ("to_client", there, writer),
        ):
            task = asyncio.ensure_future(self._pump(path, direction, source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self,
        path: _Path,
        direction: str,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
    ) -> None:
        with contextlib.suppress(OSError):
            while octets := await source.read(PIECE):
                if direction in path.lost:
                    self.lost_octets += len(octets)
                    continue
                if direction == "to_client" and self.loses(octets):
                    for writer in path.writers:
                        writer.transport.abort()
                    break
                if self.delay:
                    await asyncio.sleep(self.delay)
                target.write(octets)
                await target.drain()
        self._paths.discard(path)
        for writer in path.writers:
            writer.close()

    async def close(self) -> None:
        self.cut()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def between(server: int) -> AsyncIterator[Between]:
    """Run a network in front of the server on that port."""
    network = Between(server)
    listener = await asyncio.start_server(network.accept, "127.0.0.1", 0)
    network.port = listener.sockets[0].getsockname()[1]
    try:
        yield network
    finally:
        listener.close()
        await network.close()
