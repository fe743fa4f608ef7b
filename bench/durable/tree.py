"""CPU time of a server that is many processes: those that live, and those that have ended."""

from __future__ import annotations

import os
from pathlib import Path

from load.measuring import settled

TICK = os.sysconf("SC_CLK_TCK")
QUIET = 0.1  # seconds without CPU time after which a server has done all its work


def processes() -> dict[int, tuple[int, int]]:
    """Each process: its parent, and the ticks that it and its ended children have used."""
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            # utime, stime, and the same of children that were waited for: proc(5)
            found[int(path.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    return found


def cpu_of_tree(root: int) -> float:
    """Seconds, user and system, of a process and of all that come from it."""
    found = processes()
    inside = {root}
    while more := {pid for pid, (parent, _) in found.items() if parent in inside} - inside:
        inside |= more
    return sum(found[pid][1] for pid in inside if pid in found) / TICK


def settled_cpu(root: int) -> float:
    """The same of a server that has nothing left to do."""
    return settled(lambda: cpu_of_tree(root), float, QUIET, QUIET / 20)
