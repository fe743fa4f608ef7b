"""Several processes against one: how much more, at what price, and the gap of a reload.

    python bench workers --only scale,memory --rounds 5

Ratios are taken inside a round, in which all servers are loaded in turns. bench/README.md says how
to read it. Addresses are not steered here, because the load comes from one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from durable.tree import processes
from load import building
from load.measuring import HOST, CannotRun, cores, free_port, running, search_where_root_looks
from load.measuring import settled as settled_reading
from load.reporting import (
    RESULTS,
    bounded,
    facts,
    names_of,
    print_facts,
    program,
    spread,
)

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build"
SESSIONS = 40
STOP_LIMIT = 45.0

GOALS: dict[str, tuple[str, float]] = {
    "scale": (">=", 1.85),
    "maildir": (">=", 1.2),
    "spool": (">=", 1.2),
    "keep": ("<=", 1.01),
    "memory": ("<=", 14.0),
    "reload": ("<=", 50.0),
}


class Running(NamedTuple):
    """A server that greets."""

    process: subprocess.Popen[bytes]
    port: int


@contextmanager
def serving(
    *arguments: str, workers: int, on: set[int] | None = None, cwd: Path = HERE, others: int = 0
) -> Iterator[Running]:
    """Run `fastsmtp serve`; on: its cores. others: processes of the parent that are no workers."""
    port = free_port()
    command = [sys.executable, "-m", "fastsmtp", "serve", *arguments]
    command += [f"--listen={HOST}:{port}", f"--workers={workers}", "--no-steer-clients"]

    def prepare() -> None:
        if on is not None:
            os.sched_setaffinity(0, on)

    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    with running(
        command, port, stop_limit=STOP_LIMIT, cwd=cwd, env=environment, preexec_fn=prepare
    ) as process:
        wait_for_workers(process.pid, workers)
        yield Running(process, port)


def children_of(pid: int) -> list[int]:
    return [each for each, (parent, _) in processes().items() if parent == pid]


def wait_for_workers(pid: int, count: int) -> None:
    """Wait until all have started: that of the last one takes CPU time."""
    settled_reading(lambda: (cpu_of(pid), len(children_of(pid))), lambda now: now[0], 0.3, 0.02)
    if len(children_of(pid)) != count:
        raise CannotRun(f"there are {len(children_of(pid))} workers, not {count}")


def cpu_of(pid: int) -> float:
    """Seconds of CPU time, by the scheduler's count, of a parent and its workers that live."""
    total = 0
    for each in (pid, *children_of(pid)):
        for task in Path(f"/proc/{each}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def send(port: int, count: int, octets: int = 1024) -> float:
    """Send messages over kept connections; return the seconds that it took. Raises CannotRun."""
    return float(sent(port, count, octets)["seconds"])


def sent(port: int, count: int, octets: int = 1024) -> dict[str, float]:
    """Send messages over kept connections; return what the generator has found.

    The connections share the messages, since the kernel does not give each worker as many of them.
    """
    numbers = {"port": port, "count": count, "octets": octets, "connections": SESSIONS}
    options = [f"--{name}={number}" for name, number in numbers.items()]
    command = [str(building.generator()), "--mode=wait", "--shared", f"--host={HOST}", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise CannotRun(f"the load has failed: {done.stderr.strip()}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def rates(servers: list[Running], count: int) -> list[float]:
    return [count / send(server.port, count) for server in servers]


def ratios(
    given: argparse.Namespace, servers: list[Running], count: int
) -> tuple[list[float], list[list[float]]]:
    """Return the rate of the second server to that of the first, and both rates, per round."""
    count = max(10 * SESSIONS, int(count * given.scale))
    rates(servers, count // 5)
    found = []
    for number in range(given.rounds):
        turn = servers if number % 2 == 0 else servers[::-1]
        rate = rates(turn, count)
        found.append(rate if number % 2 == 0 else rate[::-1])
    return [second / first for first, second in found], found


def scale(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Messages per second with a hook of 500 µs: two workers on two cores, one on one core."""
    first, second = cores()
    with (
        serving("work", workers=1, on={first}) as one,
        serving("work", workers=2, on={first, second}) as two,
    ):
        ratio, both = ratios(given, [one, two], 4000)
    return {"ratio": spread(ratio), "messages_per_second": both}


def durable(*options: str) -> Callable[[argparse.Namespace, Path], dict[str, Any]]:
    """Messages per second of 1 KiB on disk: two workers against one."""

    def measure(given: argparse.Namespace, place: Path) -> dict[str, Any]:
        with ExitStack() as stack:
            servers = []
            for workers in (1, 2):
                where = Path(tempfile.mkdtemp(dir=place))
                arguments = [each.format(where=where) for each in options]
                servers.append(stack.enter_context(serving(*arguments, workers=workers)))
            ratio, both = ratios(given, servers, 8000)
        return {"ratio": spread(ratio), "messages_per_second": both}

    return measure


def keep(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """CPU time of a message: one worker and its parent against a process without a parent."""
    first, _other = cores()
    count = max(10 * SESSIONS, int(20_000 * given.scale))
    environment = os.environ.copy()
    os.environ["WORK_MICROSECONDS"] = "0"
    try:
        with (
            serving("work", workers=0, on={first}) as alone,
            serving("work", workers=1, on={first}) as worker,
        ):
            found = [[cost(each, count) for each in (alone, worker)] for _ in range(given.rounds)]
    finally:
        os.environ.clear()
        os.environ.update(environment)
    return {
        "ratio": spread([with_parent / without for without, with_parent in found]),
        "microseconds": found,
    }


def cost(server: Running, count: int) -> float:
    """Microseconds of CPU time for a message."""
    before = settled_reading(lambda: cpu_of(server.process.pid), float, 0.05, 0.0005)
    send(server.port, count)
    after = settled_reading(lambda: cpu_of(server.process.pid), float, 0.05, 0.0005)
    return (after - before) / count * 1e6


def memory(given: argparse.Namespace, place: Path) -> dict[str, Any]:
    """MiB (PSS) of parent and workers together: of each worker beyond the first."""
    totals = {}
    for workers in (1, 2, 4):
        where = Path(tempfile.mkdtemp(dir=place))
        with serving(f"--maildir={where}/mail", *certificate(place), workers=workers) as server:
            send(server.port, 2000)
            totals[workers] = sum(map(pss, [server.process.pid, *children_of(server.process.pid)]))
    return {
        "ratio": spread([(totals[4] - totals[1]) / 3, totals[2] - totals[1]]),
        "total_mib": totals,
    }


def certificate(place: Path) -> list[str]:
    """Options for a certificate of a file: one for development would need a large library."""
    path = place / "mx.pem"
    if not path.exists():
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
        command += ["ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=mx.example", "-days", "2"]
        command += ["-keyout", str(path), "-out", str(place / "cert.pem")]
        subprocess.run(command, check=True, capture_output=True)
        path.write_text(path.read_text() + (place / "cert.pem").read_text())
    return [f"--cert={path}"]


def pss(pid: int) -> float:
    """MiB: private memory, and a share of what others have too."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.partition("\nPss:")[2].split()[0]) / 1024


def reload(given: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Milliseconds from one greeting to the next of a client that connects again and again, while
    other clients send and all workers are replaced: the longest of each reload.
    """
    gaps, quiet = [], []
    where = Path(tempfile.mkdtemp(dir=place))
    with serving(f"--maildir={where}/mail", *certificate(place), workers=2) as server:
        for _ in range(given.rounds):
            with load(server.port):
                quiet.append(longest_gap(server.port, lambda: time.sleep(1.0)))
                gaps.append(longest_gap(server.port, lambda: replace_workers(server)))
    return {"ratio": spread(gaps), "without_reload_ms": spread(quiet)}


@contextmanager
def load(port: int) -> Iterator[None]:
    """Clients that deliver messages over short connections, with a moment between them."""
    is_over = threading.Event()

    def deliver() -> None:
        while not is_over.wait(0.02):
            command = ["smtp-source", "-s", "4", "-m", "20", "-f", "a@x.example"]
            command += ["-t", "b@y.example", f"inet:{HOST}:{port}"]
            subprocess.run(command, capture_output=True, timeout=60, check=True)

    thread = threading.Thread(target=deliver)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def longest_gap(port: int, meanwhile: Callable[[], object]) -> float:
    """Milliseconds."""
    is_over = threading.Event()
    longest = [0.0]

    def connect() -> None:
        before = time.monotonic()
        while not is_over.is_set():
            with socket.create_connection((HOST, port), 60) as client:
                if not client.recv(4).startswith(b"220"):
                    raise CannotRun("a client was refused")
            now = time.monotonic()
            longest[0] = max(longest[0], now - before)
            time.sleep(0.002)
            before = time.monotonic()

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        meanwhile()
    finally:
        is_over.set()
        thread.join()
    return longest[0] * 1000


def replace_workers(server: Running) -> None:
    """Reload, and wait until only new workers are there."""
    old = set(children_of(server.process.pid))
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 60
    while (now := set(children_of(server.process.pid))) & old or len(now) != len(old):
        if time.monotonic() > deadline:
            raise CannotRun("the workers were not replaced")
        time.sleep(0.02)


MEASURES: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    "scale": scale,
    "maildir": durable("--maildir={where}/mail"),
    "spool": durable("--maildir={where}/mail", "--spool={where}/spool"),
    "keep": keep,
    "memory": memory,
    "reload": reload,
}


def measure(given: argparse.Namespace) -> dict[str, Any]:
    search_where_root_looks()
    if "reload" in given.only and shutil.which("smtp-source") is None:
        raise CannotRun("needs Postfix's smtp-source (Debian: apt install postfix)")
    BUILD.mkdir(exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="workers-", dir=BUILD))
    report: dict[str, Any] = facts(*cores()) | {"found": {}}
    print_facts(report)
    try:
        for name in given.only:
            row = MEASURES[name](given, place)
            sign, goal = GOALS[name]
            median = row["ratio"]["median"]
            is_met = median >= goal if sign == ">=" else median <= goal
            row["goal"] = f"{sign} {goal}: {'met' if is_met else 'MISSED'}"
            report["found"][name] = row
            low, high = row["ratio"]["lowest"], row["ratio"]["highest"]
            print(f"{name:8} {median:8.3f}  ({low:.3f} to {high:.3f})  {row['goal']}", flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return report


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench workers", description=__doc__)
    parser.add_argument("--only", type=names_of(MEASURES), default=list(MEASURES))
    parser.add_argument("--rounds", type=bounded(int, 1, 99), default=5)
    parser.add_argument("--scale", type=bounded(float, 0.01, 100), default=1.0)
    parser.add_argument("--json", type=Path, default=RESULTS / "workers.json")
    given = parser.parse_args(arguments)
    return program("workers", lambda: measure(given), given.json)
