"""A server for the load to run against, on 127.0.0.1: `serve.py PORT [callback|coroutine|floor]`.

callback and coroutine are fastsmtp with its default options, but for `auth_optional`: every hook is
there and accepts, the body is taken piece by piece and dropped. floor is no server at all: a
protocol on the same event loop that answers without looking, so what is left for an engine to save.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, cast

import uvloop

from fastsmtp import DataStream, SMTPServer

HOST = "127.0.0.1"
type_callback = Any


class Callbacks(SMTPServer):
    """Hooks that answer inside their call: nothing waits, no Task is made."""

    def on_connect(self, session: Any, callback: type_callback) -> None:
        callback()

    def on_mail_from(self, address: Any, session: Any, callback: type_callback) -> None:
        callback()

    def on_rcpt_to(self, address: Any, session: Any, callback: type_callback) -> None:
        callback()

    def on_data(self, stream: DataStream, session: Any, callback: type_callback) -> None:
        stream.consume(drop, callback)


class Coroutines(SMTPServer):
    """The same as coroutines: a Task for each call."""

    async def on_connect(self, session: Any) -> None:
        pass

    async def on_mail_from(self, address: Any, session: Any) -> None:
        pass

    async def on_rcpt_to(self, address: Any, session: Any) -> None:
        pass

    async def on_data(self, stream: DataStream, session: Any) -> None:
        async for piece in stream:
            drop(piece)


def drop(piece: bytes) -> None:
    """Take a piece of the body, and be done with it."""


class Floor(asyncio.Protocol):
    """One write per read, and an end of data that is only looked for at the end of a read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.in_data = False
        self.transport.write(b"220 floor ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        if self.in_data:
            if data.endswith(b"\r\n.\r\n"):
                self.in_data = False
                self.transport.write(b"250 2.0.0 OK\r\n")
        elif data == b"DATA\r\n":
            self.in_data = True
            self.transport.write(b"354 go on\r\n")
        elif data == b"QUIT\r\n":
            self.transport.write(b"221 2.0.0 bye\r\n")
            self.transport.close()
        else:
            self.transport.write(b"250 2.0.0 OK\r\n")


async def serve_floor(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Floor, HOST, port, backlog=1024)
    await server.serve_forever()


def main(port: int, kind: str) -> None:
    if kind == "floor":
        uvloop.run(serve_floor(port))
    else:
        server = {"callback": Callbacks, "coroutine": Coroutines}[kind]
        server(auth_optional=True).run(port, HOST)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:] or ["callback"])
