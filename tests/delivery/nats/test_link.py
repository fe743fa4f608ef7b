"""A connection to what is no server of NATS, and to one that answers less than it is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from clients import until
from connections import Connections, tell
from on_loops import on_loops

from fastsmtp.delivery.nats import link as module
from fastsmtp.delivery.nats.link import Link
from fastsmtp.delivery.nats.settings import Login, settings_of

pytest.importorskip("nats")

INFO = b"INFO %b\r\n" % json.dumps({"version": "2.12.0", "max_payload": 1 << 20}).encode()


class Server:
    """Sends each connection the next of `beginnings`; after INFO it answers PING, and notes lines.

    What is sent last is sent to all that follow.
    """

    def __init__(self, beginnings: Sequence[bytes]) -> None:
        self.lines: list[bytes] = []
        self.has_line = asyncio.Condition()
        self._beginnings = [*beginnings]
        self.connections = Connections(self._serve)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beginning = self._beginnings[0]
        if len(self._beginnings) > 1:
            del self._beginnings[0]
        writer.write(beginning)
        while line := await reader.readline():
            if line == b"PING\r\n" and beginning == INFO:
                tell(writer, b"PONG\r\n")
            async with self.has_line:
                self.lines.append(line)
                self.has_line.notify_all()

    async def seen(self, word: bytes) -> None:
        """Wait for a line that begins with `word`."""
        async with self.has_line, asyncio.timeout(60):
            await self.has_line.wait_for(lambda: any(each.startswith(word) for each in self.lines))

    def cut(self) -> None:
        """End all connections."""
        self.connections.cut()


@asynccontextmanager
async def linked(beginnings: Sequence[bytes]) -> AsyncIterator[tuple[Link, Server, asyncio.Event]]:
    """A link that is open, its server, and what is set when it is up again."""
    fake, is_up = Server(beginnings), asyncio.Event()
    listening = await asyncio.start_server(fake.connections.accept, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    settings = settings_of(f"nats://127.0.0.1:{port}", Login(), ca="", cert="", key="")
    link = Link(settings, is_up.set)
    try:
        await link.open()
        yield link, fake, is_up
    finally:
        await link.close()
        listening.close()
        await fake.connections.end()


@pytest.mark.parametrize(
    "answer", [b"INFO []\r\n", b"INFO 7\r\n", b"INFO " + b"x" * (1 << 20), b"-ERR\r\n"]
)
@on_loops
async def test_a_server_that_answers_nonsense_is_tried_again(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    async with linked([INFO, answer, INFO]) as (link, fake, is_up):
        fake.cut()
        async with asyncio.timeout(60):
            await is_up.wait()
        assert link.reason == ""


@on_loops
async def test_a_question_that_too_few_answer_leaves_no_subscription() -> None:
    async with linked([INFO]) as (link, fake, _):
        assert await link.ask_all("$SYS.X", {}, 3, 0.05) == []
        await fake.seen(b"UNSUB")


@pytest.mark.parametrize("turns", [1, 10])
@on_loops
async def test_a_close_that_is_not_waited_for_leaves_nothing(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nats.aio.client import Client

    close = Client.close

    async def hang(client: Client) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await close(client)

    async with linked([INFO]) as (link, _, _):
        monkeypatch.setattr(Client, "close", hang)
        closing = asyncio.ensure_future(link.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        assert link._client is None
        await until(lambda: not link._ending)
