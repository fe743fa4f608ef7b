"""Endpoints of webhooks: a real server that keeps what it was sent, and one that a script ruins."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

from aiohttp import web
from connections import Connections
from free_ports import free_port

__all__ = ["SECRET", "Endpoint", "Posted", "raw_endpoint", "verified"]

SECRET = "whsec_" + base64.b64encode(b"a secret of the tests, 32 octets").decode()


class Posted(NamedTuple):
    """One request. form: its fields, name -> text or a web.FileField."""

    headers: dict[str, str]
    body: bytes
    form: dict[str, Any]

    @property
    def envelope(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.headers["Fastsmtp-Envelope"])
        return found


class Endpoint:
    """`async with Endpoint() as endpoint:` serves at `url`.

    answer: called for each POST, returns the response; it may wait. looks: HEAD requests.
    reads_form: posts are forms, and their bodies are not kept.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.posts: list[Posted] = []
        self.looks = 0
        self.reads_form = False
        self.connections: set[Any] = set()
        self.arrived = asyncio.Event()
        self.answer: Callable[[Posted], Awaitable[web.StreamResponse]] = self.accept
        self.answer_to_head: Callable[[], web.StreamResponse] = web.Response
        self.port = free_port()
        self._tls = tls
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{'127.0.0.1' if self._tls is None else 'localhost'}:{self.port}/mail"

    @staticmethod
    async def accept(posted: Posted) -> web.StreamResponse:
        return web.Response(status=202)

    async def __aenter__(self) -> Endpoint:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    async def start(self) -> None:
        application = web.Application(client_max_size=1 << 26)
        application.router.add_route("POST", "/mail", self._post)
        application.router.add_route("HEAD", "/mail", self._head)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls)
        await site.start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _head(self, request: web.Request) -> web.StreamResponse:
        self.looks += 1
        return self.answer_to_head()

    async def _post(self, request: web.Request) -> web.StreamResponse:
        self.connections.add(request.transport)
        if self.reads_form:
            posted = Posted(dict(request.headers), b"", dict(await request.post()))
        else:
            posted = Posted(dict(request.headers), await request.read(), {})
        self.posts.append(posted)
        self.arrived.set()
        return await self.answer(posted)


@contextlib.asynccontextmanager
async def raw_endpoint(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server of no particular protocol; HEAD is answered with 200. Yields its URL."""

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (await reader.readuntil(b"\r\n\r\n")).startswith(b"HEAD"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await serve(reader, writer)
        finally:
            writer.transport.abort()

    connections = Connections(begin)
    server = await asyncio.start_server(connections.accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mail"
    finally:
        server.close()
        await connections.end()


def verified(headers: dict[str, str], body: bytes, secret: str, name: str = "Webhook") -> bool:
    """Whether a signature is right: written after the specification, not after the sink."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['Webhook-Id']}.{headers['Webhook-Timestamp']}.".encode() + body
    right = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return right in headers[f"{name}-Signature"].split(" ")
