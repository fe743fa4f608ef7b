"""`fastsmtp postgres`: what the operator of a PostgreSQL database needs."""

from __future__ import annotations

import click

from fastsmtp.delivery.postgres import schema
from fastsmtp.delivery.postgres.table import DEFAULT_TABLE
from fastsmtp.gateway.output import print_text

__all__ = ["postgres"]


@click.group(no_args_is_help=False)
def postgres() -> None:
    """Prepare a PostgreSQL database for mail."""


@postgres.command(name="schema")
@click.option("--table", default=DEFAULT_TABLE, help="The table, or SCHEMA.TABLE; mail.")
def print_schema(table: str) -> int:
    """Print the SQL that makes the table for mail; it is not run."""
    try:
        text = schema(table)
    except ValueError as error:
        raise click.UsageError(f"--table: {error}") from error
    print_text(text)
    return 0
