"""A client of TLS that makes its records by hand after an ordinary handshake, for what no library
sends: key updates without end, empty records, alerts, fragments.

The keys come from the log of the client's own ssl module, so nothing but `cryptography` is needed.
RFC 8446 §5.2, §7.2; RFC 5246 §6.3; RFC 5288 §3.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import tempfile
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tls_kit import TLS12, MemoryTLS, client_context

__all__ = [
    "ALERT",
    "APPLICATION_DATA",
    "CHANGE_CIPHER_SPEC",
    "HANDSHAKE",
    "RawTLS",
    "key_update",
]

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23
KEY_UPDATE = 24  # a handshake message, RFC 8446 §4.6.3


def key_update(answer: bool = False) -> bytes:
    """The message; answer: the server is asked for new keys too."""
    return bytes([KEY_UPDATE, 0, 0, 1, answer])


def _expand(secret: bytes, label: bytes, size: int, digest: str) -> bytes:
    """HKDF-Expand-Label with an empty context, of one block (RFC 8446 §7.1)."""
    label = b"tls13 " + label
    info = size.to_bytes(2) + bytes([len(label)]) + label + b"\0"
    return hmac.digest(secret, info + b"\1", digest)[:size]


def _prf(secret: bytes, seed: bytes, size: int, digest: str) -> bytes:
    """P_hash of RFC 5246 §5."""
    octets, block = b"", seed
    while len(octets) < size:
        block = hmac.digest(secret, block, digest)
        octets += hmac.digest(secret, block + seed, digest)
    return octets[:size]


class _Keys13:
    """What the client writes with in TLS 1.3."""

    def __init__(self, secret: bytes) -> None:
        self.digest = "sha384" if len(secret) == 48 else "sha256"
        self.key_size = 32 if len(secret) == 48 else 16
        self._take(secret)

    def _take(self, secret: bytes) -> None:
        self.secret = secret
        self._aead = AESGCM(_expand(secret, b"key", self.key_size, self.digest))
        self._nonce = int.from_bytes(_expand(secret, b"iv", 12, self.digest))
        self._number = 0

    def update(self) -> None:
        """The next keys, which count from the record after a KeyUpdate on."""
        size = hashlib.new(self.digest).digest_size
        self._take(_expand(self.secret, b"traffic upd", size, self.digest))

    def protect(self, kind: int, octets: bytes) -> bytes:
        header = b"\x17\3\3" + (len(octets) + 17).to_bytes(2)
        nonce = (self._nonce ^ self._number).to_bytes(12)
        self._number += 1
        return header + self._aead.encrypt(nonce, octets + bytes([kind]), header)


class _Keys12:
    """What the client writes with in TLS 1.2, with AES-256-GCM."""

    def __init__(self, master: bytes, client_random: bytes, server_random: bytes) -> None:
        block = _prf(master, b"key expansion" + server_random + client_random, 72, "sha384")
        self._aead = AESGCM(block[:32])
        self._salt = block[64:68]
        self._number = 1  # Finished was the first

    def protect(self, kind: int, octets: bytes) -> bytes:
        number = self._number.to_bytes(8)
        self._number += 1
        data = number + bytes([kind]) + b"\3\3" + len(octets).to_bytes(2)
        sealed = number + self._aead.encrypt(self._salt + number, octets, data)
        return bytes([kind]) + b"\3\3" + len(sealed).to_bytes(2) + sealed


class RawTLS:
    """A client whose handshake goes through `exchange`: it takes what to send to the server, and
    returns what the server has said. After that `record` makes what to send.
    """

    def __init__(self, version: str, exchange: Callable[[bytes], bytes]) -> None:
        context = client_context(**(TLS12 if version == "TLSv1.2" else {}))
        context.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384")
        with tempfile.TemporaryDirectory() as folder:
            log = os.path.join(folder, "keys")
            context.keylog_filename = log
            self.tls = MemoryTLS(context)
            flight = self.tls.shake()
            self.hello = flight
            heard = b""
            while flight:
                answer = exchange(flight)
                heard += answer
                flight = self.tls.shake(answer)
            assert self.tls.done
            with open(log, encoding="ascii") as lines:
                secrets = {line.split()[0]: line.split()[2] for line in lines if line[0] != "#"}
        if version == "TLSv1.2":
            master = bytes.fromhex(secrets["CLIENT_RANDOM"])
            self._keys: _Keys12 | _Keys13 = _Keys12(master, self.hello[11:43], heard[11:43])
        else:
            self._keys = _Keys13(bytes.fromhex(secrets["CLIENT_TRAFFIC_SECRET_0"]))

    def record(self, octets: bytes, kind: int = APPLICATION_DATA) -> bytes:
        """One record."""
        return self._keys.protect(kind, octets)

    def key_updates(self, count: int, answer: bool = False) -> bytes:
        """So many changes of the client's keys, one in each record."""
        return b"".join(self.key_update(answer) for _ in range(count))

    def key_update(self, answer: bool = False) -> bytes:
        """One change of the client's keys."""
        assert isinstance(self._keys, _Keys13)
        octets = self.record(key_update(answer), HANDSHAKE)
        self._keys.update()
        return octets

    def updated(self) -> None:
        """The records that were made last have said that the keys change."""
        assert isinstance(self._keys, _Keys13)
        self._keys.update()
