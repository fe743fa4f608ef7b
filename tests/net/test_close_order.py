"""The end: `close_timeout`, `on_close` after all other hooks, what comes after the last one."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from clients import CLOSING, Client, Sink, greets, happened, until
from scenario import TX

from fastsmtp import MessageAborted, SMTPError
from fastsmtp.server import state_of
from fastsmtp.testing import running

NEVER = 10_000.0
SOON = 0.05  # seconds; a close_timeout that a test waits for


@pytest.mark.row("OPS-02")
@pytest.mark.parametrize("timeout", [0, SOON])
@pytest.mark.parametrize("sent", [b"DATA\r\n", b"BDAT 5\r\nab", b"BDAT 2\r\nab"])
def test_a_body_that_is_open_at_close_timeout_is_aborted(
    run: Any, timeout: float, sent: bytes
) -> None:
    async def scenario() -> None:
        reasons: list[str] = []
        at_work = asyncio.Event()

        async def on_data(stream: Any, session: Any) -> None:
            at_work.set()
            try:
                async for _ in stream:
                    pass
            except MessageAborted as error:
                reasons.append(error.reason)
                raise

        sink = Sink()
        server = sink.server(on_data=on_data, close_timeout=timeout)
        async with running(server) as address, await Client.greeted(address) as client:
            client.send(TX + sent)
            await happened(at_work)
            await server.close()
            assert reasons == ["shutdown"]
            assert len(sink.closed) == 1
            with suppress(ConnectionResetError):  # a FIN is as good
                assert CLOSING not in await client.rest()

    run(scenario())


@pytest.mark.row("OPS-02")
def test_a_client_that_is_cut_with_input_unread_reads_its_replies_and_gets_no_reset(
    run: Any,
) -> None:
    async def scenario() -> None:
        at_work = asyncio.Event()

        async def on_rcpt_to(address: Any, session: Any) -> None:
            at_work.set()
            await asyncio.Event().wait()

        server = Sink().server(on_rcpt_to=on_rcpt_to, close_timeout=0)
        async with (
            running(server) as address,
            await Client.greeted(address) as client,
            await Client.greeted(address) as other,
        ):
            client.send(b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n")
            await happened(at_work)
            for _ in range(2):  # the first is read, and then nothing while the hook is at work
                client.send(b"NOOP\r\n")
                assert await other.ask(b"NOOP\r\n") == "250 2.0.0"
            await server.close()
            assert await client.rest() == ["250 2.1.0"]

    run(scenario())


@pytest.mark.row("OPS-02", "HOOK-16")
@pytest.mark.parametrize("hook", ["on_mail_from", "on_data"])
@pytest.mark.parametrize("style", ["callback", "coroutine"])
def test_a_hook_that_is_at_work_at_close_timeout_is_cut_off(
    run: Any, hook: str, style: str
) -> None:
    async def scenario() -> None:
        at_work = asyncio.Event()
        told: list[str] = []
        callbacks: list[Callable[..., object]] = []

        def plain(subject: Any, session: Any, callback: Callable[..., object]) -> None:
            callbacks.append(callback)
            at_work.set()

        async def coroutine(subject: Any, session: Any) -> None:
            at_work.set()
            try:
                await asyncio.sleep(NEVER)
            finally:
                told.append("ended")

        given = {hook: plain if style == "callback" else coroutine}
        server = Sink().server(close_timeout=SOON, **given)
        server.on_close = lambda session: told.append("on_close")
        server.on("close", lambda: told.append("close"))
        async with running(server) as address, await Client.greeted(address) as client:
            client.send(TX + b"BDAT 1 LAST\r\nx")
            await happened(at_work)
            await server.close()
            ended = ["ended"] if style == "coroutine" else []
            assert told == [*ended, "on_close", "close"]
            assert not server.connections
            for callback in callbacks:
                callback()
        assert told[-1] == "close"

    run(scenario())


@pytest.mark.row("OPS-02")
def test_a_hook_that_is_cancelled_after_the_machine_stood_still_ends_before_close(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastsmtp._connection.closing.CUT_GRACE", SOON)

    async def scenario() -> None:
        course = OrderedHooks(close_timeout=0)

        async def on_data(stream: Any, session: Any) -> None:
            await course.at("on_data")

        course.server.on_data = on_data
        async with running(course.server) as address, await Client.greeted(address) as client:
            client.send(TX + b"BDAT 1 LAST\r\nx")
            await happened(course.at_work)
            closing = asyncio.ensure_future(course.server.close())
            asyncio.get_running_loop().call_later(SOON / 2, time.sleep, 4 * SOON)
            await closing
            assert course.steps == ["on_data begins", "on_data cancelled", "on_close"]

    run(scenario())


@pytest.mark.row("OPS-02")
def test_a_client_that_takes_no_replies_is_cut_at_close_timeout(run: Any) -> None:
    async def scenario() -> None:
        sink = Sink()
        server = sink.server(close_timeout=SOON, max_junk_commands=None)
        async with running(server) as address, await Client.greeted(address) as client:
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            client.send(b"HELP\r\n" * 2_000_000)
            (connection,) = server.connections
            await until(lambda: not connection.output.transport.is_reading())
            await server.close()
            assert len(sink.closed) == 1
            client.writer.transport.abort()  # the server has reset it, which may be known here

    run(scenario())


# --- what comes after the last one ----------------------------------------------------------------


@pytest.mark.row("HOOK-16")
def test_close_ends_with_on_close_then_the_event_then_the_callback(run: Any) -> None:
    async def scenario() -> None:
        told: list[str] = []

        async def on_close(session: Any) -> None:
            await asyncio.sleep(0)
            told.append("on_close")

        server = Sink().server(on_close=on_close)
        server.on("close", lambda: told.append("event"))
        async with running(server) as address:
            clients = [await Client.greeted(address) for _ in range(3)]
            first = asyncio.ensure_future(server.close(lambda: told.append("callback")))
            second = asyncio.ensure_future(server.close(lambda: told.append("another")))
            first.add_done_callback(lambda task: told.append("resolved"))
            for client in clients:
                assert await client.rest() == [CLOSING]
                await client.close()
            await second
            await first
            await server.close(lambda: told.append("late"))
        assert told[:5] == [*["on_close"] * 3, "event", "callback"]
        assert sorted(told[5:7]) == ["another", "resolved"]
        assert told[7:] == ["late"]

    run(scenario())


def test_a_server_that_never_listened_can_be_closed_and_listen_then(run: Any) -> None:
    async def scenario() -> None:
        told: list[str] = []
        server = Sink().server()
        server.on("close", lambda: told.append("event"))
        await server.close(lambda: told.append("callback"))
        assert told == ["event", "callback"]
        async with running(server) as address:
            await greets(address)

    run(scenario())


# --- on_close -------------------------------------------------------------------------------------


class WaitingOnClose:
    """An `on_close` that waits, and what became of each call."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended: list[str] = []
        self.may_end = asyncio.Event()

    async def on_close(self, session: Any) -> None:
        self.begun += 1
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        self.ended.append("ended")


@pytest.mark.row("HOOK-16")
def test_a_client_that_has_gone_holds_no_place_while_its_on_close_is_at_work(run: Any) -> None:
    async def scenario() -> None:
        closings = WaitingOnClose()
        server = Sink().server(on_close=closings.on_close, max_clients=1, max_clients_per_host=1)
        async with running(server) as address:
            async with await Client.greeted(address):
                pass
            await until(lambda: closings.begun == 1)
            assert not server.connections
            gc.collect()  # nothing but the server keeps the Task
            async with await Client.greeted(address):
                closings.may_end.set()
                await until(lambda: closings.ended == ["ended"])

    run(scenario())


def test_a_client_that_has_gone_keeps_its_place_while_its_message_is_with_on_data(run: Any) -> None:
    async def scenario() -> None:
        at_work, may_end = asyncio.Event(), asyncio.Event()

        async def on_data(stream: Any, session: Any) -> None:
            async for _ in stream:
                pass
            at_work.set()
            await may_end.wait()

        server = Sink().server(on_data=on_data, max_clients=1)
        async with running(server) as address:
            async with await Client.greeted(address) as client:
                client.send(TX + b"BDAT 3 LAST\r\nabc")
                await happened(at_work)
            for _ in range(3):
                async with await Client.connect(address) as other:
                    assert await other.reply() == "421"
            may_end.set()
            await until(lambda: not server.connections)
            async with await Client.greeted(address):
                pass

    run(scenario())


def test_more_calls_of_on_close_than_places_keep_new_clients_out(run: Any) -> None:
    async def scenario() -> None:
        closings = WaitingOnClose()
        server = Sink().server(on_close=closings.on_close, max_clients=2)
        async with running(server) as address:
            for count in range(1, 5):
                async with await Client.greeted(address):
                    pass
                await until(lambda count=count: closings.begun == count)  # type: ignore[misc]
            async with await Client.connect(address) as client:
                assert await client.reply() == "421"
            closings.may_end.set()
            await until(lambda: not state_of(server).registry.close_hooks)
            assert closings.ended == ["ended"] * 4
            async with await Client.greeted(address):
                pass

    run(scenario())


def test_on_close_of_one_host_beyond_its_places_keeps_that_host_out_and_no_other(run: Any) -> None:
    async def scenario() -> None:
        closings = WaitingOnClose()
        server = Sink().server(on_close=closings.on_close, max_clients=10, max_clients_per_host=1)
        async with running(server) as address:
            for count in (1, 2):
                async with await Client.greeted(address):
                    pass
                await until(lambda count=count: closings.begun == count)  # type: ignore[misc]
            async with await Client.connect(address) as client:
                assert await client.reply() == "421"
            async with await Client.connect(address, local_addr=("127.0.0.2", 0)) as other:
                assert await other.reply() == "220"
                closings.may_end.set()
                await until(lambda: not state_of(server).registry.close_hooks)
            async with await Client.greeted(address):
                pass
        assert state_of(server).registry.close_hooks.of_host("127.0.0.1") == 0

    run(scenario())


def test_an_on_close_at_work_at_close_timeout_is_cancelled_and_logged_in_one_line(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        closings = WaitingOnClose()
        server = Sink().server(on_close=closings.on_close, close_timeout=0)
        async with running(server) as address:
            async with await Client.greeted(address):
                pass
            await until(lambda: closings.begun == 1)
            await server.close()
        assert closings.ended == ["cancelled"]
        (record,) = caplog.records
        assert record.getMessage().endswith(": the server closes, and on_close is cancelled")
        assert record.exc_info is None

    run(scenario())


def test_an_on_close_that_takes_longer_than_hook_timeout_is_cancelled_and_logged(
    run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        closings = WaitingOnClose()
        ids: list[str] = []
        server = Sink().server(
            on_connect=lambda session, callback: (ids.append(session.id), callback()),
            on_close=closings.on_close,
            hook_timeout=0.05,
        )
        async with running(server) as address:
            async with await Client.greeted(address):
                pass
            await until(lambda: closings.ended == ["cancelled"])
            assert [record.getMessage() for record in caplog.records] == [
                f"{ids[0]}: 127.0.0.1: on_close took too long, and is cancelled"
            ]

    run(scenario())


def test_an_on_close_that_swallows_its_cancellation_does_not_hold_up_close(run: Any) -> None:
    async def scenario() -> None:
        may_end = asyncio.Event()

        async def on_close(session: Any) -> None:
            while not may_end.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await may_end.wait()

        server = Sink().server(on_close=on_close, close_timeout=0)
        async with running(server) as address:
            async with await Client.greeted(address):
                pass
            await until(lambda: len(state_of(server).registry.close_hooks) == 1)
            await server.close()
        may_end.set()
        await until(lambda: not state_of(server).registry.close_hooks)

    run(scenario())


class OrderedHooks:
    """A server whose hooks note when they begin and end; `steps` has it all."""

    def __init__(self, **options: Any) -> None:
        self.steps: list[str] = []
        self.at_work = asyncio.Event()
        self.may_end = asyncio.Event()
        self.server = Sink().server(on_close=self.on_close, **options)

    async def at(self, name: str) -> None:
        """Wait inside the hook `name`, noting how that ends."""
        self.steps.append(f"{name} begins")
        self.at_work.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            for _ in range(5):  # what a hook has to clean up
                await asyncio.sleep(0)
            self.steps.append(f"{name} cancelled")
            raise
        self.steps.append(f"{name} ends")

    def on_close(self, session: Any) -> None:
        self.steps.append("on_close")


@pytest.mark.row("HOOK-16", "HOOK-18")
@pytest.mark.parametrize("hook", ["on_connect", "on_mail_from", "on_rcpt_to"])
def test_on_close_comes_when_the_hook_of_a_client_that_left_is_cancelled(
    run: Any, hook: str
) -> None:
    async def scenario() -> None:
        course = OrderedHooks()

        async def connect(session: Any) -> None:
            await course.at(hook)

        async def command(address: Any, session: Any) -> None:
            await course.at(hook)

        setattr(course.server, hook, connect if hook == "on_connect" else command)
        async with running(course.server) as address:
            client = await Client.connect(address)
            if hook != "on_connect":
                assert [await client.reply(), await client.ask(b"HELO c\r\n")] == ["220", "250"]
                mail, rcpt = TX.splitlines(keepends=True)
                client.send(mail)
                if hook == "on_rcpt_to":  # with input waiting, the socket would not be polled
                    assert await client.reply() == "250 2.1.0"
                    client.send(rcpt)
            await happened(course.at_work)
            client.reset()
            await client.close()
            await until(lambda: not course.server.connections)
            assert course.steps == [f"{hook} begins", f"{hook} cancelled", "on_close"]

    run(scenario())


@pytest.mark.row("HOOK-16", "HOOK-18")
def test_on_close_comes_when_on_data_has_dealt_with_the_abortion(run: Any) -> None:
    async def scenario() -> None:
        course = OrderedHooks()

        async def on_data(stream: Any, session: Any) -> None:
            try:
                async for _ in stream:
                    pass
            except MessageAborted as error:
                course.steps.append(error.reason)
                await course.at("cleaning")
                raise

        course.server.on_data = on_data
        async with running(course.server) as address:
            client = await Client.in_data(address)
            client.reset()
            await client.close()
            await happened(course.at_work)
            assert len(course.server.connections) == 1
            course.may_end.set()
            await until(lambda: not course.server.connections)
            assert course.steps == ["disconnected", "cleaning begins", "cleaning ends", "on_close"]

    run(scenario())


@pytest.mark.row("HOOK-16", "HOOK-18", "NET-03")
@pytest.mark.parametrize("style", ["callback", "coroutine"])
def test_on_close_waits_for_the_hook_of_a_complete_message(run: Any, style: str) -> None:
    async def scenario() -> None:
        course = OrderedHooks()
        callbacks: list[Callable[..., object]] = []

        def plain(stream: Any, session: Any, callback: Callable[..., object]) -> None:
            callbacks.append(callback)
            stream.consume(lambda piece: None, lambda error: course.at_work.set())

        async def coroutine(stream: Any, session: Any) -> None:
            async for _ in stream:
                pass
            await course.at("on_data")

        course.server.on_data = plain if style == "callback" else coroutine
        async with running(course.server) as address:
            client = await Client.in_data(address)
            client.send(b".\r\n")
            await happened(course.at_work)
            client.reset()
            await client.close()
            for _ in range(20):
                await asyncio.sleep(0)
            assert "on_close" not in course.steps
            course.may_end.set()
            for callback in callbacks:
                callback()
            await until(lambda: not course.server.connections)
            assert course.steps[-1] == "on_close"
            assert "on_data cancelled" not in course.steps

    run(scenario())


@pytest.mark.row("HOOK-16", "STATE-09")
def test_on_close_comes_once_for_a_client_that_on_connect_rejects_or_fails(run: Any) -> None:
    async def scenario() -> None:
        course = OrderedHooks()

        def on_connect(session: Any, callback: Callable[..., object]) -> None:
            raise errors.pop()

        errors = [SMTPError("no"), LookupError("ours")]
        course.server.on_connect = on_connect
        course.server.on("error", lambda error: course.steps.append("error"))
        async with running(course.server) as address:
            for expected in ("421", "554"):
                async with await Client.connect(address) as client:
                    assert await client.rest() == [expected]
                await until(lambda: not course.server.connections)
        assert course.steps == ["error", "on_close", "on_close"]

    run(scenario())


@pytest.mark.row("HOOK-01")
@pytest.mark.parametrize("style", ["plain", "coroutine"])
def test_an_on_close_that_raises_is_logged_and_harms_no_connection(
    run: Any, style: str, caplog: pytest.LogCaptureFixture
) -> None:
    def plain(session: Any) -> None:
        raise LookupError("in on_close")

    async def coroutine(session: Any) -> None:
        raise LookupError("in on_close")

    async def scenario() -> None:
        told: list[str] = []
        server = Sink().server(on_close=plain if style == "plain" else coroutine)
        server.on("close", lambda: told.append("close"))
        async with running(server) as address:
            async with await Client.greeted(address):
                pass
            await until(lambda: not server.connections)
        assert told == ["close"]

    with caplog.at_level(logging.ERROR, logger="fastsmtp"):
        run(scenario())
    assert caplog.text.count("on_close failed: LookupError: in on_close") == 1
