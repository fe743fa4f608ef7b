"""A mail exchanger for one domain, with hooks as coroutines: lookups, rejections, delivery.

    python examples/coroutine_hooks.py [port]

A coroutine hook accepts by returning and rejects by raising SMTPError. `on_data` returns the text
of the reply. Any other exception is a bug: the client gets 451, the log the reason.
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
        """Accept bounces (`<>`); reject strangers that use our own domain, in any case."""
        if address.domain.lower() == DOMAIN:
            raise SMTPError("you are not one of us", response_code=550, enhanced_code="5.7.1")

    async def on_rcpt_to(self, address: Address, session: Session) -> None:
        """Reject unknown recipients now, so that no bounce has to be sent later."""
        if not address.domain:
            return  # <Postmaster>, which every server must accept (RFC 5321 §4.5.1)
        if address.domain.lower() != DOMAIN:
            raise SMTPError("relaying denied", response_code=554)
        if not await self.is_known(address.local_part.lower()):
            raise SMTPError("no such user here", response_code=550)

    async def on_data(self, stream: DataStream, session: Session) -> str:
        """Read the message; if it is longer than `size`, `read` raises, which rejects it."""
        body = await stream.read()
        subject = message_from_bytes(body).get("Subject", "")
        for address in session.envelope.rcpt_to:
            print(f"{address}: {subject!r}", flush=True)
        return f"delivered to {len(session.envelope.rcpt_to)}"

    def on_close(self, session: Session) -> None:
        """Called once for each client, however its connection ended."""
        print(f"{session.remote_address} has left", flush=True)

    async def is_known(self, user: str) -> bool:
        """Look the user up in some database."""
        await asyncio.sleep(0)
        return user in USERS


def main(port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    server = Exchanger(auth_optional=True, size=10_000_000, max_recipients=100)
    server.on("listening", lambda address: print(f"listening on {address[1]}", flush=True))
    server.run(port, "127.0.0.1")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2525)
