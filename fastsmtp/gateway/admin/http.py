"""The answers of the admin listener, by aiohttp: made of memory alone, for few clients at a time.

Nothing here waits for the service, and nothing of the service waits for this. A client has a
limited time for all that it does; what it sends is bounded, and it can only GET.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from fastsmtp.gateway.admin.address import AdminAddress
from fastsmtp.gateway.admin.pages import Pages
from fastsmtp.gateway.admin.state import readiness
from fastsmtp.gateway.status.pages import HEADERS, PAGES, read_page
from fastsmtp.metrics import CONTENT_TYPE, exposition, stats_of
from fastsmtp.unix_sockets import bind_unix

__all__ = ["Admin"]

MAX_CLIENTS: Final = 32
LIFETIME: Final = 20.0  # seconds of one connection, whatever it does
MAX_LINE: Final = 2048  # octets of a request line, and of one header field
BACKLOG: Final = 16

_PAGES: Final = web.AppKey("pages", Pages)
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


async def _metrics(request: web.Request) -> web.Response:
    text = exposition([page.tally for page in request.app[_PAGES].used()])
    return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


async def _healthz(request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _readyz(request: web.Request) -> web.Response:
    is_ready, reason = readiness(request.app[_PAGES])
    return web.Response(text=f"{reason}\n", status=200 if is_ready else 503)


async def _stats(request: web.Request) -> web.Response:
    pages = request.app[_PAGES]
    used = pages.used()
    is_ready, reason = readiness(pages)
    every = [stats_of(page.tally) for page in used]
    refusals = [refusal for page in used for refusal in page.recent.read()]
    newest = sorted(refusals, key=lambda each: each["time"], reverse=True)
    return web.json_response(
        {
            "time": time.time(),
            "ready": is_ready,
            "reason": reason,
            "all": stats_of(*(page.tally for page in used)),
            "workers": [stats for stats in every if stats["process"]["started"]],
            "refusals": newest[:MAX_CLIENTS],
        }
    )


async def _page(request: web.Request) -> web.Response:
    page = PAGES[request.path]
    return web.Response(
        body=read_page(page), headers={**HEADERS, "Content-Type": page.content_type}
    )


ROUTES: Final[dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]] = {
    "/metrics": _metrics,
    "/healthz": _healthz,
    "/readyz": _readyz,
    "/stats.json": _stats,
    **dict.fromkeys(PAGES, _page),
}


@web.middleware
async def _refuse_names(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse a request for a host name other than localhost.

    A web page of others that a browser on this machine shows could change the address of its name
    to ours, and read the answers: to the browser they would be its own.
    """
    host = request.headers.get("Host", "localhost")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name.lower() != "localhost" and not _is_address(name.removeprefix("[").removesuffix("]")):
        raise web.HTTPMisdirectedRequest(text="ask for an address, or for localhost\n")
    return await handler(request)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


class Admin:
    """The listener. pages: what is shown. takes_over: the address may be that of the program that
    this one replaces.
    """

    def __init__(self, address: AdminAddress, pages: Pages, *, takes_over: bool = False) -> None:
        self.address = address
        self._takes_over = takes_over
        self._file: os.stat_result | None = None  # of a UNIX socket
        is_for_browsers = not (address.path or address.is_public)
        app = web.Application(
            client_max_size=0, middlewares=[_refuse_names] if is_for_browsers else []
        )
        app[_PAGES] = pages
        app.on_response_prepare.append(_add_headers)
        for path, handler in ROUTES.items():
            app.router.add_get(path, handler)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=LIFETIME,
            lingering_time=0,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            shutdown_timeout=0.0,
        )
        self._server: asyncio.Server | None = None
        self.clients: set[asyncio.Transport] = set()

    async def start(self) -> None:
        """Listen, and set `address`, with its port. Raises OSError."""
        loop = asyncio.get_running_loop()
        await self._runner.setup()
        address = self.address
        if address.path:
            sock = _unix_socket(address.path, takes_over=self._takes_over)
            self._file = os.stat(address.path)
            self._server = await loop.create_unix_server(self._accept, sock=sock, backlog=BACKLOG)
            return
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        place = address.host, address.port
        sock = socket.create_server(place, family=family, reuse_port=self._takes_over)
        self._server = await loop.create_server(self._accept, sock=sock, backlog=BACKLOG)
        host, port, *_ = sock.getsockname()
        self.address = AdminAddress(host, port, is_public=address.is_public)

    async def close(self) -> None:
        """Stop listening, and cut the clients."""
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(OSError):
                if self._file is not None and os.path.samestat(
                    self._file, os.stat(self.address.path)
                ):
                    os.unlink(self.address.path)
        for transport in list(self.clients):
            transport.abort()
        await self._runner.cleanup()

    def _accept(self) -> asyncio.Protocol:
        assert self._runner.server is not None
        return _Bounded(self._runner.server(), self.clients)


class _Bounded(asyncio.Protocol):
    """Passes everything to `inner`, for a limited time; above MAX_CLIENTS nothing."""

    def __init__(self, inner: Any, others: set[asyncio.Transport]) -> None:
        self._inner = inner
        self._others = others
        self._transport: asyncio.Transport | None = None
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        if len(self._others) >= MAX_CLIENTS:
            transport.abort()
            return
        self._transport = transport
        self._others.add(transport)
        self._end = asyncio.get_running_loop().call_later(LIFETIME, transport.abort)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None and self._end is not None:
            self._end.cancel()
            self._others.discard(self._transport)
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._transport is not None else None

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


def _unix_socket(path: str, *, takes_over: bool) -> socket.socket:
    """Return a socket that only this user can connect to."""
    is_socket = os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode)
    replaces = takes_over and is_socket
    before = os.umask(0o177)
    try:
        sock = bind_unix(f"{path}.{os.getpid()}" if replaces else path)
    finally:
        os.umask(before)
    if replaces:
        os.rename(f"{path}.{os.getpid()}", path)
    return sock
