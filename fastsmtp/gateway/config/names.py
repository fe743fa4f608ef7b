"""Suggestions for keys that do not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

__all__ = ["nearest"]

ALIKE: Final = 0.75  # the share of common letters: one wrong letter in four is still found
MAX_LENGTH: Final = 80  # characters of a name that are compared

# Names of other programs, and of flags, for a key of ours; written without - and _.
_OTHER_NAMES: Final = {
    "bind": "listen",
    "ca": "client_ca",
    "cafile": "client_ca",
    "catchall": "recipients",
    "certfile": "cert",
    "certificate": "cert",
    "domain": "domains",
    "drop": "discard",
    "host": "listen",
    "hostname": "name",
    "keyfile": "key",
    "keypassword": "key_password",
    "listener": "listen",
    "maxconnections": "max_clients",
    "maxmessagesize": "size",
    "messagesizelimit": "size",
    "myhostname": "name",
    "port": "listen",
    "processes": "workers",
    "recipient": "recipients",
    "sni": "certificates",
    "timeout": "socket_timeout",
}


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the one of `known` that `word` may have been meant to be, "" for none."""
    squashed = {_squashed(one): one for one in known}
    short = _squashed(word)
    other = _OTHER_NAMES.get(short, "")
    if other in squashed.values():
        return other
    close = difflib.get_close_matches(short, list(squashed), 1, ALIKE)
    return squashed[close[0]] if close else ""


def _squashed(name: str) -> str:
    """Reduce a name to its letters: "max-clients" and "MAX_CLIENTS" become "maxclients"."""
    return name[:MAX_LENGTH].lower().replace("-", "").replace("_", "").replace(" ", "")
