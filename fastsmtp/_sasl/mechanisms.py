"""The mechanisms in which a client shows a password, a token or a certificate.

PLAIN (RFC 4616), LOGIN, CRAM-MD5 (RFC 2195), XOAUTH2, OAUTHBEARER (RFC 7628), EXTERNAL (RFC 4422
Appendix A). SCRAM: `_sasl.scram`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from fastsmtp import replies
from fastsmtp._sasl.exchange import (
    Auth,
    Challenge,
    End,
    Mechanism,
    decode_name,
    type_step,
)

__all__ = ["CramMD5", "External", "Login", "OAuthBearer", "Plain", "XOAuth2", "decode_saslname"]

_HEX_DIGEST: Final = "[0-9a-f]{32}"
MAX_JSON: Final = 9216  # octets, 12288 as base64, the limit of a challenge, RFC 4954 §4


class Plain(Mechanism):
    """[authzid] NUL authcid NUL password."""

    name = "PLAIN"

    def take(self, response: bytes) -> type_step:
        parts = response.split(b"\0")
        if len(parts) != 3:
            return End.INVALID
        authzid, authcid = decode_name(parts[0]), decode_name(parts[1])
        password = _password(parts[2])
        if authzid is None or not authcid or not password:
            return End.INVALID
        return Auth(self.name, authcid, authzid=authzid, authcid=authcid, password=password)


class Login(Mechanism):
    """The name, then the password; an initial response is the name."""

    name = "LOGIN"

    def __init__(self) -> None:
        self._username: str | None = None

    def start(self, response: bytes | None) -> type_step:
        return Challenge(b"Username:") if response is None else self.take(response)

    def take(self, response: bytes) -> type_step:
        if self._username is None:
            if not response:
                return End.NO_USERNAME
            self._username = decode_name(response)
            return End.INVALID if self._username is None else Challenge(b"Password:")
        # Many directories treat an empty password as an anonymous login (RFC 4513 §5.1.2).
        password = None if b"\0" in response else _password(response)
        return Auth(self.name, self._username, password=password) if password else End.INVALID


class CramMD5(Mechanism):
    """The client answers our challenge with its name and an HMAC of the challenge."""

    name = "CRAM-MD5"

    def __init__(self, challenge: str) -> None:
        self._challenge = challenge

    def start(self, response: bytes | None) -> type_step:
        return Challenge(self._challenge.encode())

    def take(self, response: bytes) -> type_step:
        text = decode_name(response)
        username, _, digest = ("", "", "") if text is None else text.rpartition(" ")
        if not username or not re.fullmatch(_HEX_DIGEST, digest):
            return End.INVALID
        return Auth(self.name, username, challenge=self._challenge, challenge_response=digest)


class External(Mechanism):
    """The client is identified by its certificate; it may ask for another identity."""

    name = "EXTERNAL"

    def __init__(self, certificate: Any) -> None:
        self._certificate = certificate

    def take(self, response: bytes) -> type_step:
        authzid = decode_name(response)
        if authzid is None:
            return End.INVALID
        return Auth(self.name, authzid, authzid=authzid, certificate=self._certificate)


class _Bearer(Mechanism):
    """Base of the mechanisms with a token. One more challenge explains the refusal of a token; the
    client only acknowledges it.
    """

    default_refusal = replies.TOKEN_REFUSED
    _refusal: Mapping[str, str]

    def take(self, response: bytes) -> type_step:
        return End.REFUSED if self.is_refused else self._parsed(response)

    def refuse(self, data: Any) -> Challenge | None:
        import json  # only for a refused token: it would add a millisecond to every import

        told = dict(self._refusal) if data is None else data
        octets = json.dumps(told, separators=(",", ":")).encode()
        if len(octets) > MAX_JSON:
            raise ValueError(f"data has {len(octets)} octets as JSON, at most {MAX_JSON} fit")
        self.is_refused = True
        return Challenge(octets)

    def _parsed(self, response: bytes) -> type_step:
        raise NotImplementedError


class XOAuth2(_Bearer):
    """user=U ^A auth=Bearer T ^A ^A."""

    name = "XOAUTH2"
    _refusal = MappingProxyType({"status": "401", "schemes": "bearer"})

    def _parsed(self, response: bytes) -> type_step:
        pairs = _pairs(response)
        if pairs is None or "user" not in pairs:
            return End.INVALID
        username, token = decode_name(pairs["user"]), _token(pairs)
        if not username or token is None:
            return End.INVALID
        return Auth(self.name, username, access_token=token)


class OAuthBearer(_Bearer):
    """n,[a=authzid],^A [host=H ^A] [port=P ^A] auth=Bearer T ^A ^A."""

    name = "OAUTHBEARER"
    _refusal = MappingProxyType({"status": "invalid_token"})

    def _parsed(self, response: bytes) -> type_step:
        header, separator, rest = response.partition(b"\x01")
        pairs = _pairs(rest)
        authzid = _gs2_authzid(header) if separator else None
        if pairs is None or authzid is None:
            return End.INVALID
        token = _token(pairs)
        host = decode_name(pairs["host"]) if "host" in pairs else None
        port = decode_name(pairs["port"]) if "port" in pairs else None
        if token is None or ("host" in pairs and host is None):
            return End.INVALID
        if "port" in pairs and (port is None or not re.fullmatch("[0-9]{1,5}", port)):
            return End.INVALID
        return Auth(
            self.name,
            authzid,
            authzid=authzid,
            access_token=token,
            host=host,
            port=None if port is None else int(port),
        )


def _password(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def decode_saslname(octets: bytes) -> str | None:
    """Decode a name in which `=2C` and `=3D` encode a comma and `=`; None if it is malformed or
    empty (RFC 5801 §4, RFC 5802 §5.1).
    """
    text = decode_name(octets)
    if not text or "," in text:
        return None
    decoded = text.replace("=2C", ",").replace("=3D", "=")
    # Each `=` must begin one of the two.
    return decoded if text.count("=") == text.count("=2C") + text.count("=3D") else None


def _gs2_authzid(header: bytes) -> str | None:
    """The authzid of a header without channel binding, "" if it has none: RFC 7628 §3.1."""
    parts = header.split(b",")
    if len(parts) != 3 or parts[0] not in (b"n", b"y") or parts[2]:
        return None
    if not parts[1]:
        return ""
    return decode_saslname(parts[1][2:]) if parts[1].startswith(b"a=") else None


def _pairs(octets: bytes) -> dict[str, bytes] | None:
    """`key=value ^A` … `^A` as a dict; None if it is malformed or has a key twice."""
    if not octets.endswith(b"\x01\x01"):
        return None
    pairs: dict[str, bytes] = {}
    for pair in octets[:-2].split(b"\x01"):
        key, equals, value = pair.partition(b"=")
        name = key.decode("latin-1").lower()
        if not equals or not key.isalpha() or name in pairs:
            return None
        pairs[name] = value
    return pairs


def _token(pairs: dict[str, bytes]) -> str | None:
    """The token of `auth=Bearer T`, None without one."""
    text = decode_name(pairs.get("auth", b""))
    scheme, _, token = ("", "", "") if text is None else text.partition(" ")
    token = token.strip(" ")
    return token if scheme.lower() == "bearer" and token else None
