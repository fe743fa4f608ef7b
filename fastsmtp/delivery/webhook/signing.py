"""Signatures of requests as Standard Webhooks has them: HMAC-SHA256 over id, time and body.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

__all__ = ["Signer"]

PREFIX: Final = "whsec_"
SHORTEST, LONGEST = 24, 64  # octets of a secret, by the specification


class Signer:
    """Signs with the current secret, and during a change with the previous one as well.

    Secrets are "whsec_" and base64, None: there is none. Raises ValueError that names the argument,
    never its value.
    """

    def __init__(self, secret: str | None, previous_secret: str | None) -> None:
        if secret is None and previous_secret is not None:
            raise ValueError("previous_secret needs secret, the one that replaces it")
        given = {"secret": secret, "previous_secret": previous_secret}
        self._keys = [_key(name, text) for name, text in given.items() if text is not None]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def sign(self, id: str, seconds: int, content: bytes) -> str:
        """Return the value of a header with one signature for each secret.

        id: of the message. seconds: Unix time.
        """
        head = f"{id}.{seconds}.".encode()
        found = []
        for key in self._keys:
            mac = hmac.new(key, head, hashlib.sha256)
            mac.update(content)
            found.append("v1," + base64.b64encode(mac.digest()).decode("ascii"))
        return " ".join(found)


def _key(name: str, text: str) -> bytes:
    try:
        key = base64.b64decode(text.strip().removeprefix(PREFIX), validate=True)
    except ValueError:
        key = b""
    if not text.startswith(PREFIX) or not SHORTEST <= len(key) <= LONGEST:
        raise ValueError(
            f"{name} takes {PREFIX} and the base64 of {SHORTEST} to {LONGEST} octets, such as"
            f" `echo {PREFIX}$(openssl rand -base64 32)` makes"
        )
    return key
