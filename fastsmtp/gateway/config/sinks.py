"""Where mail goes: the schemes of the URL `deliver`, and the tables of sinks with their keys.

A new sink is a row of SCHEMES for each of its schemes, a row of TABLES if it has keys of its own,
and a row of `destinations.table`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fastsmtp.gateway.config import values
from fastsmtp.gateway.config.names import nearest
from fastsmtp.gateway.config.values import MASK, ValueKind, WrongValue
from fastsmtp.gateway.config.webhook import BODIES, BODIES_EXAMPLE, WEBHOOK, WEBHOOK_EXAMPLE

__all__ = ["DELIVER", "ON_UNAVAILABLE", "SCHEMES", "TABLES", "Table", "Target"]

# Scheme of a URL -> the sink.
SCHEMES: Final[dict[str, str]] = {
    "maildir": "maildir",
    "nats": "nats",
    "tls": "nats",
    "postgres": "postgres",
    "postgresql": "postgres",
    "https": "webhook",
    "http": "webhook",
    "smtp": "relay",
    "smtps": "relay",
    "lmtp": "relay",
}


@dataclass(frozen=True, slots=True)
class Table:
    """The table of a sink. does: a sentence for --help. keys: what it may have. example: its lines
    in the example file. sinks: of SCHEMES, those that read it.
    """

    does: str
    keys: Mapping[str, ValueKind]
    example: str
    sinks: tuple[str, ...]

    @property
    def schemes(self) -> str:
        """Return what `deliver` may begin with, for messages."""
        return " or ".join(f"{scheme}:" for scheme, sink in SCHEMES.items() if sink in self.sinks)


_NATS: Final = Table(
    "The stream of JetStream for deliver with nats:// or tls://: stream, subject, credentials …",
    {
        **dict.fromkeys(("stream", "subject", "user", "sync", "domain"), values.TEXT),
        **dict.fromkeys(("password", "token"), values.SECRET),
        **dict.fromkeys(("credentials", "nkey", "ca", "cert", "key"), values.FILE),
        "monitor": values.TEXTS,
    },
    """\
# [nats]
# stream = "MAIL"
# subject = "mail.in"
# credentials = "/etc/fastsmtp/gateway.creds"
# ca = "/etc/fastsmtp/nats-ca.pem"
# monitor = ["http://n1.example.org:8222"]
""",
    ("nats",),
)
_POSTGRES: Final = Table(
    "The table for deliver with postgres:// or postgresql://, and how to get there.",
    {
        "table": values.TEXT,
        "password": values.SECRET,
        "max_record": values.SIZE,
        "parallel": values.NUMBER,
    },
    """\
# [postgres]
# table = "mail"
# password = "secret"
# max_record = "32M"
# parallel = 2
""",
    ("postgres",),
)
_RELAY: Final = Table(
    "The next mail server, with deliver = smtp://host, smtps://host, lmtp://host or lmtp:/path.",
    {
        **dict.fromkeys(("tls", "server_name", "user", "name", "forward"), values.TEXT),
        **dict.fromkeys(("ca", "cert", "key"), values.FILE),
        **dict.fromkeys(("max_connections", "max_hops"), values.NUMBER),
        **dict.fromkeys(("idle_timeout", "connect_timeout", "command_timeout"), values.SECONDS),
        **dict.fromkeys(("block_timeout", "final_timeout"), values.SECONDS),
        "password": values.SECRET,
        "verify": values.FLAG,
    },
    """\
# [relay]
# tls = "starttls"  # or "implicit", "off"
# ca = "/etc/fastsmtp/authorities.pem"
# max_connections = 50
""",
    ("relay",),
)
TABLES: Final[dict[str, Table]] = {
    "nats": _NATS,
    "postgres": _POSTGRES,
    "relay": _RELAY,
    "webhook": Table("How an HTTP endpoint gets mail.", WEBHOOK, WEBHOOK_EXAMPLE, ("webhook",)),
    "bodies": Table(
        "Where bodies are that are too large for a record.",
        BODIES,
        BODIES_EXAMPLE,
        ("nats", "postgres", "webhook"),
    ),
}

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.+)", re.DOTALL)
_PASSWORD: Final = re.compile(r"(?<=://)([^:/?#]*):.*@", re.DOTALL)
# The servers of NATS take a name without a password for a token.
_TOKEN: Final = re.compile(r"((?:nats|tls)://)[^/?#:@]*@", re.IGNORECASE)
_SECRET_OF_QUERY: Final = re.compile(
    r"([?&][^=&]*(?:password|passwd|token|secret|signature|api_?key|access_?key|\bsig|\bcode|\bauth)"
    r"[^=&]*=)[^&#]+",
    re.IGNORECASE,
)
# What may follow the colon without two slashes: paths.
_OF_PATHS: Final = ("maildir", "lmtp")


@dataclass(frozen=True, slots=True)
class Target:
    """Where mail goes. sink: of SCHEMES. url: as given, perhaps with a password; `str()` has none.
    path: the directory of a Maildir, absolute, else "".
    """

    sink: str
    url: str = field(repr=False)
    path: str = ""

    def __str__(self) -> str:
        return self.path or masked(self.url)


def masked(url: str) -> str:
    """Return a URL without its password, and without the secrets of its query."""
    shown = _TOKEN.sub(rf"\1{MASK}@", _PASSWORD.sub(rf"\1:{MASK}@", url))
    return _SECRET_OF_QUERY.sub(rf"\1{MASK}", shown)


def _target(value: str) -> Target | None:
    if not value:
        return None
    parts = _SCHEME.fullmatch(value)
    if parts is None or "\0" in value:
        raise DELIVER.refused(value)
    scheme = parts[1].lower()
    sink = SCHEMES.get(scheme)
    if sink is None:
        near = nearest(scheme, SCHEMES)
        hint = f"did you mean {near}:?" if near else f"it takes {', '.join(SCHEMES)}"
        raise WrongValue(f"there is no scheme {scheme:.40}: {hint}")
    if scheme not in _OF_PATHS and not parts[2].startswith("//"):
        raise WrongValue(f"{scheme}: takes two slashes, as in {scheme}://host")
    if sink == "maildir":
        return Target(sink, value, os.path.abspath(parts[2]))
    return Target(sink, f"{scheme}:{parts[2]}")


def _on_unavailable(value: str) -> str:
    if value not in ("refuse", "spool"):
        raise ON_UNAVAILABLE.refused(value)
    return value


DELIVER: Final = ValueKind(
    "a URL such as maildir:/var/mail or nats://n1,n2,n3, or empty",
    str,
    _target,
    mask=lambda value: masked(value) if isinstance(value, str) else value,
)
ON_UNAVAILABLE: Final = ValueKind("refuse or spool", str, _on_unavailable)
