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
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
HOST = "127.0.0.1"
YARDSTICK = "smtp-sink"

START_LIMIT = 15.0  # seconds until a server greets
RUN_LIMIT = 120.0  # seconds for one run of smtp-source; the longest takes a few
STOP_LIMIT = 5.0  # seconds from SIGTERM to SIGKILL
QUIET = 0.02  # seconds nearly without CPU time after which a server has done all its work
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


class CannotRun(Exception):
    """Something that a run needs is not here, or has failed."""


class Usage(NamedTuple):
    """What a process has used since it began."""

    cpu: int  # nanoseconds, user and system, all threads
    system: int  # of those, as far as the clock tick can tell
    preempted: int  # times that it had to give up its core: how busy the machine was

    def since(self, before: Usage) -> Usage:
        return Usage(*(now - then for now, then in zip(self, before, strict=True)))


class Sample(NamedTuple):
    """One server, one round."""

    server: str
    messages: int
    wall: float  # seconds of the load, the start of smtp-source included
    usage: Usage

    @property
    def cost(self) -> float:
        """Microseconds of CPU time per message."""
        return self.usage.cpu / self.messages / 1000


def usage_of(pid: int) -> Usage:
    """Read the scheduler's own count, in nanoseconds: the tick is too coarse, and is used for the
    share of the system only. Raises FileNotFoundError when there is no such process.
    """
    process = Path(f"/proc/{pid}")
    threads = [task / "schedstat" for task in (process / "task").iterdir()]
    cpu = sum(int(thread.read_text().split()[0]) for thread in threads)
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])
    status = (process / "status").read_text()
    preempted = int(status.partition("nonvoluntary_ctxt_switches:")[2].split()[0])
    return Usage(cpu, cpu * system // max(1, user + system), preempted)


def settled_usage(pid: int) -> Usage:
    """The usage of a server that has nothing left to do: smtp-source may end before it does."""
    now = usage_of(pid)
    deadline = time.monotonic() + STOP_LIMIT
    while time.monotonic() < deadline:
        time.sleep(QUIET)
        before, now = now, usage_of(pid)
        if now.cpu - before.cpu < QUIET * 1e9 / 100:
            break
    return now


# Processes.


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def start(command: list[str], core: int, life: int) -> subprocess.Popen[bytes]:
    """Start a process on `core`. life: seconds after which it ends even if we were killed."""

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        signal.alarm(life)  # it outlives exec, unlike anything that needs us

    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, preexec_fn=prepare
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def greets(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until something greets at `port`; False when the process has ended before."""
    deadline = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((HOST, port), 1.0) as client:
            client.settimeout(START_LIMIT)
            if client.recv(512).startswith(b"220 "):
                client.sendall(b"QUIT\r\n")
                while client.recv(512):
                    pass
                return True
        time.sleep(0.05)
    return False


@contextmanager
def serving(name: str, core: int, life: int) -> Iterator[tuple[int, int]]:
    """Run a server, as (process id, port). A port that is free may be taken in the next moment, so
    there is a second and a third try.
    """
    command = SERVERS[name]
    if name == YARDSTICK and os.geteuid() == 0:
        command = [command[0], "-u", "nobody", *command[1:]]
    for _ in range(3):
        port = free_port()
        process = start([part.replace("PORT", str(port)) for part in command], core, life)
        try:
            if greets(process, port):
                yield process.pid, port
                return
        finally:
            stop(process)
    raise CannotRun(f"{name} does not start: {' '.join(command)}")


def send(profile: Profile, messages: int, port: int, core: int) -> float:
    """Send messages, and return the seconds that it took. smtp-source ends with an error when a
    reply is not what it should be.
    """
    addresses = ["-M", "client.example", "-f", "a@x.example", "-t", "b@y.example"]
    command = ["smtp-source", "-4", *profile.arguments(), "-m", str(messages), *addresses]
    began = time.monotonic()
    process = start([*command, f"inet:{HOST}:{port}"], core, int(RUN_LIMIT) + 5)
    try:
        status = process.wait(RUN_LIMIT)
    except subprocess.TimeoutExpired:
        raise CannotRun(f"smtp-source takes more than {RUN_LIMIT:.0f} s") from None
    finally:
        stop(process)
    if status != 0:
        raise CannotRun(f"smtp-source ended with status {status}: {' '.join(command)}")
    return time.monotonic() - began


# A run.


class Bench:
    """Servers that are running, and the two cores. until: no round begins behind that moment."""

    def __init__(self, servers: dict[str, tuple[int, int]], client_core: int, until: float) -> None:
        self.servers = servers
        self.client_core = client_core
        self.until = until

    def run(self, profile: Profile, messages: int, rounds: int) -> list[list[Sample]]:
        """One list of samples per round; the order of the servers changes from round to round."""
        if time.monotonic() >= self.until:
            return []
        for name in self.servers:
            self.sample(name, profile, max(profile.connections, messages // 10))
        samples: list[list[Sample]] = []
        order = list(self.servers)
        while len(samples) < rounds and time.monotonic() < self.until:
            samples.append([self.sample(name, profile, messages) for name in order])
            order.append(order.pop(0))
        return samples

    def sample(self, name: str, profile: Profile, messages: int) -> Sample:
        pid, port = self.servers[name]
        before = settled_usage(pid)
        wall = send(profile, messages, port, self.client_core)
        return Sample(name, messages, wall, settled_usage(pid).since(before))


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "lowest": min(values), "highest": max(values)}


def summary(rounds: list[list[Sample]], goal: float | None) -> dict[str, Any]:
    """Per server: microseconds per message, and their ratio to those of smtp-sink."""
    found: dict[str, Any] = {}
    for name in sorted({sample.server for sample in chain(*rounds)}):
        own = [sample for sample in chain(*rounds) if sample.server == name]
        found[name] = {
            "us_per_message": spread([sample.cost for sample in own]),
            "system_share": median(sample.usage.system / sample.usage.cpu for sample in own),
            "busy": median(sample.usage.cpu / sample.wall / 1e9 for sample in own),
        }
    if YARDSTICK in found:
        for name in found:
            found[name]["ratio"] = spread([ratio(samples, name) for samples in rounds])
        if goal is not None and "fastsmtp" in found:
            found["fastsmtp"]["goal"] = goal
    return found


def ratio(samples: list[Sample], name: str) -> float:
    cost = {sample.server: sample.cost for sample in samples}
    return cost[name] / cost[YARDSTICK]


# What is printed and written.


def output_of(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, cwd=HERE)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def machine() -> dict[str, Any]:
    """The machine as far as it matters here: no name and no path of it."""
    processor = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line for line in lines if line.startswith("model name")), "")
    return {
        "processor": processor.partition(":")[2].strip() or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    commit = output_of("git", "describe", "--always", "--dirty", "--abbrev=12")
    flags = sysconfig.get_config_var("CONFIG_ARGS") or ""
    return {
        "fastsmtp": metadata.version("fastsmtp"),
        "commit": commit or "unknown",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        # An interpreter without profile-guided optimisation is slower, often by a tenth.
        "optimized": "yes" if "--enable-optimizations" in flags else "no",
        "uvloop": metadata.version("uvloop"),
        "postfix": output_of("postconf", "-h", "mail_version") or "unknown",
    }


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
    return "\n".join(lines) + f"   ({len(rounds)} x {rounds[0][0].messages} messages)"


def as_json(rounds: list[list[Sample]]) -> list[dict[str, Any]]:
    return [
        {"round": number, "server": sample.server, "messages": sample.messages}
        | {"wall_s": round(sample.wall, 3), "cpu_ns": sample.usage.cpu}
        | {"system_ns": sample.usage.system, "preempted": sample.usage.preempted}
        for number, samples in enumerate(rounds, 1)
        for sample in samples
    ]


def check_tools(servers: list[str]) -> tuple[int, int]:
    """Return the cores for servers and client; raises CannotRun."""
    if sys.platform != "linux":
        raise CannotRun("needs Linux: processes are pinned, and their CPU time is read from /proc")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise CannotRun("needs two cores: on one, client and server would measure each other")
    tools = ["smtp-source"] + [YARDSTICK] * (YARDSTICK in servers)
    # Debian keeps them where only root looks.
    os.environ["PATH"] += os.pathsep + os.pathsep.join(["/usr/sbin", "/usr/local/sbin"])
    for tool in tools:
        if shutil.which(tool) is None:
            raise CannotRun(f"needs {tool}, which comes with Postfix (Debian: apt install postfix)")
    return cores[0], cores[1]


def names_of(known: dict[str, Any]) -> Any:
    def names(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return found

    return names


def bounded(kind: type, lowest: float, highest: float) -> Any:
    def number(text: str) -> Any:
        value = kind(text)
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"takes {lowest} to {highest}")
        return value

    return number


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
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Out by way of every `finally`.
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        report = measure(given)
    except CannotRun as reason:
        print(f"bench/load/run.py: {reason}", file=sys.stderr)
        return 2
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run all of it, print as it goes, and return what is written. Raises CannotRun."""
    server_core, client_core = check_tools(given.servers)
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine() | {"load_before": os.getloadavg()[0]},
        "versions": versions(),
        "cores": {"servers": server_core, "client": client_core},
        "profiles": {},
    }
    for facts in (report["machine"], report["versions"]):
        print(", ".join(f"{name} {fact}" for name, fact in facts.items()))
    # The last round may begin in the last second, and one warm-up before it.
    life = int(given.seconds + 2 * len(given.servers) * RUN_LIMIT)
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(serving(name, server_core, life)) for name in given.servers
        }
        bench = Bench(running, client_core, time.monotonic() + given.seconds)
        for name in given.profile:
            profile = PROFILES[name]
            messages = max(profile.connections, int(profile.messages * given.scale))
            rounds = bench.run(profile, messages, given.rounds)
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
    report["machine"]["load_after"] = os.getloadavg()[0]
    return report


if __name__ == "__main__":
    sys.exit(main())
