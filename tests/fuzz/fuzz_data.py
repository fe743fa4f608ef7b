"""Mail data: the parser hands out what the oracle says, however the octets are cut into reads.

An input is four octets of choices and then what a client sends after 354, or as the content of
chunks. Asserted: the body, its end, the facts, `size_exceeded`, what stays unread, and that all
ways of cutting give the same. RFC 5321 §4.1.1.4, §4.5.2; RFC 3030 §2.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import reference
from fuzz.inputs import Input, random_cuts
from parser_cases import Event, describe, join

from fastsmtp._parser import Parser, Signal

MAX_OCTETS = 20_000
SIZES = (0, 0, 0, 1, 5, 20, 64, 1000)
DROP_LIMITS = (0, 0, 10, 100)
FACTS = ("body_octets", "bare_newline", "has_nul", "has_8bit", "longest_line")
AT_AN_END = ("end", "chunk")


def ways(octets: bytes, source: random.Random) -> Iterable[list[bytes]]:
    """The octets whole, at random places, in two, and one by one unless there are many."""
    yield [octets]
    yield random_cuts(octets, source)
    at = source.randint(0, len(octets))
    yield [octets[:at], octets[at:]]
    if len(octets) < 2000:
        yield [octets[at : at + 1] for at in range(len(octets))]


def pull(parser: Parser, events: list[Event]) -> bool:
    """Take events up to the end of the body; True if it was told, or if nothing will be."""
    while (event := parser.next_event()) is not None:
        events.append(describe(event))
        if isinstance(event, Signal) or events[-1][0] == "fault":
            return True
    return False


def commands(parser: Parser, feeds: Iterable[bytes]) -> list[Event]:
    """What stands after the body, which is commands; no event may raise."""
    events: list[Event] = []
    for feed in feeds:
        parser.feed(feed)
        while (event := parser.next_event()) is not None:
            events.append(describe(event))
    return events


def assert_facts(parser: Parser, body: bytes, settled: bytes, size: int) -> None:
    expected = reference.facts(settled)._replace(body_octets=len(body))
    assert tuple(getattr(parser, name) for name in FACTS) == tuple(expected)
    assert parser.size_exceeded is (0 < size < len(body))


def assert_delivered(events: list[Event], body: bytes, size: int, policy: str, end: str) -> None:
    """One body of the octets that are due, then its end."""
    delivered, exceeded = reference.deliver(body, size, policy)
    joined = join(events)
    assert joined.pop() == (end,)
    assert [event[0] for event in joined] in ([], ["data"])
    found = joined[0][1] if joined else b""
    assert isinstance(found, bytes)
    if exceeded and policy == "normalize" and body[size - 1 : size] == b"\r":
        found, delivered = found[:-1], delivered[:-1]  # what becomes of that CR is left open
    assert found == delivered


def check_data(wire: bytes, size: int, drop_limit: int, policy: str, source: random.Random) -> None:
    """Octets after 354."""
    ended = reference.end_of_data(wire)
    assert ended == reference.end_of_data_by_octet(wire)
    if ended is None:
        for feeds in ways(wire, source):
            parser = Parser()
            parser.begin_message(0, 0, policy == "normalize")
            parser.expect_mail_data()
            open_events: list[Event] = []
            for feed in feeds:
                parser.feed(feed)
                assert not pull(parser, open_events)
            assert parser.buffered <= 2
        wire += b"\r\n.\r\n"
        ended = reference.end_of_data(wire)
        if ended is None:  # it ended in a dot line that was not finished
            return
    body, rest, _ = ended
    discards = source.random() < 0.1
    lf_ends_lines = source.random() < 0.3  # of commands: it must not matter for a body
    outcomes = []
    for feeds in ways(wire, source):
        parser = Parser()
        parser.lf_ends_lines = lf_ends_lines
        parser.begin_message(size, drop_limit, policy == "normalize")
        parser.expect_mail_data()
        if discards:
            parser.discard_body()
        events: list[Event] = []
        left = iter(feeds)
        for feed in left:
            parser.feed(feed)
            if pull(parser, events):
                break
        if 0 < drop_limit < len(body):
            assert events[-1] == ("fault", "TOO_MUCH_DATA")
            assert commands(parser, [b"NOOP\r\n", *left]) == []
            continue
        if discards:
            assert events == [("end",)]
        else:
            assert_delivered(events, body, size, policy, "end")
        assert_facts(parser, body, body, size)
        assert parser.payload_octets == len(wire) - len(rest)
        outcomes.append(commands(parser, [b"", *left]))
    assert outcomes.count(outcomes[0]) == len(outcomes) if outcomes else True


def check_chunks(
    body: bytes, size: int, drop_limit: int, policy: str, source: random.Random
) -> None:
    """Octets of chunks: nothing in them is a line, a dot or an end."""
    chunks = random_cuts(body, source)
    last = source.random() < 0.7
    for _ in range(3):
        parser = Parser()
        parser.begin_message(size, drop_limit, policy == "normalize")
        events: list[Event] = []
        dead = False
        for number, chunk in enumerate(chunks, 1):
            before = parser.payload_octets
            parser.expect_chunk(len(chunk), last and number == len(chunks))
            dead = pull(parser, events) and events[-1][0] == "fault"
            for feed in random_cuts(chunk, source):
                if not dead and (not events or events[-1] != ("chunk",) or chunk):
                    parser.feed(feed)
                    dead = pull(parser, events) and events[-1][0] == "fault"
            if dead:
                break
            assert events.pop() == ("chunk",)
            assert parser.payload_octets - before == len(chunk)
        if 0 < drop_limit < len(body):
            assert dead
            assert events[-1] == ("fault", "TOO_MUCH_DATA")
            continue
        assert not dead
        # A CR at the very end may still become a line end while no chunk was the last.
        settled = body if last else body.removesuffix(b"\r")
        assert parser.body_octets == len(body)
        if last:
            assert_facts(parser, body, settled, size)
            assert_delivered([*events, ("chunk",)], body, size, policy, "chunk")
        assert commands(parser, [b"QUIT\r\n"]) == [("command", "QUIT", b"", b"")]


def check_skipped(octets: bytes, source: random.Random) -> None:
    """A refused chunk: nothing of it is seen, and the next command is in step."""
    parser = Parser()
    parser.begin_message(0, 0, False)
    parser.skip_octets(len(octets))
    events: list[Event] = []
    for feed in random_cuts(octets + b"QUIT\r\n", source):
        parser.feed(feed)
        while (event := parser.next_event()) is not None:
            events.append(describe(event))
    if octets:
        assert events == [("chunk",), ("command", "QUIT", b"", b"")]
    assert parser.body_octets == 0
    assert parser.payload_octets == len(octets)


def check(octets: bytes) -> None:
    """Assert the invariants for one input."""
    given = Input(octets[:MAX_OCTETS])
    source = random.Random(given.octet())
    size, drop_limit = given.choice(SIZES), given.choice(DROP_LIMITS)
    kind = given.octet()
    policy = "normalize" if kind & 1 else "accept"
    wire = given.rest()
    if kind & 6 == 2:
        check_chunks(wire, size, drop_limit, policy, source)
    elif kind & 6 == 4:
        check_skipped(wire, source)
    else:
        check_data(wire, size, drop_limit, policy, source)
