"""Submission: users of a SQLite database send through another server, whose replies they get.

    python examples/submission_relay.py users.db relay.example.org:25 [port]

    CREATE TABLE users (name TEXT PRIMARY KEY, salt BLOB, iterations INT, stored BLOB, server BLOB)

Each RCPT is passed on at once, so a client learns which recipients the next server takes; its reply
to the message comes back too. Nothing is queued, and nothing is lost. A real server runs inside
TLS, without `allow_insecure_auth`.
"""

import asyncio
import smtplib
import sqlite3
import sys
from contextlib import closing

import fastsmtp
from fastsmtp import Address, Auth, AuthResponse, DataStream, ScramKeys, Session, SMTPError

Reply = tuple[int, bytes | str]
QUERY = "SELECT salt, iterations, stored, server FROM users WHERE name = ?"


class Submission(fastsmtp.SMTPServer):
    def __init__(self, database: str, relay: tuple[str, int]) -> None:
        super().__init__(auth_methods=["SCRAM-SHA-256"], allow_insecure_auth=True)
        self.database, self.relay = database, relay

    def find(self, name: str) -> ScramKeys | None:
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            row = connection.execute(QUERY, (name,)).fetchone()
        return ScramKeys(*row) if row else None

    async def on_scram(self, username: str, session: Session) -> ScramKeys | None:
        return await asyncio.to_thread(self.find, username)

    async def on_auth(self, auth: Auth, session: Session) -> AuthResponse:
        return AuthResponse(user=auth.username if auth.authzid in ("", auth.username) else None)

    async def on_mail_from(self, address: Address, session: Session) -> None:
        await self.pass_on(session, "mail", address.address)

    async def on_rcpt_to(self, address: Address, session: Session) -> None:
        await self.pass_on(session, "rcpt", address.address)

    async def on_data(self, stream: DataStream, session: Session) -> str:
        return await self.pass_on(session, "data", await stream.read())

    def on_close(self, session: Session) -> None:
        if relay := session.data.pop("relay", None):
            relay.close()

    async def pass_on(self, session: Session, command: str, argument: str | bytes) -> str:
        """Send a command to the next server; return its reply, or raise it."""
        try:
            code, said = await asyncio.to_thread(self.send, session, command, argument)
        except smtplib.SMTPResponseException as error:  # not even a 354
            code, said = error.smtp_code, error.smtp_error
        except OSError:
            raise SMTPError("The next server cannot be reached", 451, "4.4.1") from None
        text = said if isinstance(said, str) else said.decode("utf-8", "replace")
        if code // 100 != 2:
            raise SMTPError(text, code if code >= 400 else 451)
        return text

    def send(self, session: Session, command: str, argument: str | bytes) -> Reply:
        if command == "mail":
            self.on_close(session)
            session.data["relay"] = smtplib.SMTP(*self.relay, timeout=25)
            session.data["relay"].ehlo()
        reply: Reply = getattr(session.data["relay"], command)(argument)
        return reply


if __name__ == "__main__":
    host, _, number = sys.argv[2].rpartition(":")
    server = Submission(sys.argv[1], (host, int(number)))
    server.on("listening", lambda address: print(f"listening on {address[1]}", flush=True))
    server.run(int(sys.argv[3]) if len(sys.argv) > 3 else 2587, "127.0.0.1")
