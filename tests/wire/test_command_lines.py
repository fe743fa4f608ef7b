"""Lines and lengths, rows LINE: command lines have a limit, data lines have none, replies fold.

RFC 5321 §4.5.3.1.4, §4.5.3.1.5, §4.5.3.1.6, §4.5.3.1.9.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import scenario
from conftest import Run
from scenario import (
    COUNTERS_OFF,
    EH,
    FIN,
    MAILED,
    PRE,
    PREPARED,
    TX,
    Conversation,
    Script,
    every_cut,
    one_way,
)

from fastsmtp import SMTPError

TOO_LONG, OK, LIMIT = "500 5.5.2", "250 2.0.0", 2048
KIB, MIB = 1024, 1024 * 1024


def noop(octets: int, verb: bytes = b"NOOP ") -> bytes:
    """A command line of so many octets, CR LF included."""
    return verb.ljust(octets - 2, b"x") + b"\r\n"


# --- command lines ---


@pytest.mark.row("LINE-01")
@pytest.mark.parametrize(
    "octets, expected",
    [(511, OK), (512, OK), (513, OK), (2047, OK), (2048, OK), (2049, TOO_LONG), (9999, TOO_LONG)],
)
def test_a_command_line_may_have_2048_octets(octets: int, expected: str, run: Run) -> None:
    ran = every_cut([EH, noop(octets) + b"NOOP\r\n"])
    assert ran.codes == ["220", "250", expected, OK]
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("LINE-01")
@pytest.mark.parametrize("limit", [512, 4096])
def test_the_limit_of_command_lines_is_an_option(limit: int) -> None:
    lines = noop(limit) + noop(limit + 1) + b"NOOP\r\n"
    ran = every_cut([EH, lines], max_command_length=limit)
    assert ran.codes == ["220", "250", OK, TOO_LONG, OK]


@pytest.mark.row("LINE-02")
@pytest.mark.parametrize("octets", [2047, 2048, 2049, 2050])
def test_the_limit_does_not_depend_on_where_the_line_is_cut(octets: int) -> None:
    line = noop(octets)
    expected = [OK if octets <= LIMIT else TOO_LONG, OK]
    with Conversation(**COUNTERS_OFF) as session:
        session.do(EH)
        for cut in range(2030, octets):
            assert session.do(line[:cut], line[cut:] + b"NOOP\r\n") == expected
        for first in range(LIMIT - 4, octets):
            for second in range(first, octets):
                parts = line[:first], line[first:second], line[second:], b"NOOP\r\n"
                assert session.do(*parts) == expected


@pytest.mark.row("LINE-03")
def test_a_line_without_end_is_dropped_and_then_the_connection() -> None:
    piece = b"x" * 100
    with Conversation() as session:
        session.do(EH, piece)
        tracemalloc.start()
        try:
            for _ in range(320):
                session.wire.send(piece)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 6 * KIB
        assert session.wire.receive() == b""
        assert session.do(b"x" * 600) == []
        assert session.do(piece) == ["421 4.7.0"]
        assert session.closed
        for _ in range(100):
            assert session.wire.send(b"x" * MIB) == b""


@pytest.mark.row("LINE-03")
def test_a_refused_connection_holds_nothing_of_what_comes() -> None:
    with Conversation(Script(connect=SMTPError(response_code=554))) as session:
        assert session.codes == ["554"]
        assert session.closed
        piece = b"x" * MIB
        tracemalloc.start()
        try:
            for _ in range(20):
                assert session.wire.send(piece) == b""
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 6 * KIB


@pytest.mark.row("LINE-04")
def test_ten_thousand_long_lines_are_all_answered_and_nothing_is_kept() -> None:
    stream = noop(2047) * 125
    with Conversation(max_junk_commands=None) as session:
        session.do(EH)
        tracemalloc.start()
        try:
            for _ in range(80):
                assert session.wire.send(stream) == b"250 2.0.0 OK\r\n" * 125
                session.wire.transport.writes.clear()
                session.wire._seen = 0
            held, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 16 * KIB
        assert peak < 400 * KIB


def padded(keyword: bytes, octets: int, head: bytes = b"", tail: bytes = b"") -> bytes:
    """A parameter whose value has so many octets, most of them in hexadecimal."""
    room = octets - len(head) - len(tail)
    return b" " + keyword + b"=" + head + b"b" * (room % 3) + b"+61" * (room // 3) + tail


@pytest.mark.row("LINE-05")
def test_mail_with_all_its_parameters_at_their_longest_is_accepted() -> None:
    line = (
        b"MAIL FROM:<a@x.example> SIZE=00000000000000001024 BODY=8BITMIME RET=FULL"
        + padded(b"ENVID", 100)
        + padded(b"AUTH", 500, tail=b"@x.example")
        + b" SMTPUTF8 REQUIRETLS\r\n"
    )
    ran = every_cut([EH, line], secured=True)
    assert ran.codes == ["220", "250", "250 2.1.0"]
    ((_, path, args, asked, auth),) = [entry for entry in ran.trace if entry[0] == "mail"]
    assert path == "<a@x.example>"
    assert asked == ("8bitmime", True, "FULL", "b" + "a" * 33)
    assert auth == ""
    assert args["SIZE"] == "00000000000000001024"
    assert args["AUTH"] == "b" + "a" * 163 + "@x.example"
    assert args["REQUIRETLS"] is True


@pytest.mark.row("LINE-06")
def test_rcpt_with_the_longest_orcpt_and_all_of_notify_is_accepted() -> None:
    line = (
        b"RCPT TO:<b@y.example>"
        + padded(b"ORCPT", 500, head=b"rfc822;")
        + b" NOTIFY=SUCCESS,FAILURE,DELAY\r\n"
    )
    ran = every_cut([EH, TX + line])
    assert ran.codes == ["220", "250", *MAILED, "250 2.1.5"]
    notify, orcpt = ran.trace[-2][3]
    assert ran.trace[-2][0] == "rcpt"
    assert notify == ("SUCCESS", "FAILURE", "DELAY")
    assert orcpt == "rfc822;b" + "a" * 164


@pytest.mark.row("LINE-08")
def test_a_long_line_that_only_begins_like_auth_has_the_limit_of_commands() -> None:
    lines = noop(LIMIT, b"AUTHX ") + noop(LIMIT + 1, b"AUTHX ") + b"NOOP\r\n"
    ran = every_cut([EH, lines])
    assert ran.codes == ["220", "250", "500 5.5.2", TOO_LONG, OK]


@pytest.mark.row("LINE-11")
@pytest.mark.parametrize("line", [b"\r\n", b"   \r\n", b"\t\r\n", b" NOOP\r\n"])
def test_an_empty_line_is_an_unknown_command_and_counts_as_one(line: bytes, run: Run) -> None:
    ran = every_cut([EH, line * 3 + b"NOOP\r\n"], max_unrecognized_commands=3)
    assert ran.codes == ["220", "250", "500 5.5.2", "500 5.5.2", "421 4.7.0"]
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("LINE-12")
def test_a_flood_of_empty_lines_is_cut_at_the_tenth() -> None:
    ran = one_way([EH, *[b"\r\n" * 32768] * 31])
    assert ran.codes == ["220", "250", *["500 5.5.2"] * 9, "421 4.7.0"]


@pytest.mark.row("LINE-13")
@pytest.mark.parametrize("line", [b"MAIL", b"MAIL FROM:<c@x.example>", b"QUI", b"QUIT\r"])
def test_an_unfinished_line_at_fin_is_dropped(line: bytes, run: Run) -> None:
    ran = every_cut([EH, b"NOOP\r\n" + line, FIN])
    assert ran.codes == ["220", "250", OK]
    assert ran.trace == [("connect",), ("close",)]
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("LINE-13")
@pytest.mark.parametrize(
    "line", [b"DATA", b"DATA\r", b"RCPT TO:<b@y.example>", b"RSET", b"BDAT 0 LAST\r"]
)
def test_an_unfinished_line_of_a_transaction_at_fin_is_dropped(line: bytes, run: Run) -> None:
    ran = every_cut([EH, TX + line, FIN])
    assert ran.codes == ["220", "250", *MAILED]
    assert ran.recorder.named("rcpt") == ["<b@y.example>"]
    assert ran.recorder.named("data") == []
    run(scenario.repeat_on_the_wire(ran))


# --- data lines ---


@pytest.mark.row("LINE-09")
@pytest.mark.parametrize(
    "octets", [998, 999, 10 * MIB, pytest.param(1024 * MIB, marks=pytest.mark.nightly)]
)
def test_a_data_line_of_any_length_is_streamed_in_constant_memory(octets: int) -> None:
    facts: list[Any] = []

    def on_data(stream: Any, session: Any, callback: Callable[..., object]) -> None:
        def on_end(error: Exception | None) -> None:
            facts.append((error, stream.byte_length, stream.longest_line))
            callback(error)

        stream.consume(lambda piece: None, on_end)

    with Conversation(on_data=on_data, size=0) as session:
        session.do(*PRE)
        segment = b"y" * min(octets, 256_000)
        whole, rest = divmod(octets, len(segment))
        tracemalloc.start()
        try:
            for _ in range(whole):
                session.wire.send(segment)
            session.wire.send(segment[:rest])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 400 * KIB
        assert session.do(b"\r\nz\r\n.\r\n") == ["250 2.6.0"]
    assert facts == [(None, octets + 5, octets)]


@pytest.mark.row("LINE-10")
@pytest.mark.parametrize("octets", [998, 999, 5000])
def test_a_long_data_line_is_delivered_unchanged_and_reported(octets: int, run: Run) -> None:
    body = b"short\r\n" + b"y" * octets + b"\r\nz\r\n"
    ran = every_cut([*PRE, body + b".\r\n"])
    assert ran.codes == [*PREPARED, "250 2.6.0"]
    (message,) = ran.messages
    assert message.body == body
    assert message.longest_line == octets
    run(scenario.repeat_on_the_wire(ran))


@pytest.mark.row("LINE-15")
def test_the_engine_reads_no_header() -> None:
    lines = [b"X-%d: %d\r\n" % (number, number) for number in range(100_000)]
    names = [b"__proto__: 1\r\n", b"__class__: 1\r\n", b"Received: x\r\n" * 1000]
    folded = b"Subject: x\r\n" + b" folded\r\n" * 20_000
    body = b"".join([*lines, *names, folded, b"\r\nbody\r\n"])
    ran = one_way([*PRE, body + b".\r\n"], scenario.Script(), scenario.random_cuts)
    assert ran.codes == [*PREPARED, "250 2.6.0"]
    assert [message.body for message in ran.messages] == [body]


# --- lines of replies ---

STAGES = {
    "mail": ([EH, b"MAIL FROM:<a@x.example>\r\n"], "550 5.7.1"),
    "rcpt": ([EH, TX], "550 5.1.1"),
    "data": ([*PRE, b"text\r\n.\r\n"], "550 5.7.1"),
}


def rejected(stage: str, text: str, utf8: bool = False) -> scenario.ParsedReply:
    """The reply to a rejection with `text`; none of its lines is too long."""
    steps, code = STAGES[stage]
    if utf8:
        steps = [step.replace(b"x.example>", b"x.example> SMTPUTF8") for step in steps]
    ran = one_way(steps, Script(**{stage: SMTPError(text, response_code=550)}))
    reply = ran.replies[-1]
    assert str(reply) == code
    return reply


each_stage = pytest.mark.parametrize("stage", STAGES)


@pytest.mark.row("LINE-14")
@each_stage
@pytest.mark.parametrize(
    "text, lines",
    [
        ("one\r\ntwo\nthree\rfour", ("one", "two", "three", "four")),
        ("one\r\n\r\ntwo\r\n\r\n", ("one", "", "two")),
        ("nul \0 esc \x1b del \x7f tab \t.", ("nul ? esc ? del ? tab ?.",)),
        ("c1 \x85 \x9b.", ("c1 ? ?.",)),
        ("caf\xe9 \u20ac", ("caf? ?",)),
        ("250-2.0.0 fine", ("250-2.0.0 fine",)),
        ("250 OK\r\n250 OK", ("250 OK", "250 OK")),
    ],
)
def test_the_text_of_a_hook_is_one_reply_of_clean_lines(
    stage: str, text: str, lines: tuple[str, ...]
) -> None:
    assert rejected(stage, text).lines == lines


@pytest.mark.row("LINE-14")
@each_stage
def test_an_enhanced_code_in_a_text_is_not_doubled(stage: str) -> None:
    steps, _ = STAGES[stage]
    ran = one_way(steps, Script(**{stage: SMTPError("5.7.27 no\r\nnever", response_code=550)}))
    assert str(ran.replies[-1]) == "550 5.7.27"
    assert ran.replies[-1].lines == ("no", "never")


@pytest.mark.row("LINE-14")
@each_stage
def test_non_ascii_is_utf8_in_the_replies_of_an_smtputf8_transaction(stage: str) -> None:
    assert rejected(stage, "caf\xe9 \u20ac \x85", utf8=True).lines == ("caf\xe9 \u20ac ?",)


@pytest.mark.row("LINE-14")
@each_stage
@pytest.mark.parametrize("utf8", [False, True])
def test_a_text_of_10_kb_is_cut_and_wrapped(stage: str, utf8: bool) -> None:
    text = "x" * 10_000
    assert "".join(rejected(stage, text, utf8).lines) == text[:4096]
    words = "word " * 2000
    lines = rejected(stage, words, utf8).lines
    assert " ".join(line.strip() for line in lines) == words[:4096].strip()
    assert all(set(line.split(" ")) <= {"word", "w", ""} for line in lines)
    if utf8:
        assert "".join(rejected(stage, "\u20ac" * 10_000, utf8).lines) == "\u20ac" * 4096


@pytest.mark.row("LINE-14")
@pytest.mark.parametrize("text", ["queued\r\nas\0 \xe9", "2.0.0 queued\r\nas\0 \xe9"])
def test_the_text_of_an_acceptance_is_cleaned_too(text: str) -> None:
    ran = one_way([*PRE, b"text\r\n.\r\n"], Script(data=text))
    assert str(ran.replies[-1]) == ("250 2.0.0" if text[0] == "2" else "250 2.6.0")
    assert ran.replies[-1].lines == ("queued", "as? ?")
