"""The end of data against the oracle: every short input, and every place in a step of the scanner.

RFC 5321 §4.1.1.4, §4.5.2. Enumerated: {CR, LF, dot, a}^8 whole, octet by octet and with each cut;
every pattern of 6 of them at each offset up to 130, whole, at the end of a read, over two reads. By
each scanner: inputs up to 5, and the offsets at the edges of a step.
"""

from __future__ import annotations

from itertools import product

import pytest
import reference

from fastsmtp._parser import END_OF_DATA, Parser, Signal, scanners

ALPHABET = b"\r\n.a"
CLOSING = b"\r\n.\r\n"  # put after what has not ended
OFFSETS = range(131)  # two steps of 64 octets, and a bit
EDGES = (*range(4), *range(56, 67), *range(120, 131))

Outcome = tuple[bytes, int, bool]  # body, octets consumed, bare newline seen


def transfer(parser: Parser, feeds: list[bytes], normalize: bool) -> Outcome | None:
    """Read one message from these feeds; None if they do not end it."""
    parser.clear()
    consumed = parser.payload_octets
    parser.begin_message(0, 0, normalize)
    parser.expect_mail_data()
    pieces: list[bytes] = []
    feed, next_event = parser.feed, parser.next_event
    for octets in feeds:
        feed(octets)
        while (event := next_event()) is not None:
            if event is END_OF_DATA:
                return b"".join(pieces), parser.payload_octets - consumed, parser.bare_newline
            assert isinstance(event, bytes)
            pieces.append(event)
    return None


def expected(wire: bytes, normalize: bool) -> Outcome:
    """What the oracle says of a wire that ends."""
    found = reference.end_of_data(wire)
    assert found is not None
    body, rest, bare = found
    text = reference.apply_policy(body, "normalize") if normalize else body
    return text, len(wire) - len(rest), bool(bare)


@pytest.mark.parametrize(
    "octets",
    [
        *range(8),
        pytest.param(8, marks=pytest.mark.slow),
        pytest.param(10, marks=pytest.mark.nightly),
    ],
)
def test_every_short_input_is_what_the_oracle_says(octets: int) -> None:
    """Whole, octet by octet, and in two at each place."""
    parser = Parser()
    for pattern in product(ALPHABET, repeat=octets):
        start = bytes(pattern)
        wire = start + (b"" if reference.end_of_data(start) else CLOSING)
        ways = [[wire], [wire[at : at + 1] for at in range(len(wire))]]
        ways += [[wire[:at], wire[at:]] for at in range(1, octets + 1)]
        for normalize in (False, True):
            outcome = expected(wire, normalize)
            for feeds in ways:
                assert transfer(parser, feeds, normalize) == outcome, (feeds, normalize)


@pytest.mark.parametrize("octets", range(6))
@pytest.mark.usefixtures("scanner")
def test_every_scanner_takes_every_short_input(octets: int) -> None:
    test_every_short_input_is_what_the_oracle_says(octets)


@pytest.mark.parametrize("octets", range(7))
def test_octets_known_to_be_body_are_not_held_back(octets: int) -> None:
    """Against the oracle's machine, which knows what each octet has settled."""
    for pattern in product(ALPHABET, repeat=octets):
        start = bytes(pattern)
        if reference.end_of_data(start):
            continue
        machine = reference.Machine()
        parser = Parser()
        parser.begin_message(0, 0, False)
        parser.expect_mail_data()
        handed_out = b""
        for at in range(octets):
            machine.step(start[at : at + 1])
            parser.feed(start[at : at + 1])
            while (event := parser.next_event()) is not None:
                assert isinstance(event, bytes)
                handed_out += event
            # A CR in a line is body whatever follows; one after a lone dot may be the end.
            pending = b"\r" if machine.place is reference.Place.CR else b""
            assert handed_out == machine.body + pending
            assert parser.body_octets == len(handed_out)
            assert parser.buffered == 0


@pytest.mark.parametrize("normalize", [False, True])
def test_every_pattern_is_seen_at_every_place_of_a_step(scanner: str, normalize: bool) -> None:
    """Whole, with a read that ends where the pattern ends, and with one that ends inside it."""
    offsets = OFFSETS if scanner == scanners()[0] else EDGES
    parser = Parser()
    for pattern in product(ALPHABET, repeat=6):
        start = bytes(pattern)
        first, inner = (
            expected(before + start + CLOSING, normalize) for before in (b"", b"x")
        )  # after an `x`, so many more of them change nothing
        for offset in offsets:
            before = b"x" * offset
            body, consumed, bare = inner if offset else first
            if offset:
                body, consumed = before[1:] + body, offset - 1 + consumed
            outcome = body, consumed, bare
            text = before + start
            cut = offset + 1 + offset % 5
            assert transfer(parser, [text + CLOSING], normalize) == outcome, text
            assert transfer(parser, [text, CLOSING], normalize) == outcome, text
            assert transfer(parser, [text[:cut], text[cut:] + CLOSING], normalize) == outcome, text


@pytest.mark.parametrize("last", [True, False])
def test_every_short_body_comes_out_of_chunks_as_it_is(last: bool) -> None:
    """{CR, LF, dot, a}^5 as BDAT: no dots, no end, one CR LF over two chunks."""
    for pattern in product(ALPHABET, repeat=5):
        body = bytes(pattern)
        for normalize, cut in product((False, True), range(6)):
            parser = Parser()
            parser.begin_message(0, 0, normalize)
            handed_out = b""
            for at, part in enumerate((body[:cut], body[cut:])):
                parser.expect_chunk(len(part), last and at == 1)
                parser.feed(part)
                while not isinstance(event := parser.next_event(), Signal):
                    assert isinstance(event, bytes)
                    handed_out += event
            settled = body if last else body.removesuffix(b"\r")
            text = reference.apply_policy(settled, "normalize") if normalize else body
            assert handed_out == text
            assert parser.bare_newline is reference.has_bare_newline(settled)
