"""Pipelining, early talkers, other protocols (RFC 2920 §3.1, RFC 5321 §4.5.3.2).

What ends a group of commands has nothing after it yet; everything else is served in order, one
hook at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hook_kit import BODY, END, MAIL, RCPT
from scenario import (
    COUNTERS_OFF,
    DEFAULTS,
    EH,
    GREETED,
    LATE,
    MAILED,
    PREPARED,
    TX,
    Conversation,
    Script,
    codes,
    every_cut,
    one_way,
    parse_replies,
    pause,
)
from tls_kit import certified

from fastsmtp import SMTPError
from fastsmtp.testing import Wire

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

DATA = b"DATA\r\n"
TEXT = BODY + END
HELO = b"HELO c.example\r\n"
LOOSE: dict[str, Any] = {"strict_pipelining": False}
BROKEN = "554 5.5.0"


# --- PIPE-01: before the greeting ---


@row("PIPE-01")
@pytest.mark.parametrize("octets", [b"E", EH, b"\r\n", b"\x16\x03\x01", b"x" * 10_000, b"QUIT\r\n"])
def test_a_client_that_talks_before_a_delayed_greeting_is_cut(octets: bytes) -> None:
    with Conversation(greet_delay=5) as session:
        assert session.do(pause(4.9), octets) == ["421"]
        assert session.closed
        assert session.do(pause(10), octets) == []
    assert session.trace == []


@row("PIPE-01")
def test_a_client_that_waits_for_a_delayed_greeting_is_served() -> None:
    with Conversation(greet_delay=5) as session:
        assert session.do(pause(5.1)) == ["220"]
        assert session.do(EH) == ["250"]


@row("PIPE-01")
@pytest.mark.parametrize("octets", [b"NOOP\r\nHELP\r\nQUIT\r\n", b"NOOP\r\nHE"])
def test_commands_sent_early_are_served_in_order_without_a_delay(octets: bytes) -> None:
    with Conversation(Script(connect=LATE)) as session:
        assert session.do(octets) == []
        expected = ["220", "250 2.0.0", "214 2.0.0", "221 2.0.0"]
        if octets.endswith(b"QUIT\r\n"):
            assert session.answer() == expected
        else:
            assert session.answer() == expected[:2]
            assert session.do(b"LP\r\nQUIT\r\n") == expected[2:]


# --- PIPE-02 … -06: groups ---


@row("PIPE-02")
def test_a_body_sent_after_data_without_waiting_is_never_taken_for_commands() -> None:
    body = b"MAIL FROM:<evil@x.example>\r\nRCPT TO:<c@y.example>\r\n.\r\n"
    strict = one_way([EH, TX + DATA + body])
    assert strict.codes == [*GREETED, *MAILED, BROKEN]
    assert strict.closed
    assert strict.recorder.named("mail") == ["<a@x.example>"]
    assert not strict.messages
    loose = every_cut([EH, TX + DATA + body + b"QUIT\r\n"], **LOOSE)
    assert loose.codes == [*PREPARED, "250 2.6.0", "221 2.0.0"]
    assert loose.messages[0].body == body[:-3]


@row("PIPE-03")
def test_a_message_may_be_followed_by_the_next_transaction() -> None:
    run = every_cut([EH, TX + DATA, TEXT + TX + DATA, TEXT + TX + DATA, TEXT + b"QUIT\r\n"])
    message = [*MAILED, "354", "250 2.6.0"]
    assert run.codes == [*GREETED, *message * 3, "221 2.0.0"]
    assert [message.body for message in run.messages] == [BODY] * 3


@row("PIPE-02", "PIPE-04")
@pytest.mark.parametrize(
    "networks, has_to_wait", [(["127.0.0.0/8"], False), (["198.51.100.0/24", "unix"], True)]
)
def test_only_clients_of_the_excluded_networks_need_not_wait(
    networks: list[str], has_to_wait: bool
) -> None:
    run = one_way([EH + TX + DATA + TEXT + b"QUIT\r\n"], pipelining_exclusions=networks)
    accepted = [*PREPARED, "250 2.6.0", "221 2.0.0"]
    assert run.codes == (["220", BROKEN] if has_to_wait else accepted)


@row("TLS-01")
def test_an_excluded_client_has_to_wait_for_the_reply_to_starttls() -> None:
    run = one_way([EH, b"STARTTLS\r\nNOOP\r\n"], **certified(pipelining_exclusions=["127.0.0.1"]))
    assert run.codes == [*GREETED, BROKEN]


@row("PIPE-04", "TLS-05")
@pytest.mark.parametrize("verb", [EH, HELO])
@pytest.mark.parametrize("after", [b"N", b"NOOP\r\n", b"\r\n", TX])
def test_a_greeting_ends_a_group(verb: bytes, after: bytes) -> None:
    strict = one_way([verb + after])
    assert strict.codes == ["220", BROKEN]
    assert strict.wire.session.opening_command == ""
    if after == TX:
        loose = every_cut([verb + after], **LOOSE)
        assert loose.codes == ["220", "250", *MAILED]


@row("PIPE-04")
@pytest.mark.parametrize("verb", [b"DATA\r\n", b"DATA x\r\n"])
def test_data_ends_a_group_even_where_it_would_be_refused(verb: bytes) -> None:
    assert one_way([EH, verb + b"NOOP\r\n"]).codes == [*GREETED, BROKEN]
    assert one_way([EH, TX + verb + b"NOOP\r\n"]).codes == [*GREETED, *MAILED, BROKEN]
    loose = every_cut([EH, MAIL + verb + b"NOOP\r\n"], **LOOSE)
    assert loose.codes == [*GREETED, "250 2.1.0", "503 5.5.1", "250 2.0.0"]
    waiting = every_cut([EH, TX + b"DATA x\r\n", b"NOOP\r\n"])
    assert waiting.codes == [*GREETED, *MAILED, "501 5.5.4", "250 2.0.0"]


@row("PIPE-04")
def test_a_greeting_that_would_be_refused_ends_a_group_too() -> None:
    assert one_way([b"EHLO\r\nNOOP\r\n"]).codes == ["220", BROKEN]
    assert every_cut([b"EHLO\r\nNOOP\r\n"], **LOOSE).codes == ["220", "501", "250 2.0.0"]


@row("PIPE-04")
def test_commands_that_end_no_group_are_served_in_order() -> None:
    lines = b"NOOP\r\nVRFY a\r\nRSET\r\nHELP\r\nEXPN a\r\nFOO\r\nXCLIENT NAME=x\r\nNOOP\r\n"
    run = every_cut([EH, TX + lines + TX + b"BDAT 4 LAST\r\ntextNOOP\r\n"])
    assert run.codes[2:] == [
        *MAILED,
        *["250 2.0.0", "252 2.0.0", "250 2.0.0", "214 2.0.0"],
        *["502 5.5.1", "500 5.5.2", "550 5.7.0", "250 2.0.0"],
        *[*MAILED, "250 2.6.0", "250 2.0.0"],
    ]


@row("PIPE-05", "STATE-13")
def test_commands_are_pipelined_after_helo_as_well() -> None:
    run = every_cut([HELO, TX + RCPT + b"NOOP\r\n" + DATA, TEXT])
    assert run.codes == ["220", "250", *MAILED, "250 2.1.5", "250 2.0.0", "354", "250 2.6.0"]


@row("PIPE-06")
@pytest.mark.parametrize("options", [{}, LOOSE])
def test_data_without_an_accepted_recipient_has_no_354(options: dict[str, Any]) -> None:
    run = every_cut([EH, TX + DATA], Script(rcpt=SMTPError("no")), **options)
    assert run.codes == [*GREETED, "250 2.1.0", "550 5.1.1", "503 5.5.1"]


@row("PIPE-06", "SMUG-28")
def test_a_body_after_a_refused_data_is_taken_for_commands() -> None:
    run = every_cut([EH, TX + DATA + b"hello\r\n.\r\n"], Script(rcpt=SMTPError("no")), **LOOSE)
    assert run.codes[2:] == ["250 2.1.0", "550 5.1.1", "503 5.5.1", "500 5.5.2", "500 5.5.2"]
    assert not run.messages


def test_a_hidden_extension_changes_nothing_in_what_is_served() -> None:
    run = every_cut([EH, TX + DATA, TEXT + TX + DATA, TEXT], hide_pipelining=True)
    assert run.codes == [*PREPARED, "250 2.6.0", *MAILED, "354", "250 2.6.0"]


@row("PIPE-03")
def test_the_replies_of_one_read_go_out_in_one_write() -> None:
    with Wire(**DEFAULTS, on_data=lambda stream, session, callback: callback()) as wire:
        wire.send(EH)
        for octets in (
            TX + RCPT * 50 + DATA,
            TEXT + TX + b"BDAT 4 LAST\r\ntext" + b"NOOP\r\n" * 20,
        ):
            before = len(wire.transport.writes)
            assert len(codes(wire.send(octets))) >= 24
            assert len(wire.transport.writes) == before + 1


# --- PIPE-07: slow hooks ---


def one_hook_at_a_time(count: int) -> None:
    at_work = most = called = 0

    async def on_rcpt_to(address: Any, session: Any) -> None:
        nonlocal at_work, most, called
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.01)
        at_work -= 1
        called += 1

    options = {"max_recipients": count, "on_rcpt_to": on_rcpt_to, "socket_timeout": 1}
    with Wire(**DEFAULTS, **options) as wire:
        wire.send(EH)
        wire.send(MAIL)
        wire.send(RCPT * count)
        assert not wire.transport.reading
        written = b""
        for _ in range(count):
            written += wire.advance(0.01)
            assert not wire.closed
        assert codes(written) == ["250 2.1.5"] * count
        assert wire.transport.reading
        assert (most, called) == (1, count)


@row("PIPE-07", "I7")
def test_recipients_wait_for_a_slow_hook_one_by_one() -> None:
    one_hook_at_a_time(500)


@row("PIPE-07", "I7")
@pytest.mark.nightly
def test_ten_thousand_recipients_wait_for_a_slow_hook_one_by_one() -> None:
    one_hook_at_a_time(10_000)


@row("PIPE-07")
@pytest.mark.parametrize("hook", ["mail", "rcpt", "data"])
def test_no_further_line_is_executed_while_a_hook_is_at_work(hook: str) -> None:
    with Conversation(Script(**{hook: LATE})) as session:
        session.do(EH, TX + b"BDAT 4 LAST\r\ntextNOOP\r\nHELP\r\n")
        expected = [*MAILED, "250 2.6.0", "250 2.0.0", "214 2.0.0"]
        begun = ["mail", "rcpt", "data"].index(hook)
        assert session.codes[2:] == expected[:begun]
        assert session.answer() == expected[begun:]


# --- PIPE-08, -09: after the end ---


@row("PIPE-08")
@pytest.mark.parametrize("after", [MAIL, b"QUIT\r\n", b"x", b"\x00\n\r", TX + DATA + TEXT])
def test_commands_after_quit_are_not_executed(after: bytes) -> None:
    run = every_cut([EH, b"QUIT\r\n" + after])
    assert run.codes == [*GREETED, "221 2.0.0"]
    assert run.recorder.named("mail") == []


@row("PIPE-08")
@pytest.mark.parametrize("quit", [b"QUIT x\r\n", b"QUIT QUIT\r\n"])
def test_a_quit_with_an_argument_is_refused(quit: bytes) -> None:
    run = every_cut([EH, quit + b"NOOP\r\nquit \r\n"])
    assert run.codes == [*GREETED, "501 5.5.4", "250 2.0.0", "221 2.0.0"]


@row("PIPE-09")
@pytest.mark.parametrize("hook", ["mail", "rcpt", "data"])
def test_commands_after_a_421_of_a_hook_are_not_executed(hook: str) -> None:
    hooks = Script(**{hook: SMTPError("bye", response_code=421)})
    run = every_cut([EH, TX + b"BDAT 4 LAST\r\ntext" + TX + b"NOOP\r\n"], hooks)
    begun = ["mail", "rcpt", "data"].index(hook)
    assert run.codes[2:] == [*MAILED[:begun], "421 4.7.0"]
    assert len(run.recorder.named("mail")) == 1


# --- PIPE-10: other protocols ---

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "OPTIONS", "PRI"]
HTTP_BODY = b"Host: x\r\nContent-Length: 100\r\n\r\n" + TX + DATA


@row("PIPE-10", "LOG-03")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("when", ["first", "later"])
def test_an_http_request_is_cut_and_its_body_never_executed(method: str, when: str) -> None:
    for spelled in (method, method.lower(), method.title()):
        request = f"{spelled} / HTTP/1.1\r\n".encode() + HTTP_BODY
        run = every_cut([*([EH, MAIL] if when == "later" else []), request])
        assert run.codes[-1] == "421 4.7.0"
        assert len(run.codes) == (4 if when == "later" else 2)
        assert run.recorder.named("rcpt") == []
        assert b"HTTP/1" not in b"".join(run.written)


@row("PIPE-10", "PROXY-02")
@pytest.mark.parametrize("when", ["first", "later"])
def test_a_proxy_header_of_a_stranger_is_cut(when: str) -> None:
    header = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\r\n"
    run = every_cut([*([EH] if when == "later" else []), header + EH])
    assert run.codes[-1] == "421 4.7.0"
    assert len(run.codes) == (3 if when == "later" else 2)


@row("PIPE-10")
@pytest.mark.parametrize("line", [b"Host: x\r\n", b"SSH-2.0-OpenSSH_9\r\n", b"SSH-\r\n", b":\r\n"])
def test_the_first_line_of_another_protocol_is_cut(line: bytes) -> None:
    run = every_cut([line + EH + TX])
    assert run.codes == ["220", "421 4.7.0"]
    later = every_cut([EH, line * 12], max_errors=None)
    assert later.codes == [*GREETED, *["500 5.5.2"] * 9, "421 4.7.0"]  # unknown commands, counted


@row("PIPE-10", "TLS-14")
@pytest.mark.parametrize("octet", [b"\x00", b"\x03", b"\x16"])
def test_the_first_octet_of_another_protocol_is_cut(octet: bytes) -> None:
    run = every_cut([octet + b"\x03\x01\x02\x00\x01\xfc\r\n" + EH])
    assert run.codes == ["220", "421 4.7.0"]
    later = every_cut([EH, octet + b"x\r\nNOOP\r\n"])
    assert later.codes == [*GREETED, "500 5.5.2", "250 2.0.0"]


# --- PIPE-11: nothing of the client's in a reply ---


@row("PIPE-11", "LOG-03")
@pytest.mark.parametrize(
    "line",
    [
        *[b"VRFY %s", b"%s", b"%s x", b"EXPN %s", b"HELP %s", b"NOOP %s", b"RSET %s", b"QUIT %s"],
        *[b"MAIL FROM:<%s", b"MAIL FROM:<a@x> %s=1", b"RCPT TO:<%s", b"DATA %s", b"BDAT %s"],
        *[b"XCLIENT NAME=%s", b"XFORWARD ADDR=%s", b"AUTH %s", b"STARTTLS %s", b"EHLO %s %s"],
        *[b"HELO %s %s", b"GET /%s HTTP/1.0", b"PROXY %s", b"MAIL FROM:<%s@x.example> SIZE=%s"],
    ],
    ids=repr,
)
def test_replies_do_not_repeat_what_the_client_sent(line: bytes) -> None:
    for canary in (b"<script>alert(7)</script>", b"canary7", b"%n%s{0.__class__}7"):
        octets = line.replace(b"%s", canary) + b"\r\n"
        for steps in ([EH, octets], [octets], [EH, TX, octets], [EH, MAIL, octets]):
            run = one_way(steps, **COUNTERS_OFF)
            for reply in parse_replies(b"".join(run.written)):
                assert "7" not in "".join(reply.lines).replace("26214400", "").replace("127", "")
                assert "canary" not in "".join(reply.lines)


@row("PIPE-11")
def test_even_an_accepted_greeting_is_not_echoed() -> None:
    run = one_way([b"EHLO canary.example\r\n", b"HELO canary.example\r\n"])
    assert b"canary" not in b"".join(run.written)


# --- CPU-05: verbs that are names ---


@row("CPU-05")
@pytest.mark.parametrize(
    "verb",
    [
        *[b"__class__", b"on_data", b"_reset", b"CONNECTION_MADE", b"data_received", b"reply"],
        *[b"UNKNOWN", b"HTTP", b"__init__", b"MAIL\xc3\x84", b"0", b"25", b"-1", b"MAILX", b"MAI"],
        *[b"X" * 128, b"X" * 1000, b"RCPT\x00"[:4] + b"X", b"NOO\xe9", b"D", b"DATA:", b"BDATA 5"],
    ],
    ids=lambda verb: repr(verb[:20]),
)
def test_a_verb_is_looked_up_in_a_fixed_table(verb: bytes) -> None:
    run = every_cut([EH, verb + b"\r\n" + verb + b" x\r\nNOOP\r\n"])
    assert run.codes[2:] == ["500 5.5.2", "500 5.5.2", "250 2.0.0"]


# --- CPU-06: one timer ---


@row("CPU-06")
def test_commands_arm_no_timers() -> None:
    armed: list[float] = []

    with Wire(**DEFAULTS, **COUNTERS_OFF, on_data=lambda *given: given[-1]()) as wire:
        wire.send(EH)
        call_at: Callable[..., asyncio.TimerHandle] = wire.loop.call_at

        def counted(when: float, *given: Any, **more: Any) -> asyncio.TimerHandle:
            armed.append(when)
            return call_at(when, *given, **more)

        wire.loop.call_at = counted  # type: ignore[method-assign]
        for _ in range(1000):
            wire.send(b"NOOP\r\n")
            wire.advance(0.001)
        assert len(armed) <= 2  # the command's, and a look at what the client takes
        timers = [timer for timer in wire.loop._scheduled if not timer.cancelled()]
        assert len(timers) == 1
        for _ in range(100):
            wire.send(TX + DATA)
            wire.send(TEXT)
        assert len(armed) < 100
