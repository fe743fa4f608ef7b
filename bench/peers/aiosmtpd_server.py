"""aiosmtpd on uvloop, on 127.0.0.1: `aiosmtpd_server.py PORT [PEM]`.

Its defaults, and a handler that takes every message, whose content it has in hand as a whole then.
PEM: key and certificate; with them all of it is inside of TLS, which is the loop's own.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop
from aiosmtpd.smtp import SMTP
from serve import HOST, NAME, context_of


class Handler:
    """Takes what comes."""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        return "250 2.0.0 OK"


async def main(port: int, pem: str | None = None) -> None:
    loop = asyncio.get_running_loop()
    handler = Handler()
    server = await loop.create_server(
        lambda: SMTP(handler, hostname=NAME, loop=loop),
        HOST,
        port,
        backlog=1024,
        ssl=None if pem is None else context_of(pem),
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), *sys.argv[2:]))
