"""CPU time per message of a server under load: fastsmtp beside Postfix's smtp-sink.

    python bench/load/run.py --profile keep,conn,mid,big --rounds 5

Servers stand on one core, smtp-source on another one. Each round sends the same messages to each
server, one server after the other and in turns, so that whatever else the machine does meets all of
them. Printed is the median over the rounds with the lowest and the highest one; a ratio is taken
inside a round. Every sample is written as JSON. bench/README.md says what this does not measure.

Linux only. It ends with status 2 and one line when something that it needs is missing, and it stops
what it has started, however it ends.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from measuring import (
    HERE,
    HOST,
    RESULTS,
    RUN_LIMIT,
    CannotRun,
    Sample,
    as_json,
    bounded,
    cores,
    facts,
    interleaved,
    load,
    names_of,
    program,
    sampled,
    serving,
    shares,
    spread,
)

YARDSTICK = "smtp-sink"
BACKLOG = 1024  # as fastsmtp's


class Profile(NamedTuple):
    """One kind of load. octets: of the body without its header. goal: the ratio to smtp-sink that
    is asked for, None where none is.
    """

    messages: int  # of one sample
    connections: int
    octets: int
    kept: bool  # one connection for all messages, or one for each
    goal: float | None

    def arguments(self) -> list[str]:
        """The options of smtp-source. It greets with HELO, and waits for each reply."""
        kept = ["-d"] if self.kept else []
        return [*kept, "-s", str(self.connections), "-l", str(self.octets)]


PROFILES = {
    "keep": Profile(20_000, 20, 1024, True, 1.3),
    "conn": Profile(6_000, 20, 1024, False, None),
    "mid": Profile(6_000, 20, 50 * 1024, True, None),
    "big": Profile(400, 4, 1024 * 1024, True, 0.3),
}

SERVE = [sys.executable, str(HERE / "serve.py"), "PORT"]
SERVERS = {
    "fastsmtp": SERVE,
    "coroutine": [*SERVE, "coroutine"],  # fastsmtp with a Task for each hook
    "floor": [*SERVE, "floor"],  # the event loop without an engine
    YARDSTICK: ["smtp-sink", "-4", f"{HOST}:PORT", str(BACKLOG)],
}


def command_of(name: str) -> list[str]:
    """How a server is started."""
    command = SERVERS[name]
    if name == YARDSTICK and os.geteuid() == 0:
        return [command[0], "-u", "nobody", *command[1:]]
    return command


def send(profile: Profile, messages: int, port: int, core: int) -> float:
    """Send messages, and return the seconds that it took. smtp-source ends with an error when a
    reply is not what it should be.
    """
    addresses = ["-M", "client.example", "-f", "a@x.example", "-t", "b@y.example"]
    command = ["smtp-source", "-4", *profile.arguments(), "-m", str(messages), *addresses]
    return load([*command, f"inet:{HOST}:{port}"], core)


def summary(rounds: list[list[Sample]], goal: float | None) -> dict[str, Any]:
    """Per server: microseconds per message, and their ratio to those of smtp-sink."""
    found: dict[str, Any] = {}
    for name in sorted({sample.server for sample in chain(*rounds)}):
        own = [sample for sample in chain(*rounds) if sample.server == name]
        found[name] = {
            "us_per_message": spread([sample.cost for sample in own]),
        } | shares(own)
    if YARDSTICK in found:
        for name in found:
            found[name]["ratio"] = spread([ratio(samples, name) for samples in rounds])
        if goal is not None and "fastsmtp" in found:
            found["fastsmtp"]["goal"] = goal
    return found


def ratio(samples: list[Sample], name: str) -> float:
    cost = {sample.server: sample.cost for sample in samples}
    return cost[name] / cost[YARDSTICK]


def table(name: str, rounds: list[list[Sample]], found: dict[str, Any]) -> str:
    lines = []
    for server, row in found.items():
        cost, times = row["us_per_message"], row.get("ratio")
        line = f"{name:5} {server:10} {cost['median']:8.1f} µs"
        line += f"  {cost['lowest']:7.1f} .. {cost['highest']:<7.1f}"
        if times is not None:
            line += f"  x {times['median']:5.3f}"
            line += f"  {times['lowest']:5.3f} .. {times['highest']:<5.3f}"
        if "goal" in row:
            line += f"  goal {row['goal']}: {'met' if times['median'] <= row['goal'] else 'missed'}"
        lines.append(line)
    return "\n".join(lines) + f"   ({len(rounds)} x {rounds[0][0].amount} messages)"


def check_tools(servers: list[str]) -> tuple[int, int]:
    """Return the cores for servers and client; raises CannotRun."""
    both = cores()
    tools = ["smtp-source"] + [YARDSTICK] * (YARDSTICK in servers)
    # Debian keeps them where only root looks.
    os.environ["PATH"] += os.pathsep + os.pathsep.join(["/usr/sbin", "/usr/local/sbin"])
    for tool in tools:
        if shutil.which(tool) is None:
            raise CannotRun(f"needs {tool}, which comes with Postfix (Debian: apt install postfix)")
    return both


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--profile", type=names_of(PROFILES), default=list(PROFILES), help=", ".join(PROFILES))
    add(
        "--servers",
        type=names_of(SERVERS),
        default=["fastsmtp", YARDSTICK],
        help=", ".join(SERVERS),
    )
    add("--rounds", type=bounded(int, 1, 100), default=5, help="samples per server and profile")
    add("--scale", type=bounded(float, 0.01, 10), default=1.0, help="times the messages of each")
    add("--seconds", type=bounded(int, 1, 3600), default=600, help="no round begins behind these")
    add("--json", type=Path, default=RESULTS / "load.json", help="where every sample is written")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    return program("bench/load/run.py", lambda: measure(given), given.json)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run all of it, print as it goes, and return what is written. Raises CannotRun."""
    server_core, client_core = check_tools(given.servers)
    report = facts(server_core, client_core)
    # The last round may begin in the last second, and one warm-up before it.
    life = int(given.seconds + 2 * len(given.servers) * RUN_LIMIT)
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(serving(name, command_of(name), server_core, life))
            for name in given.servers
        }
        until = time.monotonic() + given.seconds
        for name in given.profile:
            profile = PROFILES[name]
            messages = max(profile.connections, int(profile.messages * given.scale))

            def sample(server: str, count: int, profile: Profile = profile) -> Sample:
                pid, port = running[server]
                return sampled(server, count, pid, lambda: send(profile, count, port, client_core))

            warm_up = max(profile.connections, messages // 10)
            rounds = interleaved(sample, given.servers, messages, warm_up, given.rounds, until)
            if not rounds:
                print(f"{name:5} left out: {given.seconds} s are over")
                continue
            found = summary(rounds, profile.goal)
            print(table(name, rounds, found), flush=True)
            report["profiles"][name] = {
                **profile._asdict(),
                "summary": found,
                "samples": as_json(rounds),
            }
    return report


if __name__ == "__main__":
    sys.exit(main())
