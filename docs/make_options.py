"""Writes options.md, the reference of all options, from the table in `fastsmtp.options`.

    python docs/make_options.py

The page is checked in; a test compares it with the output of this program.
"""

from __future__ import annotations

import ast
from itertools import groupby
from pathlib import Path

from fastsmtp.options import OPTIONS, Option

PAGE = Path(__file__).with_name("options.md")

HEAD = """\
# Options

Every option is a keyword argument of `SMTPServer`: `SMTPServer(size=10_485_760, on_data=store)`.
All have a default. An unknown name raises `TypeError` with the nearest known one; an invalid value
raises `TypeError` or `ValueError` with the values that are allowed. Options are checked only once,
when the server is made.

Durations are in seconds, sizes in octets. A deadline must be more than 0, and cannot be switched
off. The names are those of the JavaScript libraries smtp-server and bun-smtp in snake_case; those
libraries use milliseconds where fastsmtp uses seconds.

Type checkers and editors know every option with its type; a dict of options is annotated as
`fastsmtp.server_options.ServerOptions`, see [programs](programs.md#types-of-hooks-and-options).

<!-- Made by docs/make_options.py from fastsmtp/options.py: change it there. -->
"""

TABLE_HEAD = """\
| option | takes | default | what it does | why this default | RFC |
|---|---|---|---|---|---|
"""


def render() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for group, options in groupby(OPTIONS.values(), key=lambda option: option.group):
        rows = "".join(map(_row, options))
        parts.append(f"## {group.value}\n\n{TABLE_HEAD}{rows}")
    return "\n".join(parts)


def _row(option: Option) -> str:
    cells = (
        f"`{option.name}`",
        option.takes,
        _default(option),
        option.does,
        option.reason,
        option.section.removeprefix("RFC ") or "–",
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _default(option: Option) -> str:
    """The default: as code if it is a value, as prose if it is described in words."""
    try:
        ast.literal_eval(option.default_text)
    except (SyntaxError, ValueError):
        return option.default_text
    return f"`{option.default_text}`"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8", newline="\n")
