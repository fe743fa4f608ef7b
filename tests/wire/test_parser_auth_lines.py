"""The client's answers to a 334: where such a line ends, how long it may be, what it may hold.

RFC 4954 §4.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parser_cases import Event, auth_line, check, play

from fastsmtp._parser import Command, Parser

row = pytest.mark.row

LIMIT = 12288
BEHIND = b"\r\nNOOP\r\n"
NOOP: Event = ("command", "NOOP", b"", b"")


def line(octets: bytes) -> Event:
    """The event of one line of the exchange."""
    return ("command", "AUTH_LINE", octets, b"")


def fault(kind: str) -> Event:
    return ("fault", kind)


@row("AUTH-02", "AUTH-05")
@pytest.mark.parametrize(
    "octets",
    [
        *[b"", b"*", b"=", b"AGFubgBwdw==", b"EHLO x", b"QUIT", b"AUTH PLAIN", b" AA==", b"AA== "],
        *[b"AA==\t", b"\t", b"AA AA", b"\xff\x80", b"GET / HTTP/1.1", b"MAIL FROM:<a@x>"],
    ],
)
def test_a_line_is_taken_as_it_is_and_commands_follow(octets: bytes) -> None:
    check(auth_line(), octets + BEHIND, [line(octets), NOOP])


@row("LINE-07")
@pytest.mark.parametrize("octets", [2046, 2047, 2048, LIMIT - 1, LIMIT])
def test_a_line_may_be_longer_than_a_command(octets: int) -> None:
    places = [1, 2046, 2048, *range(octets - 2, octets + 5)]
    check(auth_line(), b"=" * octets + BEHIND, [line(b"=" * octets), NOOP], places=places)


@row("LINE-07")
@pytest.mark.parametrize("octets", [LIMIT + 1, LIMIT + 2, 16 * (LIMIT + 2) - 2])
def test_a_line_that_is_too_long_ends_at_its_crlf(octets: int) -> None:
    places = [1, *range(LIMIT - 2, LIMIT + 6), *range(octets - 2, octets + 5)]
    expected = [fault("AUTH_LINE_TOO_LONG"), NOOP]
    check(auth_line(), b"=" * octets + BEHIND, expected, places=places)


@row("LINE-07")
def test_the_limit_of_commands_holds_again_after_a_line_of_auth() -> None:
    octets = b"AA==\r\n" + b"x" * 2047 + b"\r\n"
    places = [*range(8), 2046, 2047, 2048, *range(len(octets) - 3, len(octets))]
    check(auth_line(), octets, [line(b"AA=="), fault("LINE_TOO_LONG")], places=places)


@row("LINE-07")
def test_an_endless_line_ends_everything() -> None:
    endless = b"=" * (16 * (LIMIT + 2))
    for feeds in ([endless], [endless[:-1], b"=", b"\r\nNOOP\r\n"], [endless[:12290]] * 16):
        events, parser = play(auth_line(), feeds)
        assert events == [fault("LINE_ENDLESS")]
        assert parser.buffered == 0


@row("LINE-07")
def test_the_memory_for_a_long_line_is_bounded() -> None:
    parser = Parser()
    parser.expect_auth_line()
    for _ in range(200):
        parser.feed(b"=" * 500)
        parser.next_event()
        assert parser.buffered <= LIMIT + 2


@row("AUTH-01")
@pytest.mark.parametrize("octet", [c for c in range(0x20) if c not in b"\t\r\n"] + [0x7F])
def test_a_control_octet_ends_the_line_and_the_exchange(octet: int) -> None:
    octets = b"AA" + bytes([octet]) + b"=="
    check(auth_line(), octets + BEHIND, [fault("CONTROL_CHARACTER"), NOOP])


@row("AUTH-01")
def test_a_bare_cr_or_lf_does_not_end_a_line() -> None:
    check(auth_line(), b"AA\r==" + BEHIND, [fault("CONTROL_CHARACTER"), NOOP])
    check(auth_line(), b"AA==\n", [fault("BARE_LF")], trailing=b"")
    check(auth_line(), b"\n", [fault("BARE_LF")], trailing=b"")


def test_a_line_is_due_only_where_nothing_else_is() -> None:
    parser = Parser()
    parser.expect_auth_line()
    with pytest.raises(RuntimeError):
        parser.expect_auth_line()
    parser.feed(b"\r\n")
    parser.next_event()
    parser.expect_mail_data()
    with pytest.raises(RuntimeError):
        parser.expect_auth_line()


def test_a_dead_parser_expects_nothing() -> None:
    parser = Parser()
    parser.feed(b"NOOP\n")
    parser.next_event()
    parser.expect_auth_line()
    parser.feed(b"AA==\r\n")
    assert parser.next_event() is None


@row("AUTH-13")
def test_the_repr_of_a_line_does_not_show_it() -> None:
    parser = Parser()
    parser.expect_auth_line()
    parser.feed(b"c2VjcmV0\r\n")
    event = parser.next_event()
    assert isinstance(event, Command)
    assert event.argument == b"c2VjcmV0"
    assert repr(event) == "<Command AUTH_LINE b'...'>"


words = st.sampled_from([b"AA==", b"*", b"=", b"\r\n", b"\r\n", b"\r", b"\n", b"\x00", b" ", b"x"])
wires = st.lists(words | st.binary(max_size=4), max_size=30).map(b"".join)


@given(wire=wires, cuts=st.lists(st.integers(0, 120), max_size=6))
def test_lines_do_not_depend_on_how_octets_were_cut(wire: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    feeds = [wire[a:b] for a, b in pairwise(places)]
    whole, parser = play(auth_line(), [wire])
    parts, other = play(auth_line(), feeds)
    assert whole == parts
    assert parser.buffered == other.buffered
