"""What the programs beside this one share: CPU time of a server under load, in interleaved rounds.

Servers stand on one core, the load on another one. Each round sends the same to each server, one
server after the other and in turns, so that whatever else the machine does meets all of them. Linux
only. What is started is stopped, however a run ends.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
HOST = "127.0.0.1"

START_LIMIT = 15.0  # seconds until a server greets
RUN_LIMIT = 120.0  # seconds for one run of a load; the longest takes a few
STOP_LIMIT = 5.0  # seconds from SIGTERM to SIGKILL
QUIET = 0.02  # seconds nearly without CPU time after which a server has done all its work


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
    amount: int  # of messages, or whatever else was sent
    wall: float  # seconds of the load, the start of its program included
    usage: Usage

    @property
    def cost(self) -> float:
        """Microseconds of CPU time for one."""
        return self.usage.cpu / self.amount / 1000


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
    """The usage of a server that has nothing left to do: the load may end before it does."""
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


def greets(process: subprocess.Popen[bytes], port: int, tls: ssl.SSLContext | None) -> bool:
    """Wait until something greets at `port`, inside of TLS if need be; False when the process has
    ended before.
    """
    deadline = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((HOST, port), 1.0) as client:
            client.settimeout(START_LIMIT)
            with client if tls is None else tls.wrap_socket(client) as inside:
                if inside.recv(512).startswith(b"220 "):
                    inside.sendall(b"QUIT\r\n")
                    while inside.recv(512):
                        pass
                    return True
        time.sleep(0.05)
    return False


@contextmanager
def serving(
    name: str, command: list[str], core: int, life: int, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[int, int]]:
    """Run a server, as (process id, port); PORT in `command` becomes the port. One that is free may
    be taken in the next moment, so there is a second and a third try.
    """
    for _ in range(3):
        port = free_port()
        process = start([part.replace("PORT", str(port)) for part in command], core, life)
        try:
            if greets(process, port, tls):
                yield process.pid, port
                return
        finally:
            stop(process)
    raise CannotRun(f"{name} does not start: {' '.join(command)}")


def load(command: list[str], core: int) -> float:
    """Run a program that sends, and return the seconds that it took. Raises CannotRun when it
    fails, or takes too long.
    """
    name = Path(command[0]).name
    began = time.monotonic()
    process = start(command, core, int(RUN_LIMIT) + 5)
    try:
        status = process.wait(RUN_LIMIT)
    except subprocess.TimeoutExpired:
        raise CannotRun(f"{name} takes more than {RUN_LIMIT:.0f} s") from None
    finally:
        stop(process)
    if status != 0:
        raise CannotRun(f"{name} ended with status {status}: {' '.join(command)}")
    return time.monotonic() - began


# Rounds.


def sampled(server: str, count: int, pid: int, send: Callable[[], float]) -> Sample:
    """What `send` costs the server of that process id."""
    before = settled_usage(pid)
    wall = send()
    return Sample(server, count, wall, settled_usage(pid).since(before))


def interleaved(
    sample: Callable[[str, int], Sample],
    servers: list[str],
    count: int,
    warm_up: int,
    rounds: int,
    until: float,
) -> list[list[Sample]]:
    """One list of samples per round; the order of the servers changes from round to round. until:
    no round begins behind that moment.
    """
    if time.monotonic() >= until:
        return []
    for name in servers:
        sample(name, warm_up)
    samples: list[list[Sample]] = []
    order = list(servers)
    while len(samples) < rounds and time.monotonic() < until:
        samples.append([sample(name, count) for name in order])
        order.append(order.pop(0))
    return samples


def shares(samples: list[Sample]) -> dict[str, float]:
    """How much of the time was the system's, and how much of its core a server has used."""
    return {
        "system_share": median(sample.usage.system / sample.usage.cpu for sample in samples),
        "busy": median(sample.usage.cpu / sample.wall / 1e9 for sample in samples),
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "lowest": min(values), "highest": max(values)}


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
        "openssl": ssl.OPENSSL_VERSION.split()[1],
        "postfix": output_of("postconf", "-h", "mail_version") or "unknown",
    }


def facts(server_core: int, client_core: int) -> dict[str, Any]:
    """The beginning of a report, which is printed too."""
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine() | {"load_before": os.getloadavg()[0]},
        "versions": versions(),
        "cores": {"servers": server_core, "client": client_core},
        "profiles": {},
    }
    for part in (report["machine"], report["versions"]):
        print(", ".join(f"{name} {fact}" for name, fact in part.items()))
    return report


def as_json(rounds: list[list[Sample]], what: str = "messages") -> list[dict[str, Any]]:
    """Every sample; what: the name of what was counted."""
    return [
        {"round": number, "server": sample.server, what: sample.amount}
        | {"wall_s": round(sample.wall, 3), "cpu_ns": sample.usage.cpu}
        | {"system_ns": sample.usage.system, "preempted": sample.usage.preempted}
        for number, samples in enumerate(rounds, 1)
        for sample in samples
    ]


# A program.


def cores() -> tuple[int, int]:
    """Return the cores for servers and client; raises CannotRun."""
    if sys.platform != "linux":
        raise CannotRun("needs Linux: processes are pinned, and their CPU time is read from /proc")
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        raise CannotRun("needs two cores: on one, client and server would measure each other")
    return found[0], found[1]


def program(name: str, measure: Callable[[], dict[str, Any]], written: Path) -> int:
    """Measure, write the report as JSON, and return the status to end with."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Out by way of every `finally`.
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        report = measure()
    except CannotRun as reason:
        print(f"{name}: {reason}", file=sys.stderr)
        return 2
    report["machine"]["load_after"] = os.getloadavg()[0]
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(json.dumps(report, indent=1) + "\n")
    return 0


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
