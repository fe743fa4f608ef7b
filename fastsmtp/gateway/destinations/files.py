"""Files that the tables of sinks name: secrets, and certificates."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import Any, Final

from fastsmtp.blocking import read_at_once

__all__ = ["given_secret", "given_text"]

LONGEST: Final = 1024 * 1024  # octets


def given_text(table: Mapping[str, Any], key: str) -> str | None:
    """Return the contents of the file that `key` names, None without one. Raises OSError, and
    ValueError that begins with the key.
    """
    path = table.get(key)
    return _read(key, path)[0] if path else None


def given_secret(table: Mapping[str, Any], key: str) -> str | None:
    """Return the secret of `key`, or the one in the file of `key`_file, None without both."""
    secret: str | None = table.get(key) or None
    name = f"{key}_file"
    if not table.get(name):
        return secret
    if secret is not None:
        raise ValueError(f"{name}: {key} is given too, leave one of them out")
    text, mode = _read(name, table[name])
    if mode & stat.S_IROTH:
        raise ValueError(f"{name}: every user can read {table[name]}: chmod o-r it")
    if not text.strip():
        raise ValueError(f"{name}: {table[name]} is empty")
    return text.strip()


def _read(key: str, path: str) -> tuple[str, int]:
    try:
        octets, mode = read_at_once(path, LONGEST)
        return octets.decode("utf-8"), mode
    except UnicodeDecodeError:
        raise ValueError(f"{key}: {path} is not text") from None
    except ValueError as error:
        raise ValueError(f"{key}: {path}: {error}") from None
