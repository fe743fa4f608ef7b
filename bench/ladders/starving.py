"""A client beside many that try to take the whole server: its wait, and how long the loop is held.

The others are a program of their own: `python bench starve PORT INPUT CLIENTS RATE`. All of its
clients together send RATE octets a second without waiting for replies, which they read and drop.

The client that is measured begins its messages at fixed times. One that sends the next message as
soon as it can sends most of them in moments in which the server has nothing else to do.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from ladders.crowd import KIB, Cores, Found
from ladders.hostile import FLOODS, READ, longest, watched
from load.measuring import HOST, reply_of, telling
from load.reporting import BENCH

CLIENTS = 256
RATES = (1_000_000, 4_000_000)  # octets a second of all clients together
TICK = 0.01  # seconds between two parts of it
MESSAGES = 100  # of the client that is measured
PACE = 0.05  # seconds from the beginning of one to that of the next
PATIENCE = 60.0  # seconds until all clients have been greeted

# What takes the server longest for an octet that is sent.
INPUTS = ("chunks of one octet", "chunked messages", "NOOP", "MAIL and RSET")
# Each command but the last one is waited for. RFC 5321 §3.3.
MESSAGE = (
    b"MAIL FROM:<a@x.example>\r\n",
    b"RCPT TO:<b@y.example>\r\n",
    b"DATA\r\n",
    b"x" * 78 + b"\r\n" + (b"x" * 78 + b"\r\n") * (KIB // 80) + b".\r\n",
)
WAIT = "median message beside 256 starving clients"
HELD = "longest slice beside 256 starving clients"


def starved(cores: Cores, rounds: int) -> Found:
    """What one client sees that sends messages of 1 KiB and waits for each reply, and the loop."""
    found = Found({WAIT: [], HELD: []}, [])
    for number in range(1, rounds + 1):
        rows = [beside(cores, name, rate) for name in INPUTS for rate in RATES]
        found.rows.extend({"number": WAIT, "round": number} | row for row in rows)
        found.numbers[WAIT].append(max(row["p50_ms"] for row in rows))
        found.numbers[HELD].append(max(row["held_ms"] for row in rows))
    return found


def beside(cores: Cores, name: str, rate: int) -> dict[str, Any]:
    """One input. Limits, which would end such clients soon, are off: turns alone are judged."""
    with watched(cores, "no limits", "reject") as running:
        command = [sys.executable, str(BENCH), "starve", str(running.port), name]
        with telling([*command, str(CLIENTS), str(rate)], cores.client):
            longest(running)
            times = sorted(messages(running.port))
            row = {"input": name, "rate": rate, "held_ms": round(longest(running), 2)}
    row |= {f"p{part}_ms": round(times[len(times) * part // 100], 2) for part in (50, 99)}
    text = f"p50 {row['p50_ms']}, p99 {row['p99_ms']}, loop held {row['held_ms']}"
    print(f"beside {CLIENTS} x {name!r}, {rate / 1e6:g} MB/s, ms: {text}", flush=True)
    return row


def messages(port: int) -> list[float]:
    """Milliseconds of each message."""
    times = []
    with socket.create_connection((HOST, port), PATIENCE) as client:
        reply_of(client)
        client.sendall(b"EHLO client.example\r\n")
        reply_of(client)
        for _ in range(MESSAGES):
            began = time.monotonic()
            for part in MESSAGE:
                client.sendall(part)
                reply_of(client)
            took = time.monotonic() - began
            times.append(took * 1000)
            time.sleep(max(0.0, PACE - took))
    return times


# The program.


class Client:
    """One of those who never wait. last: what it has read last. ended: the server has ended it."""

    def __init__(self, port: int, opening: bytes, pattern: bytes) -> None:
        self.socket = socket.create_connection((HOST, port), PATIENCE)
        self.ended = False
        self.last = b""
        reply_of(self.socket)
        for line in (b"EHLO client.example\r\n" + opening).splitlines(keepends=True):
            self.socket.sendall(line)
            reply_of(self.socket)
        self.socket.setblocking(False)
        self._rest = memoryview(b"")
        self._whole = memoryview(pattern * max(1, READ // len(pattern)))

    def send(self, octets: int) -> None:
        self._rest = self._rest or self._whole
        with suppress(BlockingIOError):
            try:
                self._rest = self._rest[self.socket.send(self._rest[:octets]) :]
            except ConnectionError:
                self.ended = True

    def drop_replies(self) -> None:
        with suppress(BlockingIOError):
            try:
                octets = self.socket.recv(READ)
                self.last = octets or self.last
                self.ended = self.ended or not octets
            except ConnectionError:
                self.ended = True


def starve(port: int, name: str, count: int, rate: int) -> None:
    """Send until standard input ends."""
    clients = [Client(port, *FLOODS[name]) for _ in range(count)]
    watching = select.epoll()
    by_number = {client.socket.fileno(): client for client in clients}
    for number in (sys.stdin.fileno(), *by_number):
        watching.register(number, select.EPOLLIN)
    print(json.dumps({"connections": count}), flush=True)
    share, due = max(1, round(rate * TICK / count)), time.monotonic()
    while clients:
        for number, _ in watching.poll(max(0.0, due - time.monotonic())):
            if number not in by_number:
                return
            by_number[number].drop_replies()
        if time.monotonic() < due:
            continue
        due = max(due + TICK, time.monotonic())
        for client in clients:
            client.send(share)
        for client in [client for client in clients if client.ended]:
            del by_number[client.socket.fileno()]
            client.socket.close()
            clients.remove(client)
    print(f"all clients were sent away: {client.last[-100:]!r}", file=sys.stderr)


def main(arguments: list[str]) -> int:
    port, name, count, rate = arguments
    starve(int(port), name, int(count), int(rate))
    return 0
