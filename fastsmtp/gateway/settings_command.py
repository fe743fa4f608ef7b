"""Commands whose options are the rows of the schema: `fastsmtp serve`, and those that look at what
it would serve.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

import click
from click.core import ParameterSource

from fastsmtp.gateway.config import SCHEMA, ConfigError, Loaded, Setting, load

__all__ = ["SettingsCommand", "arguments_of", "loaded_of"]

_FILE: Final = "config"  # the one option that is not a row


class SettingsCommand(click.Command):
    """A command with an option for each row, and --help in the groups of the schema."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.params.extend(_parameters())

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of each group below its title."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None and isinstance(parameter, click.Option):
                row = SCHEMA.get(parameter.name or "")
                groups.setdefault("Options" if row is None else row.group, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _parameters() -> Iterator[click.Parameter]:
    yield click.Argument(["application"], required=False)
    yield click.Option(
        [f"--{_FILE}"],
        metavar="FILE",
        help="The configuration, TOML; see fastsmtp config --example.",
    )
    for row in SCHEMA.values():
        if row.flag:
            yield _option(row)


def _option(row: Setting) -> click.Option:
    names = [row.key, row.flag, *([row.short] if row.short else [])]
    default = row.note or row.shown_default
    text = row.does + (f"  [default: {default}]" if default else "")
    if row.kind.type is bool:
        names[1] = f"{row.flag}/--no-{row.flag.removeprefix('--')}"
        return click.Option(names, default=None, help=text)
    return click.Option(names, metavar=row.word, multiple=row.kind.is_list, help=text)


def loaded_of(context: click.Context) -> Loaded:
    """Load the configuration of a command. Raises UsageError."""
    flags = {
        name: value
        for name, value in context.params.items()
        if name in SCHEMA and _is_given(context, name)
    }
    try:
        return load(flags, os.environ, context.params[_FILE])
    except ConfigError as error:
        raise click.UsageError(str(error)) from error


def arguments_of(context: click.Context, *, without: str) -> list[str]:
    """Return the arguments of a command, but not those for the key `without`."""
    found: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        if not _is_given(context, name) or name == without:
            continue
        value = context.params[name]
        if isinstance(parameter, click.Argument):
            found.append(value)
        elif isinstance(value, bool):
            found.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            items = value if isinstance(value, tuple) else (value,)
            found.extend(f"{parameter.opts[0]}={item}" for item in items)
    return found


def _is_given(context: click.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source is not ParameterSource.DEFAULT
