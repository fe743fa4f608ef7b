"""The order of the runs: base, candidate, base, candidate, and more of them where it is not clear.

Every benchmark gets `rounds` pairs of runs. One that may be slower then gets up to `more` of them,
until it is seen not to be; the others have ended by then, so these rounds are short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from check.suite import Run
from check.verdicts import Entry, Pairs, Verdict, fastest, is_open, seconds, verdict
from load.measuring import CannotRun

# Runs the benchmarks of these names, or all; the number of the round is the seed of hashes.
Runner = Callable[[int, list[str] | None], Run]


class Found(NamedTuple):
    """The outcome for all benchmarks."""

    verdicts: list[Verdict]
    base: dict[str, Any]  # reports in the format of pytest-benchmark
    candidate: dict[str, Any]
    failed: list[str]  # of the candidate

    @property
    def slower(self) -> list[Verdict]:
        return [found for found in self.verdicts if found.word == "slower"]


def alternate(
    base: Runner,
    candidate: Runner,
    tolerance: float,
    rounds: int,
    more: int,
    say: Callable[[str], None] = lambda text: None,
) -> Found:
    """Run both sides in turn until each benchmark has its verdict.

    A benchmark that fails on the base is new. One that fails on the candidate ends the check.
    Raises CannotRun where none can be compared.
    """
    pairs: dict[str, Pairs] = {}
    new: dict[str, list[Entry]] = {}
    names: list[str] | None = None
    for number in range(1, rounds + more + 1):
        before, after = base(number, names), candidate(number, names)
        if after.failed:
            return Found([], before.report, after.report, after.failed)
        for name, entry in after.benchmarks.items():
            if name in before.benchmarks:
                pairs.setdefault(name, Pairs()).add(before.benchmarks[name], entry)
            else:
                new.setdefault(name, []).append(entry)
        if not pairs:
            raise CannotRun("nothing was compared: no benchmark of the candidate runs on the base")
        if number >= rounds:
            names = [name for name in pairs if is_open(pairs[name], tolerance)]
            if not names:
                break
            say(f"round {number}: {len(names)} may be slower, once more")
        else:
            say(f"round {number} of {rounds}: {len(after.benchmarks)} benchmarks on either side")
    # What failed on the base in one round only is compared all the same.
    new = {name: entries for name, entries in new.items() if name not in pairs}
    found = [verdict(name, pair, tolerance) for name, pair in pairs.items()]
    found += [Verdict(name, "new", None, seconds(fastest(of))) for name, of in new.items()]
    sides = [fastest(pair.base) for pair in pairs.values()]
    others = [_judged(pair, judged) for pair, judged in zip(pairs.values(), found, strict=False)]
    others += [fastest(entries) for entries in new.values()]
    return Found(found, _report(before, sides), _report(after, others), [])


def _judged(pairs: Pairs, judged: Verdict) -> Entry:
    """The candidate's fastest run, with the verdict for those who read the JSON alone."""
    entry = fastest(pairs.candidate)
    extra = {"verdict": judged.word, "by minima": judged.least, "by pairs": judged.paired}
    return entry | {"extra_info": entry.get("extra_info", {}) | extra}


def _report(run: Run, benchmarks: Iterable[Entry]) -> dict[str, Any]:
    return run.report | {"benchmarks": list(benchmarks)}
