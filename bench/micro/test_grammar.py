"""What the grammar costs per command: the plain cases, and the worst shapes of a whole line.

    pytest bench/micro/test_grammar.py --benchmark-json=grammar.json

An argument has at most 2048 octets, the default of `max_command_length`. The target for the worst
is 20 µs; nothing here asserts it, a timing belongs into a record and not into a test.
"""

from __future__ import annotations

from typing import Any

import pytest
from micro.engine import grammar

from fastsmtp import Address

LINE = 2048

PLAIN = {
    "user@example.com": b"FROM:<user@example.com>",
    "with SIZE and BODY": b"FROM:<user@example.com> SIZE=12345 BODY=8BITMIME",
    "null": b"FROM:<>",
    "quoted": b'FROM:<"John Doe"@example.com>',
    "IPv6 literal": b"FROM:<user@[IPv6:2001:db8::192.0.2.1]>",
    "source route": b"FROM:<@one.example,@two.example:user@example.com>",
    "UTF-8": "FROM:<jürgen@bücher.example>".encode(),
    "longest": b"FROM:<" + b"l" * 64 + b"@" + b"d." * 94 + b"d>",
    "refused": b"FROM:<user..name@example.com>",
}

WORST_PATHS = {
    "quoted pairs": b'<"' + b'\\"' * LINE,
    "quoted pairs, whole": b'<"' + b'\\"' * 125 + b'"@x>',
    "UTF-8": b"<" + "é".encode() * LINE,
    "UTF-8, whole": b"<" + "é".encode() * 126 + b"@x>",
    "dots": b"<" + b"a." * LINE,
    "labels": b"<a@" + b"d." * LINE,
    "labels, whole": b"<a@" + b"d." * 125 + b"dd>",
    "at signs": b"<" + b"@" * LINE,
    "route": b"<" + b"@d," * LINE,
    "route, whole": b"<" + b"@d," * 83 + b"@d:a@x>",
    "nested brackets": b"<a@" + b"[" * LINE,
    "comments": b"<" + b"(" * LINE,
    "IPv6": b"<a@[IPv6:" + b"0:" * LINE,
    "last octet is wrong": b"<" + b"a" * 252 + b"@x;",
    "one parameter of the whole line": b"<a@x> X=" + b"a" * LINE,
    "only spaces behind": b"<a@x>" + b" " * LINE,
}

WORST_PARAMETERS = {
    "A B C": b"A " * LINE,
    "64 with a value": b"A=" + b"1" * 28 + b" " + (b"A=" + b"1" * 29 + b" ") * 63,
    "one value": b"X=" + b"a" * LINE,
    "one keyword": b"A" * LINE,
    "UTF-8": b"X=" + "é".encode() * LINE,
    "four octets per character": b"X=" + "𝒳".encode() * LINE,
    "spaces": b" " * LINE,
}


@pytest.mark.parametrize("argument", PLAIN.values(), ids=PLAIN)
def test_reverse_path(benchmark: Any, argument: bytes) -> None:
    benchmark(grammar.parse_reverse_path, argument, True, False)


def test_reverse_path_and_its_address(benchmark: Any) -> None:
    parse = grammar.parse_reverse_path
    benchmark(lambda: parse(b"FROM:<user@example.com>", False, False)[0].address)


def test_forward_path(benchmark: Any) -> None:
    benchmark(grammar.parse_forward_path, b"TO:<user@example.com>", False, False)


@pytest.mark.parametrize("leniency", [0, 2], ids=["strict", "lenient"])
@pytest.mark.parametrize("path", WORST_PATHS.values(), ids=WORST_PATHS)
def test_worst_path(benchmark: Any, path: bytes, leniency: int) -> None:
    benchmark(grammar.parse_reverse_path, (b"FROM:" + path)[:LINE], True, leniency)


@pytest.mark.parametrize("rest", WORST_PARAMETERS.values(), ids=WORST_PARAMETERS)
def test_worst_parameters(benchmark: Any, rest: bytes) -> None:
    benchmark(grammar.split_parameters, rest[:LINE], True)


@pytest.mark.parametrize("argument", PLAIN.values(), ids=PLAIN)
def test_has_parameter(benchmark: Any, argument: bytes) -> None:
    benchmark(grammar.has_parameter, argument, b"SMTPUTF8")


def test_has_parameter_at_worst(benchmark: Any) -> None:
    benchmark(grammar.has_parameter, (b"FROM:<a@x> " + b"A " * LINE)[:LINE], b"SMTPUTF8")


def test_parameters(benchmark: Any) -> None:
    benchmark(grammar.split_parameters, b"SIZE=12345 BODY=8BITMIME", False)


@pytest.mark.parametrize(
    "value",
    ["QQ314159", "+2B" * 30, "+2B" * (LINE // 3), "a" * LINE, "é" * (LINE // 2)],
    ids=["plain", "100 octets", "worst, escapes", "worst, plain", "worst, UTF-8"],
)
def test_xtext(benchmark: Any, value: str) -> None:
    benchmark(grammar.decode_xtext, value, True)


def test_mailbox(benchmark: Any) -> None:
    benchmark(grammar.parse_mailbox, "user@example.com", False)


@pytest.mark.parametrize("argument", [b"1000000 LAST", b"12345678901234567890", b"1" * LINE])
def test_bdat(benchmark: Any, argument: bytes) -> None:
    benchmark(grammar.parse_bdat_argument, argument)


def test_hostname(benchmark: Any) -> None:
    benchmark(grammar.parse_hostname_token, b"Mail.Example.COM")


@pytest.mark.parametrize("name", ["address", "local_part", "domain", "raw", "args", "dsn"])
def test_attribute(benchmark: Any, name: str) -> None:
    benchmark(getattr, Address("<user@example.com>"), name)
