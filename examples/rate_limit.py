"""Submission with a limit for each user: so many recipients an hour, whatever the connection.

    python examples/rate_limit.py [port]

A token bucket per user: it holds RECIPIENTS tokens, refills over PERIOD, and each accepted
recipient takes one. A user without tokens gets 450 and keeps the message in the outbox. A real
server runs inside TLS, without `allow_insecure_auth`, and has hashes of passwords.
"""

import sys
import time

from fastsmtp import Address, Auth, AuthResponse, DataStream, Session, SMTPError, SMTPServer
from fastsmtp.hook_types import AuthCallback, Callback

PASSWORDS = {"anne": "tanstaaftanstaaf", "bob": "builder"}
RECIPIENTS = 3
PERIOD = 3600.0  # seconds


class Buckets:
    """Tokens by user. There are never more than the users that are known."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}  # tokens, and when that was

    def take(self, user: str) -> float:
        """Take a token, and return 0; or return the seconds until there is one."""
        now = time.monotonic()
        left, since = self._left.get(user, (RECIPIENTS, now))
        left = min(RECIPIENTS, left + (now - since) * RECIPIENTS / PERIOD)
        if left < 1:
            return (1 - left) * PERIOD / RECIPIENTS
        self._left[user] = (left - 1, now)
        return 0


buckets = Buckets()


def on_auth(auth: Auth, session: Session, callback: AuthCallback) -> None:
    password = PASSWORDS.get(auth.username, "")
    right = bool(password) and auth.validate_password(password)
    own = auth.authzid in ("", auth.username)
    callback(None, AuthResponse(user=auth.username if right and own else None))


def on_rcpt_to(address: Address, session: Session, callback: Callback) -> None:
    """`session.user` is what `on_auth` has answered with."""
    if seconds := buckets.take(session.user):
        minutes = f"{seconds / 60:.0f} minutes"
        callback(SMTPError(f"Too many recipients, try again in {minutes}", 450, "4.7.1"))
    else:
        callback()


async def on_data(stream: DataStream, session: Session) -> str:
    octets = len(await stream.read())
    print(f"{octets} octets of {session.user}", flush=True)
    return "queued"


if __name__ == "__main__":
    server = SMTPServer(
        allow_insecure_auth=True, on_auth=on_auth, on_rcpt_to=on_rcpt_to, on_data=on_data
    )
    server.on("listening", lambda address: print(f"listening on {address[1]}", flush=True))
    server.run(int(sys.argv[1]) if len(sys.argv) > 1 else 2587, "127.0.0.1")
