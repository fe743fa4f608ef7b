"""The certificate of the gateway: read from files, or made for a server in development.

In: the paths of a `Config`. Out: the TLS options of the engine, and a line that states their
origin. The files are read once for all servers, so that all have the same pair. Raised:
`CertificateError`, whose text is one line with the option, the file and the reason.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastsmtp.certificates import Pem, TLSSocket, expired_at, leaf_of, read_pem, self_signed
from fastsmtp.gateway.config import Config, Kind
from fastsmtp.gateway.log import logger
from fastsmtp.log_text import clean, client_word
from fastsmtp.session import Session

__all__ = [
    "NO_LIBRARY",
    "Certificate",
    "CertificateError",
    "explained",
    "log_client",
    "read_certificate",
]

NO_LIBRARY: Final = (
    "no --cert is given, and the package cryptography, which would make a certificate for"
    " development, is missing: pip install 'fastsmtp-engine[tls]'"
)
_OPTIONS: Final = {
    "cert": "--cert",
    "key": "--key",
    "ca": "--client-ca",
    "ciphers": "--ciphers",
}
_NAMED: Final = re.compile("option '(cert|key|ca|ciphers)'")
# The engine has an option for the password of a key; the command line has none.
_PASSWORD: Final = (
    "; give its key_password",
    "; it must not be: there is no option for a password",
)


class CertificateError(ValueError):
    """There is no usable certificate."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """options: TLS options of the engine, with the key. origin: where it is from, for the log.

    self_made: there is no file, so there is nothing to reload.
    """

    options: Mapping[str, Any] = field(repr=False)
    origin: str
    self_made: bool = False


def read_certificate(config: Config) -> Certificate | None:
    """Read the certificate that is given; without one, make one for the listeners that use TLS.

    None: no TLS, since it is not wanted, or (`NO_LIBRARY`) not available and not needed.
    """
    more: dict[str, Any] = {}
    if config.ciphers:
        more["ciphers"] = config.ciphers
    if config.client_ca:
        # Not `reject_unauthorized`: servers that send mail to us have no certificate of our CA.
        more |= {
            "ca": _read(config, "ca").octets,
            "request_cert": True,
            "reject_unauthorized": False,
        }
    if not config.cert:
        return _made(config, more)
    cert = _read(config, "cert")
    options = {"cert": cert.octets, **more}
    if config.key:
        options["key"] = _read(config, "key").octets
    try:
        end = expired_at(leaf_of(cert))
    except ValueError as error:
        raise CertificateError(explained(error, config)) from None
    until = "" if end is None else f", good until {end:%Y-%m-%d}"
    return Certificate(options, f"certificate from {config.cert}{until}")


def _made(config: Config, more: Mapping[str, Any]) -> Certificate | None:
    """Make a certificate if a listener uses TLS; more: further TLS options."""
    kinds = {listener.kind for listener in config.listeners}
    if not kinds - {Kind.LMTP}:
        for option in more.keys() & _OPTIONS.keys():
            raise CertificateError(f"{_OPTIONS[option]}: there is no TLS without --cert")
        return None
    pem = self_signed(config.name)
    if pem is not None:
        origin = f"certificate made at start for {config.name}, self-signed: for development only"
        return Certificate({"cert": pem, **more}, origin, self_made=True)
    for listener in config.listeners:
        if listener.kind in (Kind.SMTPS, Kind.SUBMISSION):
            raise CertificateError(f"{listener} needs TLS: {NO_LIBRARY}")
    for option in more.keys() & _OPTIONS.keys():
        raise CertificateError(f"{_OPTIONS[option]} needs TLS: {NO_LIBRARY}")
    return None


def _read(config: Config, option: str) -> Pem:
    try:
        return read_pem(option, _path(config, option))
    except ValueError as error:
        raise CertificateError(explained(error, config)) from None


def _path(config: Config, option: str) -> str:
    """Return the file that an option names, "" for an option without a file."""
    return {"cert": config.cert, "key": config.key, "ca": config.client_ca}.get(option, "")


def explained(error: Exception, config: Config) -> str:
    """Return the engine's message about its options, with the options of the command line."""

    def named(found: re.Match[str]) -> str:
        return f"{_OPTIONS[found[1]]} {_path(config, found[1])}".rstrip()

    text = str(error)
    for option in _OPTIONS:  # the engine names the file only if it has read it itself
        text = text.replace(f"option '{option}': {_path(config, option)} ", f"option '{option}' ")
    return _NAMED.sub(named, text).replace(*_PASSWORD)


# --- certificates of clients ---


def log_client(
    socket: TLSSocket, session: Session, callback: Callable[[Exception | None], Any]
) -> None:
    """The hook `on_secure`: log a trusted certificate of a client; no client is refused."""
    if socket.verified and socket.certificate_der is not None:
        logger.info(
            "client certificate id=%s client=%s subject=%s sha256=%s",
            session.id,
            client_word("", session.remote_address),
            clean(_subject(socket.certificate or {})),
            hashlib.sha256(socket.certificate_der).hexdigest(),
        )
    callback(None)


def _subject(certificate: Mapping[str, Any]) -> str:
    """Return the subject of a parsed certificate as `commonName=anne,organizationName=…`."""
    return ",".join(
        f"{key}={value}" for group in certificate.get("subject", ()) for key, value in group
    )
