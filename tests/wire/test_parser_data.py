"""Mail data and BDAT chunks: the end, the dots, bare newlines, limits, facts, cuts.

RFC 5321 §2.3.8, §4.1.1.4, §4.5.2; RFC 1870; RFC 3030 §2. All short inputs and all places in a step
of the scanner: properties/test_end_of_data.py. All of this by each scanner.
"""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from parser_cases import Mode, check, chunks, join, mail_data, play, skipped

from fastsmtp._parser import (
    END_OF_CHUNK,
    END_OF_DATA,
    Command,
    Fault,
    FaultKind,
    Parser,
    scanners,
    use_scanner,
)

pytestmark = pytest.mark.usefixtures("scanner")

SMUGGLED = b"MAIL FROM:<evil@x.example>\r\nRCPT TO:<victim@y.example>\r\nDATA\r\nsmuggled\r\n.\r\n"


def data(octets: bytes) -> list[tuple[object, ...]]:
    """The events of a body: its octets, if there are any, and its end."""
    return [*([("data", octets)] if octets else []), ("end",)]


def pieces(events: list[tuple[object, ...]]) -> bytes:
    """All octets of a body that these events hand out."""
    return b"".join(event[-1] for event in events if isinstance(event[-1], bytes))


def octet_by_octet(octets: bytes) -> list[bytes]:
    return [octets[at : at + 1] for at in range(len(octets))]


def check_message(octets: bytes, body: bytes, normalized: bytes, **facts: Any) -> None:
    """Check a whole message under both policies and discarded."""
    facts |= {"body_octets": len(body)}
    check(mail_data(), octets, data(body), **facts)
    check(mail_data(normalize=True), octets, data(normalized), **facts)
    check(mail_data(discard=True), octets, data(b""), **facts)


# ---- the end, the dots (wire.md's table, faults.md's smuggling rows) -----------------------------

# Octets that end a message, the body as it is and as it is normalised.
ENDED = [
    pytest.param(b".\r\n", b"", b"", id="SMUG-19"),
    pytest.param(b"\r\n.\r\n", b"\r\n", b"\r\n", id="SMUG-19-empty-line"),
    pytest.param(b"a\r\n.\r\n", b"a\r\n", b"a\r\n", id="SMUG-01"),
    pytest.param(b"a\r\n\r\n.\r\n", b"a\r\n\r\n", b"a\r\n\r\n", id="SMUG-18"),
    pytest.param(b"..\r\nhello\r\n.\r\n", b".\r\nhello\r\n", b".\r\nhello\r\n", id="SMUG-20"),
    pytest.param(b"...\r\nz\r\n.\r\n", b"..\r\nz\r\n", b"..\r\nz\r\n", id="SMUG-22"),
    pytest.param(b"\r\n.foo\r\n.\r\n", b"\r\nfoo\r\n", b"\r\nfoo\r\n", id="SMUG-23"),
    pytest.param(b".foo\r\n.\r\n", b"foo\r\n", b"foo\r\n", id="SMUG-23-first-line"),
    pytest.param(b"x\n..x\r\n.\r\n", b"x\n..x\r\n", b"x\r\n..x\r\n", id="SMUG-24"),
    pytest.param(b"\r\n.\rX\r\n.\r\n", b"\r\n\rX\r\n", b"\r\n X\r\n", id="SMUG-25"),
    pytest.param(b"a\r\r\n.\r\n", b"a\r\r\n", b"a \r\n", id="SMUG-12"),
    pytest.param(b"a\x00\r\n.\r\n", b"a\x00\r\n", b"a\x00\r\n", id="SMUG-15"),
    pytest.param(b".\n\r\n.\r\n", b"\n\r\n", b"\r\n\r\n", id="dot-and-LF"),
    pytest.param(b".\r.\r\n.\r\n", b"\r.\r\n", b" .\r\n", id="dot-CR-dot"),
    pytest.param(b".\r\r\r\n.\r\n", b"\r\r\r\n", b"  \r\n", id="dot-CR-CR-CR"),
    pytest.param(b"\r\r\n.\r\n", b"\r\r\n", b" \r\n", id="CR-first"),
    pytest.param(b"\n\r\n.\r\n", b"\n\r\n", b"\r\n\r\n", id="LF-first"),
]

# Between `a` and the commands of a smuggler; no end of data. Body and normalised body up to there.
NOT_ENDED = [
    pytest.param(b"\n.\n", b"a\n.\n", b"a\r\n.\r\n", id="SMUG-02"),
    pytest.param(b"\n.\r\n", b"a\n.\r\n", b"a\r\n.\r\n", id="SMUG-03"),
    pytest.param(b"\r\n.\n", b"a\r\n\n", b"a\r\n\r\n", id="SMUG-04"),
    pytest.param(b"\r.\r", b"a\r.\r", b"a . ", id="SMUG-05"),
    pytest.param(b"\r.\n", b"a\r.\n", b"a .\r\n", id="SMUG-06"),
    pytest.param(b"\n.\r", b"a\n.\r", b"a\r\n. ", id="SMUG-07"),
    pytest.param(b"\r.\r\n", b"a\r.\r\n", b"a .\r\n", id="SMUG-08"),
    pytest.param(b"\r\n.\r", b"a\r\n\r", b"a\r\n ", id="SMUG-09"),
    pytest.param(b"\r\n.\r\r\n", b"a\r\n\r\r\n", b"a\r\n \r\n", id="SMUG-10"),
    pytest.param(b"\r\r\n.\r\r\n", b"a\r\r\n\r\r\n", b"a \r\n \r\n", id="SMUG-11"),
    pytest.param(b"\r\n\x00.\r\n", b"a\r\n\x00.\r\n", b"a\r\n\x00.\r\n", id="SMUG-13"),
    pytest.param(b"\r\n.\x00\r\n", b"a\r\n\x00\r\n", b"a\r\n\x00\r\n", id="SMUG-14"),
    pytest.param(b"\r\n. \r\n", b"a\r\n \r\n", b"a\r\n \r\n", id="SMUG-16-space"),
    pytest.param(b"\r\n.\t\r\n", b"a\r\n\t\r\n", b"a\r\n\t\r\n", id="SMUG-16-tab"),
    pytest.param(b"\r\n .\r\n", b"a\r\n .\r\n", b"a\r\n .\r\n", id="SMUG-16-space-before"),
    pytest.param(
        b"\r\x00\n.\r\x00\n", b"a\r\x00\n.\r\x00\n", b"a \x00\r\n. \x00\r\n", id="SMUG-17-NUL"
    ),
    pytest.param(b"\x0b.\x0b", b"a\x0b.\x0b", b"a\x0b.\x0b", id="SMUG-17-VT"),
    pytest.param(b"\x0c.\x0c", b"a\x0c.\x0c", b"a\x0c.\x0c", id="SMUG-17-FF"),
    pytest.param(b"\x85.\x85", b"a\x85.\x85", b"a\x85.\x85", id="SMUG-17-NEL"),
    pytest.param(
        b"\xe2\x80\xa8.\xe2\x80\xa8", *[b"a\xe2\x80\xa8.\xe2\x80\xa8"] * 2, id="SMUG-17-U+2028"
    ),
    pytest.param(b"\n..Q", b"a\n..Q", b"a\r\n..Q", id="two-dots-after-LF"),
]


@pytest.mark.parametrize("octets, body, normalized", ENDED)
def test_crlf_dot_crlf_ends_the_message(octets: bytes, body: bytes, normalized: bytes) -> None:
    """SMUG-21: cut everywhere."""
    check_message(octets, body, normalized, bare_newline=reference.has_bare_newline(body))


@pytest.mark.parametrize("between, body, normalized", NOT_ENDED)
def test_a_message_does_not_end_at_anything_else(
    between: bytes, body: bytes, normalized: bytes
) -> None:
    smuggled = SMUGGLED.removesuffix(b".\r\n")
    check_message(
        b"a" + between + SMUGGLED,
        body + smuggled,
        normalized + smuggled,
        bare_newline=reference.has_bare_newline(body),
        has_nul=b"\x00" in body,
    )


def test_the_next_command_follows_the_end_of_the_message() -> None:
    parser = Parser()
    parser.begin_message(0, 0, False)
    parser.expect_mail_data()
    parser.feed(b"a\r\n.\r\nQUIT\r\n")
    assert parser.next_event() == b"a\r\n"
    assert parser.buffered == 6
    assert parser.next_event() is END_OF_DATA
    assert parser.buffered == 6
    assert repr(parser.next_event()) == "<Command QUIT b''>"
    assert parser.payload_octets == 6


def test_a_second_message_starts_from_the_beginning() -> None:
    parser = Parser()
    facts = ("bare_newline", "has_nul", "has_8bit", "longest_line", "body_octets", "size_exceeded")
    fresh = [getattr(parser, fact) for fact in facts]
    for message in (b"..x\n\x00\xff\r\n.\r\n", b"..x\r\n.\r\n", b".\r\n"):
        parser.begin_message(3, 0, True)
        assert [getattr(parser, fact) for fact in facts] == fresh
        parser.expect_mail_data()
        parser.feed(message)
        while parser.next_event() is not END_OF_DATA:
            pass
        assert parser.buffered == 0
    assert [getattr(parser, fact) for fact in facts] == fresh


# ---- pieces -------------------------------------------------------------------------------------


def test_a_read_that_is_all_body_is_handed_on_as_the_object_it_was() -> None:
    for normalize in (False, True):
        parser = Parser()
        parser.begin_message(0, 0, normalize)
        parser.expect_mail_data()
        for read in (b"a b", b"line\r\n" * 1000, b"x" * 100_000, b"a\r\n"):
            parser.feed(read)
            assert parser.next_event() is read
            assert parser.next_event() is None
        parser = Parser()
        parser.begin_message(0, 0, normalize)
        parser.expect_chunk(12, True)
        read = b".\r\n.\r\n"
        parser.feed(read)
        assert parser.next_event() is read


def test_a_stuffed_read_is_one_piece() -> None:
    parser = Parser()
    parser.begin_message(0, 0, False)
    parser.expect_mail_data()
    parser.feed(b"..one\r\n" * 5000)
    assert parser.next_event() == b".one\r\n" * 5000
    assert parser.next_event() is None


def test_octets_that_may_be_the_end_are_held_back_and_no_others() -> None:
    for octets, handed_out in (
        (b".", b""),
        (b"..", b"."),
        (b".\r", b""),
        (b"a\r", b"a\r"),
        (b"a\r\n", b"a\r\n"),
        (b"a\r\n.", b"a\r\n"),
    ):
        events, parser = play(mail_data(), [octets])
        assert events == ([("data", handed_out)] if handed_out else [])
        assert parser.buffered == 0
    for octets in (b"a\r", b"a\r\n.\r"):
        events, _ = play(mail_data(normalize=True), [octets])
        assert events == [("data", octets.removesuffix(b"\r").removesuffix(b"."))]


def test_no_piece_is_empty_and_a_held_octet_is_not_forgotten() -> None:
    for normalize in (False, True):
        wire = b".\r.\r\r\n.\r\r\n.\r\n"
        events, _ = play(mail_data(normalize=normalize), octet_by_octet(wire))
        body = b"\r.\r\r\n\r\r\n"
        assert events == data(reference.apply_policy(body, "normalize") if normalize else body)


# ---- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("size", range(1, 16))
def test_exactly_size_octets_are_handed_out(size: int, normalize: bool) -> None:
    """SIZE-03, SIZE-04: counted unstuffed, and before normalising."""
    for octets in (b"..a\r\n.\r\n", b"a\n\r\r\nb\r\n.\r\n", b".\r\rab\n\n\r\n..\r\n.x\r\n.\r\n"):
        found = reference.end_of_data(octets)
        assert found is not None
        body, _, _ = found
        cut = body[:size]
        if normalize:  # as the octets would have come out without a limit
            cut = reference.apply_policy(body[:size], "normalize")
            if body[size - 1 : size + 1] == b"\r\n":
                cut = cut[:-1] + b"\r"
        check(
            mail_data(size=size, normalize=normalize),
            octets,
            data(cut),
            size_exceeded=len(body) > size,
            body_octets=len(body),
        )


def test_size_is_exceeded_only_when_one_more_octet_is_known_to_be_body() -> None:
    parser = Parser()
    parser.begin_message(3, 0, False)
    parser.expect_mail_data()
    for octet, exceeded in ((b"a", 0), (b"\r", 0), (b"\n", 0), (b".", 0), (b"\r", 0), (b"x", 1)):
        parser.feed(octet)
        while parser.next_event() is not None:
            pass
        assert parser.size_exceeded is bool(exceeded)


@pytest.mark.parametrize("pattern", [b"x", b"a b\r\n", b"..\r\n", b"\r\n.x", b"\n", b"\r", b"\r\n"])
def test_size_cuts_a_long_read_at_its_octet(pattern: bytes) -> None:
    octets = pattern * (10_000 // len(pattern)) + b"\r\n.\r\n"
    found = reference.end_of_data(octets)
    assert found is not None
    body, _, _ = found
    for size in (1, 63, 64, 65, 4096, 5001, len(body) - 1, len(body), len(body) + 1):
        events, parser = play(mail_data(size=size), [octets])
        assert events == data(body[:size])
        assert parser.size_exceeded is (len(body) > size)
        assert parser.body_octets == len(body)


def test_more_than_the_drop_limit_ends_everything() -> None:
    """SIZE-05, R66: so many octets exactly, wherever the reads were cut."""
    octets = b"ab\r\n..c\r\nd\r\n"
    assert len(b"ab\r\n.c\r\nd\r\n") == 11
    for size in (0, 2, 7, 20):
        for limit in range(1, 11):
            handed_out = b"ab\r\n.c\r\nd\r\n"[: min(size or limit, limit)]
            events = [("data", handed_out), ("fault", "TOO_MUCH_DATA")]
            mode = mail_data(size=size, drop_limit=limit)
            check(mode, octets, events, trailing=b"")
            check(mode, octets + b".\r\nQUIT\r\n", events, trailing=b"")
        check(
            mail_data(size=size, drop_limit=11),
            octets + b".\r\n",
            data(b"ab\r\n.c\r\nd\r\n"[: size or 11]),
        )


def test_the_dot_line_does_not_count_towards_the_drop_limit() -> None:
    check(mail_data(size=3, drop_limit=3), b"a\r\n.\r\n", data(b"a\r\n"), size_exceeded=False)
    check(
        mail_data(size=3, drop_limit=3),
        b"a\r\n.\r\r\n",
        [("data", b"a\r\n"), ("fault", "TOO_MUCH_DATA")],
        trailing=b"",
    )


def test_a_discarded_body_is_read_to_its_end() -> None:
    """SMUG-27."""
    for start in (b"a", b"a\r", b"a\r\n", b"a\r\n.", b"a\r\n.\r"):
        for normalize in (False, True):
            parser = Parser()
            parser.begin_message(0, 0, normalize)
            parser.expect_mail_data()
            parser.feed(start)
            while parser.next_event() is not None:
                pass
            parser.discard_body()
            parser.feed(b"x\n.\n..\x00\xff\r\n.\r\nQUIT\r\n")
            assert parser.next_event() is END_OF_DATA
            assert parser.buffered == 6
            assert (parser.bare_newline, parser.has_nul, parser.has_8bit) == (True, True, True)


@pytest.mark.parametrize("size, drop_limit", [(-1, 0), (0, -1)])
def test_a_negative_limit_is_refused(size: int, drop_limit: int) -> None:
    with pytest.raises(ValueError, match="-1"):
        Parser().begin_message(size, drop_limit, False)


# ---- facts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("octets", [0, 1, 61, 62, 63, 64, 65, 998, 999, 100_000])
def test_the_longest_line_is_reported(octets: int) -> None:
    """LINE-09, LINE-10."""
    for before in (b"", b"x\r\n", b"..\r\n" * 20, b"\n" * 20 + b"\r\n"):
        wire = before + b"." * min(octets, 1) + b"y" * octets + b"\r\nz\r\n.\r\n"
        found = reference.end_of_data(wire)
        assert found is not None
        for at in (1, 2, len(before), len(before) + 1, len(wire) - 8, len(wire) - 4):
            _, parser = play(mail_data(), [wire[:at], wire[at:]])
            assert parser.longest_line == reference.longest_line(found[0])
        _, parser = play(mail_data(), [wire])
        assert parser.longest_line == reference.longest_line(found[0])


def test_lines_of_every_length_in_sequence_are_measured() -> None:
    for first in range(70):
        for second in range(70):
            wire = b"a" * first + b"\r\n.." + b"b" * second + b"\r\n.c\r\n.\r\n"
            _, parser = play(mail_data(), [wire])
            assert parser.longest_line == max(first, second + 1)


@pytest.mark.parametrize("where", range(135))
def test_nul_and_8bit_are_seen_at_every_place_but_not_after_the_end(where: int) -> None:
    """BYTE-08."""
    for octet, fact in ((b"\x00", "has_nul"), (b"\x80", "has_8bit"), (b"\xff", "has_8bit")):
        text = b"x" * where
        _, parser = play(mail_data(), [text + octet + b"\r\n.\r\n"])
        assert getattr(parser, fact)
        _, parser = play(mail_data(), [text + b"\r\n.\r\n" + octet])
        assert not getattr(parser, fact)


def test_all_octets_come_out_as_they_went_in() -> None:
    every = bytes(range(256)).replace(b"\r", b"").replace(b"\n", b"") * 3
    check(
        mail_data(),
        every + b"\r\n.\r\n",
        data(every + b"\r\n"),
        places=range(0, 700, 7),
        has_nul=True,
        has_8bit=True,
        bare_newline=False,
    )


@pytest.mark.parametrize("lead", range(8, 73))
def test_a_long_read_may_begin_anywhere_in_memory(lead: int) -> None:
    """A scanner goes on from a multiple of 64; so many octets stand before the body in its read."""
    command = b"NOOP " + b"x" * (lead - 7) + b"\r\n"
    for start in (b"", b".", b"..", b".\r.\r\n", b"\n", b"\r", b"\r\n.\x00\x80", b"x" * 70):
        wire = start + b"..y\r\n" * 900 + b"\r\n.\r\n"
        found = reference.end_of_data(wire)
        assert found is not None
        for normalize in (False, True):
            parser = Parser()
            parser.feed(command + wire + b"NOOP\r\n")
            assert isinstance(parser.next_event(), Command)
            mail_data(normalize=normalize).start(parser)
            body = b""
            while isinstance(event := parser.next_event(), bytes):
                body += event
            assert event is END_OF_DATA
            assert body == reference.apply_policy(found[0], "normalize" if normalize else "accept")
            facts = reference.facts(found[0])
            assert {name: getattr(parser, name) for name in facts._fields} == facts._asdict()
            assert parser.buffered == 6


def test_scanners_are_chosen_by_name() -> None:
    assert scanners()[-1] == "portable"
    with pytest.raises(ValueError, match="tuple"):
        use_scanner("none")


# ---- BDAT ---------------------------------------------------------------------------------------

CHUNK = ("chunk",)


def test_a_chunk_is_so_many_octets_as_they_are() -> None:
    """BDAT-01, BDAT-10, SMUG-32: no dots, no end."""
    octets = b"\r\n.\r\n" + SMUGGLED + b"..a\r\n.\r\n."
    check(chunks(len(octets)), octets, [("data", octets), CHUNK], bare_newline=False)


def test_an_empty_chunk_ends_at_once() -> None:
    """BDAT-01, B09."""
    parser = Parser()
    parser.begin_message(0, 0, False)
    parser.expect_chunk(0, True)
    assert parser.next_event() is END_OF_CHUNK
    parser.feed(b"NOOP\r\n")
    assert repr(parser.next_event()) == "<Command NOOP b''>"


def test_a_crlf_may_stand_in_two_chunks() -> None:
    """BDAT-11."""
    for normalize in (False, True):
        for sizes in ((2, 3), (2, 0, 0, 3), (1, 1, 1, 1, 1), (2, 1, 2), (5, 0)):
            events: list[tuple[object, ...]] = []
            octets = b"a\r\nb."
            held = b""
            for at in range(len(sizes)):
                piece = held + octets[sum(sizes[:at]) : sum(sizes[: at + 1])]
                held = b"\r" if normalize and piece.endswith(b"\r") else b""
                piece = piece.removesuffix(held)
                events += [("data", piece), CHUNK] if piece else [CHUNK]
            check(
                chunks(*sizes, normalize=normalize),
                octets,
                events,
                bare_newline=False,
                longest_line=2,
                body_octets=5,
            )


def test_a_cr_at_the_end_of_the_last_chunk_is_bare() -> None:
    for sizes in ((2,), (2, 0), (1, 1), (1, 0, 1, 0)):
        for normalize, body in ((False, b"a\r"), (True, b"a ")):
            events, parser = play(chunks(*sizes, normalize=normalize), [b"a\r"])
            assert pieces(events) == body
            assert events[-1] == CHUNK
            assert parser.bare_newline
            assert parser.longest_line == 2
        _, parser = play(chunks(*sizes, last=False), [b"a\r"])
        assert not parser.bare_newline


def test_a_bare_newline_over_two_chunks_is_seen() -> None:
    """SMUG-31."""
    check(chunks(1, 1), b"\rx", [("data", b"\r"), CHUNK, ("data", b"x"), CHUNK], bare_newline=True)
    check(chunks(1, 1, normalize=True), b"\rx", [CHUNK, ("data", b" x"), CHUNK], bare_newline=True)
    check(
        chunks(1, 1, normalize=True),
        b"\n\n",
        [("data", b"\r\n"), CHUNK, ("data", b"\r\n"), CHUNK],
        bare_newline=True,
    )


def test_the_last_line_of_the_last_chunk_counts_without_a_crlf() -> None:
    check(chunks(8), b"a\r\nbcdef", [("data", b"a\r\nbcdef"), CHUNK], longest_line=5)
    _, parser = play(chunks(8, last=False), [b"a\r\nbcdef"])
    assert parser.longest_line == 1


def test_size_holds_over_chunks() -> None:
    check(
        chunks(3, 3, 3, size=4),
        b"abcdefghi",
        [("data", b"abc"), CHUNK, ("data", b"d"), CHUNK, CHUNK],
        size_exceeded=True,
        body_octets=9,
    )
    check(
        chunks(3, 3, size=4, drop_limit=5),
        b"abcdef",
        [("data", b"abc"), CHUNK, ("data", b"d"), ("fault", "TOO_MUCH_DATA")],
        trailing=b"",
    )


def test_a_refused_chunk_is_dropped_unseen() -> None:
    """BDAT-03, BDAT-05."""
    for octets in (1, 2, 5, 300):
        check(
            skipped(octets),
            (b"\r\n.\n\x00\xff" * 60)[:octets],
            [CHUNK],
            places=range(octets),
            body_octets=0,
            has_nul=False,
            has_8bit=False,
            bare_newline=False,
            payload_octets=octets,
        )
    parser = Parser()
    parser.skip_octets(0)
    assert parser.next_event() is END_OF_CHUNK
    parser.feed(b"NOOP\r\n")
    assert repr(parser.next_event()) == "<Command NOOP b''>"
    parser.skip_octets(10)
    parser.feed(b"helloRSET\r\nNOOP\r\n")
    assert parser.next_event() is END_OF_CHUNK
    event = parser.next_event()
    assert isinstance(event, Fault)
    assert event.kind == FaultKind.BARE_LF


def test_a_chunk_of_any_announced_size_costs_nothing() -> None:
    """BDAT-14."""
    parser = Parser()
    parser.begin_message(0, 0, False)
    parser.expect_chunk(2**63 - 1, True)
    assert parser.next_event() is None
    parser.feed(b"abc")
    assert parser.next_event() == b"abc"
    assert parser.next_event() is None


def test_content_that_is_due_must_have_ended_before_other_content_is_expected() -> None:
    for expect in ("expect_mail_data", "expect_chunk", "skip_octets"):
        arguments = {"expect_mail_data": (), "expect_chunk": (3, True), "skip_octets": (3,)}[expect]
        parser = Parser()
        parser.expect_mail_data()
        with pytest.raises(RuntimeError):
            getattr(parser, expect)(*arguments)
        parser.feed(b".\r\n")
        assert parser.next_event() is END_OF_DATA
        getattr(parser, expect)(*arguments)


@pytest.mark.parametrize("octets", [-1, -(2**63)])
def test_a_negative_count_is_refused(octets: int) -> None:
    with pytest.raises(ValueError, match=str(octets)):
        Parser().expect_chunk(octets, True)
    with pytest.raises(ValueError, match=str(octets)):
        Parser().skip_octets(octets)
    with pytest.raises(OverflowError):
        Parser().skip_octets(2**63)


def test_payload_octets_are_counted_over_the_connection() -> None:
    parser = Parser()
    for total in (6, 12, 18):
        parser.begin_message(1, 0, False)
        parser.expect_mail_data()
        parser.feed(b"a\r\n.\r\nNOOP\r\n")
        while parser.next_event() is not END_OF_DATA:
            pass
        assert parser.payload_octets == total
        parser.next_event()
    parser.skip_octets(5)
    parser.feed(b"hello")
    assert parser.next_event() is END_OF_CHUNK
    assert parser.payload_octets == 23


# ---- any octets, any cuts -----------------------------------------------------------------------

octets_of_mail = st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"a", b"\x00", b"\x80"])
text_runs = st.integers(1, 140).map(lambda octets: b"t" * octets)
bodies = st.lists(octets_of_mail | text_runs | st.binary(max_size=3), max_size=60).map(b"".join)
cut_lists = st.lists(st.integers(0, 1000), max_size=6)
policies = st.sampled_from(["accept", "normalize"])


def feeds_of(octets: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(min(cut, len(octets)) for cut in cuts), len(octets)]
    return [octets[a:b] for a, b in pairwise(places)]


def delivered(body: bytes, size: int, policy: str) -> bytes:
    """What the oracle says is handed out; of a CR that `size` parts from its LF, the CR."""
    text, exceeded = reference.deliver(body, size, policy)
    if exceeded and body[size - 1 : size + 1] == b"\r\n":
        text = text[:-1] + b"\r"
    return text


def assert_like_the_oracle(
    mode: Mode, octets: bytes, cuts: list[int], body: bytes, text: bytes, unread: int
) -> None:
    for feeds in ([octets], feeds_of(octets, cuts), octet_by_octet(octets)):
        events, parser = play(mode, feeds)
        assert events == join(data(text))
        facts = reference.facts(body)
        assert {name: getattr(parser, name) for name in facts._fields} == facts._asdict()
        if len(feeds) == 1:
            assert parser.buffered == unread


@given(octets=bodies, cuts=cut_lists, size=st.integers(0, 300), policy=policies)
def test_mail_data_is_what_the_oracle_says(
    octets: bytes, cuts: list[int], size: int, policy: str
) -> None:
    octets += b"" if reference.end_of_data(octets) else b"\r\n.\r\n"
    found = reference.end_of_data(octets)
    assert found is not None
    body, rest, bare = found
    assert bool(bare) == reference.has_bare_newline(body)
    mode = mail_data(size=size, normalize=policy == "normalize")
    octets = octets.removesuffix(rest) if rest else octets
    assert_like_the_oracle(mode, octets, cuts, body, delivered(body, size, policy), 0)
    events, parser = play(mode, [octets + rest])
    assert events == data(delivered(body, size, policy))
    assert parser.buffered == len(rest)


@given(body=bodies, parts=cut_lists, cuts=cut_lists, size=st.integers(0, 300), policy=policies)
def test_chunks_are_one_body(
    body: bytes, parts: list[int], cuts: list[int], size: int, policy: str
) -> None:
    sizes = [len(part) for part in feeds_of(body, parts)]
    mode = chunks(*sizes, size=size, normalize=policy == "normalize")
    for feeds in ([body], feeds_of(body, cuts), octet_by_octet(body) or [b""]):
        events, parser = play(mode, feeds)
        assert pieces(events) == delivered(body, size, policy)
        facts = reference.facts(body)
        assert {name: getattr(parser, name) for name in facts._fields} == facts._asdict()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("alphabet", [b"\r\n.a", b"\r\n", b"\na", b"\ra", b".\r\n\n\x00\xff"])
def test_long_reads_are_what_the_oracle_says(alphabet: bytes, normalize: bool) -> None:
    chance = random.Random(alphabet)
    for octets in (64, 65, 127, 128, 129, 1000, 4096, 20_000):
        wire = bytes(chance.choices(alphabet, k=octets)).replace(b".\r\n", b"..\r\n") + b"\r\n.\r\n"
        found = reference.end_of_data(wire)
        assert found is not None
        body, rest, _ = found
        cuts = [chance.randrange(octets) for _ in range(4)]
        text = reference.apply_policy(body, "normalize") if normalize else body
        mode = mail_data(normalize=normalize)
        assert_like_the_oracle(mode, wire.removesuffix(rest), cuts, body, text, 0)
