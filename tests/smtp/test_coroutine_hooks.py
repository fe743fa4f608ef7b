"""Hooks that are coroutines find asyncio as they know it, whether a Task runs them or not.

The engine takes their steps itself as long as they wait for nothing but their message.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar, copy_context
from typing import Any

from clients import Client, Sink

from fastsmtp._net.timer_wheel import Timers
from fastsmtp.errors import MessageAborted
from fastsmtp.testing import running

TEXT = b"Subject: x\r\n\r\ntext\r\n"


async def delivered(on_data: Any, **hooks: Any) -> str:
    """The reply to a message that `on_data` is given."""
    server = Sink().server(on_data=on_data, **hooks)
    async with running(server) as address, await Client.in_data(address) as client:
        return await client.ask(TEXT + b".\r\n")


async def body_of(stream: Any) -> bytes:
    return b"".join([piece async for piece in stream])


def test_a_hook_resumes_after_a_bare_yield_before_it_reads_its_message(run: Any) -> None:
    async def on_data(stream: Any, session: Any) -> None:
        await asyncio.sleep(0)
        await body_of(stream)

    assert run(delivered(on_data)) == "250 2.6.0"


def test_the_current_task_answers_for_the_coroutine_in_its_first_step(run: Any) -> None:
    told: dict[str, Any] = {}

    async def on_mail_from(address: Any, session: Any) -> None:
        task: Any = asyncio.current_task()
        told["coroutine"] = task.get_coro().__qualname__.rpartition(".")[2]
        told["repr"] = "on_mail_from" in repr(task)
        told["loop"] = task.get_loop() is asyncio.get_running_loop()
        task.set_name("mine")
        told["name"] = task.get_name()
        told["task"] = task

    async def on_data(stream: Any, session: Any) -> None:
        await body_of(stream)

    assert run(delivered(on_data, on_mail_from=on_mail_from)) == "250 2.6.0"
    task = told.pop("task")
    assert told == {"coroutine": "on_mail_from", "repr": True, "loop": True, "name": "mine"}
    assert task.done()


def test_a_task_that_a_hook_has_kept_is_done_when_the_hook_is(run: Any) -> None:
    kept: list[Any] = []

    async def on_data(stream: Any, session: Any) -> None:
        kept.append(asyncio.current_task())
        await body_of(stream)
        kept.append(asyncio.current_task())

    assert run(delivered(on_data)) == "250 2.6.0"
    assert kept[0] is kept[1]
    assert kept[0].done()


def test_a_hook_that_waits_for_its_message_can_be_cancelled_by_its_task(run: Any) -> None:
    async def scenario() -> None:
        begun, seen = asyncio.Event(), asyncio.Event()
        tasks: list[Any] = []

        async def on_data(stream: Any, session: Any) -> None:
            tasks.append(asyncio.current_task())
            begun.set()
            try:
                await body_of(stream)
            except asyncio.CancelledError:
                seen.set()
                raise

        server = Sink().server(on_data=on_data)
        async with running(server) as address, await Client.in_data(address) as client:
            await begun.wait()
            assert tasks[0].cancel()
            await seen.wait()
            assert await client.ask(TEXT + b".\r\n") == "451 4.3.0"

    run(scenario())


def test_a_time_out_around_the_message_ends_the_wait_for_it(run: Any) -> None:
    async def scenario() -> None:
        over = asyncio.Event()

        async def on_data(stream: Any, session: Any) -> None:
            try:
                async with asyncio.timeout(0):
                    await body_of(stream)
            except TimeoutError:
                over.set()
            stream.discard()

        server = Sink().server(on_data=on_data)
        async with running(server) as address, await Client.in_data(address) as client:
            await over.wait()
            assert await client.ask(TEXT + b".\r\n") == "250 2.6.0"

    run(scenario())


def test_a_cancelled_hook_cancels_what_it_waits_for(run: Any) -> None:
    ends: list[str] = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    async def on_data(stream: Any, session: Any) -> None:
        try:
            async with asyncio.timeout(0):
                await asyncio.create_task(work())
        except TimeoutError:
            ends.append("timed out")
        await body_of(stream)

    assert run(delivered(on_data)) == "250 2.6.0"
    assert ends in (["cancelled", "timed out"], ["timed out"])  # it may not even have begun


def test_a_hook_that_waits_gets_message_aborted_when_its_client_leaves(run: Any) -> None:
    async def scenario() -> None:
        heard = asyncio.Event()
        reasons: list[str] = []

        async def on_data(stream: Any, session: Any) -> None:
            try:
                await body_of(stream)
            except MessageAborted as error:
                reasons.append(error.reason)
                heard.set()
                raise

        server = Sink().server(on_data=on_data)
        async with running(server) as address:
            async with await Client.in_data(address) as client:
                client.send(b"half a")
            await heard.wait()
        assert reasons == ["disconnected"]

    run(scenario())


def test_a_value_of_the_context_outlives_a_wait_and_stays_with_the_hook(run: Any) -> None:
    mark: ContextVar[str] = ContextVar("mark", default="")
    seen: list[str] = []

    async def on_mail_from(address: Any, session: Any) -> None:
        seen.append(mark.get())
        mark.set("mail")

    async def on_data(stream: Any, session: Any) -> None:
        seen.append(mark.get())
        mark.set("data")
        await body_of(stream)
        await asyncio.sleep(0)
        seen.append(mark.get())

    assert run(delivered(on_data, on_mail_from=on_mail_from)) == "250 2.6.0"
    assert seen == ["", "", "data"]


class _Waiting:
    def __init__(self, mark: ContextVar[str], seen: list[str], name: str) -> None:
        self.context = copy_context()
        self.context.run(mark.set, name)
        self._look = lambda: seen.append(mark.get())

    def on_deadline(self) -> None:
        self._look()


class _Loop:
    """As much of a loop as deadlines take."""

    def call_later(self, seconds: float, callback: Any, *, context: Any) -> Any:
        self.run = lambda: context.run(callback)
        return self

    def cancel(self) -> None:
        """Nothing is due any more."""


def test_a_deadline_runs_in_the_context_of_its_own_connection() -> None:
    mark: ContextVar[str] = ContextVar("mark", default="")
    seen: list[str] = []
    time = [100.0]
    loop: Any = _Loop()
    timers = Timers(loop, lambda: time[0])
    one, other = (_Waiting(mark, seen, name) for name in ("one", "other"))
    one.context.run(timers.add, one, 103.0)
    other.context.run(timers.add, other, 103.0)
    time[0] = 103.5
    loop.run()
    assert sorted(seen) == ["one", "other"]


class _Failing:
    context = None

    def on_deadline(self) -> None:
        raise LookupError("ours")

    def __str__(self) -> str:
        return "id1: 192.0.2.1"


def test_a_deadline_that_fails_is_logged_with_session_and_client(log: list[str]) -> None:
    time = [100.0]
    loop: Any = _Loop()
    timers = Timers(loop, lambda: time[0])
    timers.add(_Failing(), 103.0)
    time[0] = 103.5
    loop.run()
    assert log == ["id1: 192.0.2.1: a deadline could not be kept"]
