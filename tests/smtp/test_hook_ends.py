"""Hooks and the ends of things: client, transaction or connection ends, a hook changes the facts.

What the engine decides by is its own; `on_close` comes once, and after every other hook of its
connection (RFC 5321 §3.8, §4.2.5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hook_kit import BODY, COMMANDS, END, MAIL, RCPT, STYLES, AtHook, Call, forever
from scenario import DEFAULTS, EH, LATE, LH, PRE, RST, Conversation, Script, codes, one_way

from fastsmtp import MessageAborted, SMTPError, SMTPServer
from fastsmtp.testing import VirtualLoop, Wire

pytestmark = pytest.mark.usefixtures("no_leaks")
each_style = pytest.mark.parametrize("style", STYLES)
row = pytest.mark.row


class Coroutine:
    """A coroutine hook that waits until `gate` is set, and notes how it ended."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.gate: asyncio.Event | None = None

    async def __call__(self, call: Call) -> None:
        self.gate = asyncio.Event()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.notes.append("cancelled")
            raise
        self.notes.append("ended")
        if call.callback is not None:
            call.callback()


# --- HOOK-18: the client leaves while a hook is at work ---


@row("HOOK-18")
@pytest.mark.parametrize("name", ["on_connect", "on_mail_from", "on_rcpt_to"])
@each_style
@pytest.mark.parametrize("leaves", ["reset", "eof"])
def test_a_coroutine_whose_client_is_gone_is_cancelled(name: str, style: str, leaves: str) -> None:
    calls: list[Call] = []
    coroutine = Coroutine()
    with AtHook(name, style, calls.append if style == "callback" else coroutine) as met:
        if leaves == "eof":  # the client may still be reading: the hook is let finish
            assert met.told(met.wire.eof()) == []
            assert not coroutine.notes
        met.wire.reset()
        assert met.closes == 1
        if style == "callback":
            assert met.step(calls[0].callback) == []
        else:
            assert coroutine.notes == ["cancelled"]
        assert not met.errors


@row("HOOK-18", "SLOW-14")
@pytest.mark.parametrize("name", COMMANDS)
@each_style
def test_a_client_that_only_half_closed_still_gets_the_answer(name: str, style: str) -> None:
    calls: list[Call] = []
    coroutine = Coroutine()
    with AtHook(name, style, calls.append if style == "callback" else coroutine) as met:
        assert met.told(met.wire.eof()) == []
        finish = calls[0].callback if style == "callback" else lambda: coroutine.gate.set()  # type: ignore[union-attr]
        assert met.step(finish) == [met.stage.accepted]
        assert met.wire.transport.closed


@row("HOOK-18", "NET-03")
@each_style
def test_a_hook_with_a_whole_message_is_let_finish_when_the_client_left(style: str) -> None:
    calls: list[Call] = []
    coroutine = Coroutine()
    with AtHook("on_data", style, calls.append if style == "callback" else coroutine) as met:
        met.wire.reset()
        assert met.wait(100) == []
        assert met.closes == 0
        assert len(met.server.connections) == 1
        finish = calls[0].callback if style == "callback" else lambda: coroutine.gate.set()  # type: ignore[union-attr]
        assert met.step(finish) == []
        assert coroutine.notes == ([] if style == "callback" else ["ended"])
        assert met.closes == 1
        assert not met.errors


@row("HOOK-18", "HOOK-02")
@each_style
def test_a_hook_with_a_whole_message_has_its_timeout_even_when_the_client_left(style: str) -> None:
    calls: list[Call] = []
    coroutine = Coroutine()
    with AtHook("on_data", style, calls.append if style == "callback" else coroutine) as met:
        met.wait(100)
        met.wire.reset()
        met.wait(139)
        assert met.closes == 0
        met.wait(102)
        assert met.closes == 1
        assert coroutine.notes == ([] if style == "callback" else ["cancelled"])


@row("NET-03")
def test_a_reset_between_the_acceptance_and_our_reply_leaves_the_message_accepted() -> None:
    accepted: list[bytes] = []

    def on_data(stream: Any, session: Any, callback: Callable[..., object]) -> None:
        def on_end(error: MessageAborted | None) -> None:
            accepted.append(b"".join(pieces))
            wire.transport.lose(ConnectionResetError())
            callback(None, "queued")

        pieces: list[bytes] = []
        stream.consume(pieces.append, on_end)

    with Wire(**DEFAULTS, on_data=on_data) as wire:
        for group in (*PRE, BODY + END):
            wire.send(group)
        assert accepted == [BODY]
        assert wire.transport.closed
        assert not wire.server.connections


# --- a transaction that ends while its hook works: RSET, a greeting command ---


NEXT = b"MAIL FROM:<other@z.example>\r\nRCPT TO:<third@z.example>\r\n"


@row("I3", "I4", "I5")
@pytest.mark.parametrize("ends", [b"RSET\r\n", b"NOOP\r\nRSET\r\n"])
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_coroutine_sees_the_transaction_that_it_was_called_for(ends: bytes, cut: int) -> None:
    seen: list[Any] = []

    async def on_data(stream: Any, session: Any) -> None:
        envelope = session.envelope
        seen.append((envelope.mail_from.address, [to.address for to in envelope.rcpt_to]))
        try:
            await anext(stream)
            seen.append(await anext(stream))
        except MessageAborted as error:
            seen.append(error.reason)
            raise

    steps = [MAIL + RCPT + b"BDAT 1\r\nx", ends, NEXT]
    octets = [b"".join(steps[:cut]), b"".join(steps[cut:])]
    with Wire(**{**DEFAULTS, "on_data": on_data}) as wire:
        wire.send(EH)
        for part in octets:
            wire.send(part)
        assert seen == [("a@x.example", ["b@y.example"]), "reset"]


@row("HOOK-02", "I12")
def test_a_coroutine_of_an_ended_transaction_is_cancelled_at_its_timeout() -> None:
    ended: list[str] = []

    async def on_data(stream: Any, session: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(session.id)

    with Wire(**{**DEFAULTS, "on_data": on_data, "data_hook_timeout": 240}) as wire:
        wire.send(EH)
        for _ in range(3):
            wire.send(MAIL + RCPT + b"BDAT 1\r\nxRSET\r\n")
            wire.advance(10)
        wire.advance(200)
        assert not ended
        wire.advance(30)
        assert len(ended) == 3
        assert not asyncio.all_tasks(wire.loop)
        assert codes(wire.send(b"NOOP\r\n")) == ["250 2.0.0"]


# --- HOOK-16: the order of on_close ---


@row("HOOK-16")
@pytest.mark.parametrize("name", ["on_connect", "on_mail_from", "on_rcpt_to", "on_data"])
@pytest.mark.parametrize("style", STYLES[1:])
def test_on_close_comes_after_the_end_of_every_other_hook(name: str, style: str) -> None:
    order: list[str] = []

    async def slow_to_leave(call: Call) -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            for _ in range(10):
                await asyncio.sleep(0)
            order.append("hook")
            raise

    with AtHook(name, style, slow_to_leave, on_close=lambda session: order.append("close")) as met:
        met.closes = 1
        met.wire.reset()
        met.wait(241)
        assert order == ["hook", "close"]


@row("HOOK-16", "STATE-09")
@pytest.mark.parametrize("answer", ["accepts", "rejects", "fails", "hangs"])
def test_on_close_comes_once_after_any_answer_of_on_connect(answer: str) -> None:
    answers: dict[str, Any] = {
        "accepts": None,
        "rejects": SMTPError("no"),
        "fails": ValueError("it fails"),
        "hangs": LATE,
    }
    session = Conversation(Script(connect=answers[answer]))
    session.wire.server.on("error", lambda error: None)
    with session:
        session.do(RST)
        assert session.recorder.closes == 1


@row("HOOK-16")
def test_on_close_comes_without_an_on_connect_too() -> None:
    run = one_way([EH, RST], Script(unset=("on_connect",)))
    assert run.trace == [("close",)]


@row("HOOK-16")
@pytest.mark.parametrize("why", ["max_clients", "max_clients_per_host"])
def test_a_refused_connection_has_no_on_close(why: str) -> None:
    closes: list[Any] = []
    server = SMTPServer(**DEFAULTS, **{why: 1}, on_close=closes.append)
    loop = VirtualLoop()
    with Wire(server, loop=loop) as first:
        assert codes(first.receive()) == ["220"]
        with Wire(server, loop=loop) as second:
            assert codes(second.receive()) == ["421"]
            assert second.closed
        assert not closes
    assert len(closes) == 1
    loop.close()


@row("HOOK-16")
def test_a_client_that_leaves_during_the_greeting_delay_has_no_on_close() -> None:
    closes: list[Any] = []
    with Wire(**DEFAULTS, greet_delay=5, on_close=closes.append) as wire:
        wire.advance(1)
        wire.reset()
        wire.advance(10)
        assert not closes
        assert not wire.server.connections


# --- HOOK-13: hooks that change the facts ---

SESSION_FACTS = [
    *["id", "secure", "servername", "tls_options", "local_address", "local_port"],
    *["remote_address", "remote_port", "client_hostname", "opening_command", "proxy", "user"],
    *["host_name_appears_as", "xclient", "xforward", "transaction", "envelope", "error", "data"],
]
ENVELOPE_FACTS = [
    *["mail_from", "rcpt_to", "body_type", "smtp_utf8", "require_tls", "dsn", "auth"],
    *["mt_priority", "deliver_by", "hold_for", "hold_until"],
]


def spoil(target: Any, name: str, how: str) -> None:
    try:
        if how == "deletes":
            delattr(target, name)
        else:
            setattr(target, name, {"nonsense": object(), "None": None}[how])
    except AttributeError:
        pass  # it cannot even be done


@row("HOOK-13")
@pytest.mark.parametrize("hook", ["on_connect", "on_mail_from", "on_rcpt_to", "on_data"])
@pytest.mark.parametrize("how", ["deletes", "nonsense", "None"])
@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
def test_a_hook_that_changes_the_facts_harms_only_itself(hook: str, how: str, lmtp: bool) -> None:
    greeting = LH if lmtp else EH
    for where, name in [
        *(("session", name) for name in SESSION_FACTS),
        *(("envelope", name) for name in ENVELOPE_FACTS),
    ]:

        def act(call: Call, where: str = where, name: str = name) -> None:
            target = call.session if where == "session" else call.session.envelope
            spoil(target, name, how)
            call.callback()

        with AtHook(hook, "callback", act, lmtp=lmtp, bring=False) as met:
            met.stage = met.stage._replace(before=(), trigger=())
            met.bring()
            told = met.say(greeting) + met.say(MAIL + RCPT + RCPT + b"DATA\r\n")
            told += met.say(BODY + END)
            assert told == [
                *["250", "250 2.1.0", "250 2.1.5", "250 2.1.5", "354"],
                *["250 2.6.0"] * (2 if lmtp else 1),
            ], (where, name)
            assert met.say(b"FOO\r\n") == ["500 5.5.2"]
            met.go_on()
            assert not met.errors


@row("HOOK-13")
def test_recipients_that_a_hook_takes_away_are_answered_all_the_same() -> None:
    def on_data(stream: Any, session: Any, callback: Callable[..., object]) -> None:
        session.envelope.rcpt_to.clear()
        callback()

    with Wire(**DEFAULTS, lmtp=True, on_data=on_data) as wire:
        wire.send(LH)
        wire.send(MAIL + RCPT + RCPT + RCPT + b"DATA\r\n")
        assert codes(wire.send(BODY + END)) == ["250 2.6.0"] * 3


@row("HOOK-13")
def test_recipients_that_a_hook_adds_make_no_transaction() -> None:
    def on_mail_from(address: Any, session: Any, callback: Callable[..., object]) -> None:
        session.envelope.rcpt_to.append(address)
        callback()

    with Wire(**DEFAULTS, on_mail_from=on_mail_from, on_data=lambda *given: None) as wire:
        wire.send(EH)
        assert codes(wire.send(MAIL + b"DATA\r\n")) == ["250 2.1.0", "503 5.5.1"]


@row("HOOK-13")
def test_session_data_lives_as_long_as_the_connection() -> None:
    stored = bytearray(10_000_000)

    def act(call: Call) -> None:
        call.session.data["huge"] = stored
        call.callback()

    with AtHook("on_mail_from", "callback", act) as met:
        assert met.reply == "250 2.1.0"
        assert met.wire.session.data["huge"] is stored
        met.go_on()
        assert met.wire.session.data["huge"] is stored


@row("HOOK-13", "I10", "I12")
def test_a_fact_that_a_hook_deletes_is_not_missed_by_the_engine() -> None:
    told: list[Any] = []

    def on_rcpt_to(address: Any, session: Any, callback: Any) -> None:
        del session.remote_address
        del session.envelope.mail_from
        raise LookupError

    server = SMTPServer(**{**DEFAULTS, "on_rcpt_to": on_rcpt_to})
    server.on("error", told.append)
    with Wire(server) as wire:
        wire.send(EH)
        assert codes(wire.send(MAIL + RCPT)) == ["250 2.1.0", "451 4.3.0"]
        wire.reset()
        assert not server.connections
    assert [(type(error), error.remote_address) for error in told] == [
        (LookupError, "192.0.2.1"),
        (ConnectionResetError, "192.0.2.1"),
    ]


# --- HOOK-15: many at once ---


def many_hooks_at_work(count: int) -> None:
    loop = VirtualLoop()
    at_work = 0

    async def on_rcpt_to(address: Any, session: Any) -> None:
        nonlocal at_work
        at_work += 1
        try:
            await asyncio.sleep(10 if address.local_part == "b" else 1000)
        finally:
            at_work -= 1

    server = SMTPServer(**DEFAULTS, max_clients=count, on_rcpt_to=on_rcpt_to)
    server.on("error", lambda error: None)
    wires = [Wire(server, loop=loop) for _ in range(count)]
    for number, wire in enumerate(wires):
        wire.send(EH)
        wire.send(MAIL + (RCPT if number % 2 else b"RCPT TO:<slow@y.example>\r\n"))
    assert at_work == count
    loop.advance(11)
    assert at_work == count // 2
    loop.advance(20)
    assert at_work == 0
    for number, wire in enumerate(wires):
        assert codes(wire.receive())[-1] == ("250 2.1.5" if number % 2 else "451 4.3.0")
        wire.close()
    loop.advance()
    assert not server.connections
    loop.close()


@row("HOOK-15")
def test_each_of_many_hooks_has_its_own_timeout() -> None:
    many_hooks_at_work(200)


@row("HOOK-15")
@pytest.mark.nightly
def test_each_of_ten_thousand_hooks_has_its_own_timeout() -> None:
    many_hooks_at_work(10_000)
