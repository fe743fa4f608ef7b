"""Opens connections to an address that was checked, never to a name."""

from __future__ import annotations

import asyncio
import socket
import ssl
from functools import partial
from time import perf_counter
from typing import Any

from fastsmtp.gateway.bench.client import Client, Work
from fastsmtp.gateway.bench.target import Address

__all__ = ["client_context", "connect"]


def client_context() -> ssl.SSLContext:
    """Return a context that verifies nothing, because nothing secret is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def connect(work: Work, address: Address, tls: ssl.SSLContext | None) -> Client:
    """Return a client that is connected, with `tls` after the handshake too; raises OSError."""
    began = perf_counter()
    loop = asyncio.get_running_loop()
    plan = work.plan
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        async with asyncio.timeout(plan.timeout):
            await loop.sock_connect(sock, address.place)
            connected = perf_counter()
            make: Any = loop.create_connection
            if address.family == socket.AF_UNIX:
                make = loop.create_unix_connection
            secure = {} if tls is None else {"ssl": tls, "server_hostname": plan.target.host}
            _, client = await make(partial(Client, work, began), sock=sock, **secure)
    except BaseException:
        sock.close()
        raise
    if tls is not None:
        work.figures.tls.add(perf_counter() - connected)
    work.figures.connections += 1
    assert isinstance(client, Client)
    return client
