"""Instructions for one command, one message, one connection: what does not depend on the load.

callgrind counts those of a script that is played N times and then 2 N times; what it takes to begin
and to end cancels out in the difference. Base and candidate are counted, and the candidate
is compared with the records in bench/results too: small steps of many commits add up there. What
was built otherwise has other counts, and its record is left out by name.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from check.environments import Environment, clean
from check.suite import same_addresses
from load.measuring import CannotRun

DRIVEN = Path(__file__).with_name("driven.py")
RUN_LIMIT = 900.0  # seconds; it takes about ten
Counts = dict[str, float]


class Counted(NamedTuple):
    """A measure of the candidate beside another count of it."""

    measure: str
    other: float | None  # of the base or of a record; None where that has no such count
    candidate: float
    tolerance: float

    @property
    def more(self) -> bool:
        return self.other is not None and self.candidate > self.other * (1 + self.tolerance)

    @property
    def word(self) -> str:
        if self.other is None:
            return "new"
        if self.more:
            return "more"
        return "fewer" if self.candidate < self.other / (1 + self.tolerance) else "same"

    def line(self) -> str:
        if self.other is None:
            return f"{self.word:8}{'-':>11}{self.candidate:>11,.0f}{'':9}  {self.measure}"
        share = f"{self.candidate / self.other - 1:>+9.1%}"
        return f"{self.word:8}{self.other:>11,.0f}{self.candidate:>11,.0f}{share}  {self.measure}"


HEAD = f"{'verdict':8}{'before':>11}{'candidate':>11}{'':9}  instructions for one"


def missing() -> str:
    """Why nothing can be counted here, or nothing."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed (Debian: apt install valgrind)"
    return ""


def valgrind() -> str:
    done = subprocess.run(["valgrind", "--version"], capture_output=True, text=True)
    return done.stdout.strip()


def count(environment: Environment) -> tuple[Counts, dict[str, str]]:
    """Return the counts of an environment, and for each measure without one the reason.

    Raises CannotRun when nothing could be counted.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "callgrind.out"
        command = [
            *(*same_addresses(), "valgrind", "--tool=callgrind", "--dump-before=getppid"),
            *(f"--callgrind-out-file={out}", str(environment.python), str(DRIVEN)),
        ]
        variables = clean() | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command, capture_output=True, text=True, env=variables, cwd=scratch, timeout=RUN_LIMIT
        )
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if not line.startswith("==")]
            raise CannotRun(f"callgrind: {(said or ['ended without a word'])[-1]}")
        parts = sorted(out.parent.glob(f"{out.name}.*"), key=lambda part: int(part.suffix[1:]))
        return per_unit([_total(part) for part in parts], done.stdout)


def _total(part: Path) -> int:
    """Return the instructions between the mark before and the one at which this was written."""
    found = re.search(r"^totals: (\d+)", part.read_text(), re.MULTILINE)
    if found is None:
        raise CannotRun("callgrind has left no total")
    return int(found[1])


def per_unit(totals: list[int], said: str) -> tuple[Counts, dict[str, str]]:
    """Make counts of what lies between the marks: of each measure all before it, N and 2 N.

    said: what `driven.py` has printed.
    """
    lines = [line.split("\t", 2) for line in said.splitlines()]
    amounts = {name: int(rest) for word, name, rest in lines if word == "counted"}
    failed = {name: rest for word, name, rest in lines if word == "failed"}
    if len(totals) != 3 * len(amounts):
        raise CannotRun(f"callgrind has seen {len(totals)} marks of {3 * len(amounts)}")
    found = zip(amounts.items(), totals[1::3], totals[2::3], strict=True)
    counts = {name: round((twice - once) / amount, 1) for (name, amount), once, twice in found}
    return counts, failed


def compared(other: Counts, candidate: Counts, tolerance: float) -> list[Counted]:
    return [Counted(name, other.get(name), of, tolerance) for name, of in candidate.items()]


# --- the records ---


def identity(environment: Environment) -> dict[str, str]:
    """What counts depend on beside our sources."""
    return environment.identity | {"valgrind": valgrind()}


def file_name(identity: dict[str, str]) -> str:
    """Return the name of a record: there is one for each version of Python and compiler."""
    python = re.sub(r"^(\S+) (\d+\.\d+).*$", r"\1-\2", identity["python"]).lower()
    compiler = identity["compiler"].split()
    version = re.search(r"\d+(\.\d+)+", re.sub(r"\(.*?\)", "", identity["compiler"]))
    parts = [python, Path(compiler[0]).name.lower(), version[0] if version else "unknown"]
    return f"instructions-{'-'.join(parts)}.json"


def write(folder: Path, identity: dict[str, str], commit: str, counts: Counts) -> Path:
    """Write the record of a build, in place of the one that there is."""
    path = folder / file_name(identity)
    record = {"identity": identity, "commit": commit, "instructions": counts}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def records(folder: Path, identity: dict[str, str]) -> tuple[dict[str, Counts], list[str]]:
    """Return the records that a build can be compared with, by file, and a line for each other."""
    fitting, left_out = {}, []
    for path in sorted(folder.glob("instructions-*.json")):
        record: dict[str, Any] = json.loads(path.read_text())
        of = record["identity"]
        names = [name for name in of.keys() | identity.keys() if of.get(name) != identity.get(name)]
        if not names:
            fitting[path.name] = record["instructions"]
            continue
        unlike = [f"{name} {of.get(name)} (here {identity.get(name)})" for name in sorted(names)]
        left_out.append(f"left out: {path.name} was built otherwise: {'; '.join(unlike)}")
    return fitting, left_out
