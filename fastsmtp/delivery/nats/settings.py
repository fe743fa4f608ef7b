"""Where the servers are, how to log in, and TLS: checked before anything is connected."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from fastsmtp.blocking import read_at_once

__all__ = ["Login", "Settings", "check_name", "server_urls", "settings_of"]

PORT: Final = 4222
SCHEMES: Final = ("nats", "tls")
_JWT: Final = "-----BEGIN NATS USER JWT-----"
_SEED: Final = "-----BEGIN USER NKEY SEED-----"
CREDENTIALS_OCTETS: Final = 64 * 1024  # a file with a JWT and a seed has two KiB


class Login(NamedTuple):
    """How to log in; "" is "not given". credentials: the path of a .creds file; nkey: of a file
    with a seed.
    """

    user: str = ""
    password: str = ""
    token: str = ""
    credentials: str = ""
    nkey: str = ""

    def __repr__(self) -> str:
        return f"<Login {self.user}>"  # no secret


class Settings(NamedTuple):
    """How the servers are reached. servers: URLs without a login. ca, cert, key: files, "": none.
    needs_tls: a server that offers none is refused.
    """

    servers: tuple[str, ...]
    login: Login
    ca: str = ""
    cert: str = ""
    key: str = ""
    needs_tls: bool = False

    def context(self) -> TLSContext:
        """Return what verifies the servers. Reads files; raises ValueError with the setting."""
        context = TLSContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.ca:
                context.load_verify_locations(self.ca)
            else:
                context.load_default_certs()
        except OSError as error:
            raise ValueError(f"ca: {self.ca}: {_reason(error)}") from error
        if self.cert:
            try:
                context.load_cert_chain(self.cert, self.key or None, _no_password)
            except (OSError, ValueError) as error:
                raise ValueError(f"cert, key: {self.cert}: {_reason(error)}") from error
        return context

    def credentials(self) -> str:
        """Return the text of the .creds file, "" if none is given. Reads it; raises ValueError."""
        path = self.login.credentials
        if not path:
            return ""
        text = _read("credentials", path)
        # The library would look for the begin of either for ever.
        if not (re.search(f"^{_JWT}\n.", text, re.M) and re.search(f"^{_SEED}\n.", text, re.M)):
            raise ValueError(f"credentials: {path} has no JWT and seed of a user")
        return text

    def seed(self) -> str:
        """Return the seed of the nkey, "" if none is given. Reads it; raises ValueError."""
        path = self.login.nkey
        if not path:
            return ""
        seed = _read("nkey", path).strip()
        if not re.fullmatch("SU[A-Z2-7]{56}", seed):
            raise ValueError(f"nkey: {path} has no seed of a user, which begins with SU")
        return seed


class TLSContext(ssl.SSLContext):
    """is_used: a connection was made with it. Without TLS the library would go on in plaintext if a
    server, or somebody in between, offers none.
    """

    is_used = False

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin TLS."""
        self.is_used = True
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def settings_of(
    servers: str | Sequence[str], login: Login, *, ca: str, cert: str, key: str
) -> Settings:
    """Return the settings; a login in the URLs counts if there is no other, and a name there for a
    password that is given without one. Raises ValueError.
    """
    urls, of_urls, needs_tls = server_urls(servers)
    if login.password and not login.user:
        login = login._replace(user=of_urls.user or of_urls.token)
        if not login.user:
            raise ValueError("password: it needs a user")
    if not any(login):
        login = of_urls
    return Settings(urls, login, ca, cert, key, needs_tls or bool(ca or cert))


def server_urls(servers: str | Sequence[str]) -> tuple[tuple[str, ...], Login, bool]:
    """Return the URLs of servers, the login that they contain, and whether they ask for TLS.

    servers: URLs, or one text with commas in between; a scheme and a login of the first one count
    for all. A name without a password is a token. Raises ValueError.
    """
    texts = servers.split(",") if isinstance(servers, str) else [*servers]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError("servers takes URLs such as nats://127.0.0.1:4222")
    scheme, login, urls = "", Login(), []
    for text in map(str.strip, texts):
        try:
            url = urlsplit(text if "://" in text else f"{scheme or 'nats'}://{text}")
            host, port = url.hostname, url.port or PORT
        except ValueError as error:
            raise ValueError(f"servers: {error}") from None
        if url.scheme not in SCHEMES or (scheme and url.scheme != scheme):
            raise ValueError("servers: URLs begin with nats:// or tls://, all with the same")
        if not host or url.path.strip("/") or url.query or url.fragment:
            raise ValueError("servers: a URL has a host and a port, and nothing after them")
        scheme = url.scheme
        if url.username and not any(login):
            login = _login_of(unquote(url.username), url.password)
        urls.append(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
    return tuple(urls), login, scheme == "tls"


def _login_of(name: str, password: str | None) -> Login:
    """Return the login of a URL: without a password it is a token, as in all clients of NATS."""
    return Login(token=name) if password is None else Login(name, unquote(password))


def check_name(setting: str, name: str, *, allows_dots: bool = False) -> None:
    """Raise ValueError unless `name` can be that of a stream or, with dots, a subject."""
    parts = name.split(".") if allows_dots else [name]
    if not all(re.fullmatch(r"[!-)+-\-/-=?-~]+", part) for part in parts):
        raise ValueError(
            f"{setting} takes a name without spaces and wildcards"
            f"{'' if allows_dots else ' and dots'}, got {name!r:.80}"
        )


def _read(setting: str, path: str) -> str:
    try:
        return read_at_once(path, CREDENTIALS_OCTETS)[0].decode("ascii", "replace")
    except (OSError, ValueError) as error:
        raise ValueError(f"{setting}: {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not PEM"
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error)


def _no_password() -> str:
    raise ValueError("the key is encrypted, which this setting does not take")
