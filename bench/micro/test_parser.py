"""How fast is framing: commands per second, and mail data and chunks in GB/s by shape?

Reads of 64 KiB, one after the other, without an end; `extra_info` has the rate. What stands for a
hostile sender are the dense shapes: each octet of them is one that a line rule looks at.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from fastsmtp._parser import Parser

READ = 65536
COMMANDS = (
    b"MAIL FROM:<someone@example.com> SIZE=1000\r\nRCPT TO:<other@example.org>\r\nRSET\r\nNOOP\r\n"
)
TEXT = b"x" * 76 + b"\r\n"
SHAPES = {
    "plain lines of 76": TEXT,
    "lines of 1 to 76": b"".join(
        b"x" * random.Random(at).randrange(1, 77) + b"\r\n" for at in range(2000)
    ),
    "every fourth line stuffed": b".." + b"x" * 75 + b"\r\n" + TEXT * 3,
    "every line stuffed": b".." + b"x" * 75 + b"\r\n",
    "CR LF": b"\r\n",
    "dots": b".",
    "random octets": random.Random(1).randbytes(READ),
    "LF": b"\n",
    "CR": b"\r",
    "a LF": b"a\n",
    "CR LF LF": b"\r\n\n",
    "CR LF dot x": b"\r\n.x",
    "dot dot CR LF": b"..\r\n",
    "CR LF dot CR": b"\r\n.\r",
}

# pytest-benchmark brings no types of its own for the fixture
Benchmark = Any


def read_of(pattern: bytes) -> bytes:
    return (pattern * (READ // len(pattern) + 1))[:READ]


def rate(benchmark: Benchmark, parser: Parser, read: bytes) -> None:
    """Benchmark `parser` on reads of content and note its rate."""

    def take() -> None:
        parser.feed(read)
        while parser.next_event() is not None:
            pass

    benchmark(take)
    if benchmark.stats is not None:  # with --benchmark-disable there are none
        benchmark.extra_info["GB/s"] = round(len(read) / benchmark.stats.stats.min / 1e9, 2)


@pytest.mark.parametrize("policy", ["verbatim", "normalized", "discarded"])
@pytest.mark.parametrize("shape", SHAPES)
def test_mail_data(benchmark: Benchmark, shape: str, policy: str) -> None:
    parser = Parser()
    parser.begin_message(0, 0, policy == "normalized")
    parser.expect_mail_data()
    if policy == "discarded":
        parser.discard_body()
    rate(benchmark, parser, read_of(SHAPES[shape]))


@pytest.mark.parametrize("shape", ["plain lines of 76", "CR LF dot x", "LF", "random octets"])
def test_chunks(benchmark: Benchmark, shape: str) -> None:
    parser = Parser()
    parser.begin_message(0, 0, False)
    parser.expect_chunk(2**62, False)
    rate(benchmark, parser, read_of(SHAPES[shape]))


def test_skipped_octets(benchmark: Benchmark) -> None:
    parser = Parser()
    parser.skip_octets(2**62)
    rate(benchmark, parser, read_of(TEXT))


def per_second(benchmark: Benchmark, take: Callable[[], None], units: str, count: int) -> None:
    benchmark(take)
    if benchmark.stats is not None:
        benchmark.extra_info[f"{units}/s"] = round(count / benchmark.stats.stats.min)


@pytest.mark.parametrize("batch", [1, 64])
def test_commands(benchmark: Benchmark, batch: int) -> None:
    """In reads of so many lines, as clients that wait and clients that pipeline send them."""
    parser = Parser()
    lines = COMMANDS.splitlines(keepends=True) * 16
    reads = lines if batch == 1 else [b"".join(lines)]

    def take() -> None:
        for read in reads:
            parser.feed(read)
            while parser.next_event() is not None:
                pass

    per_second(benchmark, take, "commands", len(lines))


@pytest.mark.parametrize("octets", [1, 1024, 16384])
def test_messages(benchmark: Benchmark, octets: int) -> None:
    """Whole messages, one read each: what a message costs beside its octets."""
    parser = Parser()
    message = read_of(TEXT)[:octets] + b"\r\n.\r\n"

    def take() -> None:
        parser.begin_message(26214400, 52428800, False)
        parser.expect_mail_data()
        parser.feed(message)
        while parser.next_event() is not None and parser.buffered:
            pass
        parser.next_event()

    per_second(benchmark, take, "messages", 1)


def test_octet_by_octet(benchmark: Benchmark) -> None:
    """The slowest way to send: a read per octet."""
    parser = Parser()
    parser.begin_message(0, 0, False)
    parser.expect_mail_data()
    reads = [bytes([octet]) for octet in TEXT]

    def take() -> None:
        for read in reads:
            parser.feed(read)
            while parser.next_event() is not None:
                pass

    per_second(benchmark, take, "reads", len(reads))
