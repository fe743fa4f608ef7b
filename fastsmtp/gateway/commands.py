"""The command line itself: options in, a checked `Config` out, one line per error."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final

import click
from click.core import ParameterSource

from fastsmtp.gateway import application as applications
from fastsmtp.gateway.config import (
    DEFAULT_LISTEN,
    DEFAULT_MAILDIR,
    DEFAULT_SIZE,
    DEFAULT_SPOOL_QUOTA,
    make_config,
    parse_listeners,
)
from fastsmtp.gateway.log import complain
from fastsmtp.gateway.logins import MissingPackage, hasher
from fastsmtp.gateway.reloading import serve_and_reload
from fastsmtp.gateway.service import run_service
from fastsmtp.gateway.spool_commands import spool
from fastsmtp.gateway.start import StartError
from fastsmtp.gateway.users import UsersError, checked_name, prepared, store_user

__all__ = ["run"]

# Parameters of `serve`; all others are for the gateway.
_FOR_APPLICATIONS: Final = ("application", "listen", "reload", "verbose")
MAX_PASSWORD: Final = 1024  # characters; a line of AUTH has room for 9 KB of PLAIN


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
@click.argument("application", required=False)
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    default=(DEFAULT_LISTEN,),
    show_default=True,
    help="Where to listen: host:port, [v6]:port, port, smtps://host, submission://host, "
    "lmtp:host:port, lmtp:/path. Repeatable.",
)
@click.option(
    "--maildir",
    metavar="DIRECTORY",
    default=DEFAULT_MAILDIR,
    show_default=True,
    help="The Maildir for the mail; created if it does not exist.",
)
@click.option(
    "--spool",
    metavar="DIRECTORY",
    help="Take mail into a spool in this directory, and deliver it from there.",
)
@click.option(
    "--spool-quota",
    metavar="SIZE",
    default=DEFAULT_SPOOL_QUOTA,
    show_default=True,
    help="Octets that the spool may hold; beyond it mail is refused for now.",
)
@click.option(
    "--size",
    metavar="SIZE",
    default=DEFAULT_SIZE,
    show_default=True,
    help="Largest message in octets, or a number with k, M or G; 0 for no limit.",
)
@click.option(
    "--domain",
    "domains",
    multiple=True,
    metavar="DOMAIN",
    help="Accept mail for this domain only. Repeatable. Without it, mail for any domain.",
)
@click.option("--cert", metavar="FILE", help="The certificate, PEM, followed by its chain.")
@click.option("--key", metavar="FILE", help="Its private key, if it is not in the same file.")
@click.option(
    "--client-ca",
    metavar="FILE",
    help="Ask clients for a certificate, and verify it with these authorities.",
)
@click.option(
    "--users",
    metavar="FILE",
    help="Who may log in, on smtps:// and submission://; see fastsmtp passwd.",
)
@click.option(
    "--ciphers",
    metavar="LIST",
    help="Cipher suites of TLS 1.2, as an OpenSSL cipher list.",
)
@click.option("--reject-nul", is_flag=True, help="Refuse messages that contain a NUL.")
@click.option("--reload", is_flag=True, help="Restart APPLICATION when a file has changed.")
@click.option(
    "-v", "--verbose", is_flag=True, help="Log connections and refusals, and show tracebacks, too."
)
@click.pass_context
def serve(
    context: click.Context, /, application: str | None, reload: bool, verbose: bool, **gateway: Any
) -> int:
    """Accept mail and deliver it into a Maildir, or serve APPLICATION: module:attribute, an
    SMTPServer or a function that returns one, or a module with hooks such as on_data.

    With APPLICATION, only --listen, --reload and --verbose are allowed.
    """
    if application is not None:
        return _serve_application(context, application, reload=reload, verbose=verbose)
    if reload:
        raise click.UsageError("--reload: there is nothing to reload without an application")
    try:
        config = make_config(verbose=verbose, **gateway)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    try:
        return run_service(config)
    except StartError as error:
        raise click.ClickException(str(error)) from error


def _serve_application(context: click.Context, name: str, *, reload: bool, verbose: bool) -> int:
    given = {option.name: option for option in context.command.params if _is_given(context, option)}
    for key, option in given.items():
        if key not in _FOR_APPLICATIONS:
            raise click.UsageError(f"{option.opts[-1]} is for the gateway, not for {name}")
    listen: tuple[str, ...] = context.params["listen"] if "listen" in given else ()
    try:
        applications.check_name(name)
        parse_listeners(listen or (DEFAULT_LISTEN,))
        if reload:
            options = [f"--listen={each}" for each in listen] + ["--verbose"] * verbose
            return serve_and_reload([name, *options])
        server = applications.load(name)
        return applications.serve(server, applications.places(server, listen), verbose=verbose)
    except (ValueError, StartError) as error:
        if verbose and error.__cause__ is not None:
            click.echo("".join(traceback.format_exception(error.__cause__)), err=True, nl=False)
        kind = click.ClickException if isinstance(error, StartError) else click.UsageError
        raise kind(str(error)) from error


def _is_given(context: click.Context, parameter: click.Parameter) -> bool:
    source = context.get_parameter_source(parameter.name or "")
    return source is not None and source is not ParameterSource.DEFAULT


@fastsmtp.command()
@click.argument("file")
@click.argument("name")
@click.option("--stdin", is_flag=True, help="Read the password from one line of standard input.")
def passwd(file: str, name: str, stdin: bool) -> int:
    """Set the password of NAME in the users file FILE; both are added if they do not exist."""
    try:
        checked_name(name)
        password = prepared(_password_of_stdin() if stdin else _password_of_terminal())
        if password is None:
            raise UsersError("not a password: it has characters that no password may contain")
        existed = store_user(file, name, hasher().hash(password))
    except (UsersError, MissingPackage) as error:
        raise click.ClickException(str(error)) from error
    with contextlib.suppress(OSError):
        click.echo(f"fastsmtp: {name} {'has a new password' if existed else 'was added'} in {file}")
    return 0


fastsmtp.add_command(spool)


def _password_of_stdin() -> str:
    line = sys.stdin.buffer.readline(4 * MAX_PASSWORD)
    return _checked(line.rstrip(b"\r\n").decode("utf-8", "surrogateescape"))


def _password_of_terminal() -> str:
    if not sys.stdin.isatty():
        raise UsersError("there is no terminal to ask for the password on; use --stdin")
    return _checked(str(click.prompt("Password", hide_input=True, confirmation_prompt=True)))


def _checked(password: str) -> str:
    if not password:
        raise UsersError("a password is needed")
    if len(password) > MAX_PASSWORD:
        raise UsersError(f"a password has at most {MAX_PASSWORD} characters")
    return password


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; an error is one line on stderr."""
    given = None if arguments is None else list(arguments)
    try:
        status = fastsmtp.main(given, prog_name="fastsmtp", standalone_mode=False)
    except click.ClickException as error:
        # click itself would print four lines, beginning with the usage.
        complain(error.format_message())
        return error.exit_code
    except click.Abort:
        return 130
    return status if isinstance(status, int) else 0
