"""The kinds of load: who sends what, how often, and to whom."""

from __future__ import annotations

import shutil
from typing import NamedTuple

from load import building
from load.measuring import HOST, CannotRun

KIB, MIB = 1024, 1024 * 1024
PLAIN = ("floor", "fastsmtp", "coroutine", "compat", "smtp-sink", "smtp-server", "aiosmtpd")
INSIDE = ("uvloop", "fastsmtp", "coroutine", "compat", "smtp-server", "aiosmtpd")


class Profile(NamedTuple):
    """One kind of load. times: messages or connections of one sample, before a server's share.
    octets: of a message; smtp-source puts its header on top. mode: of our own generator; None:
    smtp-source sends. keyword: what a server has to announce. unit, per: what is counted, and how
    many of them one message is.
    """

    what: str
    times: int
    connections: int
    octets: int
    mode: str | None = None
    kept: bool = True
    tls: bool = False
    keyword: str | None = None
    servers: tuple[str, ...] = PLAIN
    unit: str = "message"
    per: int = 1

    def amount(self, scale: float) -> int:
        """How many to send: so that each connection has some, where they are kept."""
        least = 2 * self.connections if self.kept else self.connections
        return max(least, int(self.times * scale))

    def command(self, count: int, port: int) -> list[str]:
        """How it is sent. Both senders end with an error when a reply is not what it should be.
        Raises CannotRun when the sender is not here.
        """
        if self.mode is not None:
            numbers = {"port": port, "count": count, "octets": self.octets}
            numbers["connections"] = self.connections
            options = [f"--{name}={number}" for name, number in numbers.items()]
            tls = ["--tls"] if self.tls else []
            return [str(building.generator(self.tls)), f"--mode={self.mode}", *options, *tls]
        if shutil.which("smtp-source") is None:
            raise CannotRun("needs smtp-source, which comes with Postfix")
        kept = ["-d"] if self.kept else []
        numbers = {"-s": self.connections, "-l": self.octets, "-m": count}
        options = [str(part) for pair in numbers.items() for part in pair]
        addresses = ["-M", "client.example", "-f", "a@x.example", "-t", "b@y.example"]
        return ["smtp-source", "-4", *kept, *options, *addresses, f"inet:{HOST}:{port}"]


PROFILES = {
    "keep": Profile("1 KiB, 20 kept connections", 20_000, 20, KIB, servers=(*PLAIN, "logged")),
    "conn": Profile(
        *("1 KiB, a connection for each message, 20 at a time", 6_000, 20, KIB),
        kept=False,
        servers=(*PLAIN, "logged"),
    ),
    "mid": Profile("50 KiB, 20 kept connections", 6_000, 20, 50 * KIB),
    "big": Profile("1 MiB, 4 kept connections", 400, 4, MIB),
    "pipe": Profile(
        *("1 KiB with the commands of the next one, 20 kept connections", 40_000, 20, KIB),
        mode="pipe",
        keyword="PIPELINING",
    ),
    "bdat": Profile(
        *("1 KiB as one chunk with its commands, 20 kept connections", 40_000, 20, KIB),
        mode="bdat",
        keyword="CHUNKING",
    ),
    "tls-keep": Profile(
        *("TLS: 1 KiB, 20 kept connections", 10_000, 20, KIB),
        mode="wait",
        tls=True,
        servers=INSIDE,
    ),
    "tls-conn": Profile(
        *("TLS: 1 KiB, a connection for each message, 20 at a time", 1_500, 20, KIB),
        mode="conn",
        kept=False,
        tls=True,
        servers=INSIDE,
    ),
    "tls-bulk": Profile(
        *("TLS: 8 MiB, 4 kept connections", 32, 4, 8 * MIB),
        mode="wait",
        tls=True,
        servers=("uvloop", "fastsmtp"),
        unit="MiB",
        per=8,
    ),
    "tls-greeting": Profile(
        *("TLS: handshake, greeting, goodbye, 16 at a time", 1_500, 16, 0),
        mode="greeting",
        kept=False,
        tls=True,
        servers=("greeter", "fastsmtp"),
        unit="handshake",
    ),
}
