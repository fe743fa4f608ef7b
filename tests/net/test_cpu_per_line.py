"""CPU-03: lines of the worst shapes cost as much as they are long, and no more.

What one costs stands in `bench/micro/test_grammar.py`. Here each is read with the default limit,
and, by a process of its own, two hundred times with the largest that may be set: what went over a
line again and again, or into itself, would come to no end there.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from scenario import COUNTERS_OFF, EH, GREETED, every_cut, one_way

TIMES = 200
PATIENCE = 120  # seconds; a process takes two
BAD_SENDER, BAD_RECIPIENT = "501 5.1.7", "501 5.1.3"
BAD_SYNTAX, UNKNOWN_PARAMETER = "501 5.5.4", "555 5.5.4"

# The unit that is repeated stands between the two others.
PATHS: dict[str, tuple[bytes, bytes, bytes]] = {
    "quoted pairs": (b'<"', b'\\"', b'"@x>'),
    "quoted pairs without end": (b'<"', b'\\"', b""),
    "quoted strings": (b"<", b'"a"', b"@x>"),
    "atoms": (b"<", b"a.", b"a@x>"),
    "labels": (b"<a@", b"a.", b"x>"),
    "hyphens": (b"<a@x", b"-", b"x>"),
    "at signs": (b"<a", b"@", b"x>"),
    "source route": (b"<", b"@a,", b"@a:a@x>"),
    "source routes": (b"<", b"@a:", b"a@x>"),
    "opening brackets": (b"", b"<", b"a@x>"),
    "closing brackets": (b"<a@x", b">", b""),
    "nested brackets": (b"<a@", b"[", b"x]>"),
    "comments": (b"<", b"(", b"a@x>"),
    "literal": (b"<a@[IPv6:", b"0:", b":1]>"),
    "colons": (b"<a@[IPv6:", b":", b"]>"),
    "UTF-8": (b"<", "é".encode(), b"@x>"),
    "last octet is bad": (b"<", b"a", b";@x>"),
    "spaces in front": (b"", b" ", b"a@x>"),
}
PARAMETERS: dict[str, tuple[bytes, bytes, bytes, str]] = {
    "words": (b" ", b"A ", b"B", BAD_SYNTAX),
    "one word": (b" ", b"A", b"", UNKNOWN_PARAMETER),
    "one value": (b" X=", b"a", b"", UNKNOWN_PARAMETER),
    "equals signs": (b" X=", b"=", b"", BAD_SYNTAX),
    "spaces": (b"", b" ", b"SIZE=x", BAD_SYNTAX),
    "digits": (b" SIZE=", b"9", b"", BAD_SYNTAX),
    "zeros": (b" SIZE=", b"0", b"1", BAD_SYNTAX),
    "UTF-8": (b" SMTPUTF8 X=", "é".encode(), b"", UNKNOWN_PARAMETER),
    "xtext": (b" ENVID=", b"+2B", b"", BAD_SYNTAX),
    "plus signs": (b" ENVID=", b"+", b"", BAD_SYNTAX),
    "mailbox in xtext": (b" AUTH=", b"a+2E", b"@x FOO=1", UNKNOWN_PARAMETER),
}


def line(begin: bytes, unit: bytes, end: bytes, length: int) -> bytes:
    """A command line of nearly `length` octets, and never more."""
    return begin + unit * ((length - len(begin + end) - 2) // len(unit)) + end + b"\r\n"


def lines(length: int) -> dict[str, tuple[bytes, str]]:
    """Command lines that fill `length` octets, by name, with the reply to each."""
    found = {}
    for name, (begin, unit, end) in PATHS.items():
        for verb, reply in ((b"MAIL FROM:", BAD_SENDER), (b"RCPT TO:", BAD_RECIPIENT)):
            octets = line(verb + begin, unit, end, length)
            found[f"{name} in {verb[:4].decode()}"] = octets, reply
    for name, (begin, unit, end, reply) in PARAMETERS.items():
        octets = line(b"MAIL FROM:<a@x.example>" + begin, unit, end, length)
        found[f"parameters: {name}"] = octets, reply
    return found


def before(octets: bytes) -> tuple[bytes, list[str]]:
    """What stands in front of a line of RCPT: a sender."""
    return (b"MAIL FROM:<>\r\n", ["250 2.1.0"]) if octets.startswith(b"RCPT") else (b"", [])


@pytest.mark.row("CPU-03")
@pytest.mark.parametrize("name", lines(2048))
def test_a_line_of_the_worst_shape_is_answered_once(name: str) -> None:
    octets, reply = lines(2048)[name]
    sender, taken = before(octets)
    ran = every_cut([EH, sender + octets + b"NOOP\r\n"])
    assert ran.codes == [*GREETED, *taken, reply, "250 2.0.0"]
    assert ran.recorder.named("rcpt") == []


@pytest.mark.row("CPU-03")
def test_long_lines_of_the_worst_shapes_come_to_an_end() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, timeout=PATIENCE, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def read_long_lines() -> None:
    for name, (octets, reply) in lines(65_536).items():
        sender, taken = before(octets)
        ran = one_way([EH, sender + octets * TIMES], max_command_length=65_536, **COUNTERS_OFF)
        assert ran.codes == [*GREETED, *taken, *[reply] * TIMES], name


if __name__ == "__main__":
    read_long_lines()
