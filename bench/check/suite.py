"""One run of the micro-benchmarks in one environment, and the JSON that pytest-benchmark leaves.

The benchmarks are the candidate's, for both revisions. They are measured in CPU time, so what other
processes do meanwhile is not counted, and in rounds that are long beside the timer's own cost.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from check.environments import Environment, clean
from load.measuring import CannotRun

RUN_LIMIT = 900.0  # seconds for all benchmarks once; they take about five
SETTINGS = """\
[pytest]
addopts = --import-mode=importlib -p no:cacheprovider
pythonpath = bench
python_files = test_*.py bench_*.py
filterwarnings = default
"""
OPTIONS = [
    *("--benchmark-only", "--benchmark-quiet", "--benchmark-timer=time.process_time"),
    *("--benchmark-max-time=0.02", "--benchmark-min-time=0.0002", "--benchmark-min-rounds=10"),
]

Entry = dict[str, Any]  # a benchmark in the JSON of pytest-benchmark


class Run(NamedTuple):
    """What one run has found."""

    report: dict[str, Any]  # the JSON without its benchmarks
    benchmarks: dict[str, Entry]  # by full name
    failed: list[str]  # full names, or files


def write_out(source: Path, target: Path) -> Path:
    """Write the benchmarks of an exported tree to where no source of the package is beside them."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source / "bench" / "micro", target / "bench" / "micro")
    (target / "pytest.ini").write_text(SETTINGS)
    return target


@cache
def same_addresses() -> list[str]:
    """The command in front of another that turns address randomisation off, where that can be had:
    one and the same code costs more at one address than at another.
    """
    command = ["setarch", "-R"]
    try:
        done = subprocess.run([*command, "true"], capture_output=True)
    except FileNotFoundError:
        return []
    return command if done.returncode == 0 else []


def run(suite: Path, environment: Environment, seed: int, names: list[str] | None = None) -> Run:
    """Run all benchmarks, or those of `names`, with hashes from `seed`.

    Raises CannotRun where pytest itself cannot. A benchmark that fails is in `failed`.
    """
    chosen = suite / "chosen.txt"
    chosen.write_text("\n".join(names if names is not None else ["bench/micro"]))
    found = suite / "found.json"
    found.unlink(missing_ok=True)
    command = [
        *(*same_addresses(), str(environment.python), "-m", "pytest", f"@{chosen.name}", "-q"),
        *("-c", "pytest.ini", "--rootdir=.", "--continue-on-collection-errors", "-rfE"),
        *("--tb=line", *OPTIONS, f"--benchmark-json={found.name}"),
    ]
    variables = clean() | {"PYTHONHASHSEED": str(seed)}
    try:
        done = subprocess.run(
            command, cwd=suite, env=variables, capture_output=True, text=True, timeout=RUN_LIMIT
        )
    except subprocess.TimeoutExpired:
        raise CannotRun(f"the benchmarks did not end within {RUN_LIMIT:.0f} seconds") from None
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1) or (done.returncode == 1 and not failed):
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise CannotRun(f"pytest ended with {done.returncode}:\n{said}")
    report = json.loads(found.read_text()) if found.exists() else {"benchmarks": []}
    benchmarks = {entry["fullname"]: entry for entry in report.pop("benchmarks")}
    return Run(report, benchmarks, failed)
