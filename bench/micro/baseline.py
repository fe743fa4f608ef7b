"""The baseline of `make bench-check`, out of several runs: `baseline.py BASELINE RUN...`.

Of each benchmark it keeps the run whose fastest round was the slowest. A run in which something lay
luckily in the caches would otherwise be asked of every later one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# What comparing needs; the arguments of some benchmarks are far longer.
KEPT = ("group", "name", "fullname", "param", "params", "stats")


def merged(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One report, with machine and commit of the last run."""
    slowest: dict[str, dict[str, Any]] = {}
    for run in runs:
        for benchmark in run["benchmarks"]:
            name = benchmark["fullname"]
            known = slowest.get(name)
            if known is None or benchmark["stats"]["min"] > known["stats"]["min"]:
                slowest[name] = {key: benchmark.get(key) for key in KEPT} | {"params": None}
    return runs[-1] | {"benchmarks": list(slowest.values())}


def main(baseline: str, *runs: str) -> None:
    found = merged([json.loads(Path(run).read_text()) for run in runs])
    Path(baseline).write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
