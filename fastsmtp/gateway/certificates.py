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
from fastsmtp.gateway.config import TLS_OPTIONS, Config, Kind
from fastsmtp.gateway.log import logger
from fastsmtp.log_text import clean, client_word
from fastsmtp.options import OPTIONS
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
    "min_version": "--min-version",
    "max_version": "--max-version",
}
_NAMED: Final = re.compile(f"option '({'|'.join(_OPTIONS)})'")
_NAME: Final = re.compile("option 'sni_options', '([^']*)': ")
# The engine has an argument, which is a key of the file here.
_PASSWORD: Final = ("; give its key_password", "; give its key_password, in the file")


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
    """Read the certificates that are given; without one, make one for the listeners that use TLS.

    None: no TLS, since it is not wanted, or (`NO_LIBRARY`) not available and not needed.
    """
    more = {name: config.options.get(name, OPTIONS[name].default) for name in TLS_OPTIONS}
    if config.client_ca:
        # Servers that send mail to us have no certificate of our CA, so by default all are served.
        more |= {
            "ca": _read("ca", config.client_ca, config).octets,
            "request_cert": True,
            "reject_unauthorized": config.reject_unauthorized,
        }
    if not config.cert:
        return _made(config, more)
    files = {"cert": config.cert, "key": config.key, "key_password": config.key_password}
    pair, origin = _pair(files, "", config)
    names = {}
    for name, table in config.certificates.items():
        own, where = _pair(table, name, config)
        names[name] = {**table, **own}
        origin = f"{origin}; for {name} {where}"
    return Certificate({**more, **pair, "sni_options": names or None}, origin)


def _pair(files: Mapping[str, Any], name: str, config: Config) -> tuple[dict[str, Any], str]:
    """Return the TLS options of one certificate, and its origin. name: of the server, "" for all
    others.
    """
    cert = _read("cert", files["cert"], config, name)
    found: dict[str, Any] = {"cert": cert.octets, "key": None, "key_password": None}
    if files.get("key"):
        found["key"] = _read("key", files["key"], config, name).octets
    if files.get("key_password"):
        found["key_password"] = files["key_password"]
    try:
        end = expired_at(leaf_of(cert))
    except ValueError as error:
        raise CertificateError(explained(error, config, name)) from None
    until = "" if end is None else f", good until {end:%Y-%m-%d}"
    return found, f"certificate from {files['cert']}{until}"


def _made(config: Config, more: Mapping[str, Any]) -> Certificate | None:
    """Make a certificate if a listener uses TLS; more: further TLS options."""
    kinds = {listener.kind for listener in config.listeners}
    wanted = [option for option in ("ca", "ciphers") if more.get(option)]
    if not kinds - {Kind.LMTP}:
        for option in wanted:
            raise CertificateError(f"{_OPTIONS[option]}: there is no TLS without --cert")
        return None
    pem = self_signed(config.name)
    if pem is not None:
        origin = f"certificate made at start for {config.name}, self-signed: for development only"
        return Certificate({"cert": pem, **more}, origin, self_made=True)
    for listener in config.listeners:
        if listener.kind in (Kind.SMTPS, Kind.SUBMISSION):
            raise CertificateError(f"{listener} needs TLS: {NO_LIBRARY}")
    for option in wanted:
        raise CertificateError(f"{_OPTIONS[option]} needs TLS: {NO_LIBRARY}")
    return None


def _read(option: str, path: str, config: Config, name: str = "") -> Pem:
    try:
        return read_pem(option, path)
    except ValueError as error:
        raise CertificateError(explained(error, config, name)) from None


def explained(error: Exception, config: Config, name: str = "") -> str:
    """Return the engine's message about its options, with the options of the command line.

    name: the server name whose certificate it is about, if the message does not say it.
    """
    text = str(error)
    if (found := _NAME.match(text)) is not None:
        name, text = found[1], text[found.end() :]
    table = config.certificates.get(name, {})
    own = {"cert": config.cert, "key": config.key, "ca": config.client_ca}
    files = {option: str(table.get(option, "")) for option in own} if name else own

    def named(found: re.Match[str]) -> str:
        option = found[1]
        return f"{option if name else _OPTIONS[option]} {files.get(option, '')}".rstrip()

    for option in _OPTIONS:  # the engine names the file only if it has read it itself
        text = text.replace(f"option '{option}': {files.get(option, '')} ", f"option '{option}' ")
    text = _NAMED.sub(named, text).replace(*_PASSWORD)
    return f"certificate for {name}: {text}" if name else text


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
