"""CPU time of a gateway that hands mail over before the 250, beside the engine or another gateway.

    python bench handoff --stores postgres --profile 20x1KiB,200x1KiB --rounds 7

Each round sends every profile to each gateway and to what it is compared with, in turns; ratios are
taken inside a round. CPU time is that of the gateway, of all processes if it has several; what the
other side uses is not counted. bench/README.md says how to read it.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from handoff.peers import PEERS, Server
from handoff.stores import LIFE, STORES
from load import building
from load.measuring import HOST, CannotRun, cores, load, serving, settled_usage
from load.reporting import RESULTS, bounded, facts, names_of, print_facts, program, spread

HERE = Path(__file__).parent


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
    "200x50KiB": Profile("50 KiB, 200 connections", 2000, 200, 51200),
}

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


def sample(profile: Profile, server: Server, core: int, scale: float) -> Sample:
    count = max(2 * profile.connections, int(profile.times * scale))
    before = server.cpu()
    wall = send(profile, count, server.port, core)
    return Sample(count / wall, (server.cpu() - before) / count * 1e6)


def rounds_of(
    given: argparse.Namespace, servers: dict[str, Server], core: int
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
    """Per profile and server: what was measured, and how it stands to what it is compared with."""
    found: dict[str, Any] = {}
    for profile, name in rounds[0]:
        row: dict[str, Any] = {
            key: spread([getattr(each[profile, name], key) for each in rounds])
            for key in Sample._fields
        }
        store = STORES.get(name)
        if store is not None and (profile, store.beside) in rounds[0]:
            row["beside"] = store.beside
            row["ratio"] = spread(
                [each[profile, name].cpu / each[profile, store.beside].cpu for each in rounds]
            )
            if profile in store.judged:
                row["goal"] = {
                    "ratio": store.goal,
                    "met": row["ratio"]["median"] <= store.goal,
                }
        place = found.setdefault(profile, {"what": PROFILES[profile].what, "servers": {}})
        place["servers"][name] = row
    return found


def table(profiles: dict[str, Any]) -> str:
    """The same for people, in Markdown."""
    lines = [
        "| messages | server | messages/s | CPU µs | ratio | goal |",
        "|---|---|--:|--:|--:|---|",
    ]
    for profile in profiles.values():
        for name, row in profile["servers"].items():
            goal = row.get("goal")
            told = "" if goal is None else f"≤ {goal['ratio']}: {_met(goal['met'])}"
            ratio = f"{row['ratio']['median']:.2f} × {row['beside']}" if "ratio" in row else ""
            lines.append(
                f"| {profile['what']} | {name} | {row['rate']['median']:,.0f} "
                f"| {row['cpu']['median']:.1f} | {ratio} | {told} |"
            )
    return "\n".join(lines)


def _met(met: bool) -> str:
    return "met" if met else "MISSED"


def gateway(name: str, url: str, stack: ExitStack, core: int) -> Server:
    """Start one of ours."""
    command = [sys.executable, str(HERE / "serve.py"), "PORT", name, url]
    running = stack.enter_context(serving(command, core, LIFE))
    return Server(running.port, lambda: settled_usage(running.pid).cpu / 1e9)


def started(
    stores: list[str], stack: ExitStack, of: tuple[int, int], left_out: dict[str, str]
) -> dict[str, Server]:
    """Start each store, its gateway, and what that is compared with; whatever cannot be started is
    left out by name. of: the cores of the gateways and of the load.
    """
    servers: dict[str, Server] = {}
    for name in stores:
        beside = STORES[name].beside
        try:
            url = stack.enter_context(STORES[name].run(of[1]))
            if beside not in servers:
                servers[beside] = (
                    stack.enter_context(PEERS[beside](url, of[0]))
                    if beside in PEERS
                    else gateway(beside, "", stack, of[0])
                )
            servers[name] = gateway(name, url, stack, of[0])
        except CannotRun as reason:
            left_out[name] = str(reason)
            print(f"left out: {name}: {reason}", flush=True)
    if not servers:
        raise CannotRun("nothing is left to be measured")
    return servers


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run all of it, print it, and return what is written. Raises CannotRun."""
    server_core, client_core = cores()
    report = facts(server_core, client_core)
    left_out: dict[str, str] = {}
    print_facts(report)
    with ExitStack() as stack:
        servers = started(given.stores, stack, (server_core, client_core), left_out)
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
