"""`deliver = "smtp://…"`: the next mail server, by the URL and the table `[relay]`."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from fastsmtp.delivery.relay import Patience, Relay
from fastsmtp.gateway.config import Config

__all__ = ["relay_of"]


def relay_of(config: Config) -> Relay:
    """Return the relay of a configuration; raises ValueError that names URL or key."""
    given: dict[str, Any] = dict(config.tables["relay"])
    parts = urlsplit(config.deliver.url)
    _take_login(given, parts.username, parts.password)
    if parts.query or parts.fragment:
        raise ValueError("what follows ? and # belongs into the table [relay]")
    if parts.scheme == "smtps":
        if given.setdefault("tls", "implicit") != "implicit":
            raise ValueError("[relay] tls: smtps:// is TLS from the start")
    if not parts.netloc and parts.path.startswith("/"):
        host: str = unquote(parts.path)
    else:
        host = parts.hostname or ""
        if parts.path not in ("", "/"):
            raise ValueError("a path needs no host, as in lmtp:/run/dovecot/lmtp")
    given.setdefault("name", config.name)
    usual = Patience()
    patience = Patience(
        *(given.pop(f"{name}_timeout", getattr(usual, name)) for name in usual._fields)
    )
    try:
        return Relay(host, parts.port, lmtp=parts.scheme == "lmtp", patience=patience, **given)
    except ValueError as error:
        raise ValueError(f"[relay] {error}") from error


def _take_login(given: dict[str, Any], user: str | None, password: str | None) -> None:
    for key, value in (("user", user), ("password", password)):
        if value:
            if key in given:
                raise ValueError(f"[relay] {key}: the URL has one too")
            given[key] = unquote(value)
