"""`fastsmtp config`: what would be served, and where each value is from."""

from __future__ import annotations

import click

from fastsmtp.gateway.config import example, shown_values
from fastsmtp.gateway.output import print_text
from fastsmtp.gateway.settings_command import SettingsCommand, loaded_of

__all__ = ["config"]


@click.command(cls=SettingsCommand)
@click.option("--example", "wants_example", is_flag=True, help="Print a commented example file.")
@click.pass_context
def config(context: click.Context, /, wants_example: bool, **_: object) -> int:
    """Print the values that fastsmtp serve would use, as TOML, with the origin of each: default,
    file and line, environment or flag. Takes the options of fastsmtp serve.
    """
    if wants_example:
        text = example()
    else:
        text = "".join(f"{line}\n" for line in shown_values(loaded_of(context)))
    print_text(text)
    return 0
