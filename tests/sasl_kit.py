"""The client's side of AUTH, for tests: responses in base64, and a SCRAM client in a few lines."""

from __future__ import annotations

import base64
import hashlib
import hmac


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
