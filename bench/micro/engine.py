"""Where the benchmarks find the parts of the engine, and a client for whole dialogues.

`make bench-check` runs them on older revisions too, whose modules may lie elsewhere. So the parts
that are not public are reached from public names.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import uvloop

from fastsmtp import Address, SMTPServer
from fastsmtp.testing import Wire

grammar = sys.modules[Address.__module__]


class Loop(uvloop.Loop):
    """uvloop for a wire, whose own loop has a clock that stands still. What a wire does is done in
    the turn that runs already.
    """

    def step(self, action: Callable[[], Any]) -> None:
        action()


class Client:
    """One connection in memory, and what it is sent. The loop is a `Loop` that runs."""

    def __init__(self, server: SMTPServer) -> None:
        self.wire = Wire(server, loop=asyncio.get_running_loop())  # type: ignore[arg-type]
        self.receive = self.wire.connection.data_received
        self.written = self.wire.transport.writes

    async def send(self, *reads: tuple[bytes, int]) -> None:
        """Deliver each read, and wait for that many lines of replies before the next one."""
        written = self.written
        for octets, replies in reads:
            written.clear()
            self.receive(octets)
            while b"".join(written).count(b"\n") < replies:
                await asyncio.sleep(0)

    async def quit(self) -> None:
        """Say QUIT, hear the answer, send FIN, and be gone."""
        await self.send((b"QUIT\r\n", 1))
        self.wire.eof()
        self.wire.close()
        await asyncio.sleep(0)
