"""Clients that send mail as fast as it is taken, and know what was acknowledged to them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import Callable, Sequence

SIZES = (10, 1000, 1000, 20_000, 200_000)


class Load:
    """`connections` clients of a server on 127.0.0.1, each with one message after the other.

    acknowledged: SHA-256 of the bodies that got a 250. on_acknowledged is called for each, with
    their number.
    """

    def __init__(self, port: int, connections: int, *, seed: int, sizes: Sequence[int] = SIZES):
        self.acknowledged: set[str] = set()
        self.refused: list[bytes] = []
        self.on_acknowledged: Callable[[int], None] = lambda count: None
        self.on_refused: Callable[[bytes], None] = lambda answer: None
        self._port = port
        self._connections = connections
        self._chance = random.Random(seed)
        self._sizes = sizes
        self._stop = False

    async def run(self, seconds: float = 60.0) -> None:
        """Send until the server goes away, `stop` was called, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(self._client() for _ in range(self._connections)))

    def stop(self) -> None:
        """Send no more messages."""
        self._stop = True

    async def _client(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                await self._talk(reader, writer)
            finally:
                if writer.transport.get_write_buffer_size():
                    writer.transport.abort()  # nobody reads the rest
                writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _reply(reader)
        writer.write(b"EHLO c.example\r\n")
        await _reply(reader)
        while not self._stop:
            body = self._body()
            writer.write(b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n")
            answers = [await _reply(reader) for _ in range(3)]
            answer = next((each for each in answers if each[:1] in b"45"), answers[-1])
            if answer.startswith(b"354"):
                writer.write(body + b".\r\n")
                answer = await _reply(reader)
            if answer.startswith(b"250"):
                self.acknowledged.add(hashlib.sha256(body).hexdigest())
                self.on_acknowledged(len(self.acknowledged))
            else:
                self.refused.append(answer)
                self.on_refused(answer)

    def _body(self) -> bytes:
        line = self._chance.randbytes(32).hex().encode() + b"\r\n"
        length = self._chance.choice(self._sizes)
        return b"Subject: x\r\n\r\n" + line * (length // len(line) + 1)


async def _reply(reader: asyncio.StreamReader) -> bytes:
    """Return the last line of the next reply. Raises EOFError when there is none."""
    while line := await reader.readline():
        if not line.endswith(b"\n"):
            break
        if line[3:4] != b"-":
            return line
    raise EOFError
