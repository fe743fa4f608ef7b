"""How long a spool keeps up: mail at a steady rate, drained into a Maildir while it arrives.

    python bench durable-sustained --seconds 300

First it sends mail as fast as it is accepted, and waits until all of it has been drained: that
gives the rate of taking and draining together. Then mail comes at a share of that rate. Reported
for each part of the time: the most messages that were in the spool, and the memory of the server.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from load import building
from load.measuring import HOST, RUN_LIMIT, CannotRun, free_port, greeted
from load.reporting import RESULTS, bounded, facts, print_facts, program

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build"
CONNECTIONS, OCTETS = 20, 1024
PARTS = 5
DRAIN_LIMIT = 120.0  # seconds
STOP_LIMIT = 60.0


class Server:
    """`serve.py drained`, which tells once a second what is in its spool."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self._port = port

    def send(self, count: int) -> None:
        """Send messages as fast as they are accepted. Raises CannotRun."""
        numbers = {"port": self._port, "count": count, "octets": OCTETS}
        numbers["connections"] = CONNECTIONS
        options = [f"--{name}={number}" for name, number in numbers.items()]
        command = [str(building.generator()), "--mode=wait", f"--host={HOST}", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_LIMIT)
        if done.returncode != 0:
            raise CannotRun(f"the load has failed: {done.stderr.strip()}")

    def told(self) -> dict[str, int]:
        """Return what it tells next: messages in the spool, octets of memory."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise CannotRun("the server has ended")
        found: dict[str, int] = json.loads(line)
        return found

    def drained(self) -> None:
        """Wait until the spool is empty. Raises CannotRun."""
        deadline = time.monotonic() + DRAIN_LIMIT
        while self.told()["waiting"]:
            if time.monotonic() > deadline:
                raise CannotRun("the spool is not drained")


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """Run the server in a new directory, which is removed afterwards. Raises CannotRun."""
    BUILD.mkdir(exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="sustained-", dir=BUILD))
    port = free_port()
    command = [sys.executable, str(HERE / "serve.py"), str(port), "drained", str(place)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        if greeted(process, port, None) is None:
            raise CannotRun("the server does not start")
        yield Server(process, port)
    finally:
        process.terminate()
        try:
            process.communicate(timeout=STOP_LIMIT)
        finally:
            process.kill()
            shutil.rmtree(place, ignore_errors=True)


def fastest(server: Server, count: int) -> float:
    """Return how many messages a second are taken and drained together."""
    server.send(count // 10)
    server.drained()
    began = time.monotonic()
    server.send(count)
    server.drained()
    return count / (time.monotonic() - began)


def steady(server: Server, rate: int, seconds: int) -> list[dict[str, int]]:
    """Send `rate` messages in each second; return what the server told in each second."""
    found = []
    began = time.monotonic()
    for second in range(seconds):
        server.send(rate)
        found.append(server.told())
        time.sleep(max(0.0, began + second + 1 - time.monotonic()))
    server.drained()
    return found


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run all of it, print it, and return what is written. Raises CannotRun."""
    report = facts(0, 0)
    del report["cores"]  # nothing is pinned
    print_facts(report)
    with running() as server:
        best = fastest(server, given.count)
        rate = int(best * given.share)
        print(f"taken and drained together: {best:,.0f} messages a second", flush=True)
        began = time.monotonic()
        told = steady(server, rate, given.seconds)
        took = time.monotonic() - began
    length = -(-len(told) // PARTS)
    parts = [told[start : start + length] for start in range(0, len(told), length)]
    report |= {
        "fastest": best,
        "rate": rate,
        "seconds": took,
        "sent": rate * given.seconds,
        "most_waiting": [max(each["waiting"] for each in part) for part in parts],
        "memory": [max(each["memory"] for each in part) for part in parts],
    }
    print(f"{report['sent']:,} messages in {took:.0f} s, {report['sent'] / took:,.0f} a second")
    print("most messages in the spool, by part:", *report["most_waiting"])
    print("MiB of the server, by part:", *(f"{each / 2**20:.1f}" for each in report["memory"]))
    return report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "bench durable-sustained", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--seconds", type=bounded(int, PARTS, 3600), default=300, help="of steady load (300)")
    add("--share", type=bounded(float, 0.05, 1.5), default=0.8, help="of the fastest rate (0.8)")
    add("--count", type=bounded(int, 100, 10**6), default=20000, help="messages for that rate")
    add("--json", type=Path, default=RESULTS / "sustained.json", help="where it is written")
    given = parser.parse_args(arguments)
    return program("bench durable-sustained", lambda: measure(given), given.json)
