"""A server for the load, on 127.0.0.1: `serve.py PORT [KIND [NAME=VALUE ...] [PEM]]`.

callback and coroutine are fastsmtp with its default options, but for `auth_optional`: every hook is
there and accepts, the body is taken piece by piece and dropped; NAME=VALUE sets another option.
logged is callback with what `fastsmtp serve` adds to it: counts in a shared page, and the log of
all transactions, written to /dev/null.
compat is fastsmtp with the handler that aiosmtpd_server.py has.
floor is no server at all: a protocol on the same event loop that answers without looking, so what
is left for an engine to save. greeter writes the greeting of fastsmtp, and closes. PEM: key and
certificate; with them all of it is inside of TLS from the first octet on: the pump's in fastsmtp,
uvloop's own in floor and greeter.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from typing import Any, cast

import uvloop

from fastsmtp import DataStream, SMTPServer
from fastsmtp.compat import aiosmtpd
from fastsmtp.gateway.admin.start import Metrics
from fastsmtp.gateway.log import LogWriter

HOST = "127.0.0.1"
NAME = "bench.example"
GREETING = f"220 {NAME} ESMTP\r\n".encode()
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


class Handler:
    """A handler of aiosmtpd that takes what comes."""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        return "250 2.0.0 OK"


def drop(piece: bytes) -> None:
    """Take a piece of the body, and be done with it."""


class Floor(asyncio.Protocol):
    """One write per read. The end of data is looked for where reads end, cut or not."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.in_data = False
        self.last = b""  # octets of mail data
        self.transport.write(b"220 floor ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        if self.in_data:
            self.last = (self.last + data[-5:])[-5:]
            if self.last == b"\r\n.\r\n":
                self.in_data = False
                self.transport.write(b"250 2.0.0 OK\r\n")
        elif data == b"DATA\r\n":
            self.in_data = True
            self.last = b""
            self.transport.write(b"354 go on\r\n")
        elif data == b"QUIT\r\n":
            self.transport.write(b"221 2.0.0 bye\r\n")
            self.transport.close()
        else:
            self.transport.write(b"250 2.0.0 OK\r\n")


class Greeter(asyncio.Protocol):
    """The greeting, and the end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writer = cast(asyncio.Transport, transport)
        writer.write(GREETING)
        writer.close()


def context_of(pem: str) -> ssl.SSLContext:
    """As fastsmtp makes its own: what a context says is not what is measured."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 1
    context.load_cert_chain(pem)
    return context


async def serve_bare(protocol: type[asyncio.Protocol], port: int, pem: str | None = None) -> None:
    loop = asyncio.get_running_loop()
    context = None if pem is None else context_of(pem)
    server = await loop.create_server(protocol, HOST, port, backlog=1024, ssl=context)
    await server.serve_forever()


def parsed(arguments: list[str]) -> tuple[str | None, dict[str, Any]]:
    """The path of a PEM file, if there is one, and the options; their values are JSON or text."""
    options: dict[str, Any] = {}
    pem = None
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            pem = argument
            continue
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return pem, options


def server_of(kind: str, arguments: list[str]) -> SMTPServer:
    """fastsmtp in one of its styles."""
    pem, options = parsed(arguments)
    tls: dict[str, Any] = {} if pem is None else {"secure": True, "cert": pem}
    made = Coroutines if kind == "coroutine" else Callbacks
    server = made(auth_optional=True, name=NAME, **tls, **options)
    if kind == "logged":
        log_transactions(server)
    return server


def log_transactions(server: SMTPServer) -> None:
    """Count and log as `fastsmtp serve` does."""
    writer = LogWriter(path=os.devnull)
    metrics = Metrics(None, None, writer.say)
    server.count_in(metrics.page.tally)
    writer.tally = metrics.page.tally
    server.on("transaction", metrics.tell_to(writer.tell))


def compat_server(pem: str | None = None) -> SMTPServer:
    """fastsmtp with a handler of aiosmtpd."""
    context = None if pem is None else context_of(pem)
    return aiosmtpd.server_of(lambda: aiosmtpd.SMTP(Handler(), hostname=NAME), ssl_context=context)


def main(port: int, kind: str = "callback", *arguments: str) -> None:
    bare: dict[str, type[asyncio.Protocol]] = {"floor": Floor, "greeter": Greeter}
    if kind in bare:
        uvloop.run(serve_bare(bare[kind], port, *arguments))
    elif kind == "compat":
        compat_server(*arguments).run(port, HOST)
    else:
        server_of(kind, list(arguments)).run(port, HOST)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
