"""Is the working tree slower than another revision? `python bench check`.

Ends with 0 where nothing is slower, 1 where something is or fails, 2 where it cannot be said.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

from check import alternation, environments, instructions, revisions, suite, verdicts
from check.environments import Environment
from check.instructions import Counted
from check.revisions import Revision
from load.measuring import CannotRun

ROOT = Path(__file__).parents[2]


def share(text: str) -> float:
    """Read a tolerance: "10%" and "10" are both a tenth."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not 0 < value < 10:
        raise argparse.ArgumentTypeError(f"{text!r} is no tolerance such as 10%")
    return value


def natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds")
    return int(text)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python bench check", description=__doc__)
    option = parser.add_argument
    option("--base", default="", help="what to compare with (the last tag or the merge base)")
    option("--tolerance", type=share, default=0.10, help="for times (10%%)")
    option("--instructions-tolerance", type=share, default=0.02, help="for instructions (2%%)")
    option("--rounds", type=natural, default=6, help="pairs of runs of each benchmark (6)")
    option("--more", type=natural, default=12, help="of what may be slower, up to so many (12)")
    option("--only", choices=["times", "instructions"], help="one of the two measures")
    option("--repository", type=Path, default=ROOT, help="the checkout (this one)")
    option("--results", type=Path, help="a folder for the JSON (bench/results)")
    found = parser.parse_args(arguments)
    if found.rounds < 1:
        parser.error("--rounds: at least one")
    found.results = found.results or found.repository / "bench" / "results"
    return found


def main(arguments: list[str]) -> int:
    given = parse(arguments)
    try:
        return check(given)
    except CannotRun as reason:
        print(f"cannot be checked: {reason}", file=sys.stderr)
        return 2


def say(text: str = "") -> None:
    print(text, flush=True)


def check(given: argparse.Namespace) -> int:
    candidate = revisions.working_tree(given.repository)
    base = revisions.base(given.repository, given.base, candidate)
    say(f"base: {base.title}")
    say(f"candidate: {candidate.title}")
    with environments.shelf(given.repository) as folder:
        before = environments.built(given.repository, base, folder, "base")
        after = environments.built(given.repository, candidate, folder, "work", before)
        for line in environments.differences(before, after):
            say(f"not the same in both: {line}")
        complaints = []
        if given.only != "instructions":
            complaints += check_times(given, {"base": base, "candidate": candidate}, before, after)
        if given.only != "times":
            complaints += check_instructions(given, before, after)
    say()
    for complaint in complaints:
        say(f"FAILED: {complaint}")
    if not complaints:
        say("passed: nothing is slower than the base by more than the tolerance")
    return 1 if complaints else 0


def check_times(
    given: argparse.Namespace,
    sides: dict[str, Revision],
    before: Environment,
    after: Environment,
) -> list[str]:
    """Compare the times of all benchmarks; print every verdict, and return what is wrong."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        revisions.export(given.repository, sides["candidate"], source, "bench/micro")
        written = suite.write_out(source, Path(scratch) / "suite")
        found = alternation.alternate(
            *(_runner(written, side) for side in (before, after)),
            *(given.tolerance, given.rounds, given.more, say),
        )
    say()
    if found.failed:
        return [f"{name} does not run on the candidate" for name in found.failed]
    given.results.mkdir(parents=True, exist_ok=True)
    for (name, side), report in zip(sides.items(), (found.base, found.candidate), strict=True):
        report["commit_info"] = {"id": side.commit, "dirty": side.dirty, "title": side.title}
        (given.results / f"check-{name}.json").write_text(json.dumps(report) + "\n")
    say(verdicts.HEAD)
    for verdict in found.verdicts:
        say(verdicts.line(verdict))
    return [
        f"{verdict.name} takes {_times(verdict)}, which is more than {given.tolerance:.0%} more"
        for verdict in found.slower
    ]


def _runner(written: Path, environment: Environment) -> alternation.Runner:
    return partial(suite.run, written, environment)


def _times(verdict: verdicts.Verdict) -> str:
    before = "nothing" if verdict.base is None else verdicts.amount(verdict.base)
    return f"{verdicts.amount(verdict.candidate)} instead of {before}"


def check_instructions(
    given: argparse.Namespace, before: Environment, after: Environment
) -> list[str]:
    """Compare the counts with those of the base and with the records."""
    say()
    if missing := instructions.missing():
        say(f"instructions are not counted: {missing}")
        return []
    say("counting instructions")
    counts, failed = instructions.count(after)
    others, left_out = _counted_base(before)
    for name, why in left_out.items():
        say(f"not counted on the base: {name}: {why}")
    identity = instructions.identity(after)
    fitting, unlike = instructions.records(given.repository / "bench" / "results", identity)
    tolerance = given.instructions_tolerance
    complaints = [f"not counted on the candidate: {name}: {why}" for name, why in failed.items()]
    for origin, of in {"the base": others, **fitting}.items():
        say(f"beside {origin}")
        say(instructions.HEAD)
        found = instructions.compared(of, counts, tolerance)
        for counted in found:
            say(counted.line())
        already = instructions.compared(of, others, tolerance) if origin != "the base" else []
        complaints += _more(origin, found, {counted.measure for counted in already if counted.more})
    for line in unlike:
        say(line)
    return complaints


def _counted_base(before: Environment) -> tuple[instructions.Counts, dict[str, str]]:
    try:
        return instructions.count(before)
    except CannotRun as reason:
        return {}, {"all": str(reason)}


def _more(origin: str, found: list[Counted], already: set[str]) -> list[str]:
    """What is wrong with the counts. What the base had `already` is not the candidate's doing."""
    return [
        f"a {counted.measure} takes {counted.candidate:,.0f} instructions instead of"
        f" {counted.other:,.0f} ({origin}), which is more than {counted.tolerance:.0%} more"
        for counted in found
        if counted.more and counted.measure not in already
    ]
