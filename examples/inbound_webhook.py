"""Inbound parse: every message becomes a POST of JSON to a web application.

    pip install aiohttp
    python examples/inbound_webhook.py https://app.example.org/inbound [port]

The client gets its 250 when the application has answered with 2xx, so no mail is lost between the
two: a 4xx refuses the message for good, anything else has the client try again later.
"""

import asyncio
import base64
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage, MIMEPart

import aiohttp

from fastsmtp import DataStream, Session, SMTPError, SMTPServer


def octets_of(part: MIMEPart) -> bytes:
    """Return a part as it was before it was encoded; a message is not encoded."""
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else part.as_bytes()


def text_of(part: MIMEPart) -> str:
    try:
        return str(part.get_content())
    except (LookupError, ValueError):  # senders make names of character sets up
        return octets_of(part).decode("utf-8", "replace")


def parsed(body: bytes, session: Session) -> dict[str, object]:
    message = message_from_bytes(body, EmailMessage, policy=policy.default)
    plain, html = message.get_body(("plain",)), message.get_body(("html",))
    parts = [*message.iter_attachments()] if message.is_multipart() else []
    if not (plain or html or parts):  # as from a scanner, whose whole message is a PDF
        parts = [message]
    files = [(part.get_filename(), base64.b64encode(octets_of(part)).decode()) for part in parts]
    return {
        "from": str(session.envelope.mail_from),
        "to": [str(address) for address in session.envelope.rcpt_to],
        "subject": str(message["subject"] or ""),
        "text": text_of(plain) if plain else "",
        "html": text_of(html) if html else "",
        "attachments": [{"name": name, "content": content} for name, content in files],
    }


class Inbound(SMTPServer):
    def __init__(self, url: str) -> None:
        super().__init__(auth_optional=True, lifespan=Inbound.with_client)
        self.url = url

    @asynccontextmanager
    async def with_client(self) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as self.client:
            yield

    async def on_data(self, stream: DataStream, session: Session) -> str:
        document = await asyncio.to_thread(parsed, await stream.read(), session)
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
