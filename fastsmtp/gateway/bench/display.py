"""The progress of a run on a terminal, and its figures as text: by rich, from the extra `load`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from time import perf_counter
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from fastsmtp.blocking import call_in_thread
from fastsmtp.gateway.bench.figures import Figures, Histogram
from fastsmtp.gateway.bench.report import PERCENTS, TIMES, per_second, times_of
from fastsmtp.gateway.bench.run import Outcome, Run

__all__ = ["print_figures", "show_progress"]

REFRESH_SECONDS: Final = 0.25
BAR: Final = 40  # characters
WIDTH: Final = 100  # columns where there is no terminal
BUSY: Final = 0.9  # of a core, from which on the figures are those of the client


async def show_progress(run: Run) -> None:
    """Show how far `run` is on standard error, until it is cancelled."""
    loop = asyncio.get_running_loop()
    shown = Progress(
        TextColumn("{task.percentage:>3.0f} %"),
        BarColumn(BAR),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
    )
    bar = shown.add_task("connecting", total=1.0)
    with shown:
        while True:
            text, part = _state(run)
            shown.update(bar, description=text, completed=part)
            # In a thread, because a terminal may be stopped, and the load must go on.
            await call_in_thread(loop, shown.refresh, "fastsmtp-progress")
            await asyncio.sleep(REFRESH_SECONDS)


def _state(run: Run) -> tuple[str, float]:
    """What is shown, and which part of the run is over."""
    if not run.began:
        return "connecting", 0.0
    figures, plan = run.figures, run.plan
    seconds = perf_counter() - run.began
    parts = [figures.finished / plan.messages if plan.messages else 0.0]
    parts += [seconds / plan.duration if plan.duration else 0.0]
    words = [
        f"{figures.accepted:,} accepted",
        f"{figures.accepted / seconds if seconds else 0:,.0f}/s",
        *(f"p{percent} {_ms(figures.message.percentile(percent))} ms" for percent in (50, 99)),
    ]
    words += [f"{figures.refused:,} refused"] if figures.refused else []
    words += [f"{figures.failed:,} failed"] if figures.failed else []
    return " · ".join(words), min(1.0, max(parts))


def print_figures(outcome: Outcome) -> None:
    """Print all figures on standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    with console.capture() as captured:
        for part in _parts(outcome, bar="█" if "utf" in console.encoding.lower() else "#"):
            console.print(part)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _parts(outcome: Outcome, bar: str) -> Iterator[Table | Text]:
    figures = outcome.figures
    yield _summary(outcome)
    yield Text()
    yield _percentiles(figures)
    if figures.message.count:
        yield Text(f"\n{TIMES['message']}, in ms", style="bold")
        yield _histogram(figures.message, bar)
    yield Text("\nreplies", style="bold")
    yield _replies(figures)
    if figures.refusals:
        yield Text("\nrefused", style="bold")
        yield _refusals(figures)
    if figures.errors:
        yield Text("\nerrors", style="bold red")
        yield _errors(figures)


def _grid(*justify: str) -> Table:
    table = Table.grid(padding=(0, 2))
    for each in justify:
        table.add_column(justify="right" if each == "right" else "left")
    return table


def _row(table: Table, *cells: str, style: str = "") -> None:
    # Not as str, which may contain markup: some of it comes from the server.
    table.add_row(*(Text(cell, style=style) for cell in cells))


def _summary(outcome: Outcome) -> Table:
    figures, plan = outcome.figures, outcome.plan
    table = _grid("left", "left")
    row = partial(_row, table)
    row("server", f"{plan.target.text} ({outcome.address})")
    row("load", _load(outcome))
    counts = (
        f"{figures.accepted:,} accepted, {figures.refused:,} refused, {figures.failed:,} failed"
    )
    row("messages", counts, style="red" if figures.has_failed else "")
    if figures.recipients_refused:
        row(
            "recipients",
            f"{figures.recipients_accepted:,} accepted, {figures.recipients_refused:,} refused",
        )
    failed = figures.connections_failed
    row(
        "connections",
        f"{figures.connections:,} opened" + (f", {failed:,} failed" if failed else ""),
    )
    row(
        "rate",
        f"{per_second(figures.accepted, outcome):,.0f} messages/s, "
        f"{per_second(figures.octets, outcome) / 1e6:,.2f} MB/s, in {outcome.seconds:.2f} s",
    )
    busy = outcome.cpu / outcome.seconds if outcome.seconds else 0.0
    row(
        "this client",
        f"{busy:.0%} of one core"
        + (": it may be the limit, not the server" if busy >= BUSY else ""),
    )
    if outcome.ended_early:
        row("ended early", outcome.ended_early, style="yellow")
    return table


def _load(outcome: Outcome) -> str:
    plan = outcome.plan
    words = [f"{plan.profile}: {outcome.octets:,} octets", f"{plan.connections} connections"]
    words += [f"{plan.per_connection} messages on each"] if plan.per_connection else []
    words += [f"{len(plan.recipients)} recipients"] if len(plan.recipients) > 1 else []
    words += [f"{plan.rate:g} messages/s"] if plan.rate else []
    words += ["LMTP"] if plan.target.lmtp else []
    words += ["TLS"] if plan.starttls or plan.target.tls else []
    if plan.pipelining:
        is_used = outcome.is_pipelining
        words.append("pipelining" if is_used else "no pipelining: the server does not offer it")
    return ", ".join(words)


def _percentiles(figures: Figures) -> Table:
    table = _grid("left", *("right" for _ in range(len(PERCENTS) + 2)))
    names = [f"p{percent}" for percent in PERCENTS]
    _row(table, "times in ms", *names, "max", "count", style="bold")
    for name, times in times_of(figures).items():
        values = [times.percentile(percent) for percent in PERCENTS] + [times.highest]
        _row(table, TIMES[name], *map(_ms, values), f"{times.count:,}")
    return table


def _histogram(times: Histogram, bar: str) -> Table:
    table = _grid("right", "right", "left")
    rows = times.rows()
    most = max(count for _, count in rows)
    for bound, count in rows:
        length = max(1, round(BAR * count / most)) if count else 0
        _row(table, f"  up to {1000 * bound:g}", f"{count:,}", bar * length)
    return table


def _replies(figures: Figures) -> Table:
    table = _grid("left", "left")
    for stage, codes in figures.replies.items():
        counts = (f"{code}: {count:,}" for code, count in sorted(codes.items()))
        _row(table, f"  {stage}", ", ".join(counts))
    return table


def _refusals(figures: Figures) -> Table:
    table = _grid("left", "right", "left")
    for (stage, code), each in figures.refusals.items():
        text = f"{code} {each.text}" + (" (expected)" if each.expected else "")
        _row(table, f"  {stage}", f"{each.count:,}", text)
    return table


def _errors(figures: Figures) -> Table:
    table = _grid("right", "left")
    for text, count in sorted(figures.errors.items(), key=lambda error: -error[1]):
        _row(table, f"  {count:,}", text)
    return table


def _ms(seconds: float) -> str:
    milliseconds = 1000 * seconds
    return f"{milliseconds:.0f}" if milliseconds >= 1000 else f"{milliseconds:.3g}"
