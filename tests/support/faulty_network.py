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

from connections import Connections, closed, tell

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
        self.connections = Connections(self._pass)

    def swallow(self, *directions: str) -> None:
        """Lose the octets of these directions on all connections that there are."""
        for path in self._paths:
            path.lost.update(directions)

    def cut(self) -> None:
        """Reset all connections, also those that are only half made."""
        self.connections.cut()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        path = _Path(set(self.all_new))
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._server)
        except OSError:
            writer.transport.abort()
            return
        path.writers += [writer, back]
        self._paths.add(path)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(path, "to_server", reader, back))
                pumps.create_task(self._pump(path, "to_client", there, writer))
        except asyncio.CancelledError:
            back.transport.abort()
            raise
        finally:
            self._paths.discard(path)
            await closed(back)

    async def _pump(
        self,
        path: _Path,
        direction: str,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
    ) -> None:
        """Pass octets until one of the two connections ends, which ends the other."""
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
                tell(target, octets)
                await target.drain()
        for writer in path.writers:
            writer.close()


@asynccontextmanager
async def between(server: int) -> AsyncIterator[Between]:
    """Run a network in front of the server on that port."""
    network = Between(server)
    connections = network.connections
    listener = await asyncio.start_server(connections.accept, "127.0.0.1", 0)
    network.port = listener.sockets[0].getsockname()[1]
    try:
        yield network
    finally:
        listener.close()
        await connections.end()
