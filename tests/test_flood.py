"""Floods and counters: too many commands, errors, recipients, connections (RFC 5321 §7.8)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from hook_kit import BODY, END, MAIL, RCPT
from memory import growth
from rows import (
    COUNTERS_OFF,
    DEFAULTS,
    EH,
    GREETED,
    MAILED,
    TX,
    Hooks,
    Session,
    codes,
    one_way,
    three_ways,
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
def test_recipients_beyond_the_limit_are_deferred_and_beyond_twice_the_limit_cut() -> None:
    run = one_way([EH, MAIL + recipients(2001) + DATA])
    assert run.codes[3:] == [*["250 2.1.5"] * 1000, *["452 4.5.3"] * 1000, CLOSING]
    assert len(run.recorder.named("rcpt")) == 1000
    assert not run.messages


@row("FLOOD-01")
def test_a_message_to_more_than_the_limit_goes_to_those_within_it() -> None:
    run = one_way([EH, MAIL + recipients(1100) + DATA, BODY + END])
    assert run.codes[3:] == [*["250 2.1.5"] * 1000, *["452 4.5.3"] * 100, "354", "250 2.6.0"]
    assert run.messages[0].recipients == tuple(f"<r{n}@y.example>" for n in range(1000))


@row("FLOOD-01")
@pytest.mark.parametrize("limit", [1, 2, 7])
def test_the_limits_of_recipients_hold_however_the_commands_are_cut(limit: int) -> None:
    run = three_ways([EH, MAIL + RCPT * (2 * limit + 2)], max_recipients=limit)
    assert run.codes[3:] == [*["250 2.1.5"] * limit, *["452 4.5.3"] * limit, CLOSING]


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
    run = three_ways([EH, MAIL + RCPT * 30], Hooks(rcpt=SMTPError("unknown")))
    assert run.codes[3:] == [*["550 5.1.1"] * 19, CLOSING]


@row("FLOOD-12")
def test_harvesting_with_errors_uncounted_ends_above_twice_the_recipients() -> None:
    hooks = Hooks(rcpt=SMTPError("unknown"))
    run = three_ways([EH, MAIL + RCPT * 30], hooks, max_errors=None, max_recipients=10)
    assert run.codes[3:] == [*["550 5.1.1"] * 20, CLOSING]


@row("FLOOD-12")
def test_a_hook_that_has_had_enough_ends_it() -> None:
    asked: list[object] = []

    def answer(address: Any, session: Any) -> SMTPError | None:
        asked.append(address)
        return SMTPError("enough", response_code=421) if len(asked) == 3 else SMTPError("unknown")

    run = one_way([EH, MAIL + RCPT * 30], Hooks(rcpt=answer))
    assert run.codes[3:] == ["550 5.1.1", "550 5.1.1", "421 4.7.0"]
    assert len(asked) == 3


def test_a_turn_bears_so_many_commands_and_fewer_long_ones() -> None:
    for line, most in ((b"NOOP\r\n", 512), (b"MAIL FROM:<a@x> " + b"A " * 1000 + b"\r\n", 32)):
        with Wire(**DEFAULTS | COUNTERS_OFF) as wire:
            wire.send(EH)
            wire.connection.data_received(line * 600)
            assert wire.connection._dialogue.more
            at_once = wire.receive().count(b"\r\n")
            assert at_once == most
            assert at_once + wire.advance(0).count(b"\r\n") == 600


# --- unknown commands ---


@row("FLOOD-04")
@pytest.mark.parametrize("between", [b"", b"EHLO x\r\n", b"RSET\r\n", b"HELO x\r\n"])
def test_the_tenth_unknown_command_is_the_last(between: bytes) -> None:
    run = three_ways([EH, *[b"FOO\r\n", between] * 25], max_errors=None)
    told = [code for code in run.codes[2:] if code[:3] != "250"]
    assert told == [*["500 5.5.2"] * 9, CLOSING]
    if not between:
        piped = three_ways([EH, b"FOO\r\n" * 25])
        assert piped.codes[2:] == told


@row("FLOOD-04")
def test_an_accepted_message_lets_the_count_of_unknown_commands_start_anew() -> None:
    run = three_ways([EH, b"FOO\r\n" * 9, MESSAGE, b"FOO\r\n" * 12], max_errors=None)
    assert run.codes[2:] == [
        *["500 5.5.2"] * 9,
        *[*MAILED, "250 2.6.0"],
        *["500 5.5.2"] * 9,
        CLOSING,
    ]


@row("FLOOD-04")
@pytest.mark.parametrize("counter", ["max_unrecognized_commands", "max_errors"])
def test_a_message_that_was_refused_lets_no_count_start_anew(counter: str) -> None:
    hooks = Hooks(data=SMTPError("no"))
    options = {**COUNTERS_OFF, counter: 10}
    run = three_ways([EH, b"FOO\r\n" * 8, MESSAGE, b"FOO\r\n" * 8], hooks, **options)
    errors = 9 if counter == "max_unrecognized_commands" else 8
    told = [code for code in run.codes[2:] if code[:3] != "250"]
    refused = [*["500 5.5.2"] * 8, "450 4.7.1"]
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


@row("FLOOD-07")
def test_many_transactions_that_come_to_nothing_leave_nothing() -> None:
    transactions_without_growth(2000)


@row("FLOOD-07")
@pytest.mark.nightly
def test_a_hundred_thousand_transactions_that_come_to_nothing_leave_nothing() -> None:
    transactions_without_growth(100_000)


def transactions_without_growth(count: int) -> None:
    with Wire(**DEFAULTS, **COUNTERS_OFF) as wire:
        wire.send(EH)

        def work(rounds: int) -> None:
            for _ in range(rounds):
                assert len(codes(wire.send((TX + b"RSET\r\n") * 50))) == 150
            wire.transport.writes.clear()
            wire.receive()

        assert growth(lambda: work(count // 50), lambda: work(4)) < 16_384


# --- chunks ---


@row("FLOOD-08")
def test_a_message_in_very_many_chunks_is_one_message() -> None:
    chunk = b"BDAT 1\r\nx"
    flood = in_segments(chunk * 50_000)
    run = one_way([EH, TX, *flood, b"BDAT 0 LAST\r\n"])
    assert run.codes[4:] == [*["250 2.0.0"] * 50_000, "250 2.6.0"]
    assert run.messages[0].body == b"x" * 50_000


@row("FLOOD-08")
def test_the_credit_of_a_body_counts_payload_only() -> None:
    with Session() as session:
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
    run = three_ways([EH, TX + b"BDAT 0\r\n" * 150])
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


@row("FLOOD-13", "SIZE-05")
def test_messages_aborted_just_below_the_limit_leave_nothing() -> None:
    ends: list[str] = []
    loop = VirtualLoop()

    def on_data(stream: Any, session: Any, callback: Any) -> None:
        kept: list[bytes] = []
        stream.consume(kept.append, lambda error: (ends.append(error.reason), callback(error)))

    server = SMTPServer(**DEFAULTS, size=100_000, on_data=on_data)

    def abort_one() -> None:
        with Wire(server, loop=loop) as wire:
            wire.send(EH)
            wire.send(TX + DATA)
            wire.send(b"x" * 99_999)

    def work(rounds: int) -> None:
        for _ in range(rounds):
            abort_one()

    assert growth(lambda: work(50), lambda: work(5)) < 32_768
    assert ends == ["disconnected"] * 55
    assert not server.connections
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
    run = one_way([EH, MAIL + RCPT * 15], Hooks(rcpt=ValueError("x" * 100_000)))
    assert run.codes[3:] == ["451 4.3.0"] * 15
    assert all(len(record.getMessage()) <= 512 for record in caplog.records)
