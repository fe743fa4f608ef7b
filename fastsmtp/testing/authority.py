"""A certificate authority for one run of tests, and a certificate for the names of loopback.

It needs the library `cryptography` (the extra `tls`), which is imported only here, when needed.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

__all__ = ["Authority", "authority"]

_MISSING = "TLS needs the package cryptography: pip install 'fastsmtp-engine[tls]'"


class Authority(NamedTuple):
    """PEM: the certificate to trust, and a key with its certificate, both signed by that one."""

    ca: bytes
    key: bytes
    cert: bytes


@cache
def authority() -> Authority:
    """Return the authority of this process, for localhost, 127.0.0.1 and ::1; ECDSA on P-256.

    Raises RuntimeError without the library.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise RuntimeError(_MISSING) from None
    pem = serialization.Encoding.PEM
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fastsmtp test authority")])
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    addresses = [x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "::1")]
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), *addresses])
    ca = _signed(issuer, ca_key, issuer, ca_key, is_ca=True)
    cert = _signed(subject, key, issuer, ca_key, is_ca=False, names=names)
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Authority(ca.public_bytes(pem), private, cert.public_bytes(pem))


def _signed(
    subject: Any, key: Any, issuer: Any, issuer_key: Any, *, is_ca: bool, names: Any = None
) -> Any:
    """Return a certificate that passes the strict checks of Python 3.13 (RFC 5280)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    uses = dict.fromkeys(
        (
            *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("encipher_only", "decipher_only"),
        ),
        False,
    )
    now = datetime.now(UTC)
    public = issuer_key.public_key()
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca, **uses),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    )
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
