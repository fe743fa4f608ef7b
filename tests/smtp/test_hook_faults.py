"""Hooks that fail: each fault, in each hook, in each of the three styles.

The client hears 451 4.3.0 with a fixed text, at connect 421 in the greeting's place; the rest of
the connection, and other connections, go on (RFC 5321 §4.2.2, §4.5.3.2).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hook_kit import COMMANDS, STAGES, STYLES, AtHook, Call, OddException, accept, forever, hold
from scenario import DEFAULTS, EH, codes

from fastsmtp import SMTPError, SMTPServer
from fastsmtp._connection.connection import Connection
from fastsmtp.server import state_of
from fastsmtp.testing import VirtualLoop, Wire

pytestmark = pytest.mark.usefixtures("no_leaks")
each_hook = pytest.mark.parametrize("name", STAGES)
each_style = pytest.mark.parametrize("style", STYLES)
with_callback = pytest.mark.parametrize("style", ["callback", "coroutine with callback"])
row = pytest.mark.row

SECRET = "a secret of the operator"


def raises(error: BaseException) -> Callable[[Call], None]:
    def act(call: Call) -> None:
        raise error

    return act


def goes_on_or_is_closed(met: AtHook, name: str) -> None:
    """A failing command costs nothing but itself; a failing `on_connect` the connection."""
    if name == "on_connect":
        assert met.wire.closed
    else:
        met.go_on()


# --- HOOK-01: it raises ---


@row("HOOK-01")
@each_hook
@each_style
@pytest.mark.parametrize(
    "error",
    [ValueError, asyncio.CancelledError, RecursionError, MemoryError, GeneratorExit, OddException],
    ids=lambda e: e.__name__,
)
def test_a_hook_that_raises_is_a_local_error(
    name: str, style: str, error: type[BaseException]
) -> None:
    with AtHook(name, style, raises(error(SECRET))) as met:
        assert met.reply == met.stage.failed
        assert SECRET.encode() not in met.written
        assert [type(reported) for reported in met.errors] == [error]
        goes_on_or_is_closed(met, name)


@row("HOOK-01", "LOG-04")
@each_hook
@each_style
def test_the_traceback_of_a_failing_hook_goes_to_the_log_and_not_to_the_client(
    name: str, style: str, caplog: pytest.LogCaptureFixture
) -> None:
    with AtHook(name, style, raises(ValueError(SECRET)), listen=False) as met:
        assert met.reply == met.stage.failed
        assert b"Traceback" not in met.written
        assert b"secret" not in met.written
        assert "ValueError: a secret of the operator" in caplog.text
        assert "Traceback" in caplog.text
        goes_on_or_is_closed(met, name)


@row("HOOK-01")
@each_hook
@each_style
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit], ids=lambda e: e.__name__)
def test_an_exception_that_ends_the_process_closes_the_connection_and_reaches_the_loop(
    name: str, style: str, error: type[BaseException]
) -> None:
    with AtHook(name, style, raises(error()), bring=False) as met:
        with pytest.raises(error):
            met.bring()
        told = met.wait(0)
        assert met.wire.closed
        assert met.stage.accepted not in [*met.codes, *told]


# --- HOOK-02: it never answers ---


def clock_of(name: str) -> float:
    return 240 if name == "on_data" else 30


@row("HOOK-02")
@each_hook
@each_style
def test_a_hook_that_never_answers_fails_at_its_timeout(name: str, style: str) -> None:
    cancelled: list[bool] = []

    async def hangs() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    def act(call: Call) -> object:
        return hangs() if style != "callback" else None

    with AtHook(name, style, act) as met:
        assert met.reply == ""
        assert met.wait(clock_of(name) - 0.1) == []
        assert not cancelled
        assert met.wait(0.2) == [met.stage.failed]
        assert cancelled == ([True] if style != "callback" else [])
        assert [type(reported) for reported in met.errors] == [TimeoutError]
        goes_on_or_is_closed(met, name)


@row("HOOK-02")
@each_hook
def test_a_coroutine_that_ends_without_having_called_back_fails_at_once(name: str) -> None:
    with AtHook(name, "coroutine with callback", lambda call: None) as met:
        assert met.reply == met.stage.failed
        assert len(met.errors) == 1
        goes_on_or_is_closed(met, name)


class Stubborn:
    """A coroutine hook that swallows its cancellation, until `let_go`."""

    def __init__(self) -> None:
        self.gate: asyncio.Event | None = None
        self.swallowed = 0

    async def __call__(self, call: Call) -> None:
        self.gate = asyncio.Event()
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.swallowed += 1

    def let_go(self, met: AtHook) -> None:
        assert self.gate is not None
        met.step(self.gate.set)


@row("HOOK-02")
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("style", STYLES[1:])
def test_a_hook_that_swallows_its_cancellation_is_abandoned(
    name: str, style: str, caplog: pytest.LogCaptureFixture
) -> None:
    stubborn = Stubborn()
    with AtHook(name, style, stubborn) as met:
        assert met.wait(clock_of(name)) == [met.stage.failed]
        assert stubborn.swallowed == 1
        caplog.clear()
        assert met.wait(5.1) == []
        assert [record.levelno >= logging.WARNING for record in caplog.records] == [True]
        met.go_on()
        met.wire.eof()
        assert met.closes == 1
        assert not met.server.connections
        stubborn.let_go(met)


@row("HOOK-02")
@each_hook
def test_closing_the_server_does_not_wait_for_a_hook_that_swallows_its_cancellation(
    name: str,
) -> None:
    stubborn = Stubborn()
    with AtHook(name, "coroutine", stubborn) as met:
        met.wait(clock_of(name) + 5.1)
        closing = met.loop.create_task(met.server.close())
        met.wait(0)
        assert met.wire.closed
        met.wire.eof()
        met.wait(0)
        assert closing.done()
        stubborn.let_go(met)


# --- HOOK-03: it holds the loop ---


@row("HOOK-03")
def test_a_hook_that_blocks_the_loop_times_out_no_client_that_sent_in_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = VirtualLoop()
    held: list[str] = []
    clients: list[socket.socket] = []

    def on_mail_from(address: Any, session: Any, callback: Callable[..., object]) -> None:
        held.append(address.address)
        clients[1].sendall(b"NOOP\r\n")  # in time, but it is not read now
        hold(loop, 400)  # more than any clock of a command
        callback()

    server = SMTPServer(**DEFAULTS, on_mail_from=on_mail_from)
    transports = []
    for _ in range(2):
        ours, theirs = socket.socketpair()
        clients.append(theirs)
        connecting = loop.create_connection(
            lambda: Connection(state_of(server), loop, loop.time), sock=ours
        )
        transports.append(loop.run_until_complete(connecting)[0])
        theirs.sendall(EH)
        loop.advance()
    try:
        for client in clients:
            assert codes(client.recv(65536)) == ["220", "250"]
        clients[0].sendall(b"MAIL FROM:<a@x.example>\r\n")
        loop.advance()
        assert held == ["a@x.example"]
        assert codes(clients[0].recv(65536)) == ["250 2.1.0"]
        assert codes(clients[1].recv(65536)) == ["250 2.0.0"]
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        loop.advance(299)
        for client in clients:
            client.sendall(b"QUIT\r\n")
        loop.advance()
        for client in clients:
            assert codes(client.recv(65536)) == ["221 2.0.0"]
    finally:
        for client in clients:
            client.close()
        loop.advance()
        for transport in transports:
            transport.abort()
        loop.advance()
        loop.close()
    assert not server.connections


@row("HOOK-03")
@each_hook
@each_style
def test_a_hook_that_blocks_the_loop_is_logged_as_a_stall(
    name: str, style: str, caplog: pytest.LogCaptureFixture
) -> None:
    met: AtHook

    def holds_the_loop(call: Call) -> None:
        hold(met.loop, 5)
        accept(call)

    with AtHook(name, style, holds_the_loop, bring=False) as met:
        met.bring()
        assert met.reply == met.stage.accepted
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        met.go_on()


# --- HOOK-04: it answers more than once ---


def again(call: Call, error: Exception | None, count: int) -> None:
    for _ in range(count):
        with pytest.raises(RuntimeError):
            call.callback(error)


@row("HOOK-04")
@each_hook
@with_callback
@pytest.mark.parametrize("count", [1, 1000])
@pytest.mark.parametrize("first", ["accepts", "rejects"])
@pytest.mark.parametrize("then", ["accepts", "rejects"])
def test_the_first_answer_counts_and_each_later_one_raises_in_the_hook(
    name: str, style: str, count: int, first: str, then: str
) -> None:
    answers = {"accepts": None, "rejects": SMTPError("no")}

    def act(call: Call) -> None:
        call.callback(answers[first])
        again(call, answers[then], count)

    with AtHook(name, style, act) as met:
        replies = list(met.codes)
        assert met.reply == (met.stage.accepted if first == "accepts" else met.stage.rejected)
        assert met.wait(0) == []
        assert not met.errors
        if name == "on_connect" and first == "rejects":
            assert met.wire.closed
        else:
            met.go_on()
        assert met.codes[: len(replies)] == replies


@row("HOOK-04")
@each_hook
@with_callback
def test_a_hook_that_lets_its_second_answer_raise_has_still_answered(name: str, style: str) -> None:
    def act(call: Call) -> None:
        call.callback()
        call.callback(SMTPError("too late"))

    with AtHook(name, style, act) as met:
        assert met.reply == met.stage.accepted
        assert [type(reported) for reported in met.errors] == [RuntimeError]
        met.go_on()


@row("HOOK-04")
@each_hook
def test_a_later_answer_of_a_hook_that_answered_from_the_loop_raises_too(name: str) -> None:
    calls: list[Call] = []
    with AtHook(name, "callback", calls.append) as met:
        assert met.step(calls[0].callback) == [met.stage.accepted]
        assert met.step(lambda: again(calls[0], None, 3)) == []
        met.go_on()
        assert met.step(lambda: again(calls[0], SMTPError("no"), 3)) == []


# --- HOOK-05: it answers at the wrong time or place ---


@row("HOOK-05")
@each_hook
@pytest.mark.parametrize("error", [None, SMTPError("no")], ids=["accepts", "rejects"])
def test_an_answer_after_the_timeout_has_no_effect(name: str, error: Exception | None) -> None:
    calls: list[Call] = []
    with AtHook(name, "callback", calls.append) as met:
        assert met.wait(clock_of(name)) == [met.stage.failed]
        assert met.step(lambda: calls[0].callback(error)) == []
        goes_on_or_is_closed(met, name)
        assert met.step(lambda: calls[0].callback(error)) == []


@row("HOOK-05", "HOOK-18")
@each_hook
@pytest.mark.parametrize("error", [None, SMTPError("no")], ids=["accepts", "rejects"])
def test_an_answer_after_the_client_left_has_no_effect(name: str, error: Exception | None) -> None:
    calls: list[Call] = []
    with AtHook(name, "callback", calls.append) as met:
        met.wire.reset()
        assert met.closes == (0 if name == "on_data" else 1)  # a whole message is let finish
        assert met.step(lambda: calls[0].callback(error)) == []
        assert met.closes == 1


@row("HOOK-05")
@each_hook
def test_an_answer_from_another_thread_is_refused_and_the_hook_can_still_answer(name: str) -> None:
    calls: list[Call] = []
    raised: list[BaseException] = []

    def elsewhere() -> None:
        try:
            calls[0].callback()
        except BaseException as error:
            raised.append(error)

    with AtHook(name, "callback", calls.append) as met:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert [type(error) for error in raised] == [RuntimeError]
        assert met.wait(0) == []
        assert met.step(calls[0].callback) == [met.stage.accepted]
        met.go_on()


@row("HOOK-05")
@each_hook
def test_an_answer_after_the_loop_was_closed_is_a_clear_error(name: str) -> None:
    calls: list[Call] = []
    met = AtHook(name, "callback", calls.append)
    met.close()
    with pytest.raises(RuntimeError, match="loop"):
        calls[0].callback()


# --- on_close ---

CLOSE_FAULTS = [
    *(ValueError, asyncio.CancelledError, RecursionError, MemoryError),
    *(GeneratorExit, OddException),
]


@row("HOOK-01")
@pytest.mark.parametrize("error", CLOSE_FAULTS, ids=lambda e: e.__name__)
@pytest.mark.parametrize("style", ["callback", "coroutine"])
def test_a_failing_on_close_is_a_log_line(
    style: str, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def plain(session: Any) -> None:
        raise error(SECRET)

    async def coroutine(session: Any) -> None:
        raise error(SECRET)

    on_close = plain if style == "callback" else coroutine
    with Wire(**DEFAULTS, on_close=on_close) as wire:
        wire.receive()
        assert codes(wire.send(b"QUIT\r\n")) == ["221 2.0.0"]
        wire.eof()
        wire.advance(0)
        assert len(caplog.records) == 1
        assert caplog.records[0].levelno == logging.ERROR
        assert not wire.server.connections


@row("HOOK-02")
def test_closing_the_server_cuts_an_on_close_that_never_ends() -> None:
    async def on_close(session: Any) -> None:
        await forever()

    with Wire(**DEFAULTS, on_close=on_close) as wire:
        wire.reset()
        closing = wire.loop.create_task(wire.server.close())
        wire.advance(31)
        assert closing.done()
        for task in asyncio.all_tasks(wire.loop):
            task.cancel()
        wire.advance(0)
