"""What a scrape of the metrics costs: CPU time of the process that answers it, and what it does to
the mail of four workers.

    python bench scrape --rounds 5

In each round the same load is sent twice, in turns with and without scrapes, ten in a second. The
difference of the 99th percentiles of a message's time is what a scrape holds mail up for.
bench/README.md says how to read it.
"""

from __future__ import annotations

import argparse
import os
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from load.measuring import HOST, CannotRun, cores, free_port
from load.reporting import RESULTS, bounded, facts, print_facts, program, spread
from workers.compare import SESSIONS, children_of, sent, serving

WORKERS = 4
EVERY = 0.1  # seconds between two scrapes
MESSAGES = 20_000  # of one load
GOALS = {"cpu": 2.0, "stall": 1.0}  # milliseconds
WHAT = {
    "cpu": "CPU time of a scrape, ms",
    "stall": "99th percentile of a message with scrapes, ms more than without",
}


def listener_on(port: int, pids: list[int]) -> int:
    """Return which of these processes listens on a TCP port. Raises CannotRun."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            if os.readlink(descriptor).removeprefix("socket:[").rstrip("]") in inodes:
                return pid
    raise CannotRun(f"no process of the server listens on {port}")


def cpu_of(pid: int) -> int:
    """Nanoseconds of CPU time of one process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


@contextmanager
def scrapes(port: int) -> Iterator[list[int]]:
    """Scrape again and again; yields the sizes of the answers."""
    sizes: list[int] = []
    is_over = threading.Event()

    def scrape() -> None:
        while not is_over.wait(EVERY):
            with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=10) as answer:
                sizes.append(len(answer.read()))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield sizes
    finally:
        is_over.set()
        thread.join()


def rounds(given: argparse.Namespace, port: int, admin: int, pid: int) -> Iterator[dict[str, Any]]:
    """Yield what each round has found, in milliseconds. pid: of the process that answers."""
    count = max(10 * SESSIONS, int(MESSAGES * given.scale))
    sent(port, count // 5)
    for number in range(given.rounds):
        times: dict[bool, float] = {}
        for scraped in (False, True) if number % 2 == 0 else (True, False):
            if not scraped:
                times[False] = sent(port, count)["p99_us"]
                continue
            before = cpu_of(pid)
            with scrapes(admin) as sizes:
                times[True] = sent(port, count)["p99_us"]
            if not sizes:
                raise CannotRun("the load was over before the first scrape: a larger --scale")
            cpu = (cpu_of(pid) - before) / len(sizes) / 1e6
        stall = (times[True] - times[False]) / 1e3
        yield {"cpu": cpu, "stall": stall, "scrapes": len(sizes), "octets": sizes[-1]}


def measure(given: argparse.Namespace) -> dict[str, Any]:
    report: dict[str, Any] = facts(*cores())
    print_facts(report)
    os.environ["WORK_MICROSECONDS"] = "0"
    admin = free_port()
    with serving("work", f"--admin={HOST}:{admin}", workers=WORKERS, others=1) as server:
        pid = listener_on(admin, children_of(server.process.pid))
        report["rounds"] = list(rounds(given, server.port, admin, pid))
    report["found"] = {}
    for name, goal in GOALS.items():
        found = spread([each[name] for each in report["rounds"]])
        verdict = f"<= {goal}: {'met' if found['median'] <= goal else 'MISSED'}"
        report["found"][name] = found | {"goal": verdict}
        low, high = found["lowest"], found["highest"]
        print(f"{WHAT[name]}: {found['median']:.3f}  ({low:.3f} to {high:.3f})  {verdict}")
    return report


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench scrape", description=__doc__)
    parser.add_argument("--rounds", type=bounded(int, 1, 99), default=5)
    parser.add_argument("--scale", type=bounded(float, 0.01, 100), default=1.0)
    parser.add_argument("--json", type=Path, default=RESULTS / "scrape.json")
    given = parser.parse_args(arguments)
    return program("scrape", lambda: measure(given), given.json)
