"""AUTH exchanges, apart from their lines: the base of all mechanisms, and the objects for hooks.

In: decoded responses of the client, answers of hooks. Out: one `Step` at a time: a challenge, a
question to a hook, or the end. No input of a client raises, and no secret is in a repr. There is
one mechanism object per exchange. RFC 4422, RFC 4954 §4.
"""

from __future__ import annotations

import hmac
import re
from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

from fastsmtp import replies
from fastsmtp.log_text import clean

__all__ = [
    "Auth",
    "AuthResponse",
    "Challenge",
    "End",
    "Mechanism",
    "Question",
    "decode_base64",
    "decode_name",
    "encode_base64",
    "response_of",
]

# C0, DEL, C1, and characters that reorder or break a line of text that contains the name.
# Compiled by `re` on first use: it would add half a millisecond to every import.
_UNFIT: Final = "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"


# --- arguments and answers of hooks ---


class Auth:
    """The question to `on_auth`: the identity that the client claims, and its proof.

    method: the mechanism, or "XCLIENT". username: the name to check. authzid: the identity that the
    client wants to act as; "" if it gave none. If it is not empty and differs from `username`,
    reject unless that is allowed (RFC 4616 §2). Attributes that a mechanism does not have are None.

    * PLAIN: authzid, authcid (= username), password. LOGIN: password.
    * CRAM-MD5: challenge, challenge_response.
    * XOAUTH2: access_token. OAUTHBEARER: access_token, authzid (= username), host, port.
    * SCRAM-SHA-256, SCRAM-SHA-256-PLUS: authzid; verified is True.
    * EXTERNAL: authzid (= username, may be ""), certificate.

    A password may contain any octets except NUL; if they are not UTF-8, they are decoded with
    "surrogateescape".
    """

    __slots__ = (
        "access_token",
        "authcid",
        "authzid",
        "certificate",
        "challenge",
        "challenge_response",
        "host",
        "method",
        "password",
        "port",
        "username",
        "verified",
    )

    def __init__(
        self,
        method: str,
        username: str,
        *,
        authzid: str = "",
        authcid: str | None = None,
        password: str | None = None,
        challenge: str | None = None,
        challenge_response: str | None = None,
        access_token: str | None = None,
        host: str | None = None,
        port: int | None = None,
        verified: bool = False,
        certificate: Any = None,
    ) -> None:
        self.method = method
        self.username = username
        self.authzid = authzid
        self.authcid = authcid
        self.password = password
        self.challenge = challenge
        self.challenge_response = challenge_response
        self.access_token = access_token
        self.host = host
        self.port = port
        self.verified = verified
        self.certificate = certificate

    def validate_password(self, password: str | bytes) -> bool:
        """Whether the client has proved that it knows `password`; compared in constant time.

        For PLAIN, LOGIN and CRAM-MD5; False for all others.
        """
        secret = _octets(password)
        if self.challenge is not None and self.challenge_response is not None:
            digest = hmac.new(secret, self.challenge.encode(), "md5").hexdigest()
            return hmac.compare_digest(digest, self.challenge_response)
        return self.password is not None and hmac.compare_digest(_octets(self.password), secret)

    def __repr__(self) -> str:
        return f"<Auth {self.method} {clean(self.username)}>"


def _octets(password: str | bytes) -> bytes:
    return password if isinstance(password, bytes) else password.encode("utf-8", "surrogateescape")


class AuthResponse:
    """The answer of `on_auth`. user: the identity of the client from now on, any object except
    None, "" and False.

    Without a user the client is refused, with `response_code` (535) and `message`. data: for
    XOAUTH2 and OAUTHBEARER, the error that the client gets as JSON (RFC 7628 §3.2.2).
    """

    # Not a dataclass: `dataclasses` would be one more module to import for every program.
    __slots__ = ("data", "message", "response_code", "user")
    user: Any
    message: str | None
    response_code: int | None
    data: Any

    def __init__(
        self,
        user: Any = None,
        message: str | None = None,
        response_code: int | None = None,
        data: Any = None,
    ) -> None:
        self.user = user
        self.message = message
        self.response_code = response_code
        self.data = data

    __hash__ = None  # type: ignore[assignment]  # its fields may change

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AuthResponse):
            return NotImplemented
        mine = (self.user, self.message, self.response_code, self.data)
        return mine == (other.user, other.message, other.response_code, other.data)

    @property
    def has_user(self) -> bool:
        """Whether it names a user."""
        user = self.user
        return not (user is None or user is False or (isinstance(user, str) and not user))

    def __repr__(self) -> str:
        return f"<AuthResponse {'with' if self.has_user else 'without'} a user>"


def response_of(result: object) -> AuthResponse | None:
    """Return the answer of `on_auth` as an `AuthResponse`; None: it is invalid.

    A mapping may have the fields of an AuthResponse; None is an answer without a user.
    """
    if result is None:
        return AuthResponse()
    if isinstance(result, AuthResponse):
        return result if isinstance(result.message, str | None) else None
    if not isinstance(result, Mapping):
        return None
    fields = ("user", "message", "response_code", "data")
    try:
        response = AuthResponse(*[result.get(field) for field in fields])
    except Exception:  # the mapping is foreign code
        return None
    return response if isinstance(response.message, str | None) else None


# --- steps of an exchange ---


class Challenge(NamedTuple):
    """Send a 334 with this challenge, base64-encoded, and wait for a line."""

    octets: bytes

    def __repr__(self) -> str:
        return "<Challenge>"


class Question(NamedTuple):
    """Ask `on_scram` for the keys of this user, and pass them to `Mechanism.take_keys`."""

    username: str


class End(Enum):
    """The exchange is over."""

    ACCEPTED = "accepted"
    INVALID = "invalid"  # the decoded response is not in the form of the mechanism
    NO_USERNAME = "no username"
    WRONG = "wrong"  # the proof is wrong
    REFUSED = "refused"  # the client has acknowledged the refusal of its token


# An `Auth` is the question to `on_auth`.
type_step = Challenge | Question | Auth | End


class Mechanism:
    """One exchange. The base of all: a client that speaks first."""

    name = ""
    # The reply when `on_auth` refuses without a text.
    default_refusal = replies.INVALID_CREDENTIALS
    # Whether the next line, even "*" or invalid base64, ends the exchange as refused.
    is_refused = False

    def start(self, response: bytes | None) -> type_step:
        """The exchange begins. response: the initial response, None without one."""
        return Challenge(b"") if response is None else self.take(response)

    def take(self, response: bytes) -> type_step:
        """The client has answered the last challenge."""
        raise NotImplementedError

    def take_keys(self, keys: Any) -> type_step:
        """`on_scram` has answered."""
        raise NotImplementedError

    def accept(self) -> type_step:
        """`on_auth` has accepted."""
        return End.ACCEPTED

    def refuse(self, data: Any) -> Challenge | None:
        """`on_auth` has refused permanently. Returns the challenge with the reason for the client,
        None if the mechanism has none. Raises what encoding `data` raises.
        """
        return None

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


# --- octets and names ---


def decode_base64(text: bytes) -> bytes | None:
    """Return the octets, None unless `text` is base64: standard alphabet, padded, unused bits zero
    (RFC 4648 §3.2, §3.3, §3.5). An empty text decodes to b"".
    """
    try:
        octets = a2b_base64(text, strict_mode=True)
    except Error:
        return None
    # The decoder does not check the unused bits after the last octet, nor the amount of padding.
    return octets if b2a_base64(octets, newline=False) == text else None


def encode_base64(octets: bytes) -> bytes:
    """Return the base64 of `octets`, on one line."""
    return b2a_base64(octets, newline=False)


def decode_name(octets: bytes) -> str | None:
    """Return a name or token: UTF-8 without control characters and bidi overrides; else None."""
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        return None
    # No character of _UNFIT is printable, so printable names need no search.
    return None if not text.isprintable() and re.search(_UNFIT, text) else text
