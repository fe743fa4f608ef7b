"""The commands of `fastsmtp spool` on a spool that a running server has: a UNIX socket in its
directory.

Only the server may use the database (one connection of one process), so it executes the commands
itself. A request is one line of JSON, and so is each answer; if an answer has `follows`, that many
octets follow it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncGenerator, Iterator
from typing import Final

from fastsmtp.delivery.log import logger
from fastsmtp.delivery.spool.directory import SpoolDirectory, SpoolError, SpoolInUse
from fastsmtp.delivery.spool.operations import Answer, Operations, Request
from fastsmtp.delivery.spool.shelf import Shelf

__all__ = ["ControlServer", "perform"]

LONGEST_LINE: Final = 1024 * 1024  # octets of a request or an answer: thousands of recipients
CLIENTS: Final = 8
PATIENCE: Final = 60.0  # seconds for one step of a client
LONGEST_PATH: Final = 100  # octets; the system's limit is 108 on Linux, 104 elsewhere


class ControlServer:
    """Listens while the spool is in use. path: of the socket."""

    def __init__(self, path: str, operations: Operations) -> None:
        self._path = path
        self._operations = operations
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. If that fails, the spool works without it, and one log line states the reason."""
        try:
            listener = _listener(self._path)
        except OSError as error:
            logger.warning("fastsmtp spool cannot reach this server: %s: %s", self._path, error)
            return
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listener, limit=LONGEST_LINE
        )

    async def close(self) -> None:
        """Stop listening and cut running commands."""
        if self._server is None:
            return
        self._server.close()
        for client in self._clients:
            client.cancel()
        if self._clients:
            await asyncio.wait(self._clients)
        await self._server.wait_closed()
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            await self._answer(reader, writer)
        except (OSError, TimeoutError, ValueError, asyncio.CancelledError):
            pass  # a client that is gone or too slow, or sends an invalid request
        except RuntimeError:  # uvloop's, for a client that is gone
            if not writer.is_closing():
                raise
        finally:
            self._clients.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(PATIENCE):
            line = await reader.readline()
        request = json.loads(line)
        if not isinstance(request, dict):
            raise ValueError("a request is an object")
        has_room = len(self._clients) <= CLIENTS
        found = self._operations.perform(request) if has_room else _no_room()
        async with contextlib.aclosing(found) as answers:
            async for answer in answers:
                writer.write(answer if isinstance(answer, bytes) else _line(answer))
                async with asyncio.timeout(PATIENCE):
                    await writer.drain()
        writer.write(_line({"end": True}))
        async with asyncio.timeout(PATIENCE):
            await writer.drain()


async def perform(path: str, request: Request) -> AsyncGenerator[Answer, None]:
    """Execute a request on the spool in `path`, whether or not a server uses it.

    Yields the answers. Raises SpoolError.
    """
    directory = SpoolDirectory(path)
    shelf = Shelf(directory, quota=0, reserve=0)
    try:
        await shelf.start(serves=False)
    except SpoolInUse:
        async for answer in _asked(directory, request):
            yield answer
        return
    try:
        async for answer in Operations(shelf, None).perform(request):
            yield answer
    finally:
        await shelf.close(PATIENCE)


async def _asked(directory: SpoolDirectory, request: Request) -> AsyncGenerator[Answer, None]:
    """Have the server that uses the spool execute it."""
    try:
        with _short(directory.control) as path:
            reader, writer = await asyncio.open_unix_connection(path, limit=LONGEST_LINE)
        try:
            writer.write(_line(dict(request)))
            while not (answer := json.loads(await reader.readline())).get("end"):
                yield answer
                left = int(answer.get("follows", 0))
                while left:
                    piece = await reader.readexactly(min(left, LONGEST_LINE))
                    left -= len(piece)
                    yield piece
        finally:
            writer.close()
    except (OSError, ValueError, EOFError) as error:
        raise SpoolError(
            f"the process that uses the spool {directory.path} does not answer: {error}"
        ) from error


async def _no_room() -> AsyncGenerator[Answer, None]:
    yield {"error": f"{CLIENTS} commands are running already: try again later"}


def _line(answer: dict[str, object]) -> bytes:
    return json.dumps(answer).encode("ascii") + b"\n"


def _listener(path: str) -> socket.socket:
    """Return a socket that only its owner can connect to; replaces that of an earlier run."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made = f"{path}.new"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made)
        with _short(made) as short:
            listener.bind(short)
        os.chmod(made, 0o600)
        os.rename(made, path)
        listener.listen(CLIENTS)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def _short(path: str) -> Iterator[str]:
    """A path that is short enough for a socket's address, valid inside of the block."""
    if len(os.fsencode(path)) <= LONGEST_PATH:
        yield path
        return
    directory, name = os.path.split(path)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
