"""Writes cli.md, the page of all commands, from the commands themselves.

    python docs/make_cli.py

The page is checked in; a test compares it with the output of this program.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click
from make_man import commands, described_options

from fastsmtp.gateway.commands import fastsmtp

PAGE = Path(__file__).parent / "cli.md"

HEAD = """\
<!-- made by docs/make_cli.py -->

# Commands

`fastsmtp COMMAND --help` prints the same. [serve](serve.md), [configuration](configuration.md) and
[operations](operations.md) explain how they are used. The manual page `fastsmtp(1)` has the exit
status, signals, environment and files too.
"""


def cell(text: str) -> str:
    """Return text for one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def options(command: click.Command) -> Iterator[str]:
    """Yield the rows of the options of one command."""
    for option, words in described_options(command):
        if "--help" not in option:
            yield f"| `{cell(option)}` | {cell(words)} |"


def command_text(name: str, command: click.Command) -> Iterator[str]:
    """Yield the lines about one command."""
    context = click.Context(command, **fastsmtp.context_settings)
    usage = " ".join(command.collect_usage_pieces(context))
    yield from ("", f"## {name}", "", f"    {name} {usage}", "")
    for paragraph in cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            lines = paragraph.removeprefix("\b").strip("\n").splitlines()
            yield from ("```text", *lines, "```", "")
        else:
            yield from (" ".join(paragraph.split()).replace("<", "&lt;"), "")
    if rows := [*options(command)]:
        yield from ("| option | |", "|---|---|", *rows, "")


def render() -> str:
    """Return the page."""
    lines = HEAD.splitlines()
    for name, command in commands(fastsmtp, "fastsmtp"):
        lines += command_text(name, command)
    text = "\n".join(lines)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.rstrip("\n") + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
