"""Key material as users give it: a path, PEM text, or bytes; read completely, checked, and named in
every error message.

In: the value of `key`, `cert` or `ca`. Out: octets, and facts of a certificate. Raised: ValueError,
whose text has the option, the file and the reason, and never content of the file.
"""

from __future__ import annotations

import binascii
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Final, NamedTuple

from fastsmtp.blocking import read_at_once

__all__ = [
    "Pem",
    "as_file",
    "expired_at",
    "leaf_of",
    "read_pem",
    "signature_hash",
]

MAX_FILE: Final = 1 << 20  # octets; a bundle of all public CAs has a quarter of that

_CERTIFICATE: Final = (
    rb"(?s)-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----.*?"
    rb"-----END (?:TRUSTED |X509 )?CERTIFICATE-----"
)


class Pem(NamedTuple):
    """octets: of the file or the text. name: for messages."""

    octets: bytes
    name: str

    @property
    def is_encrypted(self) -> bool:
        """Whether it contains a key that needs a password."""
        return b"ENCRYPTED" in self.octets

    def __repr__(self) -> str:
        return f"<Pem of {self.name}>"  # without the octets: they may be a key


def read_pem(option: str, value: str | bytes) -> Pem:
    """Return the material that `value` gives: it is PEM if it looks like PEM, else a path."""
    octets = value.encode("utf-8", "replace") if isinstance(value, str) else value
    if b"-----BEGIN" in octets:
        return Pem(octets, f"option {option!r}")
    if isinstance(value, bytes) and (len(value) > 4096 or b"\0" in value or b"\n" in value):
        raise ValueError(f"option {option!r} holds no PEM")
    path = os.fsdecode(value)
    name = f"option {option!r}: {path}"
    try:
        octets, _ = read_at_once(path, MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ValueError(f"{name} cannot be read: {reason}") from None
    if len(octets) > MAX_FILE:
        raise ValueError(f"{name} is too large for a key or a certificate")
    if b"-----BEGIN" not in octets:
        raise ValueError(f"{name} holds no PEM")
    return Pem(octets, name)


def leaf_of(pem: Pem) -> bytes:
    """Return the first certificate of `pem` in DER."""
    found = re.search(_CERTIFICATE, pem.octets)
    if found is None:
        whole = b"BEGIN CERTIFICATE" not in pem.octets
        raise ValueError(f"{pem.name} holds {'no' if whole else 'half a'} certificate")
    text = re.sub(rb"(?:TRUSTED |X509 )CERT", b"CERT", found[0]).decode("ascii", "replace")
    try:
        return ssl.PEM_cert_to_DER_cert(text)
    except (ValueError, binascii.Error):
        raise ValueError(f"{pem.name} holds a certificate that is not base64") from None


@contextmanager
def as_file(octets: bytes) -> Iterator[str]:
    """Give `octets` a path while the block lasts, because the ssl module only reads files.

    In memory where the system can, because a key must not be left on a disk.
    """
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        with open(os.memfd_create("fastsmtp"), "wb", buffering=0) as memory:
            memory.write(octets)
            yield f"/proc/self/fd/{memory.fileno()}"
        return
    import tempfile  # 2 ms, since it imports the compression modules; Linux never needs it

    handle, path = tempfile.mkstemp()  # for this user only
    try:
        with open(handle, "wb") as file:
            file.write(octets)
        yield path
    finally:
        with suppress(OSError):
            os.unlink(path)


# Fields of a certificate, RFC 5280 §4.1, with only as much DER parsing as they need.


def _parts(der: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each element in `der`; raises IndexError if an element is cut off."""
    parts = []
    at = 0
    while at < len(der):
        tag, size, at = der[at], der[at + 1], at + 2
        if size & 0x80:
            octets = size & 0x7F
            size, at = int.from_bytes(der[at : at + octets], "big"), at + octets
        if at + size > len(der):
            raise IndexError
        parts.append((tag, der[at : at + size]))
        at += size
    return parts


def expired_at(der: bytes) -> datetime | None:
    """Return the end of a certificate's validity, None when it cannot be read: then OpenSSL judges
    it alone.
    """
    try:
        fields = _parts(_parts(_parts(der)[0][1])[0][1])
        if fields[0][0] == 0xA0:  # the version, which is optional
            fields = fields[1:]
        tag, octets = _parts(fields[3][1])[1]
        text = octets.decode("ascii")
        if tag == 0x17:  # UTCTime: two digits of the year, RFC 5280 §4.1.2.5.1
            text = ("19" if text >= "50" else "20") + text
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except (IndexError, ValueError):
        return None


# Object identifiers of signatures, and the hash of each; for MD5 and SHA-1 the binding uses SHA-256
# (RFC 5929 §4.1).
_HASHES: Final[dict[str, str]] = {
    "2a864886f70d010104": "sha256",
    "2a864886f70d010105": "sha256",
    "2a864886f70d01010b": "sha256",
    "2a864886f70d01010c": "sha384",
    "2a864886f70d01010d": "sha512",
    "2a8648ce3d0401": "sha256",
    "2a8648ce3d040302": "sha256",
    "2a8648ce3d040303": "sha384",
    "2a8648ce3d040304": "sha512",
}


def signature_hash(der: bytes) -> str | None:
    """Return the hash for the channel binding tls-server-end-point, None where it is undefined."""
    try:
        return _HASHES.get(_parts(_parts(_parts(der)[0][1])[1][1])[0][1].hex())
    except IndexError:
        return None
