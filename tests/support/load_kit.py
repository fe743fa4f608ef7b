"""Runs of `fastsmtp bench` in this process, and servers that play a script instead of SMTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from clients import PATIENCE
from connections import Connections, tell

from fastsmtp.gateway.bench.plan import Plan, make_plan
from fastsmtp.gateway.bench.run import Outcome, Run

Talk = Callable[["Peer"], Coroutine[Any, Any, None]]


def plan_of(target: object, **changed: Any) -> Plan:
    """The plan of a short run; `changed` are options of `make_plan`."""
    target = f"{target[0]}:{target[1]}" if isinstance(target, tuple) else target
    given: dict[str, Any] = {
        **{"profile": "keep", "connections": 2, "messages": 6, "duration": None, "size": None},
        **{"per_connection": None, "rate": None, "starttls": False, "helo": "c.example"},
        **{"sender": "a@x.example", "to": ["b@y.example"], "recipients": None},
        **{"timeout": PATIENCE, "expect": (), "anywhere": False},
    }
    return make_plan(target=target, **{**given, **changed})


async def send(target: object, **changed: Any) -> Outcome:
    """Run a plan to its end."""
    async with asyncio.timeout(2 * PATIENCE):
        return await Run(plan_of(target, **changed)).perform()


class Peer:
    """The server's side of one connection. number: of the connection, from 0."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number

    def says(self, octets: bytes) -> None:
        """Write, without waiting."""
        tell(self.writer, octets)

    async def hears(self) -> bytes:
        """One line, b"" at the end."""
        return await self.reader.readline()

    async def greets(self) -> None:
        """Greet, and answer EHLO."""
        self.says(b"220 hello\r\n")
        await self.hears()
        self.says(b"250-hello\r\n250 PIPELINING\r\n")

    async def serves(self, **replies: bytes) -> None:
        """Answer commands until QUIT or the end: 250, or what `replies` has for a verb in lower
        case, or for `message`. b"" closes; after a part of a reply nothing comes any more.
        """
        while line := await self.hears():
            verb = line[:4].decode().lower()
            usual = {"data": b"354 go on\r\n", "quit": b"221 bye\r\n"}.get(verb, b"250 OK\r\n")
            reply = replies.get(verb, usual)
            self.says(reply)
            if not reply or verb == "quit":
                return
            await self._stalls_after(reply)
            if verb == "data" and reply.startswith(b"354"):
                await self.reads_message()
                reply = replies.get("message", b"250 OK\r\n")
                self.says(reply)
                if not reply:
                    return
                await self._stalls_after(reply)

    async def _stalls_after(self, reply: bytes) -> None:
        if not reply.endswith(b"\n"):
            await asyncio.Event().wait()

    async def reads_message(self) -> None:
        """Read to the line with a dot."""
        while await self.hears() not in (b"", b".\r\n"):
            pass


@asynccontextmanager
async def peers(talk: Talk) -> AsyncIterator[tuple[str, int]]:
    """A server whose connections are closed when `talk` returns; yields its address."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        peer = Peer(reader, writer, count)
        count += 1
        with contextlib.suppress(ValueError):  # a line is too long
            await talk(peer)

    connections = Connections(serve)
    server = await asyncio.start_server(connections.accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()
        await connections.end()
        await server.wait_closed()
