"""The configuration as text: the values in use with their origin, and the commented example."""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastsmtp.gateway.config.loading import Loaded
from fastsmtp.gateway.config.schema import SCHEMA, Setting
from fastsmtp.gateway.config.sinks import TABLES
from fastsmtp.gateway.config.toml_file import DEFAULT_FILES
from fastsmtp.log_text import escaped

__all__ = ["example", "shown_values", "toml"]

MAX_ORIGIN: Final = 4096  # characters; most of them of a path
WIDTH: Final = 100  # characters of a line of the example

_HEAD: Final = f"""\
# The configuration of fastsmtp serve. Made by: fastsmtp config --example
#
# fastsmtp reads the file that --config or FASTSMTP_CONFIG names, else {DEFAULT_FILES[0]} in the
# working directory, else {DEFAULT_FILES[1]}. The environment and flags weigh more than
# the file: spool_quota is FASTSMTP_SPOOL_QUOTA and --spool-quota. The lines that begin with # and a
# key show the defaults. Tables, whose names are in brackets, come last, after all other keys.
"""
_TABLES: Final = """
# --- A listener with options of its own: an address, and any of the keys that say "Per listener".
# With such tables, the key listen above is left out.

# [[listen]]
# address = "10.0.0.1:25"
# use_proxy = ["10.0.0.0/8"]

# --- A certificate for one more server name.

# [certificates."mail.example.org"]
# cert = "/etc/fastsmtp/mail.pem"
# key = "/etc/fastsmtp/mail.key"
"""


def toml(value: Any) -> str:
    """Return a value as TOML on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # TOML has the escapes of JSON; DEL is the one character that it wants escaped besides.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, float):
        return f"{value:g}" if value == int(value) and abs(value) < 1e6 else repr(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{toml(key)} = {toml(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return str(value)


def shown_values(loaded: Loaded) -> Iterator[str]:
    """Yield a line of TOML for each key, with the origin of its value; secrets are masked."""
    for key, row in SCHEMA.items():
        value = row.kind.mask(loaded.values[key])
        origin = escaped(loaded.origins[key], MAX_ORIGIN, plain=" ")
        note = f" ({row.note})" if row.note and origin == "default" else ""
        yield f"{key} = {toml(value)}  # {origin}{note}"


def example() -> str:
    """Return the example: every key with its default, all of it in comments."""
    parts = [_HEAD]
    for group, rows in itertools.groupby(SCHEMA.values(), key=lambda row: row.group):
        parts.append(f"\n# --- {group} ---\n")
        parts.extend(map(_paragraph, rows))
    parts.append(_TABLES)
    parts.extend(f"\n# --- {table.does}\n\n{table.example}" for table in TABLES.values())
    return "".join(parts)


def _paragraph(row: Setting) -> str:
    text = f"{row.does} Takes {row.kind.takes}."
    if row.note:
        text += f" Default: {row.note}."
    if row.in_options:
        text += " Per listener."
    lines = textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False, break_long_words=False)
    comment = "".join(f"# {line}\n" for line in lines)
    return f"\n{comment}#{row.key} = {toml(row.default)}\n"
