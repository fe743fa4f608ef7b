"""The configuration file: found, read, and where in it each key stands.

In: a path, or none. Out: the values as TOML has them, and the lines of the keys. Raised:
`ConfigError` with one line.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from fastsmtp.blocking import read_at_once
from fastsmtp.gateway.config.errors import ConfigError

__all__ = ["DEFAULT_FILES", "ConfigFile", "find_file", "lines_of", "read_file"]

# The first that exists is read when no file is named.
DEFAULT_FILES: Final = ("fastsmtp.toml", "/etc/fastsmtp/fastsmtp.toml")

MAX_FILE: Final = 4 << 20  # octets; a hundred thousand recipients

KeyPath: TypeAlias = tuple[str | int, ...]

_PLACE: Final = re.compile(r"(.*) \(at (line \d+, column \d+|end of document)\)", re.DOTALL)
# What a valid document consists of.
_TOKEN: Final = re.compile(
    r"""
      (?P<comment>\#[^\n]*)
    | (?P<text>\"{3}(?:\\.|[^\\])*?\"{3,5} | '{3}.*?'{3,5} | "(?:\\.|[^"\\\n])*" | '[^'\n]*')
    | (?P<newline>\n)
    | (?P<open>[\[{])
    | (?P<close>[\]}])
    | (?P<equals>=)
    | (?P<space>[ \t]+)
    | (?P<other>[^\s\#"'\[\]{}=]+)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """path: absolute. lines: the line of each key. is_open: every user may read the file."""

    path: str
    values: Mapping[str, Any]
    lines: Mapping[KeyPath, int] = field(repr=False)
    is_open: bool

    def place(self, *path: str | int) -> str:
        """Return where a key stands: "/etc/fastsmtp/fastsmtp.toml line 12"."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.path} line {self.lines[path]}" if path else self.path


def find_file(*, local_only: bool = False) -> str:
    """Return the first default file that exists, "" for none. local_only: in this directory.

    A file in the working directory that another user could have put there is not trusted: raises
    ConfigError.
    """
    for path in DEFAULT_FILES[:1] if local_only else DEFAULT_FILES:
        try:
            owner = os.stat(path).st_uid
        except OSError:
            continue
        whole = os.path.abspath(path)
        if owner not in (0, os.geteuid()):
            raise ConfigError(
                f"{whole} belongs to another user (number {owner}):"
                f" if it is yours, name it with --config"
            )
        return whole
    return ""


def read_file(path: str) -> ConfigFile:
    """Read and parse a file. Raises ConfigError."""
    whole = os.path.abspath(path)
    text, mode = _read(whole)
    if stat.S_ISREG(mode) and mode & stat.S_IWOTH:
        raise ConfigError(f"{whole}: every user can change it: chmod o-w it")
    try:
        values = tomllib.loads(f"{text}\n")  # so that errors in the last line have its number
    except tomllib.TOMLDecodeError as error:
        found = _PLACE.fullmatch(str(error))
        reason, place = (found[1], found[2]) if found else (str(error), "")
        raise ConfigError(f"{whole} is not TOML: {place + ': ' if place else ''}{reason}") from None
    except RecursionError:
        raise ConfigError(f"{whole} is not usable: its values are nested too deeply") from None
    return ConfigFile(whole, values, dict(lines_of(text)), bool(mode & stat.S_IROTH))


def _read(path: str) -> tuple[str, int]:
    if not path or "\0" in path:
        raise ConfigError("--config, FASTSMTP_CONFIG: the path of a file is needed")
    try:
        octets, mode = read_at_once(path, MAX_FILE + 1)
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(octets) > MAX_FILE:
        raise ConfigError(f"{path} is too large for a configuration file")
    try:
        return octets.decode().replace("\r\n", "\n"), mode
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path} is not TOML: line {line} is not UTF-8") from None


def lines_of(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Yield the path and the line of each key and table of a valid document, the last one first, so
    that in a dict the first line of a path stays.
    """
    found: list[tuple[KeyPath, int]] = []
    table: KeyPath = ()
    tables: dict[KeyPath, int] = {}  # arrays of tables -> their number
    for line, statement in _statements(text):
        if statement.startswith("["):
            table = _path_in(statement)
            found.append((table, line))
            if statement.startswith("[["):
                tables[table] = tables.get(table, -1) + 1
                table = (*table, tables[table])
            path = table
        else:
            path = table + _path_in(f"{statement}=0")
        found.extend((path[:length], line) for length in range(1, len(path) + 1))
    return reversed(found)


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the beginning of each statement: a key, or the name of a table."""
    start = end = depth = 0
    is_open = False  # a statement has begun
    line, line_of_start = 1, 1
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "newline" and not depth and is_open:
            yield line_of_start, text[start : end or token.start()]
            is_open = False
        elif kind not in ("newline", "space", "comment") and not is_open:
            is_open, start, end, line_of_start = True, token.start(), 0, line
        if kind == "equals" and not depth and not end:
            end = token.start()
        depth += (kind == "open") - (kind == "close")
        line += token[0].count("\n")
    if is_open:
        yield line_of_start, text[start : end or len(text)]


def _path_in(statement: str) -> KeyPath:
    """Return the path of the one key in a document."""
    path: list[str | int] = []
    value: Any = tomllib.loads(statement)
    while value:
        if isinstance(value, list):
            (value,) = value
        else:
            ((key, value),) = value.items()
            path.append(key)
    return tuple(path)
