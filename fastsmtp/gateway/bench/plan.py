"""What a run sends: the profiles, and the options of the command line, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypedDict, Unpack

from fastsmtp.descriptors import open_files
from fastsmtp.gateway.bench.target import Target, parse_target
from fastsmtp.gateway.config.values import octets_of

__all__ = ["PROFILES", "Plan", "Profile", "make_plan"]

KIB: Final = 1024
MIB: Final = 1024 * 1024

MAX_CONNECTIONS: Final = 10_000
MAX_RECIPIENTS: Final = 1000  # the commands of one message are kept for all connections together
MAX_SECONDS: Final = 7 * 24 * 3600.0
MAX_RATE: Final = 1_000_000.0  # messages per second
FILES_FOR_OTHERS: Final = 32  # descriptors that are not for connections

# RFC 5321 §4.1.2, without quoted local parts and internationalised addresses.
_ADDRESS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.\[\]:-]{1,255}")
_NAME: Final = re.compile(r"[A-Za-z0-9.\[\]:-]{1,255}")


class Profile(NamedTuple):
    """A kind of load. per_connection: messages, 0 for no limit; pipelining: RFC 2920."""

    messages: int
    connections: int
    octets: int
    per_connection: int = 0
    pipelining: bool = False


PROFILES: Final = {
    "keep": Profile(20_000, 20, KIB),
    "conn": Profile(6_000, 20, KIB, per_connection=1),
    "mid": Profile(6_000, 20, 50 * KIB),
    "big": Profile(400, 4, MIB),
    "pipe": Profile(40_000, 20, KIB, pipelining=True),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """The checked options of `fastsmtp bench`.

    messages, per_connection: 0 for no limit; rate: messages per second, 0 for as fast as possible;
    duration, timeout: seconds, duration 0 for no end by time. octets: of a message with its header.
    expected: codes of refusals that are not errors.
    """

    target: Target
    profile: str
    connections: int
    messages: int
    duration: float
    per_connection: int
    octets: int
    pipelining: bool
    rate: float
    starttls: bool
    helo: str
    sender: str
    recipients: tuple[str, ...]
    timeout: float
    expected: frozenset[int]
    anywhere: bool


class Options(TypedDict):
    """The options of the command line, None where one is not given."""

    target: str
    profile: str
    connections: int | None
    messages: int | None
    duration: float | None
    per_connection: int | None
    size: str | None
    rate: float | None
    starttls: bool
    helo: str
    sender: str
    to: Iterable[str]
    recipients: int | None
    timeout: float
    expect: Iterable[int]
    anywhere: bool


def make_plan(**given: Unpack[Options]) -> Plan:
    """Check all options; raises ValueError, one line, for the first that is wrong."""
    profile = PROFILES[given["profile"]]
    target = parse_target(given["target"])
    if given["starttls"] and target.tls:
        raise ValueError("--starttls: smtps:// has TLS from the first octet")
    duration, size, sender = given["duration"], given["size"], given["sender"]
    most = profile.messages if duration is None else 0
    messages = _whole("--messages", given["messages"], most)
    connections = _whole(
        "--connections", given["connections"], profile.connections, MAX_CONNECTIONS
    )
    return Plan(
        target=target,
        profile=given["profile"],
        connections=_connections(min(connections, messages or connections)),
        messages=messages,
        duration=0.0 if duration is None else _seconds("--duration", duration),
        per_connection=_whole("--per-connection", given["per_connection"], profile.per_connection),
        octets=profile.octets if size is None else _size(size),
        pipelining=profile.pipelining,
        rate=_rate(given["rate"]),
        starttls=given["starttls"],
        helo=_text("--helo", given["helo"], _NAME, "a name such as client.example"),
        sender="" if sender in ("", "<>") else _address("--from", sender),
        recipients=_recipients(
            [_address("--to", each) for each in given["to"]], given["recipients"]
        ),
        timeout=_seconds("--timeout", given["timeout"]),
        expected=frozenset(map(_refusal, given["expect"])),
        anywhere=given["anywhere"],
    )


def _connections(number: int) -> int:
    """Return the number if the process may open so many connections; raises ValueError."""
    room = open_files() - FILES_FOR_OTHERS
    if number > room:
        raise ValueError(
            f"--connections: {number} are more than the {room} for which this process may open"
            " files; raise the limit with ulimit -n"
        )
    return number


def _whole(option: str, value: int | None, default: int, most: int = 2**53) -> int:
    if value is None:
        return default
    if not 1 <= value <= most:
        raise ValueError(f"{option}: {value} is not a number from 1 to {most}")
    return value


def _size(text: str) -> int:
    try:
        return octets_of(text)
    except ValueError as error:
        raise ValueError(f"--size: {error}") from None


def _seconds(option: str, value: float) -> float:
    if not (math.isfinite(value) and 0 < value <= MAX_SECONDS):
        raise ValueError(f"{option}: {value:g} is not a number of seconds above 0, at most a week")
    return value


def _rate(value: float | None) -> float:
    if value is None:
        return 0.0
    if not (math.isfinite(value) and 0 < value <= MAX_RATE):
        raise ValueError(f"--rate: {value:g} is not a number of messages per second above 0")
    return value


def _refusal(code: int) -> int:
    if not 400 <= code <= 599:
        raise ValueError(f"--expect: {code} is not the code of a refusal, 400 to 599")
    return code


def _address(option: str, text: str) -> str:
    return _text(option, text.removeprefix("<").removesuffix(">"), _ADDRESS, "local@domain")


def _text(option: str, text: str, pattern: re.Pattern[str], wanted: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{option}: {text!r:.80} is not accepted; it takes {wanted}")
    return text


def _recipients(given: list[str], number: int | None) -> tuple[str, ...]:
    """The recipients of each message: those given, then more of them, told apart by a +number."""
    wanted = _whole("--recipients", number, len(given), MAX_RECIPIENTS)
    if wanted < len(given):
        raise ValueError(f"--recipients: {len(given)} are given with --to")
    local, _, domain = given[0].rpartition("@")
    more = [f"{local}+{count}@{domain}" for count in range(len(given) + 1, wanted + 1)]
    return (*given, *more)
