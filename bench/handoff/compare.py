"""CPU time of a gateway that hands mail over before the 250, beside the engine alone.

    python bench handoff --stores postgres --profile 20x1KiB,200x1KiB --rounds 7

Each round sends every profile to the engine alone and to each gateway, in turns; ratios are taken
inside a round. CPU time is that of the gateway; what the store uses is not counted. bench/README.md
says how to read it.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from handoff.stores import STORES
from load import building
from load.measuring import HOST, CannotRun, Running, cores, load, sampled, serving
from load.reporting import RESULTS, bounded, facts, names_of, print_facts, program, spread

HERE = Path(__file__).parent
ENGINE = "keep"
LIFE = 3600  # seconds, after which a server ends whatever happens


class Profile(NamedTuple):
    """One kind of load: messages of one sample, kept connections, octets of a message."""

    what: str
    times: int
    connections: int
    octets: int


PROFILES = {
    "20x1KiB": Profile("1 KiB, 20 connections", 10_000, 20, 1024),
    "200x1KiB": Profile("1 KiB, 200 connections", 20_000, 200, 1024),
    "20x50KiB": Profile("50 KiB, 20 connections", 2000, 20, 51200),
}
JUDGED = "200x1KiB"

Cell = tuple[str, str]  # profile, server


class Sample(NamedTuple):
    """One server, one profile, one round. cpu: microseconds for a message."""

    rate: float
    cpu: float


def send(profile: Profile, count: int, port: int, core: int) -> float:
    numbers = {"port": port, "count": count, "octets": profile.octets}
    numbers["connections"] = profile.connections
    options = [f"--{name}={number}" for name, number in numbers.items()]
    generator = [str(building.generator()), "--mode=wait", "--dot", f"--host={HOST}"]
    return load([*generator, *options], core)


def sample(profile: Profile, running: Running, core: int, scale: float) -> Sample:
    count = max(2 * profile.connections, int(profile.times * scale))
    took = sampled(count, running.process.pid, lambda: send(profile, count, running.port, core))
    return Sample(count / took.wall, took.cost)


def rounds_of(
    given: argparse.Namespace, servers: dict[str, Running], core: int
) -> list[dict[Cell, Sample]]:
    """Warm up, and measure round by round, the servers in another order each time."""
    rounds: list[dict[Cell, Sample]] = []
    for number in range(given.rounds + 1):
        found = {}
        for name in given.profile:
            scale = given.scale if number else 0.2 * given.scale
            at = number % len(servers)
            for server in [*servers][at:] + [*servers][:at]:
                found[name, server] = sample(PROFILES[name], servers[server], core, scale)
        if number:
            rounds.append(found)
            print(f"round {number} of {given.rounds}", flush=True)
    return rounds


def summary(rounds: list[dict[Cell, Sample]]) -> dict[str, Any]:
    """Per profile and server: what was measured, and how it stands to the engine alone."""
    found: dict[str, Any] = {}
    for profile, name in rounds[0]:
        row: dict[str, Any] = {
            key: spread([getattr(each[profile, name], key) for each in rounds])
            for key in Sample._fields
        }
        row["ratio"] = spread(
            [each[profile, name].cpu / each[profile, ENGINE].cpu for each in rounds]
        )
        if name in STORES and profile == JUDGED:
            goal = STORES[name].goal
            row["goal"] = {"ratio": goal, "met": row["ratio"]["median"] <= goal}
        place = found.setdefault(profile, {"what": PROFILES[profile].what, "servers": {}})
        place["servers"][name] = row
    return found


def table(profiles: dict[str, Any]) -> str:
    """The same for people, in Markdown."""
    lines = [
        "| messages | server | messages/s | CPU µs | × engine | goal |",
        "|---|---|--:|--:|--:|---|",
    ]
    for profile in profiles.values():
        for name, row in profile["servers"].items():
            goal = row.get("goal")
            told = "" if goal is None else f"≤ {goal['ratio']}: {_met(goal['met'])}"
            lines.append(
                f"| {profile['what']} | {name} | {row['rate']['median']:,.0f} "
                f"| {row['cpu']['median']:.1f} | {row['ratio']['median']:.2f} | {told} |"
            )
    return "\n".join(lines)


def _met(met: bool) -> str:
    return "met" if met else "MISSED"


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run all of it, print it, and return what is written. Raises CannotRun."""
    server_core, client_core = cores()
    report = facts(server_core, client_core)
    left_out: dict[str, str] = {}
    print_facts(report)
    with ExitStack() as stack:
        urls = {ENGINE: ""}
        for name in given.stores:
            try:
                urls[name] = stack.enter_context(STORES[name].run())
            except CannotRun as reason:
                left_out[name] = str(reason)
                print(f"left out: {name}: {reason}", flush=True)
        servers = {
            name: stack.enter_context(
                serving(
                    [sys.executable, str(HERE / "serve.py"), "PORT", name, url], server_core, LIFE
                )
            )
            for name, url in urls.items()
        }
        rounds = rounds_of(given, servers, client_core)
    report["rounds"] = len(rounds)
    report["left_out"] = left_out
    report["profiles"] = summary(rounds)
    print(table(report["profiles"]))
    return report


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "bench handoff", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--profile", type=names_of(PROFILES), default=list(PROFILES), help=", ".join(PROFILES))
    add("--stores", type=names_of(STORES), default=list(STORES), help=", ".join(STORES))
    add("--rounds", type=bounded(int, 1, 100), default=7, help="samples of each (7)")
    add("--scale", type=bounded(float, 0.01, 10), default=1.0, help="times the messages (1)")
    add("--json", type=Path, default=RESULTS / "handoff.json", help="where samples are written")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    return program("bench handoff", lambda: measure(given), given.json)
