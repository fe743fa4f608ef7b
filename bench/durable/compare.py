"""Messages per second and CPU time of servers that sync every message before its 250.

    python bench durable --profile 20x1KiB,200x1KiB --servers postfix,maildir --rounds 5

All servers are started once, each of them a second time on a disk whose flushes take 2 ms longer.
Each round sends every profile to every server, one server after the other and in turns; ratios to
Postfix are taken inside a round. CPU time is that of all processes of a server, from an idle server
to an idle server. Nothing is removed before the end. bench/README.md says how to read it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from durable.servers import PEER, SERVERS
from durable.tree import settled_cpu
from load import building, measuring
from load.measuring import (
    HOST,
    RUN_LIMIT,
    CannotRun,
    free_port,
    raise_limit_of_files,
    search_where_root_looks,
)
from load.reporting import (
    RESULTS,
    bounded,
    facts,
    names_of,
    output_of,
    print_facts,
    program,
    spread,
)

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build"
FLUSH_MICROSECONDS = 2000
FLUSHES, FLUSH_OCTETS = 200, 16384
STOP_LIMIT = 20.0  # seconds: Postfix has many processes


class Profile(NamedTuple):
    """One kind of load: messages of one sample, kept connections, octets of a message; is_slow: on
    the disk whose flushes take longer.
    """

    what: str
    times: int
    connections: int
    octets: int
    is_slow: bool = False


PROFILES = {
    "20x1KiB": Profile("1 KiB, 20 connections", 6000, 20, 1024),
    "200x1KiB": Profile("1 KiB, 200 connections", 8000, 200, 1024),
    "20x50KiB": Profile("50 KiB, 20 connections", 2000, 20, 51200),
    "20x1KiB+2ms": Profile("1 KiB, 20 connections, 2 ms more for a flush", 3000, 20, 1024, True),
    "200x1KiB+2ms": Profile("1 KiB, 200 connections, 2 ms more for a flush", 6000, 200, 1024, True),
    "20x50KiB+2ms": Profile("50 KiB, 20 connections, 2 ms more for a flush", 1500, 20, 51200, True),
}
# (server, profile) -> at least so many times Postfix's messages per second, and at most so much of
# its CPU time.
GOALS = {
    ("maildir", "20x1KiB"): (2.5, 0.30),
    ("maildir", "200x1KiB"): (2.5, 0.30),
    ("maildir", "20x50KiB"): (1.6, 0.42),
    ("maildir", "20x1KiB+2ms"): (1.5, None),
    ("maildir", "200x1KiB+2ms"): (1.5, None),
    ("maildir", "20x50KiB+2ms"): (1.5, None),
    ("spool", "20x1KiB"): (6.0, 0.10),
    ("spool", "200x1KiB"): (4.5, 0.10),
    ("spool", "20x50KiB"): (2.2, 0.20),
    ("spool", "20x1KiB+2ms"): (4.0, None),
    ("spool", "200x1KiB+2ms"): (4.0, None),
    ("spool", "20x50KiB+2ms"): (4.0, None),
    ("nats", "200x1KiB"): (4.0, None),
}

Cell = tuple[str, str]  # profile, server


class Sample(NamedTuple):
    """One server, one profile, one round. cpu: microseconds for a message; p99: milliseconds from
    the first octet of a message to its 250.
    """

    rate: float
    cpu: float
    p99: float


class Running(NamedTuple):
    pid: int
    port: int


@contextmanager
def running(name: str, directory: Path, environment: dict[str, str]) -> Iterator[Running]:
    """Run a server in a new directory. Raises CannotRun."""
    port = free_port()
    directory.mkdir()
    command = SERVERS[name].command(directory, port, environment)
    with measuring.running(
        command, port, stop_limit=STOP_LIMIT, env=os.environ | environment
    ) as process:
        yield Running(process.pid, port)


def slow_disk(directory: Path) -> dict[str, str]:
    """The environment of a server whose flushes take longer. Raises CannotRun."""
    shim = ("-shared", "-fPIC", "-ldl", "-lpthread")
    library = building.compiled("slow_flush.so", HERE / "slow_flush.c", flags=shim)
    (directory / "flushes").touch()
    (directory / "flushes").chmod(0o666)
    return {
        "LD_PRELOAD": str(library),
        "FLUSH_FILE": str(directory / "flushes"),
        "FLUSH_MICROSECONDS": str(FLUSH_MICROSECONDS),
    }


def flush_milliseconds(directory: Path) -> float:
    """Return how long the disk needs to sync a few pages, the median of many times."""
    times = []
    with (directory / "flush").open("wb", buffering=0) as file:
        for _ in range(FLUSHES):
            file.write(bytes(FLUSH_OCTETS))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def send(profile: Profile, count: int, port: int) -> dict[str, Any]:
    """Send messages, and return what the generator tells. Raises CannotRun."""
    numbers = {"port": port, "count": count, "octets": profile.octets}
    numbers["connections"] = profile.connections
    options = [f"--{name}={number}" for name, number in numbers.items()]
    command = [str(building.generator()), "--mode=wait", "--dot", f"--host={HOST}", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_LIMIT)
    if done.returncode != 0:
        raise CannotRun(f"the load has failed: {done.stderr.strip()}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def sample(profile: Profile, server: Running, share: float) -> Sample:
    count = max(2 * profile.connections, int(profile.times * share))
    before = settled_cpu(server.pid)
    told = send(profile, count, server.port)
    cpu = settled_cpu(server.pid) - before
    return Sample(count / told["seconds"], cpu / count * 1e6, told["p99_us"] / 1000)


@contextmanager
def field(given: argparse.Namespace, left_out: dict[str, str]) -> Iterator[dict[Cell, Running]]:
    """Start what the profiles need; whatever cannot be started is left out by name."""
    with ExitStack() as stack:
        place = Path(tempfile.mkdtemp(prefix="durable-", dir=BUILD))
        place.chmod(0o755)
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        started: dict[tuple[str, bool], Running] = {}
        for name in given.servers:
            for is_slow in sorted({PROFILES[each].is_slow for each in given.profile}):
                directory = place / f"{name}{'-slow' if is_slow else ''}"
                try:
                    environment = {}
                    if is_slow:
                        (place / f"{name}-disk").mkdir()
                        environment = slow_disk(place / f"{name}-disk")
                    server = stack.enter_context(running(name, directory, environment))
                    started[name, is_slow] = server
                except CannotRun as reason:
                    left_out[name] = str(reason)
                    print(f"left out: {name}: {reason}", flush=True)
        yield {
            (profile, name): started[name, PROFILES[profile].is_slow]
            for profile in given.profile
            for name in given.servers
            if (name, PROFILES[profile].is_slow) in started
        }


def rounds_of(given: argparse.Namespace, servers: dict[Cell, Running]) -> list[dict[Cell, Sample]]:
    """Warm up, and measure round by round, the servers in another order each time."""
    for (profile, _), server in servers.items():
        sample(PROFILES[profile], server, 0.1 * given.scale)
    rounds: list[dict[Cell, Sample]] = []
    for number in range(given.rounds):
        found = {}
        for profile in given.profile:
            names = [name for name in given.servers if (profile, name) in servers]
            at = number % max(1, len(names))
            for name in names[at:] + names[:at]:
                cell = profile, name
                found[cell] = sample(PROFILES[profile], servers[cell], given.scale)
        rounds.append(found)
        print(f"round {number + 1} of {given.rounds}", flush=True)
    return rounds


def summary(rounds: list[dict[Cell, Sample]]) -> dict[str, Any]:
    """Per profile and server: what was measured, and how it stands to Postfix."""
    found: dict[str, Any] = {}
    for profile, name in rounds[0]:
        cell, peer = (profile, name), (profile, PEER)
        row: dict[str, Any] = {
            key: spread([getattr(each[cell], key) for each in rounds]) for key in Sample._fields
        }
        if peer in rounds[0]:
            row["rate_ratio"] = spread([each[cell].rate / each[peer].rate for each in rounds])
            row["cpu_ratio"] = spread([each[cell].cpu / each[peer].cpu for each in rounds])
            row["goal"] = verdict(name, profile, row)
        place = found.setdefault(profile, {"what": PROFILES[profile].what, "servers": {}})
        place["servers"][name] = row
    return found


def verdict(name: str, profile: str, row: dict[str, Any]) -> dict[str, Any] | None:
    if (name, profile) not in GOALS:
        return None
    rate, cpu = GOALS[name, profile]
    met = row["rate_ratio"]["median"] >= rate
    met = met and (cpu is None or row["cpu_ratio"]["median"] <= cpu)
    return {"rate": rate, "cpu": cpu, "met": met}


def table(profiles: dict[str, Any]) -> str:
    """The same for people, in Markdown."""
    lines = [
        "| messages | server | messages/s | × Postfix | CPU µs | × Postfix | p99 ms | goal |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for profile in profiles.values():
        for name, row in profile["servers"].items():
            ratios = [row.get(key, {}).get("median") for key in ("rate_ratio", "cpu_ratio")]
            rate, cpu = ("" if each is None else f"{each:.2f}" for each in ratios)
            lines.append(
                f"| {profile['what']} | {name} | {row['rate']['median']:,.0f} | {rate} "
                f"| {row['cpu']['median']:.0f} | {cpu} | {row['p99']['median']:.1f} "
                f"| {told(row.get('goal'))} |"
            )
    return "\n".join(lines)


def told(goal: dict[str, Any] | None) -> str:
    if goal is None:
        return ""
    cpu = "" if goal["cpu"] is None else f", ≤ {goal['cpu']:.2f}"
    return f"≥ {goal['rate']:.1f}{cpu}: {'met' if goal['met'] else 'MISSED'}"


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run all of it, print it, and return what is written. Raises CannotRun."""
    search_where_root_looks()
    raise_limit_of_files()
    BUILD.mkdir(exist_ok=True)
    report = facts(0, 0)
    del report["cores"]  # nothing is pinned: a Postfix is many processes
    left_out: dict[str, str] = {}
    print_facts(report)
    with tempfile.TemporaryDirectory(dir=BUILD) as directory:
        report["flush_ms"] = flush_milliseconds(Path(directory))
    print(f"a flush takes {report['flush_ms']:.2f} ms", flush=True)
    with field(given, left_out) as servers:
        if not servers:
            raise CannotRun("nothing is left to be measured")
        rounds = rounds_of(given, servers)
    report["versions"]["postfix"] = output_of("postconf", "-dh", "mail_version") or "absent"
    report["rounds"] = len(rounds)
    report["left_out"] = left_out
    report["profiles"] = summary(rounds)
    report["samples"] = [
        {"round": number, "profile": profile, "server": name} | each._asdict()
        for number, found in enumerate(rounds, 1)
        for (profile, name), each in found.items()
    ]
    print(table(report["profiles"]))
    return report


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "bench durable", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--profile", type=names_of(PROFILES), default=list(PROFILES), help=", ".join(PROFILES))
    add("--servers", type=names_of(SERVERS), default=list(SERVERS), help=", ".join(SERVERS))
    add("--rounds", type=bounded(int, 1, 100), default=5, help="samples of each (5)")
    add("--scale", type=bounded(float, 0.01, 10), default=1.0, help="times the messages (1)")
    add("--json", type=Path, default=RESULTS / "durable.json", help="where every sample is written")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    return program("bench durable", lambda: measure(given), given.json)
