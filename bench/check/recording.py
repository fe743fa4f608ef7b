"""Count the working tree's instructions, and keep them: `python bench record`.

Later checks on the same build compare with them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from check import environments, instructions, revisions
from load.measuring import CannotRun

ROOT = Path(__file__).parents[2]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python bench record", description=__doc__)
    parser.add_argument("--repository", type=Path, default=ROOT, help="the checkout (this one)")
    try:
        record(parser.parse_args(arguments).repository)
    except CannotRun as reason:
        print(f"cannot be counted: {reason}", file=sys.stderr)
        return 2
    return 0


def record(repository: Path) -> None:
    if reason := instructions.missing():
        raise CannotRun(reason)
    revision = revisions.working_tree(repository)
    with environments.shelf(repository) as folder:
        environment = environments.built(repository, revision, folder, "work")
        counts, failed = instructions.count(environment)
    if failed:
        raise CannotRun("; ".join(failed.values()))
    results = repository / "bench" / "results"
    identity = instructions.identity(environment)
    path = instructions.write(results, identity, revision.commit, counts)
    print(f"{path.name}: {revision.title}")
    for name, of in counts.items():
        print(f"{of:>11,.0f}  {name}")
