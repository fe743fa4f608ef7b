"""A call that holds the event loop is counted, and told once, by the name of its hook or listener:
in every style, and at every step.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from hook_kit import BODY, END, MAIL, RCPT, STAGES, STYLES, AtHook, Call, accept, hold
from sasl_kit import OPEN, b64
from scenario import DEFAULTS, EH

from fastsmtp import SMTPServer
from fastsmtp._connection.listeners import Listeners
from fastsmtp._connection.registry import ConnectionRegistry
from fastsmtp._counts.families import cell
from fastsmtp._counts.tally import Tally
from fastsmtp._hooks.stalls import Stalls
from fastsmtp.testing import VirtualLoop, Wire

pytestmark = pytest.mark.usefixtures("no_leaks")

HELD = "held the event loop for"


def own_tasks(loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coroutine, loop=loop)


@contextlib.contextmanager
def one_stall(log: list[str], *names: str) -> Iterator[VirtualLoop]:
    """A loop on which each of these holds the loop for 2 seconds, and all is told once."""
    loop = VirtualLoop()
    yield loop
    loop.close()
    told = [line for line in log if HELD in line]
    assert [line.partition(": 192.0.2.1: ")[2] for line in told] == [
        f"{name} {HELD} 2.0 s" for name in names
    ]


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("style", STYLES)
def test_a_hook_that_holds_the_loop_before_it_answers_is_named(
    name: str, style: str, log: list[str]
) -> None:
    def act(call: Call) -> Any:
        hold(it.loop, 2)
        return accept(call)

    it = AtHook(name, style, act, bring=False)
    with it:
        it.bring()
        assert it.server.stats()["loop"]["stalls"] == 1
    told = [line for line in log if HELD in line]
    assert told == [f"{it.wire.session.id}: 192.0.2.1: {name} {HELD} 2.0 s"]


@pytest.mark.parametrize("name", STAGES)
def test_a_hook_that_holds_the_loop_and_answers_later_is_named(name: str, log: list[str]) -> None:
    calls: list[Call] = []

    def act(call: Call) -> None:
        hold(it.loop, 2)
        calls.append(call)

    it = AtHook(name, "callback", act, bring=False)
    with it:
        it.bring()
        it.step(lambda: accept(calls[0]))
    told = [line for line in log if HELD in line]
    assert told == [f"{it.wire.session.id}: 192.0.2.1: {name} {HELD} 2.0 s"]


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("factory", [None, own_tasks], ids=["driven", "a factory of tasks"])
@pytest.mark.parametrize("is_woken_by", ["result", "exception"])
def test_a_coroutine_that_holds_the_loop_between_two_awaits_is_named(
    name: str, factory: Any, is_woken_by: str, log: list[str]
) -> None:
    futures: list[asyncio.Future[None]] = []

    async def wait(call: Call) -> None:
        futures.append(asyncio.get_running_loop().create_future())
        with contextlib.suppress(LookupError):
            await futures[0]
        hold(it.loop, 2)
        await asyncio.sleep(0)

    it = AtHook(name, "coroutine", wait, bring=False)
    it.loop.set_task_factory(factory)
    with it:
        it.bring()
        if is_woken_by == "result":
            it.step(lambda: futures[0].set_result(None))
        else:
            it.step(lambda: futures[0].set_exception(LookupError()))
        assert it.server.stats()["loop"]["stalls"] == 1
    told = [line for line in log if HELD in line]
    assert told == [f"{it.wire.session.id}: 192.0.2.1: {name} {HELD} 2.0 s"]


@pytest.mark.parametrize(
    "take",
    ["on_chunk", "on_end", "async for", "read"],
)
def test_a_hook_that_holds_the_loop_while_it_takes_its_message_is_named(
    take: str, log: list[str]
) -> None:
    def in_callback_style(stream: Any, session: Any, callback: Any) -> None:
        def on_chunk(piece: bytes) -> None:
            if take == "on_chunk":
                hold(loop, 2)

        def on_end(error: Any) -> None:
            if take == "on_end":
                hold(loop, 2)
            callback(error)

        stream.consume(on_chunk, on_end)

    async def in_a_coroutine(stream: Any, session: Any) -> None:
        if take == "read":
            await stream.read()
            hold(loop, 2)
        else:
            async for _ in stream:
                hold(loop, 2)

    on_data: Any = in_callback_style if take.startswith("on_") else in_a_coroutine
    with (
        one_stall(log, "on_data") as loop,
        Wire(SMTPServer(**DEFAULTS, on_data=on_data), loop=loop) as wire,
    ):
        wire.send(EH, MAIL + RCPT + b"DATA\r\n", BODY + END)


def test_two_hooks_that_hold_the_loop_in_one_read_are_both_named(log: list[str]) -> None:
    def holding(*arguments: Any) -> None:
        hold(loop, 2)
        arguments[-1]()

    with (
        one_stall(log, "on_mail_from", "on_rcpt_to") as loop,
        Wire(SMTPServer(**DEFAULTS, on_mail_from=holding, on_rcpt_to=holding), loop=loop) as wire,
    ):
        wire.send(EH, MAIL + RCPT)


def test_a_hook_that_is_called_by_the_answer_of_another_is_named_alone(log: list[str]) -> None:
    async def on_mail_from(address: Any, session: Any, callback: Any) -> None:
        await asyncio.sleep(0)
        callback()  # which executes the pipelined RCPT

    def on_rcpt_to(address: Any, session: Any, callback: Any) -> None:
        hold(loop, 2)
        callback()

    server = SMTPServer(**DEFAULTS, on_mail_from=on_mail_from, on_rcpt_to=on_rcpt_to)
    with one_stall(log, "on_rcpt_to") as loop, Wire(server, loop=loop) as wire:
        wire.send(EH, MAIL + RCPT)


@pytest.mark.parametrize("is_coroutine", [False, True])
def test_on_auth_and_on_close_are_named(is_coroutine: bool, log: list[str]) -> None:
    def on_auth(auth: Any, session: Any, callback: Any) -> None:
        hold(loop, 2)
        callback(None, {"user": "ann"})

    def on_close(session: Any) -> None:
        hold(loop, 2)

    async def on_close_later(session: Any) -> None:
        await asyncio.sleep(0)
        hold(loop, 2)

    hooks: dict[str, Any] = {"on_auth": on_auth}
    hooks["on_close"] = on_close_later if is_coroutine else on_close
    with one_stall(log, "on_auth", "on_close") as loop:
        with Wire(SMTPServer(**{**DEFAULTS, **OPEN, **hooks}), loop=loop) as wire:
            wire.send(EH, b"AUTH PLAIN " + b64("\0ann\0pencil") + b"\r\n")
        loop.advance()


def test_a_listener_of_transactions_is_named(log: list[str]) -> None:
    def listener(outcome: Any) -> None:
        hold(loop, 2)

    server = SMTPServer(**DEFAULTS).on("transaction", listener)
    with (
        one_stall(log, "a listener of 'transaction'") as loop,
        Wire(server, loop=loop) as wire,
    ):
        wire.send(EH, RCPT)


@contextlib.contextmanager
def checked() -> Iterator[tuple[VirtualLoop, Tally]]:
    """A loop that is checked once a second, as that of a server that listens, and its counts."""
    loop, tally = VirtualLoop(), Tally()
    listeners = Listeners(ConnectionRegistry.__new__(ConnectionRegistry), tally)
    loop.step(lambda: listeners.watch(loop))
    loop.advance(1)
    try:
        yield loop, tally
    finally:
        listeners.close()
        loop.close()


def test_a_stall_that_only_the_check_of_the_loop_notices_is_counted(log: list[str]) -> None:
    with checked() as (loop, tally):
        loop.step(lambda: hold(loop, 3))
        loop.advance(1)
        assert tally.values()[cell("loop_stalls_total")] == 1
    assert log == [f"something other than a hook {HELD} 2.0 s"]


def test_a_stall_that_a_connection_has_noticed_is_counted_once(log: list[str]) -> None:
    def in_a_connection() -> None:
        hold(loop, 3)
        Stalls(tally).tell(0, 3, "on_data", "ID: 192.0.2.1")

    with checked() as (loop, tally):
        loop.step(in_a_connection)
        loop.advance(1)
        assert tally.values()[cell("loop_stalls_total")] == 1
        loop.step(lambda: hold(loop, 4))
        loop.advance(1)
        assert tally.values()[cell("loop_stalls_total")] == 2
    assert log[0] == f"ID: 192.0.2.1: on_data {HELD} 3.0 s"
    assert len(log) == 2
