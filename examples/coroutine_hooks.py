"""A mail exchanger for one domain, with hooks as coroutines: it asks, it refuses, it delivers.

    python examples/coroutine_hooks.py [port]

A coroutine hook accepts by returning and refuses by raising SMTPError. What `on_data` returns is
the text of the reply. Anything else that it raises is a bug: the client is told 451, the log why.
"""

import asyncio
import sys
from email import message_from_bytes

from fastsmtp import Address, DataStream, Session, SMTPError, SMTPServer

DOMAIN = "example.org"
USERS = {"alice", "bob"}


class Exchanger(SMTPServer):
    """Hooks can be methods of a subclass."""

    async def on_mail_from(self, address: Address, session: Session) -> None:
        """Bounces (`<>`) are welcome; nobody else speaks for our own domain."""
        if address.domain == DOMAIN:
            raise SMTPError("you are not one of us", response_code=550, enhanced_code="5.7.1")

    async def on_rcpt_to(self, address: Address, session: Session) -> None:
        """Know the recipients, so that no bounce has to be written later."""
        if address.domain.lower() != DOMAIN:
            raise SMTPError("relaying denied", response_code=554)
        if not await self.is_known(address.local_part.lower()):
            raise SMTPError("no such user here", response_code=550)

    async def on_data(self, stream: DataStream, session: Session) -> str:
        """Read the message; one that is longer than `size` is refused by what `read` raises."""
        body = await stream.read()
        subject = message_from_bytes(body).get("Subject", "")
        for address in session.envelope.rcpt_to:
            print(f"{address}: {subject!r}", flush=True)
        return f"delivered to {len(session.envelope.rcpt_to)}"

    def on_close(self, session: Session) -> None:
        """Comes once for each client, whatever has happened."""
        print(f"{session.remote_address} has left", flush=True)

    async def is_known(self, user: str) -> bool:
        """A look into some database."""
        await asyncio.sleep(0)
        return user in USERS


def main(port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    server = Exchanger(auth_optional=True, size=10_000_000, max_recipients=100)
    server.on("listening", lambda address: print(f"listening on {address[1]}", flush=True))
    server.run(port, "127.0.0.1")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2525)
