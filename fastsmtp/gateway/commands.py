"""The command line itself: options in, a checked `Config` out, one line per error."""

from __future__ import annotations

from collections.abc import Sequence

import click

from fastsmtp.gateway.config import DEFAULT_LISTEN, DEFAULT_MAILDIR, DEFAULT_SIZE, make_config
from fastsmtp.gateway.log import complain
from fastsmtp.gateway.service import StartError, run_service

__all__ = ["run"]


@click.group(
    name="fastsmtp",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.pass_context
def fastsmtp(context: click.Context) -> None:
    """An SMTP and LMTP server."""
    if context.invoked_subcommand is None:
        raise click.UsageError("a command is needed: fastsmtp serve, or fastsmtp --help")


@fastsmtp.command()
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    default=(DEFAULT_LISTEN,),
    show_default=True,
    help="Where to listen: host:port, [v6]:port, port, lmtp:host:port, lmtp:/path. Repeatable.",
)
@click.option(
    "--maildir",
    metavar="DIRECTORY",
    default=DEFAULT_MAILDIR,
    show_default=True,
    help="The Maildir that takes the mail; made when it is missing.",
)
@click.option(
    "--size",
    metavar="SIZE",
    default=DEFAULT_SIZE,
    show_default=True,
    help="Largest message in octets, or with k, M or G behind it; 0 for no limit.",
)
@click.option(
    "--domain",
    multiple=True,
    metavar="DOMAIN",
    help="Take mail for this domain only. Repeatable. Without it mail for every domain is taken.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log connections and refusals, too.")
def serve(
    listen: tuple[str, ...], maildir: str, size: str, domain: tuple[str, ...], verbose: bool
) -> int:
    """Take mail and deliver it into a Maildir."""
    try:
        config = make_config(
            listen=listen, maildir=maildir, size=size, domains=domain, verbose=verbose
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    try:
        return run_service(config)
    except StartError as error:
        raise click.ClickException(str(error)) from error


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; an error has been told in one line on stderr."""
    given = None if arguments is None else list(arguments)
    try:
        status = fastsmtp.main(given, prog_name="fastsmtp", standalone_mode=False)
    except click.ClickException as error:
        # click's own form is four lines, with the usage on top.
        complain(error.format_message())
        return error.exit_code
    except click.Abort:
        return 130
    return status if isinstance(status, int) else 0
