"""Command lines: where they end, how long they may be, what they may hold, how they are cut.

RFC 5321 §2.3.7, §2.3.8, §4.1.1, §4.5.3.1.4; RFC 4954 §4.
"""

from __future__ import annotations

import gc
import inspect
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parser_cases import check, join, lines, play

from fastsmtp import _parser
from fastsmtp._parser import END_OF_CHUNK, END_OF_DATA, Command, Fault, FaultKind, Parser, Verb

VERBS = [verb.name for verb in Verb if verb not in (Verb.UNKNOWN, Verb.HTTP, Verb.AUTH_LINE)]
HTTP_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT"]
HTTP_METHODS += ["OPTIONS", "PRI"]
UNKNOWN = "UNKNOWN"


def command(verb: str, argument: bytes = b"", word: bytes = b"") -> tuple[object, ...]:
    return ("command", verb, argument, word)


def fault(kind: str) -> tuple[object, ...]:
    return ("fault", kind)


def dead(octets: bytes, *events: tuple[object, ...], max_command_length: int = 2048) -> None:
    """Check that these events are the last ever, and that nothing is kept after them."""
    check(lines(max_command_length), octets, events, trailing=b"")
    check(lines(max_command_length), octets + b"\r\nQUIT\r\n", events, trailing=b"")


# ---- verbs and arguments ------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_known_in_any_case(verb: str) -> None:
    mixed = "".join(c.lower() if at % 2 else c for at, c in enumerate(verb))
    for sent in (verb, verb.lower(), mixed):
        check(lines(), sent.encode() + b"\r\n", [command(verb)])
        check(lines(), sent.encode() + b" x y\r\n", [command(verb, b"x y")])


@pytest.mark.parametrize("method", HTTP_METHODS)
def test_every_http_method_is_one_verb_and_says_which(method: str) -> None:
    for sent in (method.encode(), method.lower().encode()):
        check(lines(), sent + b" / HTTP/1.1\r\n", [command("HTTP", b"/ HTTP/1.1", sent)])


@pytest.mark.parametrize(
    "word",
    [
        *(verb[:-1].encode() for verb in [*VERBS, *HTTP_METHODS]),
        *(verb.encode() + b"X" for verb in [*VERBS, *HTTP_METHODS]),
        *(verb.encode() + b":" for verb in VERBS),
        b"X",
        b"DELETES",
        b"STARTTLSX",
        b"XFORWARDX",
        b"__class__",
        b"on_data",
        b"Host:",
        b"SSH-2.0-x",
        b"\xe4\xf6\xfc\xdf",
        b"RCP\xd4",
        b"@ELO",
        b"`elo",
        b"{elo",
        b"NO-P",
    ],
)
def test_a_word_that_only_looks_like_a_verb_is_unknown(word: bytes) -> None:
    check(lines(), word + b" a\r\n", [command(UNKNOWN, b"a", word)])


def test_the_word_of_a_known_verb_is_not_kept() -> None:
    check(lines(), b"nOOp\r\n", [command("NOOP", b"", b"")])


def test_an_unknown_word_is_cut_at_128_octets() -> None:
    for octets in (127, 128, 129, 2000):
        word = b"w" * octets
        check(
            lines(),
            word + b" rest\r\n",
            [command(UNKNOWN, b"rest", word[:128])],
            places=range(1, octets, 50),
        )


@pytest.mark.parametrize(
    "line, event",
    [
        pytest.param(b"\r\n", command(UNKNOWN), id="LINE-11-empty"),
        pytest.param(b"   \r\n", command(UNKNOWN), id="LINE-11-spaces"),
        pytest.param(b"\t\r\n", command(UNKNOWN), id="LINE-11-tab"),
        pytest.param(b" NOOP\r\n", command(UNKNOWN, b"NOOP"), id="leading-space"),
        pytest.param(b"\tNOOP x\r\n", command(UNKNOWN, b"NOOP x"), id="leading-tab"),
        pytest.param(b"NOOP \t \r\n", command("NOOP"), id="trailing-blanks"),
        pytest.param(b"NOOP a \t \r\n", command("NOOP", b"a"), id="after-the-argument"),
        pytest.param(b"NOOP\ta\tb\r\n", command("NOOP", b"a\tb"), id="tab-ends-the-verb"),
        pytest.param(b"MAIL  FROM:<a@x>\r\n", command("MAIL", b" FROM:<a@x>"), id="two-spaces"),
        pytest.param(b"BDAT \t5\r\n", command("BDAT", b"\t5"), id="space-and-tab"),
        pytest.param(b"NOOP \xc3\xa9\xff\r\n", command("NOOP", b"\xc3\xa9\xff"), id="8-bit"),
        pytest.param(b"NOOP .\r\n", command("NOOP", b"."), id="dot"),
    ],
)
def test_a_line_is_cut_at_its_first_blank(line: bytes, event: tuple[object, ...]) -> None:
    check(lines(), line, [event])


def test_lines_come_one_by_one_and_a_part_of_a_line_waits() -> None:
    check(
        lines(),
        b"EHLO c.example\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\n\r\nDATA\r\n",
        [
            command("EHLO", b"c.example"),
            command("MAIL", b"FROM:<a@x>"),
            command("RCPT", b"TO:<b@y>"),
            command(UNKNOWN),
            command("DATA"),
        ],
    )


# ---- ends of lines ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"NOOP\n", id="SMUG-29"),
        pytest.param(b"\n", id="first-octet"),
        pytest.param(b"NOOP \x00\n", id="after-a-control-octet"),
        pytest.param(b"NOOP\r \n", id="CR-and-LF-apart"),
        pytest.param(b"x" * 100 + b"\n", id="in-an-overlong-line"),
        pytest.param(b"x" * 100 + b"\r" + b"x\n", id="after-a-bare-CR-in-an-overlong-line"),
        pytest.param(b"AUTH " + b"x" * 100 + b"\n", id="in-an-AUTH-line"),
    ],
)
def test_a_bare_lf_ends_everything(octets: bytes) -> None:
    dead(octets, fault("BARE_LF"), max_command_length=64)
    dead(b"RSET\r\n" + octets, command("RSET"), fault("BARE_LF"), max_command_length=64)


@pytest.mark.parametrize("octet", [*range(0x20), 0x7F])
def test_a_control_octet_spoils_its_line_only(octet: int) -> None:
    if octet in b"\t\n":
        return
    for line in (b"NO%cOP", b"NOOP a%cb", b"NOOP a%c", b"NOOP %c" + b"x" * 100, b"%c"):
        spoilt = line.replace(b"%c", bytes([octet])) + b"\r\n"
        # 0x00, 0x03 and 0x16 as the very first octet of all mean another protocol
        check(
            lines(),
            b"RSET\r\n" + spoilt + b"QUIT\r\n",
            [command("RSET"), fault("CONTROL_CHARACTER"), command("QUIT")],
        )


def test_a_bare_cr_spoils_its_line_only() -> None:
    """SMUG-30."""
    for line in (b"RCPT TO:<b@y>\rRCPT TO:<c@y>\r\n", b"NOOP\r\r\n", b"\r\r\n", b"\rNOOP\r\n"):
        check(lines(), line + b"QUIT\r\n", [fault("CONTROL_CHARACTER"), command("QUIT")])


@pytest.mark.parametrize("where", range(70))
def test_a_control_octet_is_seen_at_every_place(where: int) -> None:
    line = bytearray(b"x" * 70)
    line[where] = 0x1B
    events, _ = play(lines(), [b"NOOP " + bytes(line) + b"\r\n"])
    assert events == [fault("CONTROL_CHARACTER")]


def test_a_control_octet_after_the_line_does_not_spoil_it() -> None:
    check(
        lines(),
        b"NOOP 12345678901\r\n\x01\r\nNOOP\r\n",
        [command("NOOP", b"12345678901"), fault("CONTROL_CHARACTER"), command("NOOP")],
        trailing=b"\x00\x01",
    )


@pytest.mark.parametrize("octet", [b"\x00", b"\x03", b"\x16"])
def test_another_protocol_is_known_by_the_very_first_octet(octet: bytes) -> None:
    """PIPE-10, TLS-14."""
    dead(octet, fault("FOREIGN_PROTOCOL"))
    dead(octet + b"\x01\x00\n\r\n", fault("FOREIGN_PROTOCOL"))
    check(lines(), b"NOOP\r\n" + octet + b"\r\n", [command("NOOP"), fault("CONTROL_CHARACTER")])


# ---- lengths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("octets", [511, 512, 513, 2047, 2048])
def test_a_line_up_to_the_limit_is_read(octets: int) -> None:
    """LINE-01."""
    argument = b"x" * (octets - 7)
    check(
        lines(),
        b"NOOP " + argument + b"\r\n",
        [command("NOOP", argument)],
        places=[*range(1, 12), *range(octets - 8, octets)],
    )


def test_a_line_over_the_limit_is_reported_once_and_the_next_one_works() -> None:
    """LINE-01, LINE-02: also with the CR as octet 2048 and the LF as octet 2049."""
    for octets in (2049, 2050, 5000, 32767, 32768):
        check(
            lines(),
            b"NOOP " + b"x" * (octets - 7) + b"\r\nQUIT\r\n",
            [fault("LINE_TOO_LONG"), command("QUIT")],
            places=[*range(1, 8), *range(2040, 2056), *range(octets - 4, octets + 4)],
        )


def test_an_overlong_line_of_control_octets_is_too_long_and_nothing_else() -> None:
    check(
        lines(64),
        b"NOOP" + b"\x01\r\x00" * 30 + b"\r\nNOOP\r\n",
        [fault("LINE_TOO_LONG"), command("NOOP")],
    )


def test_a_cr_that_was_dropped_still_begins_a_line_end() -> None:
    for octets in (62, 63, 64, 65, 66, 128):
        line = b"x" * octets
        event = command(UNKNOWN, b"", line) if octets <= 62 else fault("LINE_TOO_LONG")
        check(lines(64), line + b"\r\nQUIT\r\n", [event, command("QUIT")])
        check(
            lines(64),
            line + b"x\r\r\nQUIT\r\n",
            [fault("LINE_TOO_LONG" if octets + 4 > 64 else "CONTROL_CHARACTER"), command("QUIT")],
        )


def test_sixteen_times_the_limit_without_line_end_ends_everything() -> None:
    """LINE-03: the octets up to the limit of 16 lines decide, none after them."""
    endless = 16 * 64
    for last in (b"x", b"\r"):
        dead(b"x" * (endless - 1) + last, fault("LINE_ENDLESS"), max_command_length=64)
        dead(b"x" * (endless - 1) + last + b"\n" * 3, fault("LINE_ENDLESS"), max_command_length=64)
    check(
        lines(64),
        b"x" * (endless - 2) + b"\r\nQUIT\r\n",
        [fault("LINE_TOO_LONG"), command("QUIT")],
    )
    dead(b"x" * (endless - 1) + b"\n", fault("BARE_LF"), max_command_length=64)


def test_an_endless_line_is_not_kept() -> None:
    """LINE-03: what is held never reaches the limit of one line."""
    parser = Parser()
    held = 0
    for _ in range(60):
        parser.feed(b"x" * 500)
        assert parser.next_event() is None
        held = max(held, parser.buffered)
    assert held <= 2048


def test_an_auth_line_may_be_longer() -> None:
    """LINE-08: 12288 octets before CR LF, in any case, after a space or a tab."""
    for start in (b"AUTH ", b"auth ", b"aUtH\t"):
        for octets in (2048, 2049, 12287, 12288):
            token = b"=" * (octets - 5)
            check(
                lines(),
                start + token + b"\r\nNOOP\r\n",
                [command("AUTH", token), command("NOOP")],
                places=[*range(1, 8), 2046, 2047, 2048, 2049, *range(octets - 2, octets + 4)],
            )


def test_an_auth_line_has_a_limit_of_its_own() -> None:
    """LINE-08."""
    for octets in (12289, 12290, 12291, 16 * 12290 - 2):
        check(
            lines(),
            b"AUTH " + b"=" * (octets - 5) + b"\r\nNOOP\r\n",
            [fault("AUTH_LINE_TOO_LONG"), command("NOOP")],
            places=[*range(1, 8), *range(12286, 12294), octets, octets + 1, octets + 2],
        )
    events, _ = play(lines(), [b"AUTH " + b"=" * (16 * 12290 - 5)])
    assert events == [fault("LINE_ENDLESS")]
    events, _ = play(lines(20_000), [b"AUTH " + b"=" * 12284 + b"\r\n"])
    assert events == [fault("AUTH_LINE_TOO_LONG")]


@pytest.mark.parametrize("start", [b"AUTHX ", b"AUTH", b" AUTH ", b"AUTH=", b"NAUTH ", b"AUT "])
def test_a_line_that_only_begins_like_auth_has_the_limit_of_all(start: bytes) -> None:
    """LINE-08."""
    check(
        lines(),
        start + b"=" * 3000 + b"\r\nNOOP\r\n",
        [fault("LINE_TOO_LONG"), command("NOOP")],
        places=[*range(1, 8), 2047, 2048, 2049],
    )


# ---- what is fed, what is left ------------------------------------------------------------------


def test_octets_after_a_command_are_counted_until_they_are_read() -> None:
    parser = Parser()
    parser.feed(b"DATA\r\nQUIT\r\nNO")
    assert parser.buffered == 14
    parser.next_event()
    assert parser.buffered == 8
    parser.feed(b"OP\r\n")
    assert parser.buffered == 12
    parser.next_event()
    parser.next_event()
    assert parser.buffered == 0
    assert parser.next_event() is None


def test_clear_forgets_a_part_of_a_line_of_any_length() -> None:
    for octets in (3, 100, 900):
        parser = Parser(64)
        parser.feed(b"x" * octets)
        parser.next_event()
        parser.clear()
        assert parser.buffered == 0
        parser.feed(b"NOOP\r\n")
        event = parser.next_event()
        assert isinstance(event, Command)
        assert event.verb == Verb.NOOP


def test_a_dead_parser_stays_dead() -> None:
    parser = Parser()
    parser.feed(b"NOOP\nQUIT\r\n")
    event = parser.next_event()
    assert isinstance(event, Fault)
    assert event.kind == FaultKind.BARE_LF
    for _ in range(3):
        parser.feed(b"QUIT\r\n")
        assert parser.next_event() is None
        assert parser.buffered == 0
    parser.clear()
    parser.expect_mail_data()
    parser.feed(b"x\r\n.\r\n")
    assert parser.next_event() is None


def test_an_idle_parser_keeps_no_read_alive() -> None:
    parser = Parser()
    for tail in (b"", b"NO"):
        read = b"NOOP\r\n" * 10_000 + tail
        references = sys.getrefcount(read)
        parser.feed(read)
        while parser.next_event() is not None:
            assert sys.getrefcount(read) == references + 1
        assert parser.buffered == len(tail)
        assert sys.getrefcount(read) == references
        parser.clear()


@pytest.mark.parametrize("data", [None, "NOOP", bytearray(b"NOOP"), memoryview(b"NOOP"), 1])
def test_feed_takes_bytes_only(data: object) -> None:
    with pytest.raises(TypeError):
        Parser().feed(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("octets", [-1, 0, 7, 1 << 27])
def test_a_limit_of_a_line_that_makes_no_sense_is_refused(octets: int) -> None:
    with pytest.raises(ValueError, match="max_command_length"):
        Parser(octets)


# ---- the objects --------------------------------------------------------------------------------


def test_a_command_is_not_tracked_by_the_collector() -> None:
    parser = Parser()
    parser.feed(b"MAIL FROM:<a@x>\r\nNO\x00OP\r\n")
    for event in (parser.next_event(), parser.next_event(), parser):
        assert not gc.is_tracked(event)
        assert not hasattr(event, "__dict__")


def test_events_show_themselves_escaped_and_bounded() -> None:
    parser = Parser()
    parser.feed(b"\xff\xfe " + b"\xff" * 2000 + b"\r\nGET /\r\nEHLO x\r\nNO\x00OP\r\n")
    shown = [repr(parser.next_event()) for _ in range(4)]
    assert shown[0].startswith("<Command UNKNOWN b'\\xff\\xfe' b'\\xff")
    assert len(shown[0]) < 600
    assert shown[1:] == [
        "<Command HTTP b'GET' b'/'>",
        "<Command EHLO b'x'>",
        "<Fault CONTROL_CHARACTER>",
    ]
    assert [repr(END_OF_DATA), repr(END_OF_CHUNK)] == ["END_OF_DATA", "END_OF_CHUNK"]


def test_the_repr_of_auth_does_not_show_its_argument() -> None:
    """AUTH-13."""
    parser = Parser()
    parser.feed(b"AUTH PLAIN c2VjcmV0\r\n")
    event = parser.next_event()
    assert isinstance(event, Command)
    assert event.argument == b"PLAIN c2VjcmV0"
    assert repr(event) == "<Command AUTH b'...'>"


@pytest.mark.parametrize("name", ["Command", "Fault", "Signal"])
def test_events_are_made_by_the_parser_only(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        getattr(_parser, name)()


def test_the_parser_shows_its_signature() -> None:
    assert str(inspect.signature(Parser)) == "(max_command_length=2048)"
    assert list(inspect.signature(Parser.feed).parameters) == ["self", "data"]


def test_verbs_and_faults_are_plain_numbers_with_names() -> None:
    parser = Parser()
    parser.feed(b"QUIT\r\nNO\x00OP\r\n")
    command, fault = parser.next_event(), parser.next_event()
    assert isinstance(command, Command)
    assert isinstance(fault, Fault)
    assert type(command.verb) is int
    assert type(fault.kind) is int
    assert Verb(command.verb) is Verb.QUIT
    assert FaultKind(fault.kind) is FaultKind.CONTROL_CHARACTER


# ---- any octets, any cuts -----------------------------------------------------------------------

words = st.sampled_from(
    [b"NOOP", b"MAIL FROM:<a@x>", b"AUTH ", b"\r\n", b"\r\n", b"\r\n", b"\r", b"\n", b"\x00", b" "]
)
wires = st.lists(words | st.binary(max_size=4) | st.just(b"x" * 30), max_size=40).map(b"".join)


@given(wire=wires, cuts=st.lists(st.integers(0, 400), max_size=8))
def test_commands_do_not_depend_on_how_octets_were_cut(wire: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    feeds = [wire[a:b] for a, b in pairwise(places)]
    whole, parser = play(lines(64), [wire])
    parts, other = play(lines(64), feeds)
    octets, _ = play(lines(64), [wire[at : at + 1] for at in range(len(wire))])
    assert whole == parts == octets
    assert parser.buffered == other.buffered
    # a line of AUTH may be longer than the limit of others
    assert parser.buffered < 64 or b"AUTH " in wire or not join(whole)


@given(line=st.binary(max_size=80), after=st.binary(max_size=20))
def test_a_line_ends_at_the_first_crlf(line: bytes, after: bytes) -> None:
    octets = line + b"\r\n" + after
    text, _, _ = octets.partition(b"\r\n")
    events, _ = play(lines(), [b"RSET\r\n" + octets])
    if b"\n" in text:
        assert events[1] == fault("BARE_LF")
    elif any((c < 0x20 and c != 0x09) or c == 0x7F for c in text):
        assert events[1] == fault("CONTROL_CHARACTER")
    else:
        text = text.rstrip(b" \t")
        blank = min((text.find(c) for c in b" \t" if c in text), default=len(text))
        assert events[1][2] == text[blank + 1 :]
        assert events[1][3] in (b"", text[:blank])
