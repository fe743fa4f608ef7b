"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS: RFC 5802, RFC 7677; and the keys stored for a password.

The server never sees the password: it stores two keys, and the client proves that it can derive one
of them. An unknown user gets a salt too, and fails at the same step as a wrong proof.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from fastsmtp._sasl.exchange import (
    Auth,
    Challenge,
    End,
    Mechanism,
    Question,
    decode_base64,
    encode_base64,
    type_step,
)
from fastsmtp._sasl.mechanisms import decode_saslname
from fastsmtp._sasl.saslprep import saslprep

__all__ = ["BINDINGS", "Scram", "ScramKeys", "are_usable_keys", "decoy_keys", "scram_keys"]

KEY_OCTETS: Final = 32  # of SHA-256
SALT_OCTETS: Final = 16
MIN_ITERATIONS: Final = 4096  # RFC 7677 §4
MAX_ITERATIONS: Final = 1_000_000
# RFC 5929 §4, RFC 9266, RFC 5929 §3; the handshake determines which of them exist.
BINDINGS: Final = ("tls-server-end-point", "tls-exporter", "tls-unique")

_NONCE: Final = rb"[\x21-\x2b\x2d-\x7e]+"
_EXTENSION: Final = rb"[A-Za-z]=.+"


class ScramKeys:
    """The stored keys of a user's password, without the password: the answer of `on_scram`.

    salt: 8 to 64 octets. iterations: 4096 to 1000000. stored_key, server_key: 32 octets each.
    """

    # Not a dataclass: `dataclasses` would be one more module to import for every program.
    __slots__ = ("iterations", "salt", "server_key", "stored_key")
    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes

    def __init__(self, salt: bytes, iterations: int, stored_key: bytes, server_key: bytes) -> None:
        for name, value in zip(_KEYS, (salt, iterations, stored_key, server_key), strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScramKeys):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __reduce__(self) -> tuple[type[ScramKeys], tuple[object, ...]]:
        return ScramKeys, self._values()

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in _KEYS)

    def __repr__(self) -> str:
        return f"ScramKeys(salt={self.salt!r}, iterations={self.iterations!r})"


_KEYS: Final = ("salt", "iterations", "stored_key", "server_key")


def scram_keys(password: str, *, iterations: int = MIN_ITERATIONS) -> ScramKeys:
    """Derive the keys of a new password, with a random salt.

    Use the same number as the option `scram_iterations`: another one would show which users exist.
    It takes milliseconds of CPU per thousand iterations. Raises ValueError for a password that is
    empty or that SASLprep refuses (RFC 4013), and for too few or too many iterations.
    """
    if not isinstance(password, str):
        raise TypeError(f"password takes a str, not {type(password).__name__}")
    if type(iterations) is not int or not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
        raise ValueError(f"iterations takes an int from {MIN_ITERATIONS} to {MAX_ITERATIONS}")
    prepared = saslprep(password, stored=True)
    if not prepared:
        raise ValueError("password is empty, or has characters that no password may contain")
    return derive_keys(prepared.encode(), os.urandom(SALT_OCTETS), iterations)


def derive_keys(password: bytes, salt: bytes, iterations: int) -> ScramKeys:
    """The keys of a prepared password: RFC 5802 §3."""
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
    client_key = _hmac(salted, b"Client Key")
    stored_key = hashlib.sha256(client_key).digest()
    return ScramKeys(salt, iterations, stored_key, _hmac(salted, b"Server Key"))


def decoy_keys(username: str, secret: bytes, iterations: int) -> ScramKeys:
    """Return keys for a user that does not exist: always the same salt, and keys that no password
    matches.
    """
    salt = _hmac(secret, b"fastsmtp scram salt\0" + username.encode())[:SALT_OCTETS]
    return ScramKeys(salt, iterations, os.urandom(KEY_OCTETS), os.urandom(KEY_OCTETS))


def are_usable_keys(keys: object) -> bool:
    """Whether an exchange can work with these keys."""
    if not isinstance(keys, ScramKeys):
        return False
    octets = (keys.salt, keys.stored_key, keys.server_key)
    return (
        all(isinstance(value, bytes) for value in octets)
        and 8 <= len(keys.salt) <= 64
        and len(keys.stored_key) == len(keys.server_key) == KEY_OCTETS
        and type(keys.iterations) is int
        and MIN_ITERATIONS <= keys.iterations <= MAX_ITERATIONS
    )


class ClientFirst(NamedTuple):
    """The client's first message: RFC 5802 §7."""

    header: bytes  # of gs2, with its last comma
    flag: bytes  # "n", "y", or the name of the binding
    authzid: str
    bare: bytes
    username: str
    nonce: bytes


def _client_first(message: bytes) -> ClientFirst | None:
    parts = message.split(b",", 2)
    if len(parts) != 3:
        return None
    flag, authzid, bare = parts
    if flag not in (b"n", b"y") and not (flag.startswith(b"p=") and len(flag) > 2):
        return None
    acts_as: str | None = ""
    if authzid:
        acts_as = decode_saslname(authzid[2:]) if authzid.startswith(b"a=") else None
    attributes = bare.split(b",")
    if acts_as is None or len(attributes) < 2 or not _extensions(attributes[2:]):
        return None
    name, nonce = attributes[:2]  # a message that begins with the reserved m= is refused
    if not name.startswith(b"n=") or not nonce.startswith(b"r="):
        return None
    if not re.fullmatch(_NONCE, nonce[2:]):
        return None
    username = decode_saslname(name[2:])
    prepared = None if username is None else saslprep(username, stored=False)
    if not prepared:
        return None
    header = message[: len(message) - len(bare)]
    return ClientFirst(header, flag.removeprefix(b"p="), acts_as, bare, prepared, nonce[2:])


def _extensions(attributes: list[bytes]) -> bool:
    """Whether these are well-formed extensions and none is the reserved one; unknown attributes are
    ignored (RFC 5802 §5.1).
    """
    return all(re.fullmatch(_EXTENSION, one) and one[:1] != b"m" for one in attributes)


class Scram(Mechanism):
    """One exchange. name: SCRAM-SHA-256 or SCRAM-SHA-256-PLUS.

    binding: returns the channel binding data of a kind, None if this connection does not have it.
    plus_offered: the client has seen -PLUS among the mechanisms. nonce: the server's.
    """

    def __init__(
        self,
        name: str,
        nonce: str,
        *,
        binding: Callable[[str], bytes | None] = lambda kind: None,
        plus_offered: bool = False,
    ) -> None:
        self.name = name
        self._nonce = nonce.encode()
        self._binding = binding
        self._plus_offered = plus_offered
        self._first: ClientFirst | None = None
        self._keys: ScramKeys | None = None
        self._bound = b""  # the required value of c=
        self._server_first = b""
        self._signature = b""

    def take(self, response: bytes) -> type_step:
        if self._first is None:
            return self._take_first(response)
        if self._signature:
            return End.INVALID if response else End.ACCEPTED
        return self._take_final(response)

    def _take_first(self, message: bytes) -> type_step:
        first = _client_first(message)
        if first is None:
            return End.INVALID
        plus = self.name.endswith("-PLUS")
        binds = first.header.startswith(b"p=")
        if plus != binds:
            return End.INVALID
        if first.flag == b"y" and not binds and self._plus_offered:
            return End.WRONG  # an attacker has removed -PLUS from the list: RFC 5802 §6
        self._bound = first.header
        if binds:
            kind = first.flag.decode("latin-1")
            data = self._binding(kind) if kind in BINDINGS else None
            if data is None:
                return End.INVALID
            self._bound += data
        self._first = first
        return Question(first.username)

    def take_keys(self, keys: Any) -> type_step:
        assert self._first is not None
        assert isinstance(keys, ScramKeys)
        self._keys = keys
        self._nonce = self._first.nonce + self._nonce
        salt = encode_base64(keys.salt)
        self._server_first = b"r=%b,s=%b,i=%d" % (self._nonce, salt, keys.iterations)
        return Challenge(self._server_first)

    def _take_final(self, message: bytes) -> type_step:
        assert self._first is not None
        assert self._keys is not None
        without_proof, comma, proof = message.rpartition(b",p=")
        attributes = without_proof.split(b",")
        given = decode_base64(proof) if comma else None
        if given is None or len(given) != KEY_OCTETS or len(attributes) < 2:
            return End.INVALID
        bound, nonce = attributes[:2]
        if not hmac.compare_digest(bound, b"c=" + encode_base64(self._bound)):
            return End.INVALID
        if not hmac.compare_digest(nonce, b"r=" + self._nonce) or not _extensions(attributes[2:]):
            return End.INVALID
        signed = b"%b,%b,%b" % (self._first.bare, self._server_first, without_proof)
        signature = _hmac(self._keys.stored_key, signed)
        client_key = bytes(a ^ b for a, b in zip(given, signature, strict=True))
        proven = hashlib.sha256(client_key).digest()
        if not hmac.compare_digest(proven, self._keys.stored_key):
            return End.WRONG
        self._signature = _hmac(self._keys.server_key, signed)
        first = self._first
        return Auth(self.name, first.username, authzid=first.authzid, verified=True)

    def accept(self) -> type_step:
        return Challenge(b"v=" + encode_base64(self._signature))


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
