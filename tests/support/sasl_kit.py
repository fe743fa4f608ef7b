"""AUTH, for tests: responses in base64, a SCRAM client in a few lines, hooks that record."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Any, NamedTuple

from scenario import EH, LATE, WAYS, Conversation, Step

from fastsmtp import SMTPError, scram_keys


def b64(octets: bytes | str) -> bytes:
    """Base64 of octets, or of a text in UTF-8."""
    return base64.b64encode(octets.encode() if isinstance(octets, str) else octets)


class ScramClient:
    """The messages of a client that knows the password (RFC 5802 §3)."""

    def __init__(
        self,
        username: str = "user",
        password: str = "pencil",
        nonce: str = "fyko+d2lbbFgONRv9qkxdawL",
        header: bytes = b"n,,",
        binding: bytes = b"",
    ) -> None:
        self.header, self.binding = header, binding
        self.bare = f"n={username},r={nonce}".encode()
        self.password = password.encode()
        self.verifier = b""

    @property
    def first(self) -> bytes:
        """The first message."""
        return self.header + self.bare

    def final(self, server_first: bytes) -> bytes:
        """The message with the proof; `verifier` is what the server must answer."""
        nonce, salt, iterations = (part[2:] for part in server_first.split(b",")[:3])
        salted = hashlib.pbkdf2_hmac(
            "sha256", self.password, base64.b64decode(salt), int(iterations)
        )
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        without_proof = b"c=" + b64(self.header + self.binding) + b",r=" + nonce
        signed = b",".join([self.bare, server_first, without_proof])
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        server_key = hmac.digest(salted, b"Server Key", "sha256")
        self.verifier = b"v=" + b64(hmac.digest(server_key, signed, "sha256"))
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return without_proof + b",p=" + b64(proof)


# --- connections ---

ANN = {"user": "ann"}
KEYS = scram_keys("pencil")
ALL_METHODS = (
    *("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER", "SCRAM-SHA-256"),
    *("SCRAM-SHA-256-PLUS", "EXTERNAL"),
)
# What a server needs to offer AUTH on a connection in plaintext.
OPEN: dict[str, Any] = {"allow_insecure_auth": True, "auth_methods": ALL_METHODS}


class AuthHooks:
    """`on_auth` and `on_scram` that note what they are asked, and answer one and the same.

    An exception is what they reject with; a callable is asked with the same arguments.
    """

    def __init__(self, auth: Any = ANN, scram: Any = KEYS) -> None:
        self.answers = {"on_auth": auth, "on_scram": scram}
        self.asked: list[Any] = []

    def options(self) -> dict[str, Any]:
        """The hooks as the server takes them; one whose answer is `UNSET` is not given."""
        hooks = {"on_auth": self._on_auth, "on_scram": self._on_scram}
        return {name: hook for name, hook in hooks.items() if self.answers[name] is not UNSET}

    def _on_auth(self, auth: Any, session: Any, callback: Any) -> None:
        self._answer("on_auth", auth, session, callback)

    def _on_scram(self, username: Any, session: Any, callback: Any) -> None:
        self._answer("on_scram", username, session, callback)

    def _answer(self, name: str, subject: Any, session: Any, callback: Any) -> None:
        assert session.user is None
        self.asked.append(subject)
        answer = self.answers[name]
        if answer is LATE:
            return
        if callable(answer):
            answer = answer(subject, session)
        if isinstance(answer, SMTPError):
            callback(answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            callback(None, answer)


UNSET = object()


def facts(subject: Any) -> Any:
    """What a hook was asked, in a form that can be compared."""
    if isinstance(subject, str):
        return subject
    names = ("method", "username", "authzid", "authcid", "password", "access_token", "host", "port")
    return tuple(getattr(subject, name) for name in names)


class Exchange(NamedTuple):
    """What a session with AUTH was, in each of the ways."""

    codes: list[str]
    asked: list[Any]
    user: Any
    session: Conversation


def exchange(*steps: Step, auth: Any = ANN, scram: Any = KEYS, **options: Any) -> Exchange:
    """Greet, take the steps, say QUIT; each group whole, octet by octet, and cut at random.

    All must give the same. Returns the first; `codes` without those of greeting, EHLO and QUIT.
    """
    runs = []
    for cut in WAYS.values():
        hooks = AuthHooks(auth, scram)
        with Conversation(cut=cut, **{**OPEN, **hooks.options(), **options}) as session:
            session.do(EH)
            found = session.do(*steps)
            if not session.closed:
                assert session.do(b"QUIT\r\n")[-1] in ("221 2.0.0", "501 5.5.2", "535 5.7.8")
            user = session.wire.session.user
        runs.append(Exchange(found, hooks.asked, user, session))
    for run in runs[1:]:
        assert run.codes == runs[0].codes
        assert [*map(facts, run.asked)] == [*map(facts, runs[0].asked)]
        assert run.user == runs[0].user
    return runs[0]


def last_challenge(session: Conversation) -> bytes:
    """What the last 334 says, decoded."""
    line = session.written[-1]
    assert line.startswith(b"334 ")
    assert line.endswith(b"\r\n")
    return base64.b64decode(line[4:-2], validate=True)


def reply_with(respond: Callable[[bytes], bytes]) -> Step:
    """A step: answer the last challenge with what `respond` makes of it."""

    def step(session: Conversation) -> bytes:
        line = b64(respond(last_challenge(session))) + b"\r\n"
        return session.wire.send(*session.cut(line))

    return step
