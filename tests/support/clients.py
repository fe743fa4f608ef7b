"""Clients over real sockets, and a sink that keeps what arrives: for the tests on the wire.

`Client` is the raw one: it sends what a test gives it and reads replies as they come. Nothing here
waits by the clock, but for `PATIENCE`, after which a test that would hang fails.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from connections import tell
from scenario import DEFAULTS, codes

from fastsmtp import SMTPServer

PATIENCE = 60.0  # seconds; only what hangs ever waits so long
CLOSING = "421 4.3.2"  # R47

type_address = tuple[str, int] | str


class Arrived(NamedTuple):
    """One message as the hook `on_data` got it."""

    sender: str
    recipients: list[str]
    octets: int
    digest: str
    kind: str
    body_type: str
    utf8: bool


def digest(body: bytes) -> str:
    """What bodies are compared by: a difference in 30 MB is not worth printing."""
    return hashlib.sha256(body).hexdigest()


def stuffed(body: bytes) -> bytes:
    """`body` as it is sent after a 354, without the last line (RFC 5321 §4.5.2).

    ValueError if it is not made of lines with CRLF: nothing else may be sent there (§2.3.8).
    """
    lines = body.split(b"\r\n")
    if lines[-1] or any(b"\r" in line or b"\n" in line for line in lines):
        raise ValueError("a body for DATA is whole lines, each ended by CRLF")
    return (b"\r\n" + body).replace(b"\r\n.", b"\r\n..")[2:]


class Sink:
    """The hooks of a server that accepts everything; `arrived` has all messages in order."""

    def __init__(self) -> None:
        self.arrived: list[Arrived] = []
        self.closed: list[str] = []

    def server(self, **options: Any) -> SMTPServer:
        """Return a server with these hooks."""
        given = {"on_data": self.on_data, "on_close": self.on_close, **options}
        return SMTPServer(**{**DEFAULTS, **given})

    def on_data(self, stream: Any, session: Any, callback: Callable[..., object]) -> None:
        body = hashlib.sha256()
        envelope, kind = session.envelope, session.transmission_type

        def on_end(error: Exception | None) -> None:
            if error is None:
                told = Arrived(
                    envelope.mail_from.address,
                    [recipient.address for recipient in envelope.rcpt_to],
                    stream.byte_length,
                    body.hexdigest(),
                    kind,
                    envelope.body_type,
                    envelope.smtp_utf8,
                )
                self.arrived.append(told)
            callback(error)

        stream.consume(body.update, on_end)

    def on_close(self, session: Any) -> None:
        self.closed.append(session.id)


class Client:
    """A raw client: `send`, `reply`, `ask`, ways to leave. Replies are as in `scenario.codes`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._octets = b""

    @classmethod
    async def connect(cls, address: type_address, **options: Any) -> Client:
        """Connect to (host, port), or to the path of a UNIX socket."""
        if isinstance(address, str):
            return cls(*await asyncio.open_unix_connection(address))
        return cls(*await asyncio.open_connection(*address, **options))

    @classmethod
    async def greeted(cls, address: type_address, verb: bytes = b"EHLO") -> Client:
        """Connect, and greet."""
        client = await cls.connect(address)
        assert await client.reply() == "220"
        assert await client.ask(verb + b" c.example\r\n") == "250"
        return client

    @classmethod
    async def in_data(cls, address: type_address, verb: bytes = b"EHLO") -> Client:
        """Go on to the 354 of a message from a@x.example to b@y.example."""
        client = await cls.greeted(address, verb)
        client.send(b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n")
        assert await client.replies(3) == ["250 2.1.0", "250 2.1.5", "354"]
        return client

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def send(self, octets: bytes) -> None:
        """Write, without waiting for anything."""
        tell(self.writer, octets)

    async def reply(self) -> str:
        """Read one reply; "" at the end of the connection."""
        octets = b""
        async with asyncio.timeout(PATIENCE):
            while line := await self.reader.readline():
                octets += line
                if line[3:4] == b" ":
                    (reply,) = codes(octets)
                    return reply
        assert not octets, f"a reply is cut off: {octets!r}"
        return ""

    async def replies(self, count: int) -> list[str]:
        """Read so many replies."""
        return [await self.reply() for _ in range(count)]

    async def ask(self, octets: bytes) -> str:
        """Write, and read one reply."""
        self.send(octets)
        return await self.reply()

    async def rest(self) -> list[str]:
        """Read all replies up to the server's FIN."""
        async with asyncio.timeout(PATIENCE):
            return codes(await self.reader.read(-1))

    def finish(self) -> None:
        """Send FIN; the client still reads."""
        if not self.writer.is_closing():
            self.writer.write_eof()

    def reset(self) -> None:
        """Send RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        """Close, whatever the other side has done."""
        self.writer.close()
        try:
            async with asyncio.timeout(PATIENCE):
                await self.writer.wait_closed()
        except OSError:  # the server was first, or `reset`
            pass


async def greets(address: Any, verb: bytes = b"EHLO") -> None:
    """A client is served at `address`."""
    async with await Client.greeted(address, verb) as client:
        assert await client.ask(b"QUIT\r\n") == "221 2.0.0"


async def refused(address: Any) -> None:
    """Nobody listens at `address`."""
    with pytest.raises(OSError):
        await Client.connect(address)


@asynccontextmanager
async def closing(server: SMTPServer, address: Any, verb: bytes = b"EHLO") -> AsyncIterator[Any]:
    """`close()` has begun and has dealt with all that could be dealt with at once."""
    async with await Client.greeted(address, verb) as idle:
        task = asyncio.ensure_future(server.close())
        assert await idle.rest() == [CLOSING]
    yield task
    await task


async def happened(event: asyncio.Event) -> None:
    """Wait for `event`."""
    async with asyncio.timeout(PATIENCE):
        await event.wait()


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until `condition` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


def program(name: str, package: str) -> tuple[str, str]:
    """Return the path of a program, and the reason to skip when it is "" (not installed)."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin") or ""
    return path, f"{name} is not installed (package {package})"


def swaks_over_tls() -> tuple[str, str]:
    """Return the same of swaks, as far as it can do TLS: for that it needs a module of Perl."""
    path, reason = program("swaks", "swaks")
    if path:
        told = subprocess.run([path, "--support"], capture_output=True, text=True, check=False)
        if "TLS supported" not in told.stdout + told.stderr:
            return "", "swaks is without TLS (package libnet-ssleay-perl)"
    return path, reason
