"""Which options of the engine the configuration has, and under which names.

Each has the key of its own name, except those that stand here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fastsmtp.gateway.config.values import SIZE, ValueKind, kind_of
from fastsmtp.options import OPTIONS

__all__ = ["ELSEWHERE", "ENGINE_KINDS", "EXCLUDED", "OWN_ROWS"]

# Option of the engine -> the key by which it is set.
ELSEWHERE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ca": "client_ca",
        "lmtp": "listen",
        "needs_upgrade": "listen",
        "request_cert": "client_ca",
        "secure": "listen",
        "sni_options": "certificates",
    }
)
# Option of the engine -> why it cannot be set.
EXCLUDED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "allow_insecure_auth": "users log in on smtps:// and submission:// only, inside TLS",
        "auth_optional": "the listener decides: smtps:// and submission:// need a login",
        "scram_iterations": "SCRAM needs other records than the hashes of the users file",
        "scram_secret": "SCRAM needs other records than the hashes of the users file",
        "ssl_context": "it is an object of a Python program",
    }
)
# Options of the engine whose key has a meaning of the gateway.
OWN_ROWS: Final = frozenset(
    {"auth_methods", "cert", "key", "key_password", "max_clients", "reject_unauthorized"}
)
_OWN_KINDS: Final[Mapping[str, ValueKind]] = {"size": SIZE}

# The options that are given to a server as they are, for all listeners or for one.
ENGINE_KINDS: Final[Mapping[str, ValueKind]] = MappingProxyType(
    {
        name: _OWN_KINDS.get(name) or kind_of(option)
        for name, option in OPTIONS.items()
        if name not in ELSEWHERE.keys() | EXCLUDED.keys() | OWN_ROWS
    }
)
