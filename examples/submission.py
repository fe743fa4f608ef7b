"""Submission with passwords: SCRAM for clients that support it, PLAIN and LOGIN for the others.

    python examples/submission.py [port]

Only a SCRAM record of each password is stored; both ways are checked against it. A real server runs
inside TLS, without `allow_insecure_auth`.
"""

import asyncio
import hashlib
import hmac
import sys

from fastsmtp import (
    Address,
    Auth,
    AuthResponse,
    DataStream,
    ScramKeys,
    Session,
    SMTPError,
    SMTPServer,
    scram_keys,
)

RECORDS = {"alice": scram_keys("wonderland"), "bob": scram_keys("builder")}
NOBODY = scram_keys("a password that nobody has")


def knows(password: str, keys: ScramKeys) -> bool:
    """Whether the record was made from this password (RFC 5802 §3)."""
    octets = password.encode("utf-8", "surrogateescape")
    salted = hashlib.pbkdf2_hmac("sha256", octets, keys.salt, keys.iterations)
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return hmac.compare_digest(server_key, keys.server_key)


class Submission(SMTPServer):
    """Users send as themselves."""

    async def on_scram(self, username: str, session: Session) -> ScramKeys | None:
        """None means an unknown user; the client learns it only when its proof fails."""
        return RECORDS.get(username)

    async def on_auth(self, auth: Auth, session: Session) -> AuthResponse:
        """Check the password; the hash is slow, so it runs in a thread."""
        if auth.authzid not in ("", auth.username):
            raise SMTPError("you may only send as yourself")
        if not auth.verified:  # SCRAM has checked already
            keys = RECORDS.get(auth.username)
            right = await asyncio.to_thread(knows, auth.password or "", keys or NOBODY)
            if keys is None or not right:
                return AuthResponse(message="wrong name or password")
        return AuthResponse(user=auth.username)

    async def on_mail_from(self, address: Address, session: Session) -> None:
        """Check that users send as themselves; `session.user` is the answer of `on_auth`."""
        if address.address != f"{session.user}@example.org":
            raise SMTPError("that is not your address", 550, "5.7.1")

    async def on_data(self, stream: DataStream, session: Session) -> str:
        """Read the message, and print its user."""
        octets = sum([len(piece) async for piece in stream])
        print(f"{octets} octets of {session.user} by {session.transmission_type}", flush=True)
        return "queued"


def main(port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    server = Submission(
        auth_methods=["SCRAM-SHA-256", "PLAIN", "LOGIN"],
        allow_insecure_auth=True,
    )
    server.on("listening", lambda address: print(f"listening on {address[1]}", flush=True))
    server.run(port, "127.0.0.1")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2587)
