"""How the parser's cases are run: `check(mode, octets, events)` cuts the octets in every way.

An event is written as a tuple: `("command", verb, argument, word)`, `("fault", kind)`,
`("data", octets)` with neighbouring pieces joined, `("end",)` for END_OF_DATA and `("chunk",)` for
END_OF_CHUNK.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fastsmtp._parser import (
    END_OF_CHUNK,
    END_OF_DATA,
    Command,
    Fault,
    FaultKind,
    Parser,
    Signal,
    Verb,
)

Event = tuple[object, ...]


@dataclass(frozen=True)
class Mode:
    """What the octets of a case are, and which `expect_*` told the parser so."""

    start: Callable[[Parser], None]
    signals: int  # so many ends are reported; what comes after the last one must stay unread
    max_command_length: int = 2048


def lines(max_command_length: int = 2048) -> Mode:
    """Octets of command lines."""
    return Mode(lambda parser: None, 0, max_command_length)


def auth_line() -> Mode:
    """Octets after 334: one line of the exchange, then command lines."""
    return Mode(lambda parser: parser.expect_auth_line(), 0)


def mail_data(
    *, normalize: bool = False, size: int = 0, drop_limit: int = 0, discard: bool = False
) -> Mode:
    """Octets after 354."""

    def start(parser: Parser) -> None:
        parser.begin_message(size, drop_limit, normalize)
        parser.expect_mail_data()
        if discard:
            parser.discard_body()

    return Mode(start, 1)


@dataclass(frozen=True)
class Chunks(Mode):
    """Octets of BDAT chunks, one after the other: their sizes; the last one is LAST."""

    sizes: tuple[int, ...] = ()


def chunks(
    *sizes: int, normalize: bool = False, size: int = 0, drop_limit: int = 0, last: bool = True
) -> Chunks:
    """Octets of chunks of these sizes; `last`: the message ends with the last of them."""

    def start(parser: Parser) -> None:
        parser.begin_message(size, drop_limit, normalize)
        parser.expect_chunk(sizes[0], last and len(sizes) == 1)

    mode = Chunks(start, len(sizes), sizes=sizes)
    return mode if last else Chunks(start, len(sizes), sizes=(*sizes, -1))


def skipped(octets: int) -> Mode:
    """Octets of a refused chunk."""
    return Mode(lambda parser: parser.skip_octets(octets), 1)


def describe(event: Command | Fault | Signal | bytes) -> Event:
    """Return an event as a tuple that can be compared."""
    if isinstance(event, bytes):
        assert event, "an empty piece"
        return ("data", event)
    if isinstance(event, Command):
        return ("command", Verb(event.verb).name, event.argument, event.word)
    if isinstance(event, Fault):
        return ("fault", FaultKind(event.kind).name)
    assert event is END_OF_DATA or event is END_OF_CHUNK
    return ("end",) if event is END_OF_DATA else ("chunk",)


def join(events: Iterable[Event]) -> list[Event]:
    """Return the events with neighbouring pieces of a body made one."""
    joined: list[Event] = []
    for event in events:
        if event[0] == "data" and joined and joined[-1][0] == "data":
            before, piece = joined[-1][1], event[1]
            assert isinstance(before, bytes)
            assert isinstance(piece, bytes)
            joined[-1] = ("data", before + piece)
        else:
            joined.append(event)
    return joined


def play(mode: Mode, feeds: Iterable[bytes]) -> tuple[list[Event], Parser]:
    """Feed a new parser, pull after each feed, and return what came and the parser."""
    parser = Parser(mode.max_command_length)
    mode.start(parser)
    events: list[Event] = []
    signals = 0
    for feed in feeds:
        parser.feed(feed)
        while not mode.signals or signals < mode.signals:
            event = parser.next_event()
            if event is None:
                break
            events.append(describe(event))
            if isinstance(event, Signal):
                signals += 1
                if isinstance(mode, Chunks) and signals < mode.signals:
                    parser.expect_chunk(mode.sizes[signals], signals + 1 == len(mode.sizes))
    return join(events), parser


def cuts(octets: bytes, places: Iterable[int] | None = None) -> Iterable[list[bytes]]:
    """Yield the octets whole, byte by byte, and in two at each of the places (None: everywhere)."""
    yield [octets]
    yield [octets[at : at + 1] for at in range(len(octets))]
    for at in range(1, len(octets)) if places is None else places:
        yield [octets[:at], octets[at:]]
        yield [octets[:at], b"", octets[at:]]


def check(
    mode: Mode,
    octets: bytes,
    events: Sequence[Event],
    *,
    places: Iterable[int] | None = None,
    trailing: bytes = b"NOOP",
    **facts: object,
) -> None:
    """Assert that the octets give these events and facts, however they are cut.

    `places`: where to cut in two, for octets so many that every place would be too many.
    `trailing`: octets that follow, which must stay unread; b"" after a fault that ends all.
    """
    places = None if places is None else list(places)
    for feeds in cuts(octets, places):
        assert_outcome(mode, feeds, events, 0, facts)
    for feeds in cuts(octets + trailing, places) if trailing else ():
        assert_outcome(mode, feeds, events, len(trailing), facts)


def assert_outcome(
    mode: Mode, feeds: list[bytes], events: Sequence[Event], unread: int, facts: dict[str, object]
) -> None:
    """Assert that these feeds give these events and facts, and leave so many octets unread."""
    found, parser = play(mode, feeds)
    assert found == list(events), feeds
    assert parser.buffered == unread, feeds
    assert {name: getattr(parser, name) for name in facts} == facts, feeds
