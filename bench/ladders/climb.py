"""What grows, and how far: memory and cost of idle connections, latency, hostile input, imports.

    python bench ladders --only memory,beside,latency,shapes,slices,starved,imports --rounds 5

Servers stand on one core, clients on another one. Where a ladder asks for more connections than the
system gives descriptors, its last step is cut to what there is. Every sample is written as JSON;
the goals are printed, and one that is missed is no error. bench/README.md says how to read it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ladders.crowd import Cores, Found, beside, latency, memory
from ladders.hostile import shapes, slices
from ladders.imports import imports
from ladders.starving import starved
from load.measuring import CannotRun, cores, raise_limit_of_files
from load.reporting import RESULTS, bounded, facts, names_of, print_facts, program
from peers import goals

# name -> ladder, given the cores, the descriptors of a process and the rounds
LADDERS: dict[str, Callable[[Cores, int, int], Found]] = {
    "imports": lambda cores, files, rounds: imports(cores.server, rounds),
    "memory": lambda cores, files, rounds: memory(cores, files),
    "beside": beside,
    "latency": latency,
    "shapes": lambda cores, files, rounds: shapes(cores, rounds),
    "slices": lambda cores, files, rounds: slices(cores, min(rounds, 3)),
    "starved": lambda cores, files, rounds: starved(cores, rounds),
}


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Climb, print it, and return what is written. Raises CannotRun."""
    both = Cores(*cores())
    files = raise_limit_of_files()
    os.sched_setaffinity(0, {both.client})  # what this process does is a client's work
    report = facts(*both) | {"descriptors": files, "left_out": {}, "rows": []}
    print_facts(report)
    numbers: dict[str, list[float]] = {}
    for name in given.only:
        print(f"\n{name}", flush=True)
        try:
            found = LADDERS[name](both, files, given.rounds)
        except CannotRun as reason:
            report["left_out"][name] = str(reason)
            print(f"left out: {name}: {reason}", flush=True)
            continue
        numbers |= found.numbers
        report["rows"] += found.rows
    report["numbers"] = numbers
    report["goals"] = goals.climbed(numbers)
    print(f"\ngoals, the median:\n{goals.table(report['goals'])}")
    return report


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "bench ladders", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--only", type=names_of(LADDERS), default=list(LADDERS), help=", ".join(LADDERS))
    add("--rounds", type=bounded(int, 1, 100), default=3, help="samples of each (3)")
    add("--json", type=Path, default=RESULTS / "ladders.json", help="where all of it is written")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    return program("bench ladders", lambda: measure(given), given.json)
