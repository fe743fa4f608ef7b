"""CPU time per message of servers under load: fastsmtp beside others, and beside the floor.

    python bench peers --profile keep,conn --servers floor,fastsmtp,smtp-sink --rounds 5

All servers are started once and stand on one core, the load on another one. Each round sends every
profile to each server that speaks it, one server after the other and in turns, so that whatever
else the machine does meets all of them; ratios are taken inside a round. A server or a profile that
cannot be run is left out by name. bench/README.md says how to read it.

It ends with status 2 and one line when it cannot run at all, and stops what it has started, however
it ends. A goal that is missed is printed, and is no error.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from load import certificates
from load.measuring import (
    RUN_LIMIT,
    CannotRun,
    Running,
    Sample,
    cores,
    load,
    raise_limit_of_files,
    sampled,
    search_where_root_looks,
    serving,
)
from load.reporting import RESULTS, bounded, facts, names_of, print_facts, program
from peers import goals
from peers.goals import Cell, Round
from peers.profiles import PROFILES, Profile
from peers.servers import SERVERS, versions_of_peers

Place = tuple[str, bool]  # a server, and whether it is inside of TLS


class Field:
    """What is running, and what is not, and why."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.server_core, self.client_core = cores()
        self.running: dict[Place, Running] = {}
        self.left_out: dict[str, str] = {}

    def leave_out(self, name: str, reason: object) -> None:
        if name not in self.left_out:
            self.left_out[name] = str(reason)
            print(f"left out: {name}: {reason}", flush=True)

    def places(self) -> list[Place]:
        """The servers that the profiles ask for, as often as they are needed."""
        wanted = [
            (server, PROFILES[name].tls)
            for name in self.given.profile
            for server in PROFILES[name].servers
            if server in self.given.servers
        ]
        return list(dict.fromkeys(wanted))

    def start(self, stack: ExitStack) -> None:
        """Start what can be started, each once."""
        # The last round may begin in the last second, and the warm-up before the first one.
        life = int(self.given.seconds + 2 * len(PROFILES) * len(SERVERS) * RUN_LIMIT)
        for server, tls in self.places():
            name = f"{server} with TLS" if tls else server
            try:
                command = SERVERS[server].command()
                if tls:
                    command.append(stack.enter_context(certificates.certificate()))
                context = certificates.client_context() if tls else None
                running = serving(command, self.server_core, life, context)
                self.running[server, tls] = stack.enter_context(running)
            except CannotRun as reason:
                self.leave_out(name, reason)

    def cells(self) -> Iterator[Cell]:
        """What is measured, in the order of the profiles."""
        for name in self.given.profile:
            profile = PROFILES[name]
            try:
                profile.command(1, 1)
            except CannotRun as reason:
                self.leave_out(name, reason)
                continue
            for server in profile.servers:
                running = self.running.get((server, profile.tls))
                if running is None:
                    continue
                if profile.keyword is None or profile.keyword in running.keywords:
                    yield name, server
                else:
                    self.leave_out(f"{server} of {name}", f"does not announce {profile.keyword}")

    def sample(self, cell: Cell, share: float = 1.0) -> Sample:
        """Send once. share: of what is sent for a sample."""
        profile, server = PROFILES[cell[0]], SERVERS[cell[1]]
        running = self.running[cell[1], profile.tls]
        count = profile.amount(self.given.scale * server.share * share)
        command = profile.command(count, running.port)
        return sampled(count * profile.per, running.pid, lambda: load(command, self.client_core))


def turned(cells: list[Cell], by: int) -> list[Cell]:
    """The same cells, the servers of each profile in another order for each round."""
    order = []
    for name in dict.fromkeys(profile for profile, _ in cells):
        own = [cell for cell in cells if cell[0] == name]
        at = by % len(own)
        order += own[at:] + own[:at]
    return order


def rounds_of(field: Field, cells: list[Cell]) -> list[Round]:
    """Warm up, and measure round by round; none begins behind the time that was given."""
    until = time.monotonic() + field.given.seconds
    for cell in cells:
        field.sample(cell, SERVERS[cell[1]].warm_up)
    print(f"warm, {len(cells)} samples in each round", flush=True)
    rounds: list[Round] = []
    while len(rounds) < field.given.rounds and time.monotonic() < until:
        rounds.append({cell: field.sample(cell) for cell in turned(cells, len(rounds))})
        print(f"round {len(rounds)} of {field.given.rounds}", flush=True)
    if not rounds:
        raise CannotRun(f"{field.given.seconds} s are over before the first round")
    return rounds


def summary(rounds: list[Round], cells: list[Cell]) -> dict[str, Any]:
    """Per profile, what it is and what each server costs."""
    found: dict[str, Any] = {}
    for name, server in cells:
        profile: Profile = PROFILES[name]
        place = found.setdefault(name, {"what": profile.what, "unit": profile.unit, "servers": {}})
        place["servers"][server] = goals.costs(rounds, (name, server))
    return found


def table(found: dict[str, Any]) -> str:
    """What each server costs, and how many times that of fastsmtp it is."""
    lines = []
    for name, profile in found.items():
        lines.append(f"\n{name}: {profile['what']}; µs of CPU time for one {profile['unit']}")
        own = profile["servers"].get("fastsmtp")
        for server, row in profile["servers"].items():
            line = f"  {server:12} {row['median']:10.1f}  {row['lowest']:10.1f} .. "
            line += f"{row['highest']:<10.1f}"
            line += f"  x {row['median'] / own['median']:7.3f}" if own else ""
            line += f"  system {row['system_share']:4.0%}  busy {row['busy']:4.0%}"
            lines.append(line)
    return "\n".join(lines)


def as_json(rounds: list[Round]) -> list[dict[str, Any]]:
    """Every sample."""
    return [
        {"round": number, "profile": name, "server": server, "amount": sample.amount}
        | {"wall_s": round(sample.wall, 3), "cpu_ns": sample.usage.cpu}
        | {"system_ns": sample.usage.system, "preempted": sample.usage.preempted}
        for number, samples in enumerate(rounds, 1)
        for (name, server), sample in samples.items()
    ]


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run all of it, print it, and return what is written. Raises CannotRun."""
    search_where_root_looks()
    raise_limit_of_files()
    field = Field(given)
    report = facts(field.server_core, field.client_core)
    print_facts(report)
    with ExitStack() as stack:
        field.start(stack)
        report["versions"] |= versions_of_peers()
        cells = list(field.cells())
        if not cells:
            raise CannotRun("nothing is left to be measured")
        rounds = rounds_of(field, cells)
    report["rounds"] = len(rounds)
    report["left_out"] = field.left_out
    report["profiles"] = summary(rounds, cells)
    report["goals"] = goals.compared(rounds)
    report["samples"] = as_json(rounds)
    print(table(report["profiles"]))
    print(f"\ngoals, the median of {len(rounds)} rounds:\n{goals.table(report['goals'])}")
    return report


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench peers", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--profile", type=names_of(PROFILES), default=list(PROFILES), help=", ".join(PROFILES))
    add("--servers", type=names_of(SERVERS), default=list(SERVERS), help=", ".join(SERVERS))
    add("--rounds", type=bounded(int, 1, 100), default=5, help="samples of each (5)")
    add("--scale", type=bounded(float, 0.01, 10), default=1.0, help="times the messages (1)")
    add("--seconds", type=bounded(int, 1, 7200), default=3600, help="no round begins behind these")
    add("--json", type=Path, default=RESULTS / "peers.json", help="where every sample is written")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    return program("bench peers", lambda: measure(given), given.json)
