"""Floods and counters: too many commands, errors, recipients, connections (RFC 5321 §7.8)."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import pytest
from hook_kit import BODY, END, MAIL, RCPT
from scenario import (
    COUNTERS_OFF,
    DEFAULTS,
    EH,
    GREETED,
    LH,
    MAILED,
    TX,
    Conversation,
    Script,
    codes,
    every_cut,
    one_way,
)

from fastsmtp import SMTPError, SMTPServer
from fastsmtp.testing import VirtualLoop, Wire

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

DATA = b"DATA\r\n"
MESSAGE = TX + b"BDAT 1 LAST\r\nx"
CLOSING = "421 4.7.0"


def in_segments(octets: bytes, size: int = 65536) -> list[bytes]:
    return [octets[at : at + size] for at in range(0, len(octets), size)]


def recipients(count: int) -> bytes:
    return b"".join(b"RCPT TO:<r%d@y.example>\r\n" % number for number in range(count))


# --- recipients ---


@row("FLOOD-01")
def test_recipients_beyond_the_limit_are_deferred_and_those_within_it_get_the_message() -> None:
    run = one_way([EH, MAIL, *in_segments(recipients(2001)), DATA, BODY + END])
    assert run.codes[3:-2] == [*["250 2.1.5"] * 1000, *["452 4.5.3"] * 1001]
    assert run.codes[-2:] == ["354", "250 2.6.0"]
    assert len(run.recorder.named("rcpt")) == 1000
    assert len(run.messages[0].recipients) == 1000


@row("FLOOD-01")
def test_recipients_beyond_ten_times_the_limit_are_junk() -> None:
    run = one_way([EH, MAIL, RCPT * 30], max_recipients=2, max_junk_commands=5)
    assert run.codes[3:] == [*["250 2.1.5"] * 2, *["452 4.5.3"] * 21, CLOSING]  # EHLO was junk
    assert not run.messages


@row("FLOOD-01")
def test_a_message_to_more_than_the_limit_goes_to_those_within_it() -> None:
    run = one_way([EH, MAIL + recipients(1100) + DATA, BODY + END])
    assert run.codes[3:] == [*["250 2.1.5"] * 1000, *["452 4.5.3"] * 100, "354", "250 2.6.0"]
    assert run.messages[0].recipients == tuple(f"<r{n}@y.example>" for n in range(1000))


@row("FLOOD-01")
@pytest.mark.parametrize("limit", [1, 2, 7])
def test_the_limits_of_recipients_hold_however_the_commands_are_cut(limit: int) -> None:
    tries = 10 * limit + 2  # EHLO was the first of the four
    run = every_cut([EH, MAIL + RCPT * (tries + 2)], max_recipients=limit, max_junk_commands=4)
    deferred = tries - limit
    assert run.codes[3:] == [*["250 2.1.5"] * limit, *["452 4.5.3"] * deferred, CLOSING]


@row("FLOOD-01")
def test_recipients_are_bounded_by_their_octets_too_and_a_hundred_fit_at_any_length() -> None:
    """Paths and ORCPT of the greatest length, of which a thousand would take two megabytes."""
    path = b"<" + b"a" * 60 + b"@" + b".".join([b"b" * 47] * 4) + b">"
    assert len(path) <= 256
    parameters = b" NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;" + b"o" * 493
    line = b"RCPT TO:" + path + parameters + b"\r\n"
    run = one_way([EH, MAIL, *in_segments(line * 300), DATA, BODY + END])
    taken = run.codes.count("250 2.1.5")
    assert 100 <= taken < 300
    assert run.codes[3:-2] == [*["250 2.1.5"] * taken, *["452 4.5.3"] * (300 - taken)]
    assert run.codes[-2:] == ["354", "250 2.6.0"]
    assert len(run.messages[0].recipients) == taken


@row("FLOOD-01")
def test_a_thousand_recipients_of_usual_length_fit() -> None:
    line = b"RCPT TO:<%s@department.company.example>\r\n"
    lines = b"".join(line % (b"firstname.lastname+%04d" % number) for number in range(1000))
    run = one_way([EH, MAIL, *in_segments(lines)])
    assert run.codes[3:] == ["250 2.1.5"] * 1000


@row("FLOOD-02")
def test_a_hundred_recipients_are_always_taken() -> None:
    run = one_way([EH, MAIL + recipients(100) + DATA, BODY + END])
    assert run.codes == [*GREETED, "250 2.1.0", *["250 2.1.5"] * 100, "354", "250 2.6.0"]


@row("FLOOD-03")
def test_equal_recipients_are_all_kept() -> None:
    both = b"RCPT TO:<same@y.example>\r\nRCPT TO:<SAME@y.example>\r\n"
    run = one_way([EH, MAIL, *in_segments(both * 25_000), DATA, BODY + END], max_recipients=50_000)
    assert run.codes[3:] == [*["250 2.1.5"] * 50_000, "354", "250 2.6.0"]
    assert run.messages[0].recipients == ("<same@y.example>", "<SAME@y.example>") * 25_000


@row("FLOOD-12")
def test_harvesting_ends_at_the_twentieth_error() -> None:
    run = every_cut([EH, MAIL + RCPT * 30], Script(rcpt=SMTPError("unknown")))
    assert run.codes[3:] == [*["550 5.1.1"] * 19, CLOSING]


@row("FLOOD-12")
def test_harvesting_with_errors_uncounted_ends_as_junk() -> None:
    hooks = Script(rcpt=SMTPError("unknown"))
    limits = {"max_errors": None, "max_recipients": 2, "max_junk_commands": 5}
    run = every_cut([EH, MAIL + RCPT * 30], hooks, **limits)
    assert run.codes[3:] == [*["550 5.1.1"] * 23, CLOSING]  # EHLO was junk


def by_name(address: Any, session: Any) -> SMTPError | None:
    """The hook of RCPT: a local part says what becomes of it."""
    kinds = {"g": None, "d": SMTPError("later", 450), "x": SMTPError("unknown", 550)}
    return kinds[address.local_part[0]]


def many(kinds: str) -> bytes:
    return b"".join(
        b"RCPT TO:<%s%d@y.example>\r\n" % (kind.encode(), number)
        for number, kind in enumerate(kinds)
    )


FATES = {"g": "250 2.1.5", "d": "450 4.2.1", "x": "550 5.1.1"}


@row("FLOOD-12")
@pytest.mark.parametrize("order", ["mixed", "deferred first", "good first"])
@pytest.mark.parametrize("lmtp", [False, True])
def test_deferred_recipients_do_not_keep_the_message_from_the_good_ones(
    order: str, lmtp: bool
) -> None:
    """As Exim and OpenSMTPD send them: one message, 25 recipients good and 25 to be tried again."""
    kinds = {"mixed": "gd" * 25, "deferred first": "d" * 25 + "g" * 25, "good first": "gd" * 25}
    kinds["good first"] = "g" * 25 + "d" * 25
    greeting = LH if lmtp else EH
    run = one_way([greeting, MAIL, many(kinds[order]), DATA, BODY + END], Script(rcpt=by_name),
                  lmtp=lmtp)  # fmt: skip
    answered = ["250 2.6.0"] * (25 if lmtp else 1)
    assert run.codes[3:] == [*(FATES[kind] for kind in kinds[order]), "354", *answered]
    assert len(run.messages[0].recipients) == 25


@row("FLOOD-12")
@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_each_of_five_hundred_recipients_has_its_own_reply_when_two_of_five_are_refused(
    seed: int, lmtp: bool
) -> None:
    kinds = list("g" * 300 + "x" * 200)
    random.Random(seed).shuffle(kinds)
    lines = many("".join(kinds))
    run = one_way([LH if lmtp else EH, MAIL, *in_segments(lines), DATA, BODY + END],
                  Script(rcpt=by_name), lmtp=lmtp)  # fmt: skip
    answered = ["250 2.6.0"] * (300 if lmtp else 1)
    assert run.codes[3:] == [*(FATES[kind] for kind in kinds), "354", *answered]


@row("FLOOD-12")
def test_one_known_recipient_does_not_open_the_list_of_the_others() -> None:
    """Refused recipients count as errors as soon as there are more than four for each good one."""
    run = one_way([EH, MAIL, many("g" + "x" * 100)], Script(rcpt=by_name))
    assert run.codes[3:] == ["250 2.1.5", *["550 5.1.1"] * (4 + 19), CLOSING]


@row("FLOOD-12")
@pytest.mark.parametrize("line", [b"RCPT TO:<a..b@x>\r\n", b"RCPT TO:<a@x> FOO=1\r\n"])
@pytest.mark.parametrize("lmtp", [False, True])
def test_malformed_recipients_count_as_errors_in_smtp_but_not_in_lmtp(
    line: bytes, lmtp: bool
) -> None:
    run = one_way([LH if lmtp else EH, MAIL, line * 30, b"NOOP\r\n"], lmtp=lmtp)
    closes = run.codes[-1] == CLOSING
    assert closes is not lmtp


def test_a_temporary_refusal_does_not_count_as_an_error_of_the_client() -> None:
    """Deferrals by hooks, at each stage, and failures of hooks: as many as it likes."""
    for answer in (SMTPError("later", 451), ValueError("a bug")):
        for stage in ("mail", "rcpt"):
            lines = MAIL if stage == "mail" else MAIL + RCPT + b"RSET\r\n"
            hooks = Script(**{stage: answer})
            run = one_way([EH, lines * 40, b"NOOP\r\n"], hooks, max_junk_commands=None)
            assert run.codes[-1] == "250 2.0.0"
        hooks = Script(data=answer)
        run = one_way([EH, *[TX + DATA, BODY + END] * 40, b"NOOP\r\n"], hooks)
        assert run.codes[-1] == "250 2.0.0"


@row("FLOOD-12")
def test_a_hook_that_answers_421_ends_the_connection() -> None:
    asked: list[object] = []

    def answer(address: Any, session: Any) -> SMTPError | None:
        asked.append(address)
        return SMTPError("enough", response_code=421) if len(asked) == 3 else SMTPError("unknown")

    run = one_way([EH, MAIL + RCPT * 30], Script(rcpt=answer))
    assert run.codes[3:] == ["550 5.1.1", "550 5.1.1", "421 4.7.0"]
    assert len(asked) == 3


def test_a_turn_of_the_loop_takes_a_limited_number_of_commands_and_fewer_long_ones() -> None:
    for line, most in ((b"NOOP\r\n", 512), (b"MAIL FROM:<a@x> " + b"A " * 1000 + b"\r\n", 32)):
        with Wire(**DEFAULTS | COUNTERS_OFF) as wire:
            wire.send(EH)
            wire.connection.data_received(line * 600)
            assert wire.connection.protocol.more
            at_once = wire.receive().count(b"\r\n")
            assert at_once == most
            assert at_once + wire.advance(0).count(b"\r\n") == 600


# --- unknown commands ---


@row("FLOOD-04")
@pytest.mark.parametrize("between", [b"", b"EHLO x\r\n", b"RSET\r\n", b"HELO x\r\n"])
def test_the_tenth_unknown_command_ends_the_connection(between: bytes) -> None:
    run = every_cut([EH, *[b"FOO\r\n", between] * 25], max_errors=None)
    told = [code for code in run.codes[2:] if code[:3] != "250"]
    assert told == [*["500 5.5.2"] * 9, CLOSING]
    if not between:
        piped = every_cut([EH, b"FOO\r\n" * 25])
        assert piped.codes[2:] == told


@row("FLOOD-04")
def test_an_accepted_message_resets_the_count_of_unknown_commands() -> None:
    run = every_cut([EH, b"FOO\r\n" * 9, MESSAGE, b"FOO\r\n" * 12], max_errors=None)
    assert run.codes[2:] == [
        *["500 5.5.2"] * 9,
        *[*MAILED, "250 2.6.0"],
        *["500 5.5.2"] * 9,
        CLOSING,
    ]


@row("FLOOD-04")
@pytest.mark.parametrize("counter", ["max_unrecognized_commands", "max_errors"])
def test_a_refused_message_resets_no_count(counter: str) -> None:
    hooks = Script(data=SMTPError("no", 554))
    options = {**COUNTERS_OFF, counter: 10}
    run = every_cut([EH, b"FOO\r\n" * 8, MESSAGE, b"FOO\r\n" * 8], hooks, **options)
    errors = 9 if counter == "max_unrecognized_commands" else 8
    told = [code for code in run.codes[2:] if code[:3] != "250"]
    refused = [*["500 5.5.2"] * 8, "554 5.6.0"]
    assert told == [*refused, *["500 5.5.2"] * (errors - 8), CLOSING]


@row("FLOOD-04")
@pytest.mark.parametrize("option", ["max_unrecognized_commands", "max_errors", "max_junk_commands"])
@pytest.mark.parametrize("off", [None, 0])
def test_a_counter_can_be_switched_off(option: str, off: int | None) -> None:
    run = one_way([EH, b"FOO\r\n" * 200 + b"NOOP\r\n" * 200], **{**COUNTERS_OFF, option: off})
    assert run.codes[2:] == [*["500 5.5.2"] * 200, *["250 2.0.0"] * 200]


# --- junk ---

JUNK = {
    "NOOP": (b"NOOP\r\n", "250 2.0.0"),
    "RSET": (b"RSET\r\n", "250 2.0.0"),
    "VRFY": (b"VRFY a\r\n", "252 2.0.0"),
    "HELP": (b"HELP\r\n", "214 2.0.0"),
    "XFORWARD": (b"XFORWARD NAME=x\r\n", "550 5.7.0"),
    "EHLO": (b"EHLO x\r\n", "250"),
    "HELO": (b"HELO x\r\n", "250"),
}


@row("FLOOD-05")
@pytest.mark.parametrize("verb", JUNK)
def test_a_flood_of_junk_ends_at_the_hundredth(verb: str) -> None:
    line, reply = JUNK[verb]
    flood = in_segments(line * (1_000_000 // len(line)))
    run = one_way(flood, strict_pipelining=False, max_errors=None)
    assert run.codes[1:] == [*[reply] * 99, CLOSING]
    assert run.trace == [("connect",), ("close",)]


@row("FLOOD-05")
@pytest.mark.parametrize("verb", ["EHLO", "HELO"])
def test_a_flood_of_greetings_breaks_the_synchronisation_first(verb: str) -> None:
    run = one_way(in_segments(JUNK[verb][0] * 10_000))
    assert run.codes == ["220", "554 5.5.0"]


@row("FLOOD-05")
def test_lhlo_is_junk_in_lmtp() -> None:
    run = one_way([b"LHLO x\r\n" * 150], lmtp=True, strict_pipelining=False)
    assert run.codes[1:] == [*["250"] * 99, CLOSING]


@row("FLOOD-05")
def test_each_kind_of_junk_counts_and_nothing_else_does() -> None:
    lines = b"".join(line for line, _ in JUNK.values())
    steps = [EH, MAIL + b"FOO\r\n" * 50 + b"RCPT TO:<>\r\n" * 50 + RCPT * 50, lines * 20]
    options = {**COUNTERS_OFF, "max_junk_commands": 100, "strict_pipelining": False}
    run = one_way(steps, **options)
    assert run.codes[-1] == CLOSING
    assert len(run.codes) - 1 == 1 + 1 + 150 + 99  # EHLO is one of the hundred


# --- chunks ---


@row("FLOOD-08")
def test_a_message_in_very_many_chunks_is_one_message() -> None:
    chunk = b"BDAT 64\r\n" + b"x" * 64
    flood = in_segments(chunk * 20_000)
    run = one_way([EH, TX, *flood, b"BDAT 0 LAST\r\n"])
    assert run.codes[4:] == [*["250 2.0.0"] * 20_000, "250 2.6.0"]
    assert run.messages[0].body == b"x" * 64 * 20_000


@row("FLOOD-08")
@pytest.mark.parametrize("size", [1, 63])
def test_chunks_smaller_than_any_client_sends_count_as_junk(size: int) -> None:
    chunk = b"BDAT %d\r\n" % size + b"x" * size
    run = one_way([EH, TX, *in_segments(chunk * 200)])
    # EHLO was the first of the hundred.
    assert run.codes[4:] == [*["250 2.0.0"] * 98, CLOSING]
    assert run.messages[0].reason == "disconnected"


@row("FLOOD-08")
@pytest.mark.parametrize("octets", [1, 15])
@pytest.mark.parametrize("hooks", [Script(), Script(data=SMTPError("later", 450))])
def test_messages_too_short_to_be_real_count_as_junk_and_each_has_its_reply(
    octets: int, hooks: Script
) -> None:
    message = TX + b"BDAT %d LAST\r\n" % octets + b"x" * octets
    run = one_way([EH, *[message] * 120], hooks)
    # EHLO was the first of the hundred; the MAIL after the last of them is the first to be refused.
    told = ["250 2.1.0", "250 2.1.5", "250 2.6.0" if hooks == Script() else "450 4.7.1"] * 99
    assert run.codes[2:] == [*told, CLOSING]
    assert len(run.messages) == 99


@row("FLOOD-08")
def test_short_messages_among_real_ones_do_not_count_as_junk() -> None:
    short = TX + b"BDAT 1 LAST\r\nx"
    real = TX + b"BDAT 16 LAST\r\n" + b"y" * 16
    run = one_way([EH, *[short * 90 + real] * 5])
    assert run.codes[2:] == ["250 2.1.0", "250 2.1.5", "250 2.6.0"] * 91 * 5


@row("FLOOD-08")
def test_the_time_credit_of_a_body_grows_with_its_payload_only() -> None:
    with Conversation() as session:
        session.do(EH, TX + b"BDAT 1\r\n")
        for _ in range(3):  # 50 s in each chunk; what else is sent buys no time
            session.wire.advance(50)
            assert session.do(b"x" + b"NOOP " + b"y" * 1000 + b"\r\nBDAT 1\r\n") == [
                "250 2.0.0",
                "250 2.0.0",
            ]
        assert codes(session.wire.advance(29)) == []
        assert codes(session.wire.advance(2)) == ["421 4.4.2"]
        assert session.messages[0].reason == "timeout"


@row("FLOOD-09", "BDAT-09")
def test_empty_chunks_are_junk() -> None:
    run = every_cut([EH, TX + b"BDAT 0\r\n" * 150])
    # EHLO was the first of the hundred.
    assert run.codes[4:] == [*["250 2.0.0"] * 98, CLOSING]
    assert run.messages[0].reason == "disconnected"


# --- connections ---


@row("FLOOD-11")
@pytest.mark.parametrize(
    "near, far",
    [
        ("192.0.2.1", "192.0.2.2"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2"),
        ("2001:db8::1", "2001:db8:0:1::1"),
        ("2001:db8::ffff:1", "2001:db8:1::1"),
    ],
)
def test_a_host_has_its_share_of_connections(near: str, far: str) -> None:
    calls: list[str] = []
    hooks: dict[str, Callable[..., object]] = {
        "on_connect": lambda session, callback: (calls.append("connect"), callback()),
        "on_close": lambda session: calls.append("close"),
    }
    loop = VirtualLoop()
    server = SMTPServer(**DEFAULTS, **hooks, max_clients_per_host=50)
    neighbour = "2001:db8::2" if near == "2001:db8::1" else near
    wires = [Wire(server, loop=loop, peer=(near, port)) for port in range(1, 51)]
    assert [codes(wire.receive()) for wire in wires] == [["220"]] * 50
    one_more = Wire(server, loop=loop, peer=(neighbour, 51))
    assert codes(one_more.receive()) == ["421"]
    assert one_more.closed
    assert len(calls) == 50
    other = Wire(server, loop=loop, peer=(far, 52))
    assert codes(other.receive()) == ["220"]
    one_more.close()
    assert calls == ["connect"] * 51
    wires[0].close()
    again = Wire(server, loop=loop, peer=(near, 53))
    assert codes(again.receive()) == ["220"]
    for wire in (*wires, other, again):
        wire.close()
    assert not server.connections
    assert calls.count("connect") == calls.count("close") == 52
    loop.close()


@row("FLOOD-11")
def test_connections_without_an_address_are_not_counted_by_host() -> None:
    loop = VirtualLoop()
    server = SMTPServer(**DEFAULTS, max_clients_per_host=1)
    wires = [Wire(server, loop=loop, peer=peer) for peer in ("", None, "", ("192.0.2.1", 1))]
    assert [codes(wire.receive()) for wire in wires] == [["220"]] * 4
    for wire in wires:
        wire.close()
    loop.close()


@row("FLOOD-11", "SLOW-15")
def test_a_place_that_falls_free_serves_the_next() -> None:
    loop = VirtualLoop()
    server = SMTPServer(**DEFAULTS, max_clients=10)
    wires = [Wire(server, loop=loop) for _ in range(10)]
    refused = Wire(server, loop=loop)
    assert codes(refused.receive()) == ["421"]
    assert len(server.connections) == 10
    assert codes(wires[3].send(b"QUIT\r\n")) == ["220", "221 2.0.0"]
    wires[3].eof()
    late = Wire(server, loop=loop)
    loop.advance(299)
    assert not any(wire.closed for wire in (*wires[:3], *wires[4:], late))
    loop.advance(2)
    for wire in (*wires[:3], *wires[4:], late):
        assert codes(wire.receive()) == ["220", "421 4.4.2"]  # clocks are as when it is empty
    loop.advance(6)
    assert not server.connections
    for wire in (*wires, refused, late):
        wire.close()
    loop.close()


# --- what the log says of it ---


@row("FLOOD-14")
@pytest.mark.parametrize(
    "octets",
    [
        b"FOO\r\n" * 100_000,
        b"\x1b[2J" * 1000 + b"\r\n",
        b"NOOP " + b"x" * 3000 + b"\r\n",
        b"RCPT TO:<>\r\n" * 1000,
        b"x" * 100_000,
        b"NOOP\n" * 1000,
        b"GET /" + b"x" * 1000 + b" HTTP/1.1\r\n" * 100,
        b"MAIL FROM:<%n{0.__class__}@x.example>\r\n" * 100,
        b"\x16\x03\x01" * 1000,
    ],
    ids=lambda octets: repr(octets[:10]),
)
def test_a_flood_is_at_most_one_bounded_log_line(
    octets: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fastsmtp")
    one_way(in_segments(octets))
    assert len(caplog.records) <= 1
    assert all(len(record.getMessage()) <= 512 for record in caplog.records)


@row("FLOOD-14")
def test_a_flood_of_failing_hooks_is_logged_by_failure_and_bounded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = one_way([EH, MAIL + RCPT * 15], Script(rcpt=ValueError("x" * 100_000)))
    assert run.codes[3:] == ["451 4.3.0"] * 15
    assert all(len(record.getMessage()) <= 512 for record in caplog.records)
