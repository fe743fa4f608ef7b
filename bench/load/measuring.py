"""CPU time of a server under load: processes that are started, pinned, watched and stopped.

Servers stand on one core, the load on another one. Linux only. What is started is stopped, however
a run ends, and an alarm in each process ends it when we were killed.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

HOST = "127.0.0.1"

START_LIMIT = 15.0  # seconds until a server greets
RUN_LIMIT = 120.0  # seconds for one run of a load; the longest takes a few
STOP_LIMIT = 5.0  # seconds from SIGTERM to SIGKILL, and until a server has done all its work
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
    """One server, one profile, one round."""

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
    """The usage of a server that has nothing left to do."""
    return settled(lambda: usage_of(pid), lambda usage: usage.cpu / 1e9, QUIET, QUIET / 100)


def settled(read: Callable[[], T], cpu: Callable[[T], float], pause: float, idle: float) -> T:
    """Return what `read` does when a server has done its work: the load may end before it does.

    cpu: seconds of CPU time in a reading; less than `idle` in a `pause` is the end.
    """
    now = read()
    deadline = time.monotonic() + STOP_LIMIT
    while time.monotonic() < deadline:
        time.sleep(pause)
        before, now = now, read()
        if cpu(now) - cpu(before) < idle:
            break
    return now


def sampled(amount: int, pid: int, send: Callable[[], float]) -> Sample:
    """What `send` costs the server of that process id."""
    before = settled_usage(pid)
    wall = send()
    return Sample(amount, wall, settled_usage(pid).since(before))


# The machine.


def cores() -> tuple[int, int]:
    """Return the cores for servers and client; raises CannotRun."""
    if sys.platform != "linux":
        raise CannotRun("needs Linux: processes are pinned, and their CPU time is read from /proc")
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        raise CannotRun("needs two cores: on one, client and server would measure each other")
    return found[0], found[1]


def raise_limit_of_files() -> int:
    """Let this process and its children open as many files as the system lets them; how many?"""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, 65536), max(hard, 65536)))
        return max(hard, 65536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def search_where_root_looks() -> None:
    """Debian keeps Postfix's tools where only root looks."""
    os.environ["PATH"] += os.pathsep + os.pathsep.join(["/usr/sbin", "/usr/local/sbin"])


# Processes.


def free_port() -> int:
    """Return a port below those that the system gives to clients, so that none of them takes it."""
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


def start(
    command: list[str], core: int, life: int, *, talks: bool = False
) -> subprocess.Popen[bytes]:
    """Start a process on `core`. life: seconds after which it ends even if we were killed. talks:
    its standard input and output are pipes of ours.
    """

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        signal.alarm(life)  # it outlives exec, unlike anything that needs us

    where = subprocess.PIPE if talks else subprocess.DEVNULL
    return subprocess.Popen(command, stdin=where, stdout=where, preexec_fn=prepare)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


class Running(NamedTuple):
    """A server that has greeted. keywords: what its answer to EHLO announces."""

    process: subprocess.Popen[bytes]
    port: int
    keywords: frozenset[str]

    @property
    def pid(self) -> int:
        return self.process.pid


def reply_of(client: socket.socket) -> list[str]:
    """The lines of one reply, an empty list at the end of the stream."""
    octets = b""
    while not octets.endswith(b"\n") or octets.splitlines()[-1][3:4] == b"-":
        more = client.recv(4096)
        if not more:
            return []
        octets += more
    return octets.decode("latin-1").splitlines()


def keywords_of(client: socket.socket) -> frozenset[str] | None:
    """What a server announces, nothing if it closes behind a greeting; None: there is none."""
    greeting = reply_of(client)
    if not greeting or not greeting[0].startswith("220"):
        return None
    with suppress(OSError):
        client.sendall(b"EHLO client.example\r\n")
        lines = reply_of(client)[1:]
        client.sendall(b"QUIT\r\n")
        while client.recv(4096):
            pass
        return frozenset(line[4:].partition(" ")[0].upper() for line in lines)
    return frozenset()


@contextmanager
def running(
    command: list[str], port: int, *, stop_limit: float, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server, which greets when the block begins, and end it. Raises CannotRun.

    It has a session of its own, so that whatever is left of it after `stop_limit` seconds can be
    ended. options: of Popen.
    """
    nothing = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **nothing, **options)
    try:
        if greeted(process, port, None) is None:
            raise CannotRun(f"does not start: {' '.join(Path(part).name for part in command)}")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(stop_limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def greeted(
    process: subprocess.Popen[bytes], port: int, tls: ssl.SSLContext | None
) -> frozenset[str] | None:
    """Wait until something greets at `port`, inside of TLS if need be; None when the process has
    ended before.
    """
    deadline = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((HOST, port), 1.0) as client:
            client.settimeout(START_LIMIT)
            with client if tls is None else tls.wrap_socket(client) as inside:
                found = keywords_of(inside)
                if found is not None:
                    return found
        time.sleep(0.05)
    return None


@contextmanager
def serving(
    command: list[str],
    core: int,
    life: int,
    tls: ssl.SSLContext | None = None,
    *,
    talks: bool = False,
) -> Iterator[Running]:
    """Run a server; PORT in `command` becomes its port. One that is free may be taken in the next
    moment, so there is a second and a third try. Raises CannotRun.
    """
    for _ in range(3):
        port = free_port()
        filled = [part.replace("PORT", str(port)) for part in command]
        process = start(filled, core, life, talks=talks)
        try:
            found = greeted(process, port, tls)
            if found is not None:
                yield Running(process, port, found)
                return
        finally:
            stop(process)
    raise CannotRun(f"does not start: {' '.join(Path(part).name for part in command)}")


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
        raise CannotRun(f"{name} ended with status {status}: {name} {' '.join(command[1:])}")
    return time.monotonic() - began


@contextmanager
def telling(command: list[str], core: int) -> Iterator[dict[str, Any]]:
    """Run a program until it has printed a line of JSON, which is given, and end it afterwards.

    Raises CannotRun when it ends without one.
    """
    process = start(command, core, int(RUN_LIMIT) + 5, talks=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            name = Path(command[0]).name
            raise CannotRun(f"{name} told nothing: {name} {' '.join(command[1:])}")
        yield json.loads(line)
    finally:
        stop(process)
