"""aiosmtpd on uvloop, on 127.0.0.1: `aiosmtpd_server.py PORT [PEM]`.

Its defaults, and the handler of serve.py, which has the content of a message in hand as a whole.
PEM: key and certificate; with them all of it is inside of TLS, which is the loop's own.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiosmtpd.smtp import SMTP
from serve import HOST, NAME, Handler, context_of


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
