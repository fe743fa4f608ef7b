"""Inbound parse: every message becomes a POST of JSON to a web application.

    pip install aiohttp
    python examples/inbound_webhook.py https://app.example.org/inbound [port]

The client gets its 250 when the application has answered with 2xx, so no mail is lost between the
two: a 4xx refuses the message for good, anything else has the client try again later.
"""

import base64
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import aiohttp

from fastsmtp import DataStream, Session, SMTPError, SMTPServer


def octets_of(part: EmailMessage) -> bytes:
    """Return an attachment as it was before it was encoded; a message is not encoded."""
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else part.as_bytes()


def parsed(body: bytes, session: Session) -> dict[str, Any]:
    """Return the message as the application wants it."""
    message = message_from_bytes(body, EmailMessage, policy=policy.default)
    plain, html = message.get_body(("plain",)), message.get_body(("html",))
    return {
        "from": str(session.envelope.mail_from),
        "to": [str(address) for address in session.envelope.rcpt_to],
        "subject": str(message["subject"] or ""),
        "text": plain.get_content() if plain else "",
        "html": html.get_content() if html else "",
        "attachments": [
            {"name": part.get_filename(), "content": base64.b64encode(octets_of(part)).decode()}
            for part in message.iter_attachments()
        ],
    }


class Inbound(SMTPServer):
    """url: of the application."""

    def __init__(self, url: str) -> None:
        super().__init__(auth_optional=True, lifespan=Inbound.with_client)
        self.url = url

    @asynccontextmanager
    async def with_client(self) -> AsyncIterator[None]:
        """Keep connections to the application as long as the server runs."""
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout) as self.client:
            yield

    async def on_data(self, stream: DataStream, session: Session) -> str:
        """Post the message; the answer of the application is that of the server."""
        document = parsed(await stream.read(), session)
        try:
            async with self.client.post(self.url, json=document) as response:
                status = response.status
        except (aiohttp.ClientError, TimeoutError):
            raise SMTPError("The application cannot be reached", 451, "4.4.1") from None
        if status in range(400, 500) and status not in (408, 429):
            raise SMTPError("The application does not want this message", 554, "5.7.1")
        if status not in range(200, 300):
            raise SMTPError("The application has failed, try again later", 451, "4.3.0")
        return "OK: passed on"


if __name__ == "__main__":
    server = Inbound(sys.argv[1])
    server.on("listening", lambda address: print(f"listening on {address[1]}", flush=True))
    server.run(int(sys.argv[2]) if len(sys.argv) > 2 else 2525, "127.0.0.1")
