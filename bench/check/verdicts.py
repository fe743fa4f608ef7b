"""What the figures say: slower, as before, faster, or new. No clock and no process in here.

Two estimates have to be told apart from chance. `least` is the fastest of all runs of the candidate
by the fastest of all of the base: noise only adds time. But a processor has fast moments too, which
one side may have met and the other not. `paired` takes each run of the candidate by the run of the
base right before it, and of these the median. Both are far from 1 only where the code is.
"""

from __future__ import annotations

from statistics import median
from typing import Any, NamedTuple

Entry = dict[str, Any]  # a benchmark in the JSON of pytest-benchmark


class Pairs:
    """The runs of one benchmark: the base and then the candidate, as often as there were rounds."""

    def __init__(self) -> None:
        self.base: list[Entry] = []
        self.candidate: list[Entry] = []

    def add(self, base: Entry, candidate: Entry) -> None:
        self.base.append(base)
        self.candidate.append(candidate)

    @property
    def least(self) -> float:
        return seconds(fastest(self.candidate)) / seconds(fastest(self.base))

    @property
    def paired(self) -> float:
        pairs = zip(self.candidate, self.base, strict=True)
        return median(seconds(after) / seconds(before) for after, before in pairs)


class Verdict(NamedTuple):
    """One benchmark in the report. Times are seconds; a new one has none of the base."""

    name: str
    word: str  # "slower", "same", "faster", "new"
    base: float | None
    candidate: float
    least: float | None = None
    paired: float | None = None


def seconds(entry: Entry) -> float:
    """The fastest round of a run."""
    return float(entry["stats"]["min"])


def fastest(runs: list[Entry]) -> Entry:
    return min(runs, key=seconds)


def is_open(pairs: Pairs, tolerance: float) -> bool:
    """Does a benchmark need more rounds? So does what may be slower, at half the tolerance."""
    return max(pairs.least, pairs.paired) > 1 + tolerance / 2


def is_slower(pairs: Pairs, tolerance: float) -> bool:
    """Beyond the tolerance by one estimate, and beyond half of it by the pairs in any case."""
    return max(pairs.least, pairs.paired) > 1 + tolerance and pairs.paired > 1 + tolerance / 2


def verdict(name: str, pairs: Pairs, tolerance: float) -> Verdict:
    word = "slower" if is_slower(pairs, tolerance) else "same"
    if pairs.least < 1 / (1 + tolerance) and pairs.paired < 1 / (1 + tolerance / 2):
        word = "faster"
    times = seconds(fastest(pairs.base)), seconds(fastest(pairs.candidate))
    return Verdict(name, word, *times, pairs.least, pairs.paired)


def amount(time: float) -> str:
    """A time as people read it, with four figures."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if time >= size:
            return f"{time / size:.4g} {unit}"
    return f"{time * 1e9:.4g} ns"


def line(verdict: Verdict) -> str:
    """Return the line of the report: the verdict, both figures, and by how much they differ."""
    if verdict.base is None or verdict.least is None or verdict.paired is None:
        return f"{verdict.word:8}{'-':>11}{amount(verdict.candidate):>11}{'':18}{verdict.name}"
    shares = f"{verdict.least - 1:>+9.1%}{verdict.paired - 1:>+9.1%}"
    times = f"{amount(verdict.base):>11}{amount(verdict.candidate):>11}"
    return f"{verdict.word:8}{times}{shares}  {verdict.name}"


HEAD = f"{'verdict':8}{'base':>11}{'candidate':>11}{'minima':>9}{'pairs':>9}  benchmark"
