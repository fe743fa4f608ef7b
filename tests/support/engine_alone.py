"""A program that takes one message with the engine alone, for interpreters of all kinds."""

from __future__ import annotations

__all__ = ["taking"]

_TAKING = """
import asyncio, smtplib
from fastsmtp import SMTPServer

TEXT = {text!r}
bodies = []

async def on_data(stream, session):
    bodies.append(b"".join([chunk async for chunk in stream]))

def send(port):
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.sendmail("a@x.example", ["b@y.example"], TEXT)

async def main():
    server = SMTPServer(on_data=on_data, auth_optional=True, disable_reverse_lookup=True)
    await server.listen(0, host="127.0.0.1")
    await asyncio.to_thread(send, server.address()[1])
    await server.close()

asyncio.run(main())
assert bodies == [TEXT.encode()], bodies
"""


def taking(text: str) -> str:
    """Return the program. It takes `text` over a real socket, and fails if that arrives changed."""
    return _TAKING.format(text=text)
