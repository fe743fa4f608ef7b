"""A real `fastsmtp serve --workers`: its parent and its workers, clients with other addresses."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import signal
import smtplib
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from serving import PATIENCE, Gateway

__all__ = ["Parent", "Settings", "Steady", "greeting", "ids_in", "load", "workers_of"]


class Parent(Gateway):
    """One run with workers. maildir: None for an application, which `arguments` name."""

    def __init__(
        self,
        maildir: Path | None,
        *arguments: str,
        workers: int | str | None = 2,
        **options: Any,
    ) -> None:
        number = [] if workers is None else [f"--workers={workers}"]
        ready = r"workers? (is|are) ready"
        super().__init__(maildir, *number, *arguments, is_up=ready, **options)

    def workers(self) -> list[int]:
        """The numbers of the processes that the parent has started and that have not ended."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(number) for number in children.read_text().split()]

    def wait_for_workers(self, count: int) -> None:
        """Wait until so many are left; others may still have clients."""
        end = time.monotonic() + PATIENCE
        while len(self.workers()) != count:
            assert time.monotonic() < end, self.workers()
            time.sleep(0.01)

    def wait_for_delivery(self, number: signal.Signals) -> None:
        """Wait until the parent has got a signal: another one of the kind is a second one then."""
        while self._pending() >> (number - 1) & 1:
            assert self.process.poll() is None

    def _pending(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"^ShdPnd:\s*(\w+)", status, re.MULTILINE)[0], 16)

    def client_from(self, address: str, *, at: int = 0) -> smtplib.SMTP:
        """Return a connection from `address` that has greeted."""
        client = smtplib.SMTP(
            "127.0.0.1", self.ports[at], "c.example", PATIENCE, source_address=(address, 0)
        )
        client.ehlo()
        return client

    def send_from(self, address: str, message: bytes) -> None:
        """Send one message from `address`."""
        with contextlib.closing(self.client_from(address)) as client:
            client.sendmail("a@x.example", ["b@y.example"], message)
            client.quit()


class Settings:
    """A configuration file, and a parent that was started with it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "fastsmtp.toml"
        self.maildir = directory / "mail"

    def write(self, listen: tuple[str, ...] = ("127.0.0.1:0",), **more: object) -> None:
        values = {"listen": list(listen), "maildir": str(self.maildir), "workers": 2, **more}
        lines = [f"{key} = {value!r}\n" for key, value in values.items()]
        self.path.write_text("".join(lines))

    def start(self, *arguments: str, **options: Any) -> Parent:
        given = f"--config={self.path}", *arguments
        return Parent(None, *given, workers=None, listen=(), **options)


class Steady:
    """Clients that deliver one message after the other, each from an address of its own, over short
    connections, and that record every reply which is not the one of success.

    acknowledged: what each accepted message says in its X-Id. refused: replies of 4xx and 5xx.
    cut: connections that ended before their QUIT was answered.
    """

    def __init__(self, port: int, clients: int, *, messages: int = 3) -> None:
        self.acknowledged: list[str] = []
        self.refused: list[bytes] = []
        self.cut: list[str] = []
        self._port = port
        self._messages = messages
        self._numbers = itertools.count()
        self._is_stopping = False
        self._tasks = [asyncio.create_task(self._serve(n + 1)) for n in range(clients)]

    async def wait_for(self, count: int) -> None:
        """Wait until so many more messages were acknowledged."""
        wanted = len(self.acknowledged) + count
        async with asyncio.timeout(PATIENCE):
            while len(self.acknowledged) < wanted:
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """End after the connections that are open; raises what a client has raised."""
        self._is_stopping = True
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self._tasks)

    async def _serve(self, number: int) -> None:
        while not self._is_stopping:
            try:
                source = (f"127.0.0.{number}", 0)
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self._port, local_addr=source
                )
                try:
                    await self._talk(reader, writer)
                finally:
                    writer.close()
            except (OSError, EOFError) as error:
                self.cut.append(repr(error))

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await self._is_fine(reader):
            return
        for _ in range(self._messages):
            name = f"id{next(self._numbers)}"
            for line in ("EHLO c.example", "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>"):
                writer.write(line.encode() + b"\r\n")
                if not await self._is_fine(reader):
                    return
            writer.write(b"DATA\r\n")
            if not await self._is_fine(reader):
                return
            writer.write(b"X-Id: %s\r\n\r\ntext\r\n.\r\n" % name.encode())
            if not await self._is_fine(reader):
                return
            self.acknowledged.append(name)
        writer.write(b"QUIT\r\n")
        await self._is_fine(reader)

    async def _is_fine(self, reader: asyncio.StreamReader) -> bool:
        """Read a reply, and record one that is a refusal."""
        while (line := await reader.readuntil(b"\n"))[3:4] == b"-":
            pass
        if line[:1] in b"45":
            self.refused.append(line)
            return False
        return True


def load(parent: Parent, disturb: Callable[[], object], times: int) -> Steady:
    """Disturb the parent under load so many times; between two of them mail goes on."""

    async def run() -> Steady:
        steady = Steady(parent.ports[0], clients=12)
        for _ in range(times):
            await steady.wait_for(30)
            await asyncio.to_thread(disturb)
        await steady.wait_for(30)
        await steady.stop()
        return steady

    return asyncio.run(run())


def greeting(address: tuple[str, int], source: str) -> str:
    """Return who greets a client from `source`."""
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(PATIENCE)
        client.bind((source, 0))
        client.connect((host, port))
        return client.makefile().readline().split()[1]


def workers_of(address: tuple[str, int], sources: list[str]) -> dict[str, str]:
    """Return who serves each source; the same one at every connection."""
    served = {source: {greeting(address, source) for _ in range(3)} for source in sources}
    assert [source for source, names in served.items() if len(names) != 1] == []
    return {source: next(iter(names)) for source, names in served.items()}


def ids_in(texts: Iterable[bytes]) -> list[str]:
    """Return the X-Id of each message."""
    return [found[1].decode() for text in texts if (found := re.search(rb"X-Id: (\w+)", text))]
