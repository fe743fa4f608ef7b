"""What connections cost that do nothing: memory, and the others' CPU time and latency."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from load import building, certificates
from load.measuring import (
    RUN_LIMIT,
    Running,
    load,
    sampled,
    serving,
    settled_usage,
    start,
    stop,
    telling,
)
from load.reporting import BENCH

KIB = 1024
BURST = 60 * 1000  # octets of a message that a connection has sent before it idles
PLAIN_STEPS = (1_000, 5_000, 10_000, 20_000)
TLS_STEPS = (1_000, 2_500, 5_000)
BESIDE_STEPS = (0, 1_000, 5_000, 10_000)
WARM_UP = 200  # connections that come and go before the first step
SPARE = 200  # descriptors that a server needs for itself, and for those who do not idle
PER_SOURCE = 10_000  # connections from one address: there are some 28,000 ports
LIFE = 1_800  # seconds

# Whoever is held is not sent away for their number.
CROWDED = ["max_clients=0"]


class Cores(NamedTuple):
    server: int
    client: int


class Found(NamedTuple):
    """numbers: every sample of what has a goal, by its name. rows: all that was seen."""

    numbers: dict[str, list[float]]
    rows: list[dict[str, Any]]


@contextmanager
def server(cores: Cores, tls: bool = False, *options: str) -> Iterator[Running]:
    """A server with hooks as callbacks."""
    with ExitStack() as stack:
        command = [sys.executable, str(BENCH / "peers" / "serve.py"), "PORT", "callback"]
        command += [*CROWDED, *options]
        context = None
        if tls:
            command.append(stack.enter_context(certificates.certificate()))
            context = certificates.client_context()
        yield stack.enter_context(serving(command, cores.server, LIFE, context))


def sender(port: int, mode: str, numbers: dict[str, int], tls: bool = False) -> list[str]:
    """How our generator is started."""
    options = [f"--{name}={number}" for name, number in numbers.items()]
    return [
        str(building.generator(tls)),
        *(f"--port={port}", f"--mode={mode}", "--seconds=900", *options),
        *(["--tls"] if tls else []),
    ]


@contextmanager
def crowd(
    running: Running, count: int, core: int, tls: bool = False, octets: int = 0
) -> Iterator[None]:
    """So many idle connections, for as long as they are needed."""
    if count == 0:
        yield
        return
    sources = 1 + count // PER_SOURCE
    numbers = {"count": count, "connections": 100, "octets": octets, "sources": sources}
    with telling(sender(running.port, "idle", numbers, tls), core):
        yield


def reached(steps: tuple[int, ...], files: int) -> list[int]:
    """The steps, the last one cut to the descriptors that there are for the server."""
    most = files - SPARE
    found = [step for step in steps if step <= most]
    return found if len(found) == len(steps) else [*found, most]


# Memory.


def anonymous_memory(pid: int) -> int:
    """Octets of user memory that belong to the process alone."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("RssAnon:")[2].split()[0]) * KIB


def memory(cores: Cores, files: int) -> Found:
    """User memory of a connection that has said EHLO, and of one that has sent something."""
    found = Found({}, [])
    for name, tls, octets, steps in (
        ("user memory of an idle connection", False, 0, PLAIN_STEPS),
        ("user memory of an idle TLS connection", True, 0, TLS_STEPS),
        ("user memory of a TLS connection behind 60 KB", True, BURST, TLS_STEPS),
    ):
        with server(cores, tls) as running, ExitStack() as stack:
            with crowd(running, WARM_UP, cores.client, tls, octets):
                pass
            settled_usage(running.pid)
            before, there = anonymous_memory(running.pid), 0
            for step in reached(steps, files):
                more = crowd(running, step - there, cores.client, tls, octets)
                stack.enter_context(more)
                there = step
                settled_usage(running.pid)
                each = (anonymous_memory(running.pid) - before) / there / KIB
                found.rows.append({"number": name, "connections": there, "KiB": round(each, 2)})
                print(f"{name}: {there:6} connections, {each:6.2f} KiB each", flush=True)
            found.numbers[name] = [each]
    return found


# CPU time and latency of those who do something.


def beside(cores: Cores, files: int, rounds: int) -> Found:
    """CPU time of a message on 20 busy connections, beside idle ones; steps are interleaved."""
    name = "message beside 10,000 idle connections / beside none"
    found = Found({name: []}, [])
    steps = reached(BESIDE_STEPS, files)
    with server(cores) as running:
        numbers = {"count": 20_000, "connections": 20, "octets": KIB}
        command = sender(running.port, "wait", numbers)
        load(command, cores.client)
        for number in range(1, rounds + 1):
            costs = {}
            for step in steps:
                with crowd(running, step, cores.client):
                    sample = sampled(20_000, running.pid, lambda: load(command, cores.client))
                costs[step] = sample.cost
                row = {"idle": step, "us": round(costs[step], 2)}
                found.rows.append({"number": name, "round": number} | row)
            text = ", ".join(f"{step}: {cost:.1f}" for step, cost in costs.items())
            print(f"µs of CPU time for one message beside idle connections: {text}", flush=True)
            found.numbers[name].append(costs[steps[-1]] / costs[0])
    return found


def latency_of(running: Running, cores: Cores, count: int) -> dict[str, Any]:
    """What one client sees that sends messages of 1 KiB and waits for each reply."""
    numbers = {"count": count, "connections": 1, "octets": KIB}
    command = sender(running.port, "wait", numbers)
    with telling(command, cores.client) as told:
        return told


@contextmanager
def bulk(running: Running, core: int) -> Iterator[None]:
    """Four clients that send messages of 1 MiB without an end."""
    numbers = {"count": 1_000_000, "connections": 4, "octets": KIB * KIB}
    process = start(sender(running.port, "wait", numbers), core, int(RUN_LIMIT))
    time.sleep(0.2)  # until they are at it
    try:
        yield
    finally:
        stop(process)


def latency(cores: Cores, files: int, rounds: int) -> Found:
    """From MAIL to the last reply, for one client: alone, beside idle ones, beside bulk senders."""
    found = Found({}, [])
    idle = reached((BESIDE_STEPS[-1],), files)[-1]
    with server(cores) as running:
        latency_of(running, cores, 500)
        places: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "alone": lambda: crowd(running, 0, cores.client),
            f"beside {idle:,} idle": lambda: crowd(running, idle, cores.client),
            "beside 4 bulk senders": lambda: bulk(running, cores.client),
        }
        for number in range(1, rounds + 1):
            for place, others in places.items():
                with others():
                    told = latency_of(running, cores, 2_000 if place[-4:] == "idle" else 500)
                row = {name: told[name] for name in ("p50_us", "p99_us", "highest_us")}
                found.rows.append({"number": "latency", "round": number, "place": place} | row)
                text = f"p50 {row['p50_us']:.0f}, p99 {row['p99_us']:.0f}"
                print(f"latency of a message {place}, µs: {text}", flush=True)
    return found
