"""The command line itself: options in, a checked `Config` out, one line per error."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from typing import Final

import click
from click.shell_completion import get_completion_class

from fastsmtp.gateway import application as applications
from fastsmtp.gateway.admin.start import check_admin
from fastsmtp.gateway.bench_command import bench
from fastsmtp.gateway.check_command import check
from fastsmtp.gateway.config import DEFAULT_LISTEN, Config, Loaded, parse_listener
from fastsmtp.gateway.config_command import config
from fastsmtp.gateway.log import complain
from fastsmtp.gateway.logins import MissingPackage, hasher
from fastsmtp.gateway.output import print_text
from fastsmtp.gateway.postgres_command import postgres
from fastsmtp.gateway.reloading import serve_and_reload
from fastsmtp.gateway.service import run_service
from fastsmtp.gateway.settings_command import SettingsCommand, arguments_of, loaded_of
from fastsmtp.gateway.spool_commands import spool
from fastsmtp.gateway.start import StartError
from fastsmtp.gateway.users import UsersError, checked_name, prepared, store_user
from fastsmtp.gateway.versions import versions
from fastsmtp.gateway.workers.parent import Plan
from fastsmtp.gateway.workers.run import run_parent
from fastsmtp.gateway.workers.worker import Worker

__all__ = ["run"]

PROGRAM: Final = "fastsmtp"
COMPLETE: Final = "_FASTSMTP_COMPLETE"  # the variable by which a shell asks
_NO_COMMAND: Final = "Missing command."  # as click says it
MAX_PASSWORD: Final = 1024  # characters; a line of AUTH has room for 9 KB of PLAIN


@click.group(
    name=PROGRAM,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--version", is_flag=True, help="Print the versions of fastsmtp and its parts.")
@click.pass_context
def fastsmtp(context: click.Context, version: bool) -> None:
    """An SMTP and LMTP server."""
    if version:
        print_text(f"{versions()}\n")
        context.exit()
    if context.invoked_subcommand is None:
        raise click.UsageError("a command is needed: fastsmtp serve, or fastsmtp --help")


@fastsmtp.command(cls=SettingsCommand)
@click.pass_context
def serve(context: click.Context, /, **_: object) -> int:
    """Accept mail and deliver it into a Maildir, or serve APPLICATION: module:attribute, an
    SMTPServer or a function that returns one, or a module with hooks such as on_data.

    Each option can also be set in a file (--config) and in the environment (FASTSMTP_…). Options
    weigh more than the environment, and the environment more than the file.
    """
    loaded = loaded_of(context)
    if loaded.config.application:
        return _serve_application(context, loaded)
    try:
        check_admin(loaded.config.admin)
        if loaded.config.workers:
            return run_parent(loaded, _plan)
        return run_service(loaded)
    except StartError as error:
        raise click.ClickException(str(error)) from error


def _plan(loaded: Loaded) -> Plan:
    """Return what workers do."""
    config = loaded.config
    return Plan(
        listeners=config.listeners or (parse_listener(DEFAULT_LISTEN),),
        workers=max(1, config.workers),  # a parent that is running needs one
        spool=config.spool,
        is_steered=config.steer_clients,
        serve=partial(_serve, config) if config.application else partial(run_service, loaded),
        admin=config.admin,
        log_format=config.log_format,
        log_file=config.log_file,
    )


def _serve_application(context: click.Context, loaded: Loaded) -> int:
    config = loaded.config
    try:
        check_admin(config.admin)
        applications.check_name(config.application)
        if config.reload:
            if config.workers:
                raise ValueError("--reload: it is for development, with one process: no --workers")
            return serve_and_reload([*arguments_of(context, without="reload"), "--no-reload"])
        if config.workers:
            return run_parent(loaded, _plan)
        return _serve(config)
    except (ValueError, StartError) as error:
        kind = click.ClickException if isinstance(error, StartError) else click.UsageError
        raise kind(str(error)) from error


def _serve(config: Config, worker: Worker | None = None) -> int:
    """Serve an application; show the traceback of one that has failed, if that is wanted."""
    try:
        return applications.serve(config, worker)
    except (ValueError, StartError) as error:
        if config.verbose and error.__cause__ is not None:
            click.echo("".join(traceback.format_exception(error.__cause__)), err=True, nl=False)
        raise


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
    with contextlib.suppress(OSError):  # the password is set
        click.echo(f"fastsmtp: {name} {'has a new password' if existed else 'was added'} in {file}")
    return 0


fastsmtp.add_command(bench)
fastsmtp.add_command(check)
fastsmtp.add_command(config)


@fastsmtp.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what SHELL needs to complete commands and options.

    \b
    bash: eval "$(fastsmtp completion bash)" in ~/.bashrc
    zsh:  eval "$(fastsmtp completion zsh)" in ~/.zshrc, after compinit
    fish: fastsmtp completion fish > ~/.config/fish/completions/fastsmtp.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    print_text(f"{kind(context.find_root().command, {}, PROGRAM, COMPLETE).source()}\n")


fastsmtp.add_command(spool)
fastsmtp.add_command(postgres)


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
        status = fastsmtp.main(given, PROGRAM, COMPLETE, standalone_mode=False)
    except click.ClickException as error:
        # click itself would print four lines, beginning with the usage.
        complain(_line_of(error))
        return error.exit_code
    except click.Abort:
        return 130
    return status if isinstance(status, int) else 0


def _line_of(error: click.ClickException) -> str:
    """Return an error of click as one line that says what to do."""
    text = " ".join(error.format_message().split())
    if isinstance(error, click.UsageError) and error.ctx is not None and text == _NO_COMMAND:
        return f"a command is needed: {error.ctx.command_path} --help shows them"
    return text
