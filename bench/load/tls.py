"""What TLS costs the server: CPU time of fastsmtp beside uvloop's own TLS, and beside no TLS.

    python bench/load/tls.py --profile handshake,bulk,keep --rounds 9

Servers stand on one core, the load (sender.py) on another one, and the rounds go as in run.py. Each
profile has a server that the others are compared with inside of a round; where fastsmtp has a mark,
it is printed. Every sample is written as JSON. bench/README.md says how this may mislead.

Linux only. It needs the extra `tls`, which makes the certificate.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from measuring import (
    HERE,
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
from sender import client_context

MIB = 1024 * 1024
SERVERS = {
    "fastsmtp": ["callback", "PEM"],
    "plain": ["callback"],
    "floor": ["floor", "PEM"],  # uvloop's TLS, and no engine
    "greeter": ["greeter", "PEM"],  # the same, which closes at once
}


class Profile(NamedTuple):
    """One kind of load. what: is counted. amount: of those in one message or connection. beside:
    the server that fastsmtp is compared with, and `more` are shown. goal: how many times its CPU
    time fastsmtp may take at most; of its rate, how many times it shall reach, where `by_rate`.
    """

    kind: str
    what: str
    beside: str
    times: int  # messages or connections of one sample
    connections: int
    octets: int
    by_rate: bool = False
    goal: float | None = None
    more: tuple[str, ...] = ()

    @property
    def servers(self) -> list[str]:
        """Those that take part."""
        return ["fastsmtp", self.beside, *self.more]

    @property
    def amount(self) -> int:
        """How many of `what` one message or connection is."""
        return self.octets // MIB if self.what == "MiB" else 1

    def ratio(self, samples: list[Sample], name: str) -> float:
        """Of costs, or of rates, in one round."""
        cost = {sample.server: sample.cost for sample in samples}
        own, other = cost[name], cost[self.beside]
        return other / own if self.by_rate else own / other

    def value(self, sample: Sample) -> float:
        """What is printed: microseconds each, or how many in a second of CPU time."""
        return 1e6 / sample.cost if self.by_rate else sample.cost

    @property
    def unit(self) -> str:
        """The unit of `value`."""
        return f"{self.what}/CPU s" if self.by_rate else f"µs/{self.what.removesuffix('s')}"


PROFILES = {
    "handshake": Profile("handshakes", "handshakes", "greeter", 2_000, 16, 0, True, 0.95),
    "bulk": Profile("mail", "MiB", "floor", 32, 4, 8 * MIB, False, 1.15),
    "keep": Profile("mail", "messages", "plain", 6_000, 20, 1024, more=("floor",)),
}


def make_certificate() -> bytes:
    """Key and certificate as PEM: ECDSA on P-256, signed by itself. Raises CannotRun."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise CannotRun("needs the extra tls: pip install -e '.[tls]'") from None
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench.example")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def command_of(name: str, pem: str) -> list[str]:
    """How a server is started."""
    arguments = [pem if part == "PEM" else part for part in SERVERS[name]]
    return [sys.executable, str(HERE / "serve.py"), "PORT", *arguments]


def send(profile: Profile, count: int, server: str, port: int, core: int) -> float:
    """Send `count` messages, or make as many connections; return the seconds that it took."""
    numbers = (port, count, profile.connections, profile.octets)
    command = [sys.executable, str(HERE / "sender.py"), profile.kind, *map(str, numbers)]
    return load([*command, *["plain"] * ("PEM" not in SERVERS[server])], core)


def summary(profile: Profile, rounds: list[list[Sample]]) -> dict[str, Any]:
    """Per server: the cost or the rate, and the ratio to the one that it is compared with."""
    found: dict[str, Any] = {}
    for name in profile.servers:
        own = [sample for sample in chain(*rounds) if sample.server == name]
        found[name] = {
            "unit": profile.unit,
            "value": spread([profile.value(sample) for sample in own]),
            "ratio": spread([profile.ratio(samples, name) for samples in rounds]),
        } | shares(own)
    if profile.goal is not None:
        found["fastsmtp"]["goal"] = profile.goal
    return found


def table(name: str, profile: Profile, rounds: int, found: dict[str, Any]) -> str:
    lines = []
    for server, row in found.items():
        value, times = row["value"], row["ratio"]
        line = f"{name:9} {server:8} {value['median']:8.1f} {row['unit']:16}"
        line += f"  {value['lowest']:8.1f} .. {value['highest']:<8.1f}"
        line += f"  x {times['median']:5.3f}  {times['lowest']:5.3f} .. {times['highest']:<5.3f}"
        line += f"  busy {row['busy']:4.2f}"
        if "goal" in row:
            sign, met = "<=", times["median"] <= row["goal"]
            if profile.by_rate:
                sign, met = ">=", times["median"] >= row["goal"]
            line += f"  goal {sign} {row['goal']}: {'met' if met else 'missed'}"
        lines.append(line)
    return "\n".join(lines) + f"   ({rounds} rounds)"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--profile", type=names_of(PROFILES), default=list(PROFILES), help=", ".join(PROFILES))
    add("--rounds", type=bounded(int, 1, 100), default=9, help="samples per server and profile")
    add("--scale", type=bounded(float, 0.01, 10), default=1.0, help="times the load of each")
    add("--seconds", type=bounded(int, 1, 3600), default=300, help="no round begins behind these")
    add("--json", type=Path, default=RESULTS / "tls.json", help="where every sample is written")
    return parser.parse_args(arguments)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run all of it, print as it goes, and return what is written. Raises CannotRun."""
    server_core, client_core = cores()
    report = facts(server_core, client_core)
    names = list(dict.fromkeys(chain(*(PROFILES[name].servers for name in given.profile))))
    # The last round may begin in the last second, and one warm-up before it.
    life = int(given.seconds + 2 * len(names) * RUN_LIMIT)
    with ExitStack() as stack:
        pem = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".pem"))
        pem.write(make_certificate())
        pem.flush()
        running = {}
        for name in names:
            inside = client_context() if "PEM" in SERVERS[name] else None
            server = serving(name, command_of(name, pem.name), server_core, life, inside)
            running[name] = stack.enter_context(server)
        until = time.monotonic() + given.seconds
        for name in given.profile:
            profile = PROFILES[name]

            def sample(server: str, count: int, profile: Profile = profile) -> Sample:
                pid, port = running[server]
                return sampled(
                    *(server, count * profile.amount, pid),
                    lambda: send(profile, count, server, port, client_core),
                )

            count = max(profile.connections, int(profile.times * given.scale))
            warm_up = max(profile.connections, count // 10)
            rounds = interleaved(sample, profile.servers, count, warm_up, given.rounds, until)
            if not rounds:
                print(f"{name:9} left out: {given.seconds} s are over")
                continue
            found = summary(profile, rounds)
            print(table(name, profile, len(rounds), found), flush=True)
            report["profiles"][name] = {
                **profile._asdict(),
                "summary": found,
                "samples": as_json(rounds, profile.what),
            }
    return report


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    return program("bench/load/tls.py", lambda: measure(given), given.json)


if __name__ == "__main__":
    sys.exit(main())
