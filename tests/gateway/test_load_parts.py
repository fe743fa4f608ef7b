"""The parts of the load generator that need no server: replies, messages, histograms, schedules."""

from __future__ import annotations

import email
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_kit import plan_of

from fastsmtp.gateway.bench import schedule as schedules
from fastsmtp.gateway.bench.figures import MAX_KINDS, Figures, Histogram
from fastsmtp.gateway.bench.plan import MAX_CONNECTIONS, MAX_RECIPIENTS
from fastsmtp.gateway.bench.schedule import Schedule
from fastsmtp.gateway.bench.script import Script
from fastsmtp.reply_reader import MAX_LINE, MAX_LINES, BadReply, ReplyReader
from fastsmtp.testing import VirtualLoop

SERVER = "127.0.0.1:2525"


# Replies.


def read(*pieces: bytes) -> list[int]:
    reader = ReplyReader()
    found = []
    for piece in pieces:
        reader.feed(piece)
        while code := reader.next_code():
            found.append(code)
    return found


REPLIES = {
    b"250 OK\r\n": [250],
    b"250\r\n": [250],
    b"250\n": [250],
    b"250 \r\n": [250],
    b"220-a\r\n220-b\r\n220 c\r\n": [220],
    b"250 a\r\n354 b\r\n": [250, 354],
    b"599 \xff\x00\x1b[31m\r\n": [599],
}


@pytest.mark.parametrize("octets, found", REPLIES.items())
def test_replies_are_the_same_however_they_are_cut(octets: bytes, found: list[int]) -> None:
    assert read(octets) == found
    assert read(*(octets[at : at + 1] for at in range(len(octets)))) == found
    for at in range(len(octets)):
        assert read(octets[:at], octets[at:]) == found


@pytest.mark.parametrize(
    "octets",
    [
        *(b"\r\n", b"\n", b"HELLO\r\n", b"25\r\n", b"25 0\r\n", b"2500 \r\n", b"250_\r\n"),
        *(b"150 \r\n", b"600 \r\n", b"000 \r\n", b" 250 \r\n", b"\xb2\xb5\xb0 \r\n"),
        *(b"250-a\r\n251 b\r\n", b"250-a\r\n251-b\r\n", b"250-a\r\nb\r\n"),
        b"250-a\r\n" * (MAX_LINES + 1),
        b"250-" + b"x" * MAX_LINE + b"\r\n",
        (b"250-" + b"x" * 4000 + b"\r\n") * 20,
        b"2" * (MAX_LINE + 2),
    ],
)
def test_what_is_not_a_reply_raises(octets: bytes) -> None:
    with pytest.raises(BadReply):
        read(octets)
    with pytest.raises(BadReply):
        read(*(octets[at : at + 1000] for at in range(0, len(octets), 1000)))


def test_lines_are_those_of_the_last_reply() -> None:
    reader = ReplyReader()
    reader.feed(b"220 a\r\n250-b\r\n250 c\r\n250-d")
    assert reader.next_code() == 220
    assert (reader.lines, reader.is_empty) == ([b"220 a"], False)
    assert reader.next_code() == 250
    assert (reader.lines, reader.is_empty) == ([b"250-b", b"250 c"], False)
    assert reader.next_code() == 0
    reader.feed(b"\r\n")
    assert reader.next_code() == 0
    assert not reader.is_empty
    reader.feed(b"250 e\r\n")
    assert reader.next_code() == 250
    assert reader.is_empty


# Messages.


@given(st.integers(0, 2000) | st.integers(0, 700_000), st.booleans())
def test_a_message_has_its_size_and_proper_lines(octets: int, pipelined: bool) -> None:
    script = Script(plan_of(SERVER, size=str(octets), profile="pipe" if pipelined else "keep"))
    after = b"MAIL" if pipelined else b""
    message = script.whole(after) if script.is_small else b"".join(script.pieces(after))
    assert message.endswith(b"\r\n.\r\n" + after)
    body = message.removesuffix(b".\r\n" + after)
    assert len(body) == script.octets
    head = body.index(b"\r\n\r\n") + 4
    assert script.octets == (octets if octets > head + 1 else head)
    lines = body.split(b"\r\n")
    assert lines.pop() == b""
    assert not [line for line in lines if len(line) > 998 or line.startswith(b".")]
    assert not [line for line in lines if b"\r" in line or b"\n" in line]


@pytest.mark.parametrize("size", ["200", "200k", "2M"])
def test_messages_differ_in_their_message_id_only(size: str) -> None:
    script = Script(plan_of(SERVER, size=size))

    def made() -> bytes:
        return script.whole(b"") if script.is_small else b"".join(script.pieces(b""))

    one, other = email.message_from_bytes(made()), email.message_from_bytes(made())
    assert one["Message-ID"] != other["Message-ID"]
    assert one.get_payload() == other.get_payload()
    assert (one["From"], one["To"]) == ("a@x.example", "b@y.example")
    assert one["Date"] == other["Date"]


# Times.


@given(st.lists(st.floats(0, 5000), min_size=1, max_size=300))
def test_percentiles_are_at_most_a_64th_above_the_time_that_was_measured(
    times: list[float],
) -> None:
    histogram = Histogram()
    for each in times:
        histogram.add(each)
    times.sort()
    for percent in (1, 50, 90, 99, 100):
        exact = times[max(0, math.ceil(len(times) * percent / 100) - 1)]
        found = histogram.percentile(percent)
        assert exact - 1e-6 <= found <= exact * (1 + 1 / 64) + 2e-6
    assert (histogram.lowest, histogram.highest) == (times[0], times[-1])
    assert histogram.mean == pytest.approx(sum(times) / len(times))
    rows = histogram.rows()
    assert sum(count for _, count in rows) == len(times)
    assert rows[0][1]
    assert rows[-1][1]
    for before, (bound, count) in zip([0.0, *(bound for bound, _ in rows)], rows, strict=False):
        exact_count = sum(before < each <= bound for each in times)
        near = sum(
            abs(each - edge) <= edge / 64 + 2e-6 for each in times for edge in (before, bound)
        )
        assert abs(count - exact_count) <= near


def test_a_histogram_takes_times_of_any_size_into_the_same_memory() -> None:
    histogram = Histogram()
    buckets = len(histogram._buckets)
    for each in (-1.0, 0.0, 1e-9, 1e12):
        histogram.add(each)
    assert histogram.percentile(50) <= 1e-6
    assert histogram.percentile(100) > 1e6
    assert (histogram.lowest, histogram.highest, histogram.count) == (0.0, 1e12, 4)
    assert len(histogram._buckets) == buckets


def test_a_histogram_of_nothing_is_empty() -> None:
    histogram = Histogram()
    assert (histogram.percentile(99), histogram.mean, histogram.rows()) == (0.0, 0.0, [])


def test_of_many_different_errors_only_the_first_are_told_apart() -> None:
    figures = Figures()
    for number in range(10 * MAX_KINDS):
        figures.count_error(str(number))
    assert len(figures.errors) == MAX_KINDS + 1
    assert sum(figures.errors.values()) == 10 * MAX_KINDS


def test_the_text_of_a_refusal_is_one_line_that_no_terminal_obeys() -> None:
    figures = Figures()
    lines = [b"550-\x1b]0;x\x07\xe2\x80\xae" + b"y" * 5000, b"550 \xff[bold]"]
    figures.count_refusal("rcpt", 550, lines, expected=False)
    text = figures.refusals["rcpt", 550].text
    assert text.isprintable()
    assert len(text) < 200


# The schedule.


class Clock:
    """Stands for `perf_counter` in the module of schedules."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(schedules, "perf_counter", lambda: self.now)


def test_with_a_rate_messages_are_due_at_even_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    schedule = Schedule(plan_of(SERVER, rate=10, messages=3))
    schedule.begin()
    assert schedule.take(clock.now) == 100.0
    assert schedule.take(clock.now) is None
    assert not schedule.is_over
    # After a stall, a message is as old as it was due.
    assert schedule.take(107.0) == pytest.approx(100.1)
    assert schedule.take(107.0) == pytest.approx(100.2)
    assert schedule.take(107.0) is None
    assert schedule.is_over


class Taker:
    """Takes one message whenever it is woken, and waits for more."""

    def __init__(self, schedule: Schedule, clock: Clock) -> None:
        self.schedule = schedule
        self.clock = clock
        self.taken = 0
        self.has_left = False

    def wake(self) -> None:
        assert not self.has_left
        if self.schedule.take(self.clock.now) is not None:
            self.taken += 1
        if self.schedule.is_over:
            self.has_left = True
        else:
            self.schedule.wait(self)


@pytest.mark.usefixtures("no_leaks")
def test_the_last_message_of_a_rate_sends_all_waiting_clients_home(
    loop: VirtualLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    schedule = Schedule(plan_of(SERVER, rate=10, messages=2))
    takers = [Taker(schedule, clock) for _ in range(4)]

    def begin() -> None:
        schedule.begin()
        for each in takers:
            each.wake()

    loop.step(begin)
    assert schedule.taken == 1
    clock.now += 50.0  # the process was stopped
    loop.advance(1.0)
    assert sum(each.taken for each in takers) == 2
    assert all(each.has_left for each in takers)


def test_a_message_that_is_given_back_is_given_out_again() -> None:
    schedule = Schedule(plan_of(SERVER, messages=1))
    schedule.begin()
    assert schedule.take(5.0) == 5.0
    assert schedule.is_over
    schedule.give_back()
    assert schedule.take(6.0) == 6.0
    assert schedule.take(6.0) is None


# Options.

WRONG: dict[str, dict[str, Any]] = {
    "SERVER, no port": {"target": "localhost"},
    "SERVER, port 0": {"target": "localhost:0"},
    "SERVER, a URL": {"target": "http://localhost:25"},
    "SERVER, submission": {"target": "submission://localhost"},
    "--messages": {"messages": 0},
    "--connections": {"connections": MAX_CONNECTIONS + 1},
    "--per-connection": {"per_connection": -1},
    "--duration": {"duration": math.inf},
    "--timeout": {"timeout": 0},
    "--rate": {"rate": math.nan},
    "--size": {"size": "1 MB"},
    "--recipients": {"recipients": MAX_RECIPIENTS + 1},
    "--recipients, fewer than --to": {"to": ["a@b", "c@d"], "recipients": 1},
    "--from": {"sender": "a@b\r\nRSET"},
    "--to": {"to": ["nobody"]},
    "--helo": {"helo": "a b"},
    "--expect": {"expect": [250]},
    "--starttls": {"target": "smtps://localhost", "starttls": True},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option_is_one_line_that_names_it(name: str) -> None:
    with pytest.raises(ValueError) as caught:
        plan_of(**{"target": SERVER, **WRONG[name]})
    text = str(caught.value)
    assert "\n" not in text
    option = name.partition(",")[0]
    assert text.startswith(f"{option}: ") if option != "SERVER" else WRONG[name]["target"] in text


def test_more_connections_than_open_files_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsmtp.gateway.bench.plan.open_files", lambda: 64)
    assert plan_of(SERVER, connections=32, messages=None, duration=1.0).connections == 32
    with pytest.raises(ValueError, match="ulimit -n"):
        plan_of(SERVER, connections=33, messages=None, duration=1.0)


def test_recipients_beyond_those_that_are_given_are_numbered() -> None:
    assert plan_of(SERVER, recipients=3).recipients == (
        *("b@y.example", "b+2@y.example", "b+3@y.example"),
    )
    given = ["<a@x.example>", "b@y.example"]
    assert plan_of(SERVER, to=given, recipients=3).recipients[1:] == (
        "b@y.example",
        "a+3@x.example",
    )


def test_there_are_no_more_connections_than_messages() -> None:
    assert plan_of(SERVER, messages=3, connections=20).connections == 3


def test_a_profile_gives_what_no_option_gives() -> None:
    plan = plan_of(SERVER, profile="conn", messages=None, connections=None)
    assert (plan.messages, plan.connections, plan.per_connection) == (6000, 20, 1)
    plan = plan_of(SERVER, profile="big", messages=None, connections=None, duration=2.0)
    assert (plan.messages, plan.connections, plan.octets) == (0, 4, 2**20)
