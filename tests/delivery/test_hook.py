"""`deliver(sink)`: what is put, what the client gets, and that nothing is left of what fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from consumers import COUNTERS_OFF, LINE, READ
from hook_kit import END, MAIL, RCPT
from scenario import DEFAULTS, EH, LH, codes
from sinks import MemoryBody, MemorySink

from fastsmtp import SMTPError
from fastsmtp.delivery import (
    DeliveryError,
    Entry,
    Full,
    Promise,
    Recipient,
    Record,
    Refused,
    Sink,
    Unavailable,
    Unclear,
    deliver,
)
from fastsmtp.delivery.arrival import OVERHEAD
from fastsmtp.testing import Wire

pytestmark = pytest.mark.usefixtures("no_leaks")

MESSAGE = b"Subject: hello\r\n\r\nworld\r\n"
LARGE = LINE * 4000  # 256,000 octets
DATA = MAIL + RCPT + b"DATA\r\n"


class Flow:
    """A wire whose messages go into a sink."""

    def __init__(self, sink: Sink | None = None, *, lmtp: bool = False, **options: Any) -> None:
        given = {
            name: options.pop(name) for name in ("headers", "max_in_flight") if name in options
        }
        self.sink: Any = sink or MemorySink()
        self.entries: list[Entry] = []
        self.hook = deliver(self.sink, name="mx.example", log=self.entries.append, **given)
        self.errors: list[BaseException] = []
        hooks = {
            "on_data": self.hook,
            "on_mail_from": self.hook.on_mail_from,
            "on_connect": self.hook.on_connect,
        }
        self.wire = Wire(**{**DEFAULTS, **COUNTERS_OFF, **hooks, "lmtp": lmtp, **options})
        self.wire.server.on("error", self.errors.append)
        self.greeting = self.wire.send(LH if lmtp else EH)

    def __enter__(self) -> Flow:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.wire.close()
        assert self.hook.traffic.in_flight == self.sink.coming == 0

    def send(self, message: bytes, *, group: bytes = DATA) -> bytes:
        """Send one message, in reads of 64 KiB; what the server says after the 354."""
        assert codes(self.wire.send(group))[-1] == "354"
        return self.body(message + END)

    def body(self, octets: bytes) -> bytes:
        said = b""
        for start in range(0, len(octets), len(READ)):
            said += self.wire.send(octets[start : start + len(READ)])
        return said + self.turns()

    def turns(self) -> bytes:
        """Let the loop do what is due now."""
        return self.wire.advance(0)

    def step(self, action: Callable[[], Any]) -> bytes:
        self.wire.loop.step(action)
        return self.turns()

    @property
    def record(self) -> Record:
        (record,) = self.sink.records
        return record

    @property
    def lines(self) -> list[str]:
        return [f"{entry.what} {entry.key}={entry.value}" for entry in self.entries]


# --- what is put ---


def test_a_message_is_put_with_its_envelope_and_the_client_gets_250() -> None:
    with Flow() as flow:
        reply = flow.send(MESSAGE)
        session = flow.wire.session
        assert reply == f"250 2.6.0 OK: message delivered, id {session.id}-1\r\n".encode()
        record = flow.record
        assert record.body == MESSAGE
        assert (record.size, record.id) == (len(MESSAGE), f"{session.id}-1")
        assert record.mail_from == "a@x.example"
        assert record.rcpt_to == (Recipient("b@y.example"),)
        assert record.client.address == "192.0.2.1"
        assert record.client.helo == "c.example"
        assert record.client.protocol == "ESMTP"
        assert record.node == "mx.example"
        assert not record.lmtp
    assert flow.lines == ["delivered receipt=r1"]


def test_a_sink_knows_how_many_messages_are_coming_until_their_last_octet() -> None:
    with Flow() as flow:
        flow.wire.send(DATA)
        flow.wire.send(MESSAGE)
        assert (flow.sink.coming, flow.sink.records) == (1, [])
        flow.body(END)
        assert (flow.sink.coming, len(flow.sink.records)) == (0, 1)


def test_the_parameters_of_mail_and_rcpt_are_in_the_record() -> None:
    with Flow(hide_dsn=False) as flow:
        flow.send(
            MESSAGE,
            group=b"MAIL FROM:<a@x.example> BODY=8BITMIME RET=HDRS ENVID=e+20id SMTPUTF8\r\n"
            b"RCPT TO:<b@y.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o@y\r\nDATA\r\n",
        )
        record = flow.record
        assert (record.body_type, record.smtp_utf8) == ("8bitmime", True)
        assert (record.ret, record.envid) == ("HDRS", "e id")
        assert record.rcpt_to == (Recipient("b@y.example", ("SUCCESS", "DELAY"), "rfc822;o@y"),)


def test_the_headers_stand_apart_from_the_untouched_body() -> None:
    with Flow() as flow:
        flow.send(MESSAGE)
        lines = flow.record.headers.split(b"\r\n")
        assert lines[0] == b"Return-Path: <a@x.example>"
        assert lines[1] == b"Delivered-To: b@y.example"
        assert lines[2].startswith(b"Received: from c.example (")
        assert b"\n" not in flow.record.headers.replace(b"\r\n", b"")


def test_without_headers_there_are_none() -> None:
    with Flow(headers=False) as flow:
        flow.send(MESSAGE)
        assert flow.record.headers == b""


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_body_that_begins_with_a_space_cannot_go_on_with_our_last_header(size: int) -> None:
    with Flow(MemorySink(max_record=10)) as flow:
        flow.send(b" " * size + b"\r\n")
        assert flow.record.headers.endswith(b"\r\n\r\n")


def test_an_empty_message_is_put_too() -> None:
    with Flow() as flow:
        assert codes(flow.send(b"")) == ["250 2.6.0"]
        assert flow.record.body == b""


def test_messages_of_one_session_have_their_own_ids() -> None:
    with Flow() as flow:
        flow.send(MESSAGE)
        flow.send(MESSAGE)
        assert [each.id.rpartition("-")[2] for each in flow.sink.records] == ["1", "2"]


def test_a_message_within_the_record_takes_no_task() -> None:
    with Flow() as flow:
        made: list[str] = []

        def noted(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
            made.append(repr(coroutine))
            return asyncio.Task(coroutine, loop=loop, **options)

        flow.wire.loop.set_task_factory(noted)
        assert codes(flow.send(MESSAGE)) == ["250 2.6.0"]
        assert made == []


# --- when, and what the client gets ---


def test_the_reply_comes_when_the_promise_holds_and_not_before() -> None:
    with Flow(MemorySink(holds=True)) as flow:
        assert flow.send(MESSAGE) == b""
        assert flow.entries == []
        assert codes(flow.step(flow.sink.settle)) == ["250 2.6.0"]
        assert flow.lines == ["delivered receipt=r1"]


@pytest.mark.parametrize(
    "error, reply",
    [
        (Unavailable("x"), "451 4.3.0"),
        (Unclear("x"), "451 4.3.0"),
        (Full("x"), "452 4.3.1"),
        (Refused(SMTPError("no such user", 550, "5.1.1")), "550 5.1.1"),
        (OSError(28, "x"), "452 4.3.1"),
        (OSError(5, "x"), "451 4.3.0"),
        (KeyError("x"), "451 4.3.0"),
    ],
)
@pytest.mark.parametrize("raised", [True, False])
def test_the_error_of_a_sink_is_the_reply_and_one_line(
    error: Exception, reply: str, raised: bool
) -> None:
    class Failing(MemorySink):
        def put(self, record: Record) -> Any:
            if raised:
                raise error
            return super().put(record)

    sink = Failing()
    sink.answer = error
    with Flow(sink) as flow:
        assert codes(flow.send(MESSAGE)) == [reply]
        assert [entry.what for entry in flow.entries] == ["refused"]
        line = str(flow.entries[0])
        assert f"id={flow.wire.session.id}-1 from=<a@x.example> to=<b@y.example>" in line
        assert flow.errors == []
        assert codes(flow.wire.send(b"NOOP\r\n")) == ["250 2.0.0"]
    assert (flow.hook.traffic.refused, flow.hook.traffic.delivered) == (1, 0)


def test_a_future_that_is_cancelled_is_451() -> None:
    with Flow(MemorySink(holds=True)) as flow:
        flow.send(MESSAGE)
        assert codes(flow.step(lambda: flow.sink.held[0].cancel())) == ["451 4.3.0"]


def test_the_word_of_a_sink_for_done_is_in_reply_and_line() -> None:
    sink = MemorySink()
    sink.done, sink.receipt_key = "queued", "spool"
    with Flow(sink) as flow:
        assert b"OK: message queued, id " in flow.send(MESSAGE)
        assert flow.lines == ["queued spool=r1"]


TWO = MAIL + RCPT + b"RCPT TO:<c@y.example>\r\nDATA\r\n"


def test_in_lmtp_each_recipient_gets_an_answer() -> None:
    with Flow(lmtp=True) as flow:
        assert codes(flow.send(MESSAGE, group=TWO)) == ["250 2.6.0"] * 2
        assert flow.record.lmtp


def test_in_lmtp_each_recipient_may_have_a_fate_of_its_own() -> None:
    sink = MemorySink()
    sink.answer = ["r1", Full("mailbox of c")]
    with Flow(sink, lmtp=True) as flow:
        assert codes(flow.send(MESSAGE, group=TWO)) == ["250 2.6.0", "452 4.3.1"]
        assert flow.lines == [
            "delivered receipt=r1",
            "refused reason=c@y.example: mailbox of c",
        ]


@pytest.mark.parametrize(
    "fates, reply",
    [(["r1", "r2"], "250 2.6.0"), (["r1", Full("x")], "452 4.3.1"), ([Full("x")], "452 4.3.1")],
)
def test_in_smtp_the_one_reply_is_250_only_if_all_recipients_are_served(
    fates: list[str | DeliveryError], reply: str
) -> None:
    sink = MemorySink()
    sink.answer = fates
    with Flow(sink) as flow:
        assert codes(flow.send(MESSAGE, group=TWO)) == [reply]


# --- large bodies ---


@pytest.mark.parametrize("command", ["DATA", "BDAT"])
def test_a_large_body_is_written_while_it_comes_and_put_when_it_is_stored(command: str) -> None:
    with Flow(MemorySink(max_record=100_000)) as flow:
        if command == "DATA":
            assert codes(flow.send(LARGE)) == ["250 2.6.0"]
        else:
            flow.wire.send(MAIL + RCPT)
            said = flow.body(b"BDAT %d LAST\r\n" % len(LARGE) + LARGE)
            assert codes(said) == ["250 2.6.0"]
        (writer,) = flow.sink.writers
        assert writer.octets == LARGE
        assert isinstance(flow.record.body, MemoryBody)
        assert (flow.record.body.octets, flow.record.size) == (LARGE, len(LARGE))
        assert writer.discarded == 0


@pytest.mark.parametrize("size, large", [(100, False), (101, True)])
def test_a_body_of_max_record_octets_is_the_last_that_is_put_whole(size: int, large: bool) -> None:
    with Flow(MemorySink(max_record=100)) as flow:
        flow.send(b"x" * (size - 2) + b"\r\n")
        assert bool(flow.sink.writers) is large


@pytest.mark.parametrize(
    "announced, large", [(b"", False), (b" SIZE=1000", False), (b" SIZE=1001", True)]
)
def test_a_body_that_mail_has_announced_as_large_is_written_from_its_first_octet(
    announced: bytes, large: bool
) -> None:
    mail = MAIL.replace(b">", b">" + announced)
    with Flow(MemorySink(max_record=1000)) as flow:
        assert codes(flow.send(MESSAGE, group=mail + RCPT + b"DATA\r\n")) == ["250 2.6.0"]
        assert bool(flow.sink.writers) is large
        assert flow.record.size == len(MESSAGE)


def test_a_slow_write_makes_the_client_wait_and_one_write_runs_at_a_time() -> None:
    with Flow(MemorySink(max_record=1000, waits=True)) as flow:
        flow.wire.send(DATA)
        sent = 0
        while flow.wire.transport.reading:
            flow.wire.send(READ)
            sent += len(READ)
        assert sent < 6 * len(READ)
        (writer,) = flow.sink.writers
        assert len(writer.pieces) == 1
        writer.waits = False
        flow.step(lambda: writer.waiting.set_result(None))
        assert flow.wire.transport.reading
        assert codes(flow.body(END)) == ["250 2.6.0"]
        assert writer.octets == READ * (sent // len(READ))


def test_the_end_of_a_large_body_waits_for_the_writes_before_it() -> None:
    with Flow(MemorySink(max_record=10, waits=True)) as flow:
        assert flow.send(MESSAGE) == b""
        (writer,) = flow.sink.writers
        assert writer.ending is None
        flow.step(lambda: writer.waiting.set_result(None))
        assert flow.sink.records == []
        said = flow.step(lambda: writer.ending.set_result(MemoryBody(writer.octets)))
        assert codes(said) == ["250 2.6.0"]


@pytest.mark.parametrize("where", ["begin", "write", "write later", "finish", "finish later"])
def test_a_body_that_cannot_be_stored_is_refused_and_discarded(where: str) -> None:
    class Failing(MemorySink):
        def begin(self, record: Record) -> Any:
            if where == "begin":
                raise Full("x")
            writer = super().begin(record)
            if where == "write":
                writer.write = self._raise  # type: ignore[method-assign]
            elif where == "finish":
                writer.finish = self._raise  # type: ignore[method-assign]
            return writer

        def _raise(self, *octets: bytes) -> Any:
            raise Full("x")

    with Flow(Failing(max_record=10, waits=True)) as flow:
        said = flow.send(MESSAGE)
        if where in ("write later", "finish", "finish later"):
            (writer,) = flow.sink.writers
            if where == "finish":
                said += flow.step(lambda: writer.waiting.set_result(None))
            elif where == "finish later":
                said += flow.step(lambda: writer.waiting.set_result(None))
                said += flow.step(lambda: writer.ending.set_exception(Full("x")))
            else:
                said += flow.step(lambda: writer.waiting.set_exception(Full("x")))
        assert codes(said) == ["452 4.3.1"]
        assert [writer.discarded > 0 for writer in flow.sink.writers] == [True] * (where != "begin")
        assert flow.sink.records == []
        assert flow.lines == ["refused reason=x"]


def test_a_write_that_fails_in_mid_body_lets_the_client_send_the_rest() -> None:
    with Flow(MemorySink(max_record=10, waits=True)) as flow:
        flow.wire.send(DATA)
        flow.wire.send(READ)
        (writer,) = flow.sink.writers
        assert flow.step(lambda: writer.waiting.set_exception(Full("x"))) == b""
        assert codes(flow.body(LARGE + END)) == ["452 4.3.1"]


def test_a_log_or_a_discard_that_fails_costs_no_client_its_answer(log: list[str]) -> None:
    class Failing(MemorySink):
        def begin(self, record: Record) -> Any:
            writer = super().begin(record)
            writer.discard = self._raise  # type: ignore[method-assign]
            return writer

        def _raise(self) -> None:
            raise OSError("x")

    def no_log(entry: Entry) -> None:
        raise ValueError("no disk")

    sink = Failing(max_record=100)
    sink.answer = Full("x")
    with Flow(sink, size=150) as flow:
        flow.hook.traffic.log = no_log
        assert codes(flow.send(MESSAGE)) == ["452 4.3.1"]
        assert codes(flow.send(b"x" * 200 + b"\r\n")) == ["552 5.3.4"]
    assert sum("the log has failed: refused id=" in line for line in log) == 2
    assert sum("a body stays behind" in line for line in log) == 1


@pytest.mark.parametrize("error, reply", [(Full("x"), "452 4.3.1"), (Unclear("x"), "451 4.3.0")])
def test_in_lmtp_a_failure_is_the_answer_for_each_recipient(error: Exception, reply: str) -> None:
    sink = MemorySink()
    sink.answer = error
    with Flow(sink, lmtp=True) as flow:
        assert codes(flow.send(MESSAGE, group=TWO)) == [reply] * 2


class WithoutBegin(MemorySink):
    """As a sink that knows no bodies outside of records."""

    def begin(self, record: Record) -> Any:
        return Sink.begin(self, record)


def test_a_sink_without_large_bodies_refuses_them_for_good() -> None:
    with Flow(WithoutBegin(max_record=10)) as flow:
        assert codes(flow.send(MESSAGE)) == ["552 5.3.4"]


def test_a_sink_without_large_bodies_refuses_for_now_what_memory_has_no_room_for() -> None:
    with Flow(WithoutBegin(), max_in_flight=OVERHEAD) as flow:
        assert codes(flow.send(MESSAGE)) == ["452 4.3.1"]


# --- what is not kept ---


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("reason", ["disconnected", "shutdown", "timeout", "reset"])
def test_nothing_is_left_of_an_aborted_message(reason: str, large: bool) -> None:
    with Flow(MemorySink(max_record=10 if large else 100_000, waits=large)) as flow:
        if reason == "reset":
            flow.wire.send(MAIL + RCPT + b"BDAT 70\r\n" + b"x" * 70)
            flow.wire.send(b"RSET\r\n")
        else:
            flow.wire.send(DATA)
            flow.wire.send(MESSAGE)
        if reason == "disconnected":
            flow.wire.reset()
        elif reason == "shutdown":
            task = flow.wire.loop.create_task(flow.wire.server.close())
            flow.wire.advance(60)
            assert task.done()
        elif reason == "timeout":
            flow.wire.advance(1000)
        flow.turns()
        assert flow.sink.records == []
        assert [writer.discarded > 0 for writer in flow.sink.writers] == [True] * large
        told = "hook_timeout" if large and reason == "timeout" else reason
        assert flow.lines in (
            [f"aborted reason={told}"],
            [f"aborted reason={reason}"],
        )
        assert flow.hook.traffic.in_flight == 0


@pytest.mark.parametrize("large", [False, True])
def test_nothing_is_left_of_a_message_beyond_size(large: bool) -> None:
    with Flow(MemorySink(max_record=10 if large else 100_000), size=20) as flow:
        assert codes(flow.send(MESSAGE)) == ["552 5.3.4"]
        assert flow.sink.records == []
        assert [writer.discarded > 0 for writer in flow.sink.writers] == [True] * large
        assert flow.lines == ["refused reason=larger than size"]


def test_a_message_whose_client_was_told_451_by_the_clock_is_undone_and_counted() -> None:
    with Flow(MemorySink(holds=True)) as flow:
        assert flow.send(MESSAGE) == b""
        assert codes(flow.wire.advance(241)) == ["451 4.3.0"]
        flow.step(flow.sink.settle)
        assert flow.sink.undone == [(flow.record, "r1")]
        assert flow.lines == ["aborted reason=the answer came too late"]
    assert (flow.hook.traffic.late, flow.hook.traffic.delivered) == (1, 0)


def test_a_complete_message_whose_client_has_gone_stays_delivered() -> None:
    with Flow(MemorySink(holds=True)) as flow:
        flow.send(MESSAGE)
        flow.wire.reset()
        flow.step(flow.sink.settle)
        assert flow.sink.undone == []
        assert flow.lines == ["delivered receipt=r1"]


def test_a_failure_after_the_clock_is_logged_and_not_undone() -> None:
    with Flow(MemorySink(holds=True)) as flow:
        flow.send(MESSAGE)
        flow.wire.advance(241)
        flow.sink.answer = Full("x")
        flow.step(flow.sink.settle)
        assert flow.sink.undone == []
        assert flow.lines == ["refused reason=x"]


# --- octets in flight ---


def test_a_message_that_waits_for_the_sink_is_counted_until_its_answer() -> None:
    with Flow(MemorySink(holds=True)) as flow:
        flow.send(MESSAGE)
        assert flow.hook.traffic.in_flight == OVERHEAD + len(MESSAGE)
        flow.step(flow.sink.settle)
        assert flow.hook.traffic.in_flight == 0


def test_too_much_in_flight_refuses_the_next_mail_and_is_over_when_it_is_answered() -> None:
    with Flow(MemorySink(holds=True), max_in_flight=OVERHEAD + len(MESSAGE) - 1) as flow:
        flow.wire.send(DATA)
        flow.sink.max_record = 10**9
        other = Wire(flow.wire.server, loop=flow.wire.loop)
        other.send(EH)
        flow.hook.traffic.max_in_flight = OVERHEAD - 1
        assert codes(other.send(MAIL)) == ["452 4.3.1"]
        flow.hook.traffic.max_in_flight = OVERHEAD * 2
        assert codes(other.send(MAIL)) == ["250 2.1.0"]
        flow.body(MESSAGE + END)
        flow.step(flow.sink.settle)
        other.close()


def test_too_much_in_flight_sends_a_body_through_the_files_so_that_it_goes_on() -> None:
    with Flow(MemorySink(waits=True), max_in_flight=OVERHEAD + 1000) as flow:
        flow.wire.send(DATA)
        flow.wire.send(LINE * 100)
        (writer,) = flow.sink.writers
        assert flow.hook.traffic.in_flight == OVERHEAD
        writer.waits = False
        flow.step(lambda: writer.waiting.set_result(None))
        assert codes(flow.body(END)) == ["250 2.6.0"]
        assert flow.record.size == len(LINE) * 100


# --- refusals before the body ---


def test_a_sink_that_is_down_refuses_at_connect_at_mail_and_at_data() -> None:
    sink = MemorySink()
    with Flow(sink) as flow:
        sink.refuses = SMTPError("no", 451, "4.3.0")
        assert codes(flow.wire.send(MAIL)) == ["451 4.3.0"]
        other = Wire(flow.wire.server, loop=flow.wire.loop)
        assert codes(other.receive()) == ["421"]
        sink.refuses = None
        flow.wire.send(MAIL + RCPT)
        sink.refuses = SMTPError("no", 451, "4.3.0")
        assert codes(flow.wire.send(b"DATA\r\n") + flow.body(MESSAGE + END))[-1] == "451 4.3.0"
        assert sink.records == []


# --- the start ---


def test_a_sink_that_was_not_started_is_started_by_the_first_message() -> None:
    sink = MemorySink()
    sink.promise = None
    with Flow(sink) as flow:
        assert codes(flow.send(MESSAGE)) == ["250 2.6.0"]
        assert sink.promise is Promise.MEMORY
        assert codes(flow.send(MESSAGE)) == ["250 2.6.0"]


def test_a_sink_that_cannot_start_is_451_and_one_line_and_is_tried_again(log: list[str]) -> None:
    sink = MemorySink()
    sink.promise = None
    sink.start_error = PermissionError(13, "Permission denied", "/mail")
    with Flow(sink) as flow:
        assert codes(flow.send(MESSAGE)) == ["451 4.3.0"]
        assert [line for line in log if "cannot be started" in line and "/mail" in line] != []
        sink.start_error = None
        assert codes(flow.send(MESSAGE)) == ["250 2.6.0"]


def test_a_client_that_leaves_while_the_sink_starts_leaves_nothing() -> None:
    sink = MemorySink()
    sink.promise = None
    with Flow(sink) as flow:
        flow.wire.loop.step(lambda: None)
        flow.wire.send(DATA)
        flow.wire.send(MESSAGE)
        flow.wire.reset()
        flow.turns()
        assert sink.records == []
        assert flow.hook.traffic.in_flight == 0
