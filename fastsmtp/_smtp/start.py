"""The start of a service: its tables, and warnings about options that the hooks cannot satisfy."""

from __future__ import annotations

from fastsmtp._counts.tally import Tally
from fastsmtp._hooks.binding import Hooks
from fastsmtp._log import logger
from fastsmtp._smtp.auth import is_auth_possible
from fastsmtp._smtp.command_table import command_rows
from fastsmtp._smtp.greeting import ehlo_lines
from fastsmtp._smtp.server_tables import ServerTables
from fastsmtp.options import Options

__all__ = ["make_tables", "warn_of_impossible_demands"]


def make_tables(options: Options, hooks: Hooks, *, tls: bool, tally: Tally) -> ServerTables:
    """Make the tables that all connections share. tls: there is a certificate. tally: where they
    count.
    """

    def make(options: Options) -> ServerTables:
        rows, lines = command_rows(options, tls), ehlo_lines(options)
        return ServerTables(options, hooks, rows, lines, tls, tally, make)

    return make(options)


def warn_of_impossible_demands(tables: ServerTables) -> None:
    """Log why no message can be accepted with these options and hooks."""
    if tables.policy.auth_required and not is_auth_possible(tables):
        logger.warning(
            "authentication is required but no mechanism is usable: no mail will be accepted; "
            "set auth_optional=True, or disable AUTH"
        )
    elif tables.hooks.on_data is None and not {"MAIL", "RCPT"} & tables.options.disabled_commands:
        logger.warning(
            "the hook on_data is not set: senders and recipients will be accepted, and then every"
            " message refused with 451; set it before listen()"
        )
