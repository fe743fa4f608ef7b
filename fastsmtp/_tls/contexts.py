"""TLS contexts: made from the options, chosen by server name, replaced all together.

In: `Options`, whose key material is read here. Out: for each listener a `ListenerTLS`, whose
contexts are for new handshakes; handshakes in progress keep theirs. Raised: ValueError that names
option, file and reason, and then nothing has changed. RFC 8446, RFC 9325.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from fastsmtp._log import logger
from fastsmtp._tls.lenient_verify import LenientContext
from fastsmtp._tls.pem import Pem, as_file, expired_at, leaf_of, read_pem
from fastsmtp._tls.self_signed import self_signed
from fastsmtp.options import Options, tls_options

__all__ = ["Contexts", "ListenerTLS", "ServerTLS"]

# For each context, the user's too: no renegotiation, which Python does not set by itself (RFC 9325
# §3.5), no compression (RFC 9325 §3.3).
ALWAYS: Final = ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
TICKETS: Final = 1  # per handshake; mail clients reconnect one connection at a time


class _Material:
    """The key material for the contexts of one set of options: read once, so that all listeners get
    the same, and none gets half of a change.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.cert: Pem | None = None
        self.key: Pem | None = None
        self.ca: Pem | None = None
        self.leaf: bytes | None = None
        if options.ssl_context is not None:
            if options.ssl_context.protocol is ssl.PROTOCOL_TLS_CLIENT:
                raise ValueError("option 'ssl_context' is a context for clients")
            return
        self._read_pair(options)
        if options.ca is not None:
            self.ca = read_pem("ca", options.ca)
        elif options.request_cert and options.reject_unauthorized:
            raise ValueError(
                "option 'request_cert' needs 'ca': without it no client's certificate is trusted"
            )

    def _read_pair(self, options: Options) -> None:
        if options.cert is None and options.key is None:
            raise ValueError("TLS needs the options 'key' and 'cert', or 'ssl_context'")
        if options.cert is None:
            raise ValueError("option 'key' needs 'cert'")
        self.cert = read_pem("cert", options.cert)
        self.key = self.cert if options.key is None else read_pem("key", options.key)
        if b"PRIVATE KEY-----" not in self.key.octets:
            raise ValueError(
                f"{self.key.name} holds no private key"
                + ("; option 'key' is missing" if options.key is None else "")
            )
        if self.key.is_encrypted and options.key_password is None:
            raise ValueError(f"{self.key.name} is encrypted; give its key_password")
        self.leaf = leaf_of(self.cert)
        end = expired_at(self.leaf)
        if end is not None and end < datetime.now(UTC):
            raise ValueError(f"{self.cert.name} has expired: it was good until {end:%Y-%m-%d}")

    def context(self) -> ssl.SSLContext:
        """Make a context; each has its own ticket keys, so no session is resumed in another one."""
        options = self.options
        if options.ssl_context is not None:
            context = options.ssl_context
            context.options |= ALWAYS
            return context
        lenient = options.request_cert and not options.reject_unauthorized
        kind = LenientContext if lenient else ssl.SSLContext
        context = kind(ssl.PROTOCOL_TLS_SERVER)
        context.options |= ALWAYS
        if options.honor_cipher_order:
            context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        else:
            context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        context.num_tickets = TICKETS
        self._set_versions(context)
        if options.ciphers is not None:
            try:
                context.set_ciphers(options.ciphers)
            except ssl.SSLError:
                raise ValueError(f"option 'ciphers': no cipher in {options.ciphers!r}") from None
        self._load_pair(context)
        self._ask_for_certificates(context)
        return context

    def _set_versions(self, context: ssl.SSLContext) -> None:
        lowest = _VERSIONS[self.options.min_version]
        highest = _VERSIONS[self.options.max_version or "TLSv1.3"]
        if lowest > highest:
            raise ValueError(
                f"option 'min_version' is {self.options.min_version!r}, which is above"
                f" 'max_version', {self.options.max_version!r}"
            )
        context.minimum_version = lowest
        if self.options.max_version is not None:
            context.maximum_version = highest

    def _load_pair(self, context: ssl.SSLContext) -> None:
        cert, key, password = self.cert, self.key, self.options.key_password
        assert cert is not None
        assert key is not None
        try:
            with as_file(cert.octets) as certfile, as_file(key.octets) as keyfile:
                # Always pass a function: otherwise OpenSSL asks for a password on the terminal.
                context.load_cert_chain(certfile, keyfile, lambda: password or "")
        except ssl.SSLError as error:
            raise ValueError(_why_no_pair(cert, key, error)) from None
        except OSError as error:  # out of descriptors or memory
            raise ValueError(f"{cert.name} cannot be loaded: {error.strerror}") from None

    def _ask_for_certificates(self, context: ssl.SSLContext) -> None:
        if self.ca is not None:
            try:
                context.load_verify_locations(cadata=self.ca.octets.decode("ascii", "replace"))
            except ssl.SSLError as error:
                raise ValueError(
                    f"{self.ca.name} cannot be used: {error.reason or error}"
                ) from None
        if isinstance(context, LenientContext):
            context.be_lenient()
        elif self.options.request_cert:
            context.verify_mode = ssl.CERT_REQUIRED


_VERSIONS: Final = {
    "TLSv1": ssl.TLSVersion.TLSv1,
    "TLSv1.1": ssl.TLSVersion.TLSv1_1,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}


def _why_no_pair(cert: Pem, key: Pem, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"{key.name} is not the key of the certificate in {cert.name}"
    if key.is_encrypted:
        return f"{key.name} cannot be decrypted with key_password"
    what = cert.name if cert is key else f"{cert.name} with {key.name}"
    return f"{what} cannot be used: {error.reason or error}"


class Contexts:
    """The contexts of one listener at one time: one for each name, and one for all others."""

    __slots__ = ("_default", "_exact", "_leaves", "_wildcards")

    def __init__(self, default: _Material, by_name: Mapping[str, _Material]) -> None:
        self._default = default.context()
        self._leaves = {self._default: default.leaf}
        self._exact: dict[str, ssl.SSLContext] = {}
        self._wildcards: dict[str, ssl.SSLContext] = {}
        for name, material in by_name.items():
            try:
                context = material.context()
            except ValueError as error:
                raise ValueError(f"option 'sni_options', {name!r}: {error}") from None
            self._leaves[context] = material.leaf
            if name.startswith("*."):
                self._wildcards[name[2:]] = context
            else:
                self._exact[name] = context

    def choose(self, name: str) -> ssl.SSLContext:
        """Return the context for a server name in lower case: of the name itself, else of a
        wildcard for its first label, else the default.
        """
        context = self._exact.get(name)
        if context is None:
            context = self._wildcards.get(name.partition(".")[2])
        return self._default if context is None else context

    def leaf(self, context: ssl.SSLContext | None) -> bytes | None:
        """Return the certificate of one of these contexts in DER, None when we did not load it."""
        return None if context is None else self._leaves.get(context)


class ListenerTLS:
    """The TLS settings for connections of one listener. contexts: None if TLS is not configured.
    implicit: TLS starts before the first octet of SMTP.
    """

    __slots__ = ("contexts", "implicit")

    def __init__(self, contexts: Contexts | None, implicit: bool) -> None:
        self.contexts = contexts
        self.implicit = implicit


class ServerTLS:
    """The TLS of one server: the material, and the contexts of its listeners.

    Raises ValueError when TLS is configured and cannot work.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._material: dict[str, _Material] | None = None
        self._listeners: list[ListenerTLS] = []
        if _is_configured(options):
            self._material = _materials(options)
        elif (options.secure or options.needs_upgrade) and not options.secured:
            self.make_certificate()
        # For connections that do not come from a listener of this server.
        self.default = self.listener(options.secure)

    @property
    def is_configured(self) -> bool:
        """Whether there is a certificate, so that STARTTLS can be offered."""
        return self._material is not None

    def listener(self, implicit: bool) -> ListenerTLS:
        """Return the settings of one more listener, with contexts of its own."""
        contexts = None if self._material is None else _contexts(self._material)
        one = ListenerTLS(contexts, implicit and not self._options.secured)
        self._listeners.append(one)
        return one

    def make_certificate(self) -> None:
        """Make a certificate for development, if none is configured."""
        pem = self_signed(self._options.name)
        if pem is None:
            raise ValueError(
                "TLS needs the options 'key' and 'cert', or 'ssl_context'; for development the"
                " library cryptography would make a certificate at start:"
                " pip install 'fastsmtp-engine[tls]'"
            )
        self._options = self._options.replaced(cert=pem)
        self._material = _materials(self._options)
        for listener in self._listeners:  # they can do STARTTLS from now on
            listener.contexts = _contexts(self._material)
        logger.warning(
            "no certificate is configured: made a self-signed one for %s, for development only",
            self._options.name,
        )

    def update(self, given: Mapping[str, Any]) -> None:
        """Read the material again, with the options `given` instead of the former ones, and replace
        the contexts of all listeners. Raises TypeError or ValueError, and then nothing has changed.
        """
        if not self.is_configured:
            raise ValueError("TLS is not configured, so there is nothing to update")
        options = self._options.replaced(**tls_options(given))
        if "ssl_context" not in given and ("cert" in given or "key" in given):
            options = options.replaced(ssl_context=None)
        material = _materials(options)
        fresh = [_contexts(material) for _ in self._listeners]
        self._options = options
        self._material = material
        for listener, contexts in zip(self._listeners, fresh, strict=True):
            listener.contexts = contexts

    def reload(self) -> None:
        """Read the material again, if there is any. An error is logged: a mistake in the files must
        not stop a running server.
        """
        if self.is_configured:
            try:
                self.update({})
            except ValueError as error:
                logger.error("the certificates stay as they were: %s", error)
            else:
                logger.info("the certificates were reloaded")


def _is_configured(options: Options) -> bool:
    given = (options.ssl_context, options.key, options.cert)
    return bool(options.sni_options) or any(one is not None for one in given)


def _materials(options: Options) -> dict[str, _Material]:
    """Read the key material of `options`: by server name, "" for the default."""
    found = {"": _Material(options.replaced(sni_options=None))}
    for name, given in (options.sni_options or {}).items():
        key = name.lower().removesuffix(".")
        try:
            found[key] = _Material(_options_of_name(options, given))
        except (TypeError, ValueError) as error:
            raise type(error)(f"option 'sni_options', {name!r}: {error}") from None
    return found


def _options_of_name(options: Options, given: object) -> Options:
    """Return the options of one name: its own, and the server's for all that it does not set."""
    if isinstance(given, ssl.SSLContext):
        given = {"ssl_context": given}
    if not isinstance(given, Mapping):
        raise TypeError("takes a mapping of TLS options, or an ssl.SSLContext")
    own: dict[str, Any] = dict.fromkeys(("ssl_context", "key", "cert", "key_password"))
    return options.replaced(**(own | tls_options(given) | {"sni_options": None}))


def _contexts(material: Mapping[str, _Material]) -> Contexts:
    return Contexts(material[""], {name: one for name, one in material.items() if name})
