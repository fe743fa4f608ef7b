"""The facts of one TLS connection: for the hook `on_secure`, `session.tls_options` and AUTH."""

from __future__ import annotations

import copy
import hashlib
import re
import ssl
from contextlib import suppress
from functools import cache
from sys import intern
from typing import Any, Final

from fastsmtp._tls.pem import signature_hash

__all__ = ["TLSSocket", "standard_name"]

_MODES: Final = r"(AES|ARIA|CAMELLIA)(128|256)"
_KEY_EXCHANGES: Final = ("ECDHE-ECDSA", "ECDHE-RSA", "DHE-RSA", "DHE-DSS", "ECDHE-PSK", "DHE-PSK")


def standard_name(name: str) -> str:
    """Return the IANA name of a cipher suite that OpenSSL calls `name`.

    "ECDHE-RSA-AES256-GCM-SHA384" is TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384; the names of TLS 1.3
    are the same in both.
    """
    if name.startswith("TLS_"):
        return name
    exchange = next((one for one in _KEY_EXCHANGES if name.startswith(one + "-")), "")
    rest = name[len(exchange) + 1 :] if exchange else name
    rest = re.sub(_MODES, r"\1-\2", rest)
    words = rest.split("-")
    if "POLY1305" in words:
        words = ["CHACHA20", "POLY1305", "SHA256"]
    elif words[-1] == "CCM":
        pass
    elif words[-1] == "CCM8":
        words[-1:] = ["CCM", "8"]
    elif "GCM" not in words:
        words.insert(-1, "CBC")
    return f"TLS_{(exchange or 'RSA').replace('-', '_')}_WITH_{'_'.join(words)}"


class TLSSocket:
    """The facts of one TLS connection, all set when the hook is called.

    name: of the cipher suite, as OpenSSL writes it; standard_name: as in IANA's registry. version:
    "TLSv1.3". alpn: None if no protocol was agreed on. servername: the name that the client asked
    for, "" without one. certificate: the client's, parsed, as `ssl.SSLSocket.getpeercert` returns
    it; certificate_der: in DER; None without one. verified: there is a certificate, and OpenSSL
    has verified its chain and purpose with `ca`.
    """

    __slots__ = (
        "_end_point",
        "_tls",
        "alpn",
        "certificate",
        "certificate_der",
        "name",
        "servername",
        "standard_name",
        "verified",
        "version",
    )

    def __init__(
        self, tls: ssl.SSLObject, servername: str, own_certificate: bytes | None, trusted: bool
    ) -> None:
        cipher = tls.cipher()
        self._tls = tls
        self._end_point = own_certificate
        # Interned: there are few such texts, and OpenSSL makes new ones for each connection.
        self.name = intern(cipher[0]) if cipher else ""
        self.standard_name = standard_name(self.name) if self.name else ""
        self.version = intern(tls.version() or "")
        self.alpn = tls.selected_alpn_protocol()
        self.servername = servername
        self.certificate_der = tls.getpeercert(True)
        self.certificate: dict[str, Any] | None = None
        if self.certificate_der is not None:
            self.certificate = _parsed(tls)
            _forget_errors()
        self.verified = trusted and self.certificate_der is not None

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """The same as `certificate`."""
        return self.certificate

    @property
    def peer_certificate_der(self) -> bytes | None:
        """The same as `certificate_der`."""
        return self.certificate_der

    @property
    def authorized(self) -> bool:
        """The same as `verified`, by its name in Node.js."""
        return self.verified

    def for_hook(self) -> TLSSocket:
        """Return a copy that a hook may change: AUTH is decided by the original."""
        given = copy.copy(self)
        given.certificate = self._certificate_copy()
        return given

    def _certificate_copy(self) -> dict[str, Any] | None:
        return None if self.certificate is None else dict(self.certificate)

    def options(self) -> dict[str, Any]:
        """Return the value of `session.tls_options`."""
        return {
            "name": self.name,
            "standard_name": self.standard_name,
            "version": self.version,
            "alpn": self.alpn,
            "servername": self.servername,
            "peer_certificate": self._certificate_copy(),
            "peer_certificate_der": self.certificate_der,
            "verified": self.verified,
        }

    def channel_binding(self, kind: str) -> bytes | None:
        """Return the data of the binding "tls-server-end-point" (RFC 5929 §4), or of "tls-exporter"
        (RFC 9266) and "tls-unique" (RFC 5929 §3, up to TLS 1.2) if Python's ssl has them, or None.
        """
        if kind == "tls-server-end-point":
            der = self._end_point
            name = None if der is None else signature_hash(der)
            return None if der is None or name is None else hashlib.new(name, der).digest()
        if kind not in ssl.CHANNEL_BINDING_TYPES:
            return None
        if kind == "tls-unique" and self.version == "TLSv1.3":
            return None  # it is not defined there (RFC 9266 §3)
        return self._tls.get_channel_binding(kind)

    def __repr__(self) -> str:
        return f"<TLSSocket {self.version} {self.name} verified={self.verified}>"


def _parsed(tls: ssl.SSLObject) -> dict[str, Any] | None:
    try:
        return dict(tls.getpeercert() or {})
    except ValueError:  # Python cannot decode it; the certificate in DER remains
        return None


@cache
def _scratch() -> ssl.SSLContext:
    """Return a context that is never used for TLS; one for clients needs no certificate."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _forget_errors() -> None:
    """Empty the thread's error queue of OpenSSL.

    Errors about the certificate of one client stay there silently, and the next read of any other
    connection that has to wait for octets would seem to fail. Python has no call for it, but it
    empties the queue after every cipher list that contains no cipher.
    """
    with suppress(ssl.SSLError):
        _scratch().set_ciphers("NONE")
