"""A next hop for tests, whose every answer is scripted; and a gateway before it.

    async with NextHop() as hop, gateway(hop) as front, await Talk.greeted(front) as client:
        hop.answers["RCPT"] = b"550 5.1.1 Nobody\r\n"

A step without an answer of the script gets the usual one. The steps are "greeting", the verbs, and
"." for the end of a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from clients import PATIENCE
from connections import Connections, tell
from free_ports import free_port
from scenario import DEFAULTS

from fastsmtp import SMTPServer
from fastsmtp.delivery import Entry
from fastsmtp.delivery.relay import Relay
from fastsmtp.testing import running

__all__ = ["CLOSE", "RESET", "STALL", "Mail", "NextHop", "Talk", "gateway", "mail", "relay_to"]

STALL: Final = b"\0stall"  # no answer, for ever
CLOSE: Final = b"\0close"  # close, without an answer
RESET: Final = b"\0reset"  # the same with RST

KEYWORDS: Final = ("PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "SIZE 1000000")

type_answer = bytes | Callable[[str], bytes]


class Mail(NamedTuple):
    """One message as it has arrived: the lines of MAIL and RCPT, and the body without our Received.

    content: with it.
    """

    sender: str
    recipients: tuple[str, ...]
    content: bytes

    @property
    def body(self) -> bytes:
        """What the client has sent."""
        found = re.match(rb"Received: [^\n]*\n(?:[ \t][^\n]*\n)*", self.content)
        return self.content[found.end() :] if found else self.content


class NextHop:
    """answers: of the steps, octets or a function of the line. usual: to any other command. fates:
    of recipients after a message in LMTP. mails: what it has accepted or refused after the dot.
    lines: all commands. starts: connections so far. open: those that are open. early: sent as soon
    as a message begins. reads: clear it to leave a message unread. stays: does not close after a
    421. in_pieces: sends each octet of an answer by itself.
    """

    def __init__(
        self,
        *,
        lmtp: bool = False,
        keywords: tuple[str, ...] = KEYWORDS,
        path: str = "",
    ) -> None:
        self.lmtp = lmtp
        self.keywords = keywords
        self.answers: dict[str, type_answer] = {}
        self.usual = b""
        self.fates: dict[str, bytes] = {}
        self.mails: list[Mail] = []
        self.lines: list[str] = []
        self.starts = 0
        self.early = b""
        self.stays = self.in_pieces = False
        self.reads = asyncio.Event()
        self.reads.set()
        self.in_message = asyncio.Event()
        self.address: Any = path
        self._server: asyncio.Server | None = None
        self._connections = Connections(self._serve)

    @property
    def open(self) -> int:
        return len(self._connections)

    async def __aenter__(self) -> NextHop:
        await self.listen()
        return self

    async def listen(self) -> None:
        """Listen, again on the same port."""
        self._connections = Connections(self._serve)
        accept = self._connections.accept
        if isinstance(self.address, str) and self.address:
            self._server = await asyncio.start_unix_server(accept, self.address)
            return
        port = self.address[1] if self.address else free_port()
        self._server = await asyncio.start_server(accept, "127.0.0.1", port)
        self.address = self._server.sockets[0].getsockname()[:2]

    async def stop(self) -> None:
        """Stop listening, and cut all connections."""
        assert self._server is not None
        self._server.close()
        await self._connections.end()
        with contextlib.suppress(AttributeError):
            await self._server.wait_closed()

    def cut(self) -> None:
        """Reset all connections."""
        self._connections.cut()

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    # One connection.

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.starts += 1
        with contextlib.suppress(_Ended):
            await self._answer(writer, "greeting", "", b"220 hop.example ESMTP\r\n")
            await self._talk(reader, writer)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sender = ""
        recipients: list[str] = []
        while line := (await reader.readline()).decode(errors="replace").rstrip("\r\n"):
            self.lines.append(line)
            verb = line.split(" ")[0].upper()
            answer = await self._answer(writer, verb, line, self._usual(verb))
            if verb == "MAIL":
                sender, recipients = line, []
            elif verb == "RCPT" and answer[:1] == b"2":
                recipients.append(line)
            elif verb == "QUIT":
                return
            elif verb == "DATA" and answer[:3] == b"354":
                await self._message(reader, writer, Mail(sender, tuple(recipients), b""))

    async def _message(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, given: Mail
    ) -> None:
        self.in_message.set()
        if self.early:
            writer.write(self.early)
        await self.reads.wait()
        lines = []
        while (line := await reader.readline()) != b".\r\n":
            if not line:
                raise _Ended
            lines.append(line[1:] if line.startswith(b".") else line)
        self.mails.append(given._replace(content=b"".join(lines)))
        ok = b"250 2.0.0 Ok: queued\r\n"
        if not self.lmtp:
            await self._answer(writer, ".", "", ok)
            return
        for recipient in given.recipients:
            await self._answer(writer, ".", recipient, self.fates.get(_address(recipient), ok))

    def _usual(self, verb: str) -> bytes:
        if verb in ("EHLO", "LHLO"):
            words = ["hop.example", *self.keywords]
            return b"".join(b"250-%b\r\n" % word.encode() for word in words[:-1]) + (
                b"250 %b\r\n" % words[-1].encode()
            )
        codes = {"DATA": b"354 Go on\r\n", "QUIT": b"221 Bye\r\n", "STARTTLS": b"220 Go on\r\n"}
        return codes.get(verb, self.usual or b"250 2.0.0 Ok\r\n")

    async def _answer(
        self, writer: asyncio.StreamWriter, step: str, line: str, usual: bytes
    ) -> bytes:
        given = self.answers.get(step, usual)
        answer = given if isinstance(given, bytes) else given(line)
        if answer == STALL:
            await asyncio.Event().wait()
        if answer == RESET:
            writer.transport.abort()
        if answer in (CLOSE, RESET):
            raise _Ended
        for piece in [bytes([octet]) for octet in answer] if self.in_pieces else [answer]:
            if writer.transport.is_closing():
                raise _Ended  # on uvloop it takes no more octets
            writer.write(piece)
            if self.in_pieces:
                await asyncio.sleep(0)  # a packet of its own: asyncio sets TCP_NODELAY
        if answer.startswith(b"421") and not self.stays:
            await writer.drain()
            raise _Ended
        return answer


class _Ended(Exception):
    """The connection is to end."""


def _address(line: str) -> str:
    return line[line.index("<") + 1 : line.index(">")]


class Talk:
    """A client that shows whole replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def greeted(cls, address: Any, verb: str = "EHLO") -> Talk:
        """Connect, and greet."""
        return await cls.connected(address, b"", verb)

    @classmethod
    async def connected(cls, address: Any, header: bytes, verb: str = "EHLO") -> Talk:
        """Connect, send a PROXY header, and greet."""
        client = cls(*await asyncio.open_connection(*address))
        tell(client.writer, header)
        assert (await client.reply()).startswith("220")
        assert (await client.ask(f"{verb} c.example")).startswith("250")
        return client

    async def __aenter__(self) -> Talk:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def reply(self) -> str:
        """The next reply without its last CRLF; "" at the end of the connection."""
        octets = b""
        async with asyncio.timeout(PATIENCE):
            while line := await self._reader.readline():
                octets += line
                if line[3:4] == b" ":
                    break
        return octets.decode().replace("\r\n", "\n").rstrip("\n")

    async def ask(self, line: str) -> str:
        """Send a line, and return the reply."""
        tell(self.writer, f"{line}\r\n".encode())
        return await self.reply()

    async def begin(self, *recipients: str, mail: str = "MAIL FROM:<a@x.example>") -> None:
        """MAIL and RCPT, which are accepted."""
        assert (await self.ask(mail)).startswith("250")
        for recipient in recipients or ("b@y.example",):
            assert (await self.ask(f"RCPT TO:<{recipient}>")).startswith("250")

    async def data(self, body: bytes) -> str:
        """DATA and the message; return the reply to it."""
        assert (await self.ask("DATA")).startswith("354")
        tell(self.writer, (b"\r\n" + body).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")
        return await self.reply()

    async def send(self, body: bytes, *recipients: str) -> str:
        """A whole transaction; return the reply to the message."""
        await self.begin(*recipients)
        return await self.data(body)


def mail(text: bytes = b"hello", octets: int = 0) -> bytes:
    """A message with that text, repeated up to so many octets."""
    line = text + b"\r\n"
    return b"Subject: hello\r\n\r\n" + line * max(1, octets // len(line))


def relay_to(hop: NextHop, **options: Any) -> Relay:
    """A relay to the hop of a test."""
    if isinstance(hop.address, str):
        return Relay(hop.address, lmtp=hop.lmtp, **options)
    return Relay(*hop.address, lmtp=hop.lmtp, **options)


@asynccontextmanager
async def gateway(
    hop: NextHop, *, lmtp: bool = False, log: list[Entry] | None = None, **options: Any
) -> AsyncIterator[Any]:
    """A server that asks the hop; yields its address. options: of the relay."""
    entries: list[Entry] = [] if log is None else log
    relay = relay_to(hop, **options)
    hooks = relay.hooks(name="mx.example", log=entries.append)
    server = SMTPServer(**{**DEFAULTS, "lmtp": lmtp, **hooks})
    async with running(server) as address:
        yield address
