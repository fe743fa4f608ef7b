"""How long `import fastsmtp` takes: an interpreter that does it beside one that does nothing.

CPU time is what is judged: nothing is waited for when all files are cached, and wall time is also
that of whoever else wants the core.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ladders.crowd import Found

LEAST = 9  # pairs


class Took(NamedTuple):
    """Milliseconds."""

    cpu: float  # user and system
    wall: float

    def beyond(self, other: Took) -> Took:
        return Took(self.cpu - other.cpu, self.wall - other.wall)


def once(code: str, core: int, cache: str) -> Took:
    """What an interpreter takes, from its start to its end. cache: a folder for its bytecode."""
    # Who tells Python to write no bytecode would measure its compiler.
    cached = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": cache}

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (usage.ru_utime + usage.ru_stime) * 1000

    before, began = used(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env=os.environ | cached,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    return Took(used() - before, (time.perf_counter() - began) * 1000)


def imports(core: int, rounds: int) -> Found:
    """One sample for each pair; what is compiled to bytecode and cached is so before the first."""
    name = "import fastsmtp"
    found = Found({name: []}, [])
    walls: list[float] = []
    with TemporaryDirectory() as cache:
        once(name, core, cache)
        for number in range(1, max(LEAST, rounds) + 1):
            bare, whole = once("pass", core, cache), once(name, core, cache)
            took = whole.beyond(bare)
            found.numbers[name].append(took.cpu)
            row = {"cpu_ms": round(took.cpu, 2), "wall_ms": round(took.wall, 2)}
            found.rows.append({"number": name, "round": number} | row)
            walls.append(took.wall)
    text = f"CPU time {median(found.numbers[name]):.1f} ms, wall time {median(walls):.1f} ms"
    print(f"import fastsmtp, beyond a bare interpreter: {text}", flush=True)
    return found
