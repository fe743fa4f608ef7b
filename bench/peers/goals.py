"""The goals of the project, in one table, and whether they are met.

What is compared is CPU time per message of two cells, a profile and a server each, inside of one
round; the median over the rounds decides. Or it is one number of a ladder, by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any, NamedTuple

from load.measuring import Sample
from load.reporting import spread

Cell = tuple[str, str]  # profile, server
Round = Mapping[Cell, Sample]


class Goal(NamedTuple):
    """of: a cell, or a number of a ladder. to: the cell that it is divided by. sign: <= or >=."""

    of: Cell | str
    to: Cell | None
    sign: str
    limit: float
    unit: str = "×"

    @property
    def text(self) -> str:
        """What is meant, in short."""
        if isinstance(self.of, str) or self.to is None:
            return str(self.of)
        profile, server = self.of
        beside, other = self.to
        if profile == beside:
            return f"{profile}: {server} / {other}"
        return f"{server}: {profile} / {beside}" if server == other else f"{self.of} / {self.to}"

    def is_met_by(self, value: float) -> bool:
        return value <= self.limit if self.sign == "<=" else value >= self.limit


def beside(profile: str, other: str, limit: float) -> Goal:
    """fastsmtp takes at most so many times what the other one takes."""
    return Goal((profile, "fastsmtp"), (profile, other), "<=", limit)


def ahead(profile: str, other: str, limit: float) -> Goal:
    """The other one takes at least so many times what fastsmtp takes."""
    return Goal((profile, other), (profile, "fastsmtp"), ">=", limit)


def number(name: str, sign: str, limit: float, unit: str) -> Goal:
    return Goal(name, None, sign, limit, unit)


COMPARED = (
    beside("keep", "smtp-sink", 0.90),
    beside("keep", "floor", 1.35),
    beside("conn", "smtp-sink", 0.95),
    beside("conn", "floor", 1.50),
    beside("mid", "smtp-sink", 0.15),
    beside("mid", "floor", 1.6),
    beside("big", "smtp-sink", 0.08),
    beside("big", "floor", 1.8),
    Goal(("keep", "coroutine"), ("keep", "fastsmtp"), "<=", 1.4),
    Goal(("keep", "logged"), ("keep", "fastsmtp"), "<=", 1.05),
    Goal(("conn", "logged"), ("conn", "fastsmtp"), "<=", 1.05),
    ahead("keep", "aiosmtpd", 14),
    ahead("conn", "aiosmtpd", 12),
    ahead("mid", "aiosmtpd", 35),
    ahead("big", "aiosmtpd", 35),
    ahead("keep", "smtp-server", 2.2),
    ahead("mid", "smtp-server", 4),
    ahead("big", "smtp-server", 4),
    Goal(("pipe", "fastsmtp"), ("keep", "fastsmtp"), "<=", 0.45),
    Goal(("bdat", "fastsmtp"), ("keep", "fastsmtp"), "<=", 0.45),
    beside("tls-bulk", "uvloop", 1.15),
    ahead("tls-greeting", "greeter", 0.95),
)

CLIMBED = (
    number("user memory of an idle connection", "<=", 3, "KiB"),
    number("user memory of an idle TLS connection", "<=", 15, "KiB"),
    number("user memory of a TLS connection behind 60 KB", "<=", 40, "KiB"),
    number("message beside 10,000 idle connections / beside none", "<=", 1.1, "×"),
    number("slowest hostile body / plain body, octets per second", ">=", 0.5, "×"),
    number("longest slice of the loop", "<=", 10, "ms"),
    number("median message beside 256 starving clients", "<=", 20, "ms"),
    number("longest slice beside 256 starving clients", "<=", 20, "ms"),
    number("import fastsmtp", "<=", 60, "ms"),
)


def ratios(goal: Goal, rounds: list[Round]) -> list[float]:
    """One for each round in which both cells were measured."""
    assert not isinstance(goal.of, str)
    assert goal.to is not None
    return [
        samples[goal.of].cost / samples[goal.to].cost
        for samples in rounds
        if goal.of in samples and goal.to in samples
    ]


def row(goal: Goal, found: dict[str, float] | None) -> dict[str, Any]:
    """What is written of a goal. found: None when it was not measured."""
    line: dict[str, Any] = {"goal": goal.text, "sign": goal.sign, "limit": goal.limit}
    line["unit"] = goal.unit
    if found is None:
        return line | {"met": None}
    return line | found | {"met": goal.is_met_by(found["median"])}


def compared(rounds: list[Round]) -> list[dict[str, Any]]:
    """The goals of the comparison, each with what was found."""
    rows = []
    for goal in COMPARED:
        found = ratios(goal, rounds)
        rows.append(row(goal, spread(found) if found else None))
    return rows


def climbed(numbers: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    """The goals of the ladders; numbers: every sample of each, by name."""
    return [
        row(goal, spread(numbers[goal.text]) if numbers.get(goal.text) else None)
        for goal in CLIMBED
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """One line each: what was found, what was asked for, and whether it is met."""
    width = max(len(line["goal"]) for line in rows)
    lines = []
    for line in rows:
        text = f"{line['goal']:{width}}  {line['sign']} {line['limit']:<5g} {line['unit']:3}"
        if line["met"] is None:
            lines.append(f"{text}  not measured")
            continue
        found = f"{line['median']:8.3f}  {line['lowest']:8.3f} .. {line['highest']:<8.3f}"
        lines.append(f"{text} {found}  {'met' if line['met'] else 'MISSED'}")
    return "\n".join(lines)


def costs(rounds: list[Round], cell: Cell) -> dict[str, float]:
    """Of one cell: microseconds each, the system's part of them, how busy its core was."""
    own = [samples[cell] for samples in rounds if cell in samples]
    return spread([sample.cost for sample in own]) | {
        # by the clock tick, so it may come out as more than all of it
        "system_share": min(1.0, median(s.usage.system / s.usage.cpu for s in own)),
        "busy": median(sample.usage.cpu / sample.wall / 1e9 for sample in own),
        "per_second": median(sample.amount / sample.wall for sample in own),
    }
