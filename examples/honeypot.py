"""A honeypot: an open relay to look at, which delivers nothing and logs what clients try.

    python examples/honeypot.py [port] >> attempts.log

A line of JSON for each step: whatever a client sends is escaped in it, so it cannot forge a line.
Every name and password is accepted, every message is read and dropped.
"""

import hashlib
import json
import sys
from datetime import UTC, datetime

from fastsmtp import Address, Auth, AuthResponse, ClientGreeting, DataStream, Session, SMTPServer


def log(session: Session, step: str, **facts: object) -> None:
    """Write a line; the id joins the lines of a connection."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    head = {"time": now, "id": session.id, "client": session.remote_address, "step": step}
    print(json.dumps(head | facts), flush=True)


class Honeypot(SMTPServer):
    """Says yes to everything."""

    async def on_connect(self, session: Session) -> None:
        log(session, "connect", port=session.remote_port, name=session.client_hostname)

    async def on_helo(self, greeting: ClientGreeting, session: Session) -> None:
        log(session, "helo", command=greeting.command, name=greeting.name)

    async def on_auth(self, auth: Auth, session: Session) -> AuthResponse:
        log(session, "auth", method=auth.method, user=auth.username, password=auth.password)
        return AuthResponse(user=auth.username or "nobody")

    async def on_vrfy(self, query: str, session: Session) -> None:
        log(session, "vrfy", query=query)

    async def on_mail_from(self, address: Address, session: Session) -> None:
        log(session, "mail", sender=address.raw, parameters=address.args)

    async def on_rcpt_to(self, address: Address, session: Session) -> None:
        log(session, "rcpt", recipient=address.raw, parameters=address.args)

    async def on_data(self, stream: DataStream, session: Session) -> str:
        digest, first = hashlib.sha256(), b""
        async for piece in stream:
            digest.update(piece)
            first = first or piece[:400]
        facts = {"octets": stream.byte_length, "sha256": digest.hexdigest()}
        log(session, "message", **facts, begins=first.decode("latin-1"))
        return "OK: queued"

    def on_close(self, session: Session) -> None:
        log(session, "close", last_error=session.error)


if __name__ == "__main__":
    server = Honeypot(
        name="mail.example.org",
        auth_optional=True,
        allow_insecure_auth=True,
        disable_reverse_lookup=True,
        max_clients_per_host=5,
        max_messages=20,
    )
    server.on("listening", lambda address: print(f"listening on {address[1]}", flush=True))
    server.run(int(sys.argv[1]) if len(sys.argv) > 1 else 2525, "127.0.0.1")
