"""A remote store for tests: a TCP server that a script makes slow, mute, full or dead, and a sink
that hands messages over to it.

A request is a line of JSON, `{"ids": [...], "sizes": [...]}`, and the records, of these sizes; the
answer is a line with a word for each id: "ok", or the name of an error. `{"probe": true}` is
answered with "up".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from connections import Connections
from free_ports import free_port

from fastsmtp.delivery import (
    DeliveryError,
    Full,
    Promise,
    Receipt,
    Record,
    Refused,
    TooLarge,
    Unavailable,
    Unclear,
    encode_record,
)
from fastsmtp.delivery.handoff import RemoteSink
from fastsmtp.errors import SMTPError

__all__ = ["RemoteServer", "ScriptedSink", "Threaded", "in_a_thread"]

LONGEST_LINE = 1 << 20
PATIENCE = 60.0
ERRORS: dict[str, Callable[[], DeliveryError]] = {
    "unavailable": lambda: Unavailable("the store says no"),
    "unclear": lambda: Unclear("the store does not know"),
    "full": lambda: Full("the store is full"),
    "too large": lambda: TooLarge("the store takes less"),
    "refused": lambda: Refused(SMTPError("No such user", 550, "5.1.1")),
}


class RemoteServer:
    """`async with RemoteServer() as server:` listens on `port`. answer: called with an id, returns
    the word for it. stored: the records by id, also those whose ack was dropped. is_silent: records
    get no answer; is_mute: nothing does. drops_acks: stores, then cuts the connection. go_on: a
    request for records waits for it. received: records have come.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.answer: Callable[[str], str] = lambda id: "ok"
        self.stored: dict[str, list[bytes]] = {}
        self.batches: list[list[str]] = []
        self.connections = 0
        self.is_silent = self.is_mute = False
        self.drops_acks = False
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.received = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._clients = Connections(self._serve)

    async def __aenter__(self) -> RemoteServer:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, after `stop` on the same port."""
        self._clients = Connections(self._serve)
        self._server = await asyncio.start_server(
            self._clients.accept, "127.0.0.1", self.port, limit=LONGEST_LINE
        )

    async def stop(self) -> None:
        """Listen no more, and cut all connections."""
        if self._server is not None:
            self._server.close()
            await self._clients.end()
            await self._server.wait_closed()
            self._server = None

    def cut(self) -> None:
        """Cut all connections."""
        self._clients.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while line := await reader.readline():
                await self._answer(json.loads(line), reader, writer)
        finally:
            writer.transport.abort()

    async def _answer(
        self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        is_probe = bool(request.get("probe"))
        if is_probe:
            words = ["up"]
        else:
            await self.go_on.wait()
            records = [await reader.readexactly(size) for size in request["sizes"]]
            words = [self.answer(id) for id in request["ids"]]
            self.batches.append(request["ids"])
            for id, word, octets in zip(request["ids"], words, records, strict=True):
                if word == "ok":
                    self.stored.setdefault(id, []).append(octets)
            self.received.set()
            if self.drops_acks:
                raise EOFError
        if not self.is_mute and (is_probe or not self.is_silent):
            writer.write(json.dumps(words).encode() + b"\n")
            await writer.drain()


class ScriptedSink(RemoteSink):
    """Hands over to a `RemoteServer` on `port`, each batch on a connection of its own."""

    max_record = 1 << 20

    def __init__(self, port: int, **options: Any) -> None:
        super().__init__(f"remote:{port}", **options)
        self.port = port
        self.promises = Promise.QUORUM_DISK

    async def connect(self) -> Promise:
        await self.probe()
        return self.promises

    async def probe(self) -> None:
        assert await self._asked(b'{"probe": true}\n') == ["up"]

    async def send(self, records: list[Record]) -> Sequence[Receipt | BaseException]:
        encoded = [encode_record(record) for record in records]
        request = {"ids": [record.id for record in records], "sizes": [*map(len, encoded)]}
        words = await self._asked(json.dumps(request).encode() + b"\n" + b"".join(encoded))
        return [ERRORS[word]() if word in ERRORS else word for word in words]

    async def disconnect(self) -> None:
        pass

    async def _asked(self, octets: bytes) -> list[str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=LONGEST_LINE)
        try:
            writer.write(octets)
            await writer.drain()
            line = await reader.readline()
            if not line:
                raise ConnectionResetError("the store has hung up")
            words: list[str] = json.loads(line)
            return words
        finally:
            writer.transport.abort()


class Threaded:
    """A remote server in a thread of its own, for tests that wait for processes."""

    def __init__(self, server: RemoteServer, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self._loop = loop

    @property
    def port(self) -> int:
        return self.server.port

    def stop(self) -> None:
        self._run(self.server.stop())

    def start(self) -> None:
        self._run(self.server.start())

    def wait_until_received(self) -> None:
        """Wait for records, if there were none yet."""
        self._run(self._received())

    async def _received(self) -> None:
        await self.server.received.wait()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)


@contextlib.contextmanager
def in_a_thread() -> Iterator[Threaded]:
    """A remote server that listens until the end of the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    made = Threaded(RemoteServer(), loop)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()
