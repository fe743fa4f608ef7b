"""What hostile input costs: bad shapes of bodies beside a plain one, how long the loop is held."""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ladders.crowd import LIFE, Cores, Found, sender, server
from load.measuring import HOST, Running, load, reply_of, sampled, serving
from load.reporting import BENCH

MIB = 1024 * 1024
READ = 256 * 1024

# Bodies.

BODY = 8 * MIB
BODIES = 8  # of one sample, on two connections that are not kept: a refusal counts against one
TEXT = b"x" * 76 + b"\r\n"


class Shape(NamedTuple):
    """pattern: what the body is made of, over and over. bare: it has a CR or LF alone."""

    pattern: bytes
    bare: bool = False


SHAPES = {
    "plain lines": Shape(TEXT),
    "every line stuffed": Shape(b".." + TEXT),
    "dots": Shape(b"."),
    "dot dot CR LF": Shape(b"..\r\n"),
    "CR LF": Shape(b"\r\n"),
    "CR LF dot x": Shape(b"\r\n.x"),
    "LF": Shape(b"\n", True),
    "a LF": Shape(b"a\n", True),
    "CR": Shape(b"\r", True),
    "CR LF dot CR": Shape(b"\r\n.\r", True),
    "random octets": Shape(random.Random(1).randbytes(READ // 4).replace(b"\r\n.", b"\r\nx"), True),
}
PLAIN = "plain lines"
POLICIES = ("reject", "normalize", "accept")


def shapes(cores: Cores, rounds: int) -> Found:
    """Octets per second of CPU time, each shape under each policy for bare line ends."""
    name = "slowest hostile body / plain body, octets per second"
    found = Found({name: []}, [])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for at, shape in enumerate(SHAPES.values()):
            (folder / str(at)).write_bytes(shape.pattern)
        running = {
            policy: stack.enter_context(server(cores, False, f"bare_newline={policy}"))
            for policy in POLICIES
        }
        for number in range(rounds + 1):
            rates = {
                (policy, what): rate_of(running[policy], cores, policy, what, folder / str(at))
                for policy in POLICIES
                for at, what in enumerate(SHAPES)
            }
            if number == 0:  # to warm up
                continue
            for (policy, what), rate in rates.items():
                row = {"number": name, "round": number, "policy": policy, "shape": what}
                to_plain = round(rate / rates[policy, PLAIN], 3)
                found.rows.append(row | {"GB/s": round(rate, 3), "to_plain": to_plain})
            found.numbers[name].append(slowest(found.rows[-len(rates) :]))
    return found


def slowest(rows: list[dict[str, Any]]) -> float:
    """Print the slowest shape of each policy, and return the least of their ratios."""
    for policy in POLICIES:
        row = min((r for r in rows if r["policy"] == policy), key=lambda r: float(r["to_plain"]))
        text = f"{row['shape']!r}, {row['to_plain']:.2f} of plain lines ({row['GB/s']:.2f} GB/s)"
        print(f"bare_newline={policy}: slowest body is {text}", flush=True)
    return min(float(row["to_plain"]) for row in rows)


def rate_of(running: Running, cores: Cores, policy: str, name: str, body: Path) -> float:
    """Octets per nanosecond of CPU time, the kernel's copies included."""
    refused = SHAPES[name].bare and policy == "reject"
    numbers = {"count": BODIES, "connections": 2, "octets": BODY}
    command = sender(running.port, "conn", numbers)
    command += [f"--body={body}", f"--end={550 if refused else 250}"]
    sample = sampled(BODIES * BODY, running.pid, lambda: load(command, cores.client))
    return sample.amount / sample.usage.cpu


# Slices of the loop.

SECONDS = 0.5  # of each input
PLAIN_LINE = b"a" * 2046
MAIL = b"MAIL FROM:<a@x.example>\r\n"
TRANSACTION = MAIL + b"RCPT TO:<b@y.example>\r\n"

# name -> what a client says first, and then over and over without waiting
FLOODS = {
    "NOOP": (b"", b"NOOP\r\n"),
    "empty lines": (b"", b"\r\n"),
    "LF alone": (b"", b"\n"),
    "unknown verbs": (b"", b"XYZZY\r\n"),
    "lines of 2,048 octets": (b"", PLAIN_LINE + b"\r\n"),
    "a line without an end": (b"", PLAIN_LINE),
    "EHLO": (b"", b"EHLO client.example\r\n"),
    "MAIL and RSET": (b"", MAIL + b"RSET\r\n"),
    "recipients": (MAIL, b"RCPT TO:<b@y.example>\r\n"),
    "worst paths": (b"", b"MAIL FROM:<" + b"@d," * 660 + b"\r\n"),
    "worst parameters": (b"", b"MAIL FROM:<a@x> " + b"A " * 1000 + b"\r\n"),
    "chunks of one octet": (TRANSACTION, b"BDAT 1\r\nx"),
    "empty chunks": (TRANSACTION, b"BDAT 0\r\n"),
    "small messages": (b"", TRANSACTION + b"DATA\r\n.\r\n"),
    "chunked messages": (b"", TRANSACTION + b"BDAT 1 LAST\r\nx"),
    **{
        f"body: {name}": (TRANSACTION + b"DATA\r\n", shape.pattern)
        for name, shape in SHAPES.items()
    },
}
# Limits end most such clients soon. What is judged is how it is by default; without them, a turn
# at its longest is seen.
LIMITS = {
    "default limits": ["max_clients=0"],
    "no limits": [
        *("max_clients=0", "max_junk_commands=0", "max_errors=0", "max_unrecognized_commands=0"),
        *("max_allowed_unauthenticated_commands=0", "max_recipients=0", "size=0"),
    ],
}
JUDGED = "default limits"


@contextmanager
def watched(cores: Cores, limits: str, policy: str) -> Iterator[Running]:
    options = [*LIMITS[limits], f"bare_newline={policy}"]
    command = [sys.executable, str(BENCH), "watched", "PORT", *options]
    with serving(command, cores.server, LIFE, talks=True) as running:
        yield running


def longest(running: Running) -> float:
    """Milliseconds of the longest slice since somebody has asked for it."""
    assert running.process.stdin is not None
    assert running.process.stdout is not None
    running.process.stdin.write(b"\n")
    running.process.stdin.flush()
    return float(json.loads(running.process.stdout.readline())["longest_ms"])


class Flooded(NamedTuple):
    """octets: that the server took. ended: it did not want to hear more."""

    octets: int
    ended: bool


def flood(port: int, opening: bytes, pattern: bytes) -> Flooded:
    """Say `opening` line by line, then send `pattern` for a while, taking every reply."""
    whole = pattern * max(1, READ // len(pattern))
    sent, until = 0, time.monotonic() + SECONDS
    with socket.create_connection((HOST, port), SECONDS) as client, suppress(ConnectionError):
        reply_of(client)
        for line in (b"EHLO client.example\r\n" + opening).splitlines(keepends=True):
            client.sendall(line)
            reply_of(client)
        client.setblocking(False)
        rest = memoryview(whole)
        while time.monotonic() < until:
            readable, writable, _ = select.select([client], [client], [], 0.1)
            if readable and not client.recv(READ):
                return Flooded(sent, True)
            if writable:
                done = client.send(rest)
                sent += done
                rest = rest[done:] or memoryview(whole)
        return Flooded(sent, False)
    return Flooded(sent, True)


def inputs_of(policy: str) -> dict[str, tuple[bytes, bytes]]:
    """All of them under one policy, and under the others those that it may make a difference to."""
    if policy == POLICIES[0]:
        return FLOODS
    return {name: parts for name, parts in FLOODS.items() if "body" in name or "LF" in name}


def slices_of(cores: Cores, limits: str, policy: str) -> list[dict[str, Any]]:
    """The longest time that the loop was held, for each input."""
    rows = []
    with watched(cores, limits, policy) as running:
        flood(running.port, *FLOODS["NOOP"])  # to warm up
        for name, parts in inputs_of(policy).items():
            longest(running)
            flooded = flood(running.port, *parts)
            row = {"limits": limits, "policy": policy, "input": name}
            rows.append(row | {"ms": round(longest(running), 3)} | flooded._asdict())
    return rows


def slices(cores: Cores, rounds: int) -> Found:
    """The longest slice of the loop by any input, under each policy, with limits and without."""
    name = "longest slice of the loop"
    found = Found({name: []}, [])
    for number in range(1, rounds + 1):
        for limits in LIMITS:
            rows = [row for policy in POLICIES for row in slices_of(cores, limits, policy)]
            rows.sort(key=lambda row: -float(row["ms"]))
            found.rows.extend({"number": name, "round": number} | row for row in rows)
            if limits == JUDGED:
                found.numbers[name].append(rows[0]["ms"])
            longest_ones = ", ".join(f"{row['ms']:.1f} by {row['input']!r}" for row in rows[:4])
            print(f"loop held for ms, {limits}: {longest_ones}", flush=True)
    return found
