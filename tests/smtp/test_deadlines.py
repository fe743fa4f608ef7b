"""Slow clients at each stage: what time each has, and what buys more (RFC 5321 §4.5.3.2).

Time is virtual: nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from consumers import Consumer
from hook_kit import BODY, END, MAIL, RCPT
from scenario import (
    COUNTERS_OFF,
    DEFAULTS,
    EH,
    LATE,
    TX,
    Conversation,
    Script,
    codes,
    pause,
)

from fastsmtp import SMTPServer
from fastsmtp.testing import VirtualLoop, Wire

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

TIMEOUT = ["421 4.4.2"]
BEGIN = {"DATA": b"DATA\r\n", "BDAT": b"BDAT 1000000 LAST\r\n"}
each_command = pytest.mark.parametrize("command", BEGIN)


def body_wire(command: str, **options: Any) -> tuple[Wire, Consumer]:
    """A wire on which octets of body are due."""
    consumer = Consumer("consume")
    wire = Wire(**{**DEFAULTS, **COUNTERS_OFF, "on_data": consumer.hook(), **options})
    wire.send(EH)
    wire.send(TX + BEGIN[command])
    return wire, consumer


def time_of_end(wire: Wire, step: Callable[[], object], seconds: float, most: float) -> float:
    """Do a step every so many seconds; return when the server had enough, `most` if it did not."""
    start = wire.loop.time()
    while not wire.closed and wire.loop.time() - start < most:
        before = wire.loop.time()
        if found := codes(wire.advance(seconds)):
            assert found == TIMEOUT
            # The time of the end within the last step: look again, in small ones.
            return (before - start + wire.loop.time() - start) / 2
        step()
    return most


# --- commands ---


@row("SLOW-01")
def test_a_silent_client_is_cut_at_five_minutes() -> None:
    with Conversation() as session:
        assert session.do(pause(299.9)) == []
        assert session.do(pause(0.2)) == TIMEOUT
        assert session.closed


@row("SLOW-01", "SLOW-05")
def test_the_timeout_of_a_command_runs_from_our_last_reply() -> None:
    with Conversation() as session:
        session.do(pause(200), EH)
        assert session.do(pause(299.9)) == []
        session.do(TX)
        assert session.do(pause(299.9)) == []
        assert session.do(pause(0.2)) == TIMEOUT


@row("SLOW-05")
@pytest.mark.parametrize("seconds", [0.5, 4, 50])
def test_octets_of_a_command_do_not_extend_its_timeout(seconds: float) -> None:
    with Wire(**DEFAULTS) as wire:
        wire.send(EH)
        wire.send(b"EHLO ")
        end = time_of_end(wire, lambda: wire.send(b"a"), seconds, 400)
        assert 300 - seconds <= end <= 300
        assert wire.closed


@row("SLOW-05")
def test_a_command_whose_end_comes_too_late_is_cut() -> None:
    with Conversation() as session:
        session.do(EH, pause(299), b"NOOP", pause(0.9))
        assert session.do(b"\r") == []
        assert session.do(pause(0.2)) == TIMEOUT


@row("SLOW-06")
def test_a_client_that_only_sends_noop_is_cut() -> None:
    with Conversation() as session:
        for _ in range(99):
            assert session.do(pause(299), b"NOOP\r\n") == ["250 2.0.0"]
        assert session.do(pause(299), b"NOOP\r\n") == ["421 4.7.0"]


@row("SLOW-05")
@pytest.mark.parametrize("hook", ["connect", "mail", "rcpt"])
def test_the_timeout_of_a_command_stops_while_a_hook_works(hook: str) -> None:
    hooks = Script(**{hook: LATE})
    with Conversation(hooks, hook_timeout=1000) as session:
        if hook != "connect":
            session.do(EH, TX)
        assert session.do(pause(900)) == []
        assert session.answer()[0][0] == "2"
        while session.recorder.late:
            session.answer()
        assert session.do(pause(299)) == []
        assert session.do(pause(2)) == TIMEOUT


@row("SLOW-08")
def test_silence_after_a_chunk_is_bounded_by_the_timeout_of_commands() -> None:
    with Conversation() as session:
        session.do(EH, TX + b"BDAT 4\r\ntext")
        assert session.do(pause(299)) == []
        assert session.do(b"BDAT 4\r\nmore") == ["250 2.0.0"]
        assert session.do(pause(299)) == []
        assert session.do(pause(2)) == TIMEOUT
        assert session.messages[0].reason == "timeout"


@pytest.mark.parametrize("seconds", [1, 17.5])
def test_the_time_for_a_command_is_an_option(seconds: float) -> None:
    with Conversation(socket_timeout=seconds) as session:
        assert session.do(pause(seconds - 0.1)) == []
        assert session.do(pause(0.2)) == TIMEOUT


# --- bodies ---


@row("SLOW-08", "SLOW-09", "BDAT-13")
@each_command
def test_a_silent_body_is_cut_when_its_credit_is_gone(command: str) -> None:
    wire, consumer = body_wire(command)
    with wire:
        assert codes(wire.advance(179.9))[-1:] in ([], ["354"])
        assert codes(wire.advance(0.2)) == TIMEOUT
        assert consumer.ends == ["timeout"]
        assert wire.closed


# Octets a second -> when the credit is gone, at 500 octets a second: 180 / (1 - rate / 500).
RATES = {1: 180.36, 100: 225.0, 250: 360.0, 400: 900.0}


@row("SLOW-08", "SLOW-09")
@each_command
@pytest.mark.parametrize("rate", RATES)
def test_a_slow_body_is_cut_when_its_credit_is_gone(command: str, rate: int) -> None:
    wire, consumer = body_wire(command)
    with wire:
        octets = max(1, rate // 10)
        end = time_of_end(wire, lambda: wire.send(b"x" * octets), octets / rate, 2000)
        assert abs(end - RATES[rate]) <= 1
        assert consumer.ends == ["timeout"]
        assert wire.closed


@row("SLOW-08", "SLOW-09")
@each_command
def test_a_slow_body_above_the_least_rate_passes(command: str) -> None:
    wire, consumer = body_wire(command)
    with wire:
        wire.receive()
        for _ in range(1900):
            assert wire.advance(1) == b""
            assert wire.send(b"x" * 501) == b""
        rest = b"\r\n" + END if command == "DATA" else b"x" * (1_000_000 - 1900 * 501)
        assert codes(wire.send(rest)) == ["250 2.6.0"]
        assert consumer.ends == [None]


@row("SLOW-10")
@each_command
@pytest.mark.parametrize("octets", [1, 100_000, 900_000])
def test_a_body_without_an_end_is_cut_and_credit_is_never_above_its_limit(
    command: str, octets: int
) -> None:
    wire, consumer = body_wire(command)
    with wire:
        wire.receive()
        wire.advance(20)
        for at in range(0, octets, 50_000):
            wire.send(b"x" * min(50_000, octets - at))
        end = time_of_end(wire, lambda: None, 1, 400)
        assert end <= 181
        assert end >= (160 if octets == 1 else 179)
        assert consumer.ends == ["timeout"]
        assert not wire.server.connections or wire.closed


@row("SLOW-08", "SLOW-10")
def test_the_rate_and_the_credit_are_options() -> None:
    wire, _ = body_wire("DATA", data_timeout=10, min_data_rate=10)
    with wire:
        wire.receive()
        for _ in range(100):
            assert wire.advance(5) == b""
            assert wire.send(b"x" * 51) == b""
        assert codes(wire.advance(10.1)) == TIMEOUT


@row("SLOW-09")
def test_octets_of_a_refused_chunk_have_the_same_clock() -> None:
    with Conversation() as session:
        session.do(EH, b"BDAT 1000\r\n")
        assert session.do(pause(179)) == []
        assert session.do(pause(2)) == TIMEOUT


@row("SLOW-08")
def test_a_new_message_has_the_whole_credit_again() -> None:
    with Conversation() as session:
        session.do(EH, TX + b"DATA\r\n", pause(170), BODY + END, TX + b"DATA\r\n")
        assert session.do(pause(179)) == []
        assert session.do(BODY + END) == ["250 2.6.0"]


# --- replies ---


@row("SLOW-12", "NET-05")
def test_a_client_that_reads_a_little_is_not_cut_and_costs_bounded_memory() -> None:
    with Wire(**{**DEFAULTS, **COUNTERS_OFF}) as wire:
        wire.send(EH)
        wire.stop_reading()
        while wire.transport.reading:
            reply = wire.send(b"HELP\r\n" * 100)
        held = wire.transport.get_write_buffer_size()
        assert held <= 64 * 1024 + reply.index(b"\n") + 1
        for _ in range(200):
            wire.advance(29)
            wire.take(1)
            assert not wire.closed
            assert not wire.transport.reading
        assert wire.transport.get_write_buffer_size() == held - 200
        wire.advance(25)
        assert not wire.transport.closed
        wire.advance(10)
        assert wire.transport.closed


@row("SLOW-12", "NET-05")
def test_a_client_that_takes_nothing_is_cut_at_thirty_seconds() -> None:
    with Wire(**{**DEFAULTS, **COUNTERS_OFF}) as wire:
        wire.advance(100)
        wire.stop_reading()
        wire.send(b"HELP\r\n")
        wire.advance(29.9)
        assert not wire.transport.closed
        wire.advance(5)
        assert wire.transport.closed
        assert not wire.server.connections


@row("SLOW-12")
@pytest.mark.parametrize("end", [b"QUIT\r\n", b"GET / HTTP/1.0\r\n"])
def test_a_last_reply_that_is_not_read_is_dropped_soon(end: bytes) -> None:
    with Wire(**DEFAULTS) as wire:
        wire.stop_reading()
        wire.send(end)
        wire.advance(36)
        assert wire.transport.closed
        assert not wire.server.connections


@row("SLOW-12")
def test_a_client_that_takes_its_replies_late_gets_all_of_them() -> None:
    with Wire(**{**DEFAULTS, **COUNTERS_OFF}) as wire:
        wire.receive()
        wire.stop_reading()
        written = b""
        sent = 0
        while wire.transport.reading:
            written += wire.send(b"HELP\r\n" * 1000)
            sent += 1000
        assert len(codes(written)) < sent
        while wire.transport.get_write_buffer_size():
            wire.take(4096)
            written += wire.advance(0)
        assert codes(written) == ["214 2.0.0"] * sent
        assert wire.transport.reading


@row("SLOW-13")
@pytest.mark.parametrize("end", [b"NOOP\r\nQUIT\r\n", b"NOOP\n", b"GET / HTTP/1.0\r\n"])
def test_a_client_that_does_not_close_after_our_last_reply_is_cut(end: bytes) -> None:
    with Wire(**DEFAULTS) as wire:
        wire.send(end)
        assert wire.transport.eof_written
        for _ in range(49):
            wire.send(b"x" * 1000)  # read and dropped
            wire.advance(0.1)
            assert not wire.transport.closed
        wire.advance(0.2)
        assert wire.transport.closed
        assert not wire.server.connections


@row("SLOW-13")
def test_a_client_that_waits_for_nothing_but_its_221_is_not_waited_for() -> None:
    with Wire(**DEFAULTS) as wire:
        assert codes(wire.send(EH))[-1][:3] == "250"
        assert codes(wire.send(b"QUIT\r\n")) == ["221 2.0.0"]
        assert wire.transport.closed
        assert not wire.server.connections


@row("SLOW-13")
@pytest.mark.parametrize("end", [b"NOOP\r\nQUIT\r\n", b"QUIT\r\nNOOP\r\n", b"QUIT\r\nx"])
def test_a_client_that_has_other_replies_to_read_or_sends_on_is_waited_for(end: bytes) -> None:
    with Wire(**DEFAULTS) as wire:
        wire.send(end)
        assert wire.transport.eof_written
        assert not wire.transport.closed
        wire.eof()
        assert wire.transport.closed


@row("SLOW-13")
def test_a_client_that_has_not_taken_its_221_is_waited_for() -> None:
    with Wire(**DEFAULTS) as wire:
        wire.send(EH)
        wire.stop_reading()
        wire.send(b"QUIT\r\n")
        assert not wire.transport.closed
        wire.take(100)
        wire.eof()
        assert wire.transport.closed


@row("SLOW-13", "FLOOD-11")
def test_a_client_that_was_refused_is_cut_in_the_same_way() -> None:
    loop = VirtualLoop()
    server = SMTPServer(**DEFAULTS, max_clients=1)
    with Wire(server, loop=loop) as first, Wire(server, loop=loop) as second:
        assert codes(first.receive()) == ["220"]
        assert codes(second.receive()) == ["421"]
        second.send(b"x" * 100_000)
        loop.advance(4.9)
        assert not second.transport.closed
        loop.advance(0.2)
        assert second.transport.closed
        assert not first.closed
    loop.close()


@row("SLOW-14")
@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
def test_a_message_before_a_half_close_is_answered(late: bool) -> None:
    hooks = Script(data=LATE) if late else Script()
    with Conversation(hooks) as session:
        session.do(EH, TX + b"DATA\r\n", BODY + END)
        written = session.do(lambda session: session.wire.eof())
        if late:
            assert not session.closed
            assert session.answer() == ["250 2.6.0"]
        else:
            assert written == []
            assert session.codes[-1] == "250 2.6.0"
        assert session.wire.transport.closed


@row("SLOW-14")
def test_pipelined_commands_before_a_half_close_are_all_answered() -> None:
    with Conversation(Script(rcpt=LATE)) as session:
        session.do(EH, MAIL + RCPT * 3 + b"NOOP\r\nQUI", lambda session: session.wire.eof())
        for _ in range(2):
            assert session.answer() == ["250 2.1.5"]
            assert not session.closed
        assert session.answer() == ["250 2.1.5", "250 2.0.0"]  # an unfinished line is dropped
        assert session.wire.transport.closed


@row("SLOW-12", "SLOW-14")
def test_a_client_that_has_sent_its_fin_may_take_its_replies_slowly() -> None:
    count = 300
    with Wire(**{**DEFAULTS, "max_junk_commands": 0}) as wire:
        wire.send(EH)
        wire.stop_reading()
        replies = codes(wire.send(b"NOOP\r\n" * count + b"QUIT\r\n") + wire.eof())
        assert replies == ["250 2.0.0"] * count + ["221 2.0.0"]
        waiting = wire.transport.get_write_buffer_size()
        while wire.transport.get_write_buffer_size():
            assert not wire.transport.closed
            wire.take(waiting // 10 + 1)
            wire.advance(20)
        assert wire.transport.closed


@row("SLOW-14")
def test_a_client_that_has_sent_its_fin_and_takes_nothing_is_cut() -> None:
    with Wire(**DEFAULTS) as wire:
        wire.send(EH)
        wire.stop_reading()
        wire.send(b"QUIT\r\n")
        wire.eof()
        assert not wire.transport.closed
        wire.advance(60)
        assert wire.transport.closed


# --- greeting ---


@row("SLOW-01", "PIPE-01")
def test_a_delayed_greeting_comes_when_it_is_due() -> None:
    with Wire(**DEFAULTS, greet_delay=7) as wire:
        assert wire.advance(6.9) == b""
        assert codes(wire.advance(0.2)) == ["220"]
        assert wire.advance(299) == b""
        assert codes(wire.advance(2)) == TIMEOUT


# --- many of them ---


def slow_clients_around_an_honest_one(count: int) -> None:
    loop = VirtualLoop()
    bodies: list[bytes] = []

    def on_data(stream: Any, session: Any, callback: Any) -> None:
        pieces: list[bytes] = []

        def on_end(error: Exception | None) -> None:
            if error is None:
                bodies.append(b"".join(pieces))
            callback(error)

        stream.consume(pieces.append, on_end)

    server = SMTPServer(**DEFAULTS, max_clients=count + 1, on_data=on_data)
    slow = [Wire(server, loop=loop) for _ in range(count)]
    for number, wire in enumerate(slow):
        for octets in ([], [b"EHLO "], [EH, MAIL], [EH, TX + b"DATA\r\n", b"x"])[number % 4]:
            wire.send(octets)
    for _ in range(10):
        loop.advance(10)
        for number, wire in enumerate(slow):
            if number % 4 in (1, 3):
                wire.send(b"x")
        honest = Wire(server, loop=loop)
        for octets in (EH, TX + b"DATA\r\n", BODY + END, b"QUIT\r\n"):
            honest.send(octets)
        honest.eof()
        honest.close()
    assert bodies == [BODY] * 10
    loop.advance(400)
    assert not server.connections
    for wire in slow:
        assert codes(wire.receive())[-1:] == TIMEOUT
        wire.close()
    loop.close()


@row("SLOW-05", "SLOW-08", "SLOW-15")
def test_slow_clients_do_not_hinder_an_honest_one() -> None:
    slow_clients_around_an_honest_one(200)


@row("SLOW-05", "SLOW-08", "SLOW-15")
@pytest.mark.nightly
def test_ten_thousand_slow_clients_do_not_hinder_an_honest_one() -> None:
    slow_clients_around_an_honest_one(10_000)
