"""`fastsmtp bench`: send mail to a server from many connections, and print what that took.

Exit status: 0 if everything was accepted, or refused as expected, 1 if not or if the run could not
start, 2 for a wrong command line, 130 when interrupted before the first message.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import click

from fastsmtp.gateway.bench.plan import PROFILES, Plan, make_plan
from fastsmtp.gateway.bench.report import as_json as figures_as_json
from fastsmtp.gateway.bench.run import Outcome, Run
from fastsmtp.gateway.bench.target import BenchError
from fastsmtp.running import handling, loop_factory

__all__ = ["bench"]


@click.command()
@click.argument("target", metavar="SERVER")
@click.option(
    "--profile",
    type=click.Choice(tuple(PROFILES)),
    default="keep",
    show_default=True,
    help="The kind of load; the other options change parts of it.",
)
@click.option("--messages", type=int, metavar="N", help="End after this many messages.")
@click.option("--duration", type=float, metavar="SECONDS", help="End after this time.")
@click.option("--connections", type=int, metavar="N", help="Connections at the same time.")
@click.option("--per-connection", type=int, metavar="N", help="Messages on each connection.")
@click.option("--size", metavar="SIZE", help="Octets of a message, or a number with k, M or G.")
@click.option("--rate", type=float, metavar="N", help="Messages per second, of all connections.")
@click.option(
    "--starttls", is_flag=True, help="Send STARTTLS first. Certificates are not verified."
)
@click.option("--helo", metavar="NAME", default="client.example", show_default=True)
@click.option(
    "--from", "sender", metavar="ADDRESS", default="sender@client.example", show_default=True
)
@click.option(
    "--to",
    multiple=True,
    metavar="ADDRESS",
    default=("recipient@server.example",),
    show_default=True,
    help="A recipient of each message. Repeatable.",
)
@click.option(
    "--recipients", type=int, metavar="N", help="Recipients of each message: local+N@domain."
)
@click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    default=30.0,
    show_default=True,
    help="How long the server may make no progress.",
)
@click.option(
    "--expect",
    type=int,
    multiple=True,
    metavar="CODE",
    help="A refusal with this code is no error. Repeatable.",
)
@click.option(
    "--anywhere", is_flag=True, help="Send to addresses that are neither loopback nor private."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def bench(as_json: bool, **options: Any) -> int:
    """Send mail to SERVER from many connections, and print rates, times and replies.

    SERVER is host:port, [v6]:port, port, lmtp:host:port, lmtp:/path, smtp:/path or smtps://host.
    The mail is real: what the server accepts, it delivers.
    """
    try:
        plan = make_plan(**options)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        return _perform(plan, None, _print_json)
    try:
        # Not at the top: rich comes with the extra "load".
        from fastsmtp.gateway.bench.display import print_figures, show_progress
    except ModuleNotFoundError as error:
        if error.name != "rich":
            raise
        raise click.ClickException(
            "the package rich is missing; install it with: pip install 'fastsmtp-engine[load]',"
            " or use --json"
        ) from error
    return _perform(plan, show_progress if sys.stderr.isatty() else None, print_figures)


def _perform(
    plan: Plan,
    show: Callable[[Run], Awaitable[None]] | None,
    print_figures: Callable[[Outcome], None],
) -> int:
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            outcome = runner.run(_run(plan, show))
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    except asyncio.CancelledError:
        return 130
    with contextlib.suppress(OSError):  # the reader may be gone
        print_figures(outcome)
    return 1 if outcome.figures.has_failed else 0


async def _run(plan: Plan, show: Callable[[Run], Awaitable[None]] | None) -> Outcome:
    run = Run(plan)
    with handling(asyncio.get_running_loop(), {"SIGINT": run.stop, "SIGTERM": run.stop}):
        if show is None:
            return await run.perform()
        showing = asyncio.ensure_future(show(run))
        try:
            return await run.perform()
        finally:
            showing.cancel()
            await asyncio.wait((showing,))


def _print_json(outcome: Outcome) -> None:
    click.echo(json.dumps(figures_as_json(outcome), indent=2))
