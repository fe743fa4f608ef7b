"""AUTH at the next hop: SCRAM-SHA-256 (RFC 5802, RFC 7677), PLAIN (RFC 4616) or LOGIN, the first of
them that it offers.

Raised: `OpeningFailed` that names the setting. In SCRAM the next hop sees no password, and has to
prove that it knows the keys of it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from fastsmtp import saslprep
from fastsmtp.delivery.relay.replies import HopReply, OpeningFailed

__all__ = ["Login"]

# Sends a line, and returns its reply.
Ask: TypeAlias = Callable[[str], Awaitable[HopReply]]

# Below RFC 7677 §4 a password could be found too easily; above, a next hop could keep us busy.
MIN_ITERATIONS: Final = 4096
MAX_ITERATIONS: Final = 1_000_000
_SERVER_FIRST: Final = re.compile(
    rb"r=([!-+\--~]+),s=((?:[A-Za-z0-9+/]{4})*[A-Za-z0-9+/]{2}[A-Za-z0-9+/=]{2}),i=([1-9][0-9]{0,6})(?:,.*)?"
)


class Login:
    """Logs in with one user and password."""

    def __init__(self, user: str, password: str) -> None:
        self._user = user
        self._password = password
        self._salted: tuple[bytes, int, bytes] = (b"", 0, b"")  # salt, iterations, result
        # The safest first.
        self._ways = {"SCRAM-SHA-256": self._scram, "PLAIN": self._plain, "LOGIN": self._login}

    async def run(self, offered: Sequence[str], ask: Ask) -> None:
        """Log in. offered: the mechanisms of the next hop."""
        way = next((way for name, way in self._ways.items() if name in offered), None)
        if way is None:
            raise OpeningFailed(
                f"it offers {'AUTH ' + ' '.join(offered) if offered else 'no AUTH'}, and the relay "
                f"speaks {', '.join(self._ways)}: remove user",
                "user",
            )
        reply = await way(ask)
        if reply.code >= 500:
            raise OpeningFailed(f"user and password are refused: {reply}", "password")
        _demand(reply, 235)

    async def _plain(self, ask: Ask) -> HopReply:
        proof = _encoded(f"\0{self._user}\0{self._password}")
        return await ask(f"AUTH PLAIN {proof}")

    async def _login(self, ask: Ask) -> HopReply:
        reply = await ask("AUTH LOGIN")
        for secret in (self._user, self._password):
            if reply.code >= 400:
                break
            _demand(reply, 334)
            reply = await ask(_encoded(secret))
        return reply

    async def _scram(self, ask: Ask) -> HopReply:
        nonce = secrets.token_urlsafe(24).encode()
        user = _prepared(self._user).replace(b"=", b"=3D").replace(b",", b"=2C")
        bare = b"n=%b,r=%b" % (user, nonce)
        reply = await ask(f"AUTH SCRAM-SHA-256 {_encoded(b'n,,' + bare)}")
        if reply.code >= 400:
            return reply
        first = _decoded(reply)
        found = _SERVER_FIRST.fullmatch(first)
        if found is None or not found[1].startswith(nonce) or found[1] == nonce:
            raise OpeningFailed("its first message of SCRAM is not one", "user")
        salted = await self._salt(found[2], int(found[3]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        # biws: no channel binding, RFC 5802 §7.
        without_proof = b"c=biws,r=%b" % found[1]
        signed = b",".join([bare, first, without_proof])
        mask = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, mask, strict=True))
        reply = await ask(_encoded(without_proof + b",p=" + base64.b64encode(proof)))
        if reply.code >= 400:
            return reply
        server_key = hmac.digest(salted, b"Server Key", "sha256")
        proven = b"v=" + base64.b64encode(hmac.digest(server_key, signed, "sha256"))
        if not hmac.compare_digest(_decoded(reply), proven):
            raise OpeningFailed("it has not proven that it knows the password", "user")
        return await ask("")

    async def _salt(self, salt: bytes, iterations: int) -> bytes:
        """Return the salted password, made in a thread: it takes milliseconds."""
        if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise OpeningFailed(f"SCRAM with {iterations} iterations is not safe", "user")
        if self._salted[:2] != (salt, iterations):
            password = _prepared(self._password)
            found = await asyncio.to_thread(
                hashlib.pbkdf2_hmac, "sha256", password, base64.b64decode(salt), iterations
            )
            self._salted = (salt, iterations, found)
        return self._salted[2]


def _demand(reply: HopReply, code: int) -> None:
    if reply.code != code:
        raise OpeningFailed(f"it answered to AUTH: {reply}")


def _prepared(text: str) -> bytes:
    """Return a name or password for SCRAM (RFC 5802 §5.1). What SASLprep refuses stays as it is: a
    server that has it has not prepared it either.
    """
    return _octets(saslprep(text, stored=False) or text)


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _encoded(text: str | bytes) -> str:
    octets = _octets(text) if isinstance(text, str) else text
    return base64.b64encode(octets).decode("ascii")


def _decoded(reply: HopReply) -> bytes:
    """Return the octets of a challenge; of something else none, which proves nothing."""
    if reply.code != 334:
        return b""
    try:
        return base64.b64decode(reply.lines[0][4:], validate=True)
    except binascii.Error:
        return b""
