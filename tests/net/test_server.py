"""`SMTPServer` as a program meets it, over real sockets: events, hooks, wrong use."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from clients import Client, Sink, greets, happened, until
from scenario import DEFAULTS, TX

from fastsmtp import SMTPError, SMTPServer
from fastsmtp.testing import Wire, running

MESSAGE = TX + b"BDAT 3 LAST\r\nabc"
ACCEPTED = ["250 2.1.0", "250 2.1.5", "250 2.6.0"]


# --- events ---------------------------------------------------------------------------------------


def test_listeners_are_called_in_order_once_or_until_off(run: Any) -> None:
    async def scenario() -> None:
        told: list[str] = []
        server = Sink().server()
        first, second = (lambda facts: told.append("on")), (lambda facts: told.append("once"))
        server.on("connect", first)
        server.once("connect", second)
        server.on("connect", lambda facts: told.append("last"))
        async with running(server) as address:
            await greets(address)
            assert told == ["on", "once", "last"]
            await greets(address)
            assert told[3:] == ["on", "last"]
            server.off("connect", first)
            server.off("connect", first)
            await greets(address)
            assert told[5:] == ["last"]

    run(scenario())


def test_the_event_connect_has_the_facts_before_the_greeting(run: Any) -> None:
    async def scenario() -> None:
        told: list[Any] = []

        def on_connect(session: Any, callback: Callable[..., object]) -> None:
            told.append(session)
            callback()

        server = Sink().server(on_connect=on_connect)
        server.on("connect", told.append)
        async with running(server) as address, await Client.connect(address) as client:
            assert await client.reply() == "220"
            session, facts = told
            assert facts == {
                "id": session.id,
                "local_address": address[0],
                "local_port": address[1],
                "remote_address": "127.0.0.1",
                "remote_port": client.writer.get_extra_info("sockname")[1],
                "host_name_appears_as": "",
                "client_hostname": "[127.0.0.1]",
            }
            assert re.fullmatch("[0-9a-v]{16}", session.id)

    run(scenario())


def test_the_event_connect_is_not_emitted_for_a_client_that_on_connect_rejects(run: Any) -> None:
    async def scenario() -> None:
        told: list[Any] = []
        sink = Sink()
        server = sink.server(on_connect=lambda session, callback: callback(SMTPError("no")))
        server.on("connect", told.append)
        async with running(server) as address, await Client.connect(address) as client:
            assert await client.rest() == ["554"]
        assert told == []
        assert len(sink.closed) == 1

    run(scenario())


@pytest.mark.parametrize("style", ["callback", "coroutine"])
def test_the_event_error_reports_a_failing_hook(run: Any, style: str) -> None:
    def plain(address: Any, session: Any, callback: Callable[..., object]) -> None:
        raise LookupError("ours")

    async def coroutine(address: Any, session: Any) -> None:
        raise LookupError("ours")

    async def scenario() -> None:
        told: list[Any] = []
        server = Sink().server(on_mail_from=plain if style == "callback" else coroutine)
        server.on("error", told.append)
        async with running(server) as address, await Client.greeted(address) as client:
            assert await client.ask(b"MAIL FROM:<a@x.example>\r\n") == "451 4.3.0"
        (error,) = told
        assert isinstance(error, LookupError)
        assert error.remote_address == "127.0.0.1"
        assert isinstance(error.stage, str)

    run(scenario())


@pytest.mark.parametrize(("group", "count"), [(b"NOOP\r\n", 0), (b"MAIL FROM:<a@x>\r\n", 1)])
def test_a_reset_is_an_error_inside_a_transaction_only(
    group: bytes, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []
    for listens in (True, False):
        with Wire(auth_optional=True) as wire, caplog.at_level(logging.INFO, logger="fastsmtp"):
            if listens:
                wire.server.on("error", told.append)
            wire.send(b"EHLO c.example\r\n")
            wire.send(group)
            wire.reset()
    assert [(type(error), error.stage) for error in told] == [
        (ConnectionResetError, "socket")
    ] * count
    assert len(caplog.records) == count
    assert all(record.exc_info is None for record in caplog.records)


def test_an_error_without_listener_is_logged(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    def on_mail_from(address: Any, session: Any, callback: Callable[..., object]) -> None:
        raise LookupError("ours")

    async def scenario() -> None:
        server = Sink().server(on_mail_from=on_mail_from)
        async with running(server) as address, await Client.greeted(address) as client:
            assert await client.ask(b"MAIL FROM:<a@x.example>\r\n") == "451 4.3.0"

    with caplog.at_level(logging.ERROR, logger="fastsmtp"):
        run(scenario())
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


@pytest.mark.row("HOOK-19")
@pytest.mark.parametrize("event", ["listening", "connect", "error", "close"])
@pytest.mark.parametrize("error", [RuntimeError, GeneratorExit, asyncio.CancelledError])
def test_a_listener_that_raises_harms_no_connection(
    run: Any, event: str, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    def failing(*facts: Any) -> None:
        raise error("a listener fails")

    def on_rcpt_to(address: Any, session: Any, callback: Callable[..., object]) -> None:
        raise LookupError("a hook fails")

    async def scenario() -> None:
        server = Sink().server(on_rcpt_to=on_rcpt_to)
        server.on(event, failing)
        server.on(event, lambda *facts: told.append(event))
        async with running(server) as address, await Client.greeted(address) as client:
            client.send(TX)
            assert await client.replies(2) == ["250 2.1.0", "451 4.3.0"]
            assert await client.ask(b"QUIT\r\n") == "221 2.0.0"

    run(scenario())
    assert told == [event]
    assert "a listener fails" in caplog.text


def test_an_unknown_event_is_an_error() -> None:
    server = Sink().server()
    for method in (server.on, server.once, server.off):
        with pytest.raises(ValueError, match="conect"):
            method("conect", print)


def test_the_event_close_comes_once_when_all_is_over(run: Any) -> None:
    async def scenario() -> None:
        told: list[str] = []
        server = Sink().server(on_close=lambda session: told.append("on_close"))
        server.on("close", lambda: told.append("close"))
        async with running(server) as address:
            client = await Client.greeted(address)
            closing = asyncio.ensure_future(server.close(lambda: told.append("callback")))
            assert await client.rest() == ["421 4.3.2"]
            await client.close()
            await closing
        assert told == ["on_close", "close", "callback"]

    run(scenario())


# --- hooks ----------------------------------------------------------------------------------------


class NotingHook:
    """Keeps which hook was called on which object."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def rcpt(self, address: Any, session: Any, callback: Callable[..., object]) -> None:
        self.told.append(address.address)
        callback()

    def close(self, session: Any) -> None:
        self.told.append("close")


async def sends_one(server: SMTPServer) -> None:
    async with running(server) as address, await Client.greeted(address) as client:
        client.send(MESSAGE)
        assert await client.replies(3) == ACCEPTED


def test_hooks_are_set_by_option_by_assignment_and_by_subclass(run: Any) -> None:
    noting, sink = NotingHook(), Sink()

    class Mine(SMTPServer):
        def on_rcpt_to(self, address: Any, session: Any, callback: Callable[..., object]) -> None:
            noting.rcpt(address, session, callback)

        async def on_data(self, stream: Any, session: Any) -> str:
            async for _ in stream:
                pass
            return "mine"

        def on_close(self, session: Any) -> None:
            noting.told.append("close")

    assigned = sink.server()
    assigned.on_rcpt_to = noting.rcpt
    assigned.on_close = lambda session: noting.told.append("close")
    given = sink.server(
        on_rcpt_to=noting.rcpt, on_close=lambda session: noting.told.append("close")
    )
    for server in (given, assigned, Mine(**DEFAULTS)):
        run(sends_one(server))
    assert noting.told == ["b@y.example", "close"] * 3


def test_an_option_and_an_assignment_win_over_a_method(run: Any) -> None:
    class Refusing(SMTPServer):
        def on_rcpt_to(self, address: Any, session: Any, callback: Callable[..., object]) -> None:
            callback(SMTPError("by the method"))

    noting, sink = NotingHook(), Sink()
    run(sends_one(Refusing(**DEFAULTS, on_data=sink.on_data, on_rcpt_to=noting.rcpt)))
    server = Refusing(**DEFAULTS, on_data=sink.on_data)
    server.on_rcpt_to = noting.rcpt
    run(sends_one(server))
    server = sink.server(on_rcpt_to=Refusing.on_rcpt_to.__get__(server))
    server.on_rcpt_to = None
    run(sends_one(server))
    assert noting.told == ["b@y.example"] * 2


def test_a_deleted_hook_is_called_no_more(run: Any) -> None:
    noting = NotingHook()
    server = Sink().server(on_rcpt_to=noting.rcpt)
    server.on_close = noting.close

    async def main() -> None:
        async with running(server) as address, await Client.greeted(address) as client:
            del server.on_rcpt_to
            del server.on_close
            client.send(MESSAGE)
            assert await client.replies(3) == ACCEPTED

    run(main())
    assert noting.told == []
    with pytest.raises(AttributeError):
        del server.on_close


def test_a_hook_that_is_deleted_gives_way_to_the_method(run: Any) -> None:
    noting, sink = NotingHook(), Sink()

    class Mine(SMTPServer):
        def on_rcpt_to(self, address: Any, session: Any, callback: Callable[..., object]) -> None:
            noting.rcpt(address, session, callback)

    def refuse(address: Any, session: Any, callback: Callable[..., object]) -> None:
        callback(SMTPError("by the assignment"))

    server = Mine(**DEFAULTS, on_data=sink.on_data, on_rcpt_to=refuse)
    del server.on_rcpt_to
    run(sends_one(server))
    assert noting.told == ["b@y.example"]


class AsyncCallable:
    """An object whose call is a coroutine."""

    async def __call__(self, address: Any, session: Any) -> None:
        await asyncio.sleep(0)


async def with_callback(address: Any, session: Any, callback: Callable[..., object]) -> None:
    await asyncio.sleep(0)
    callback()


async def with_more(tag: str, address: Any, session: Any) -> None:
    await asyncio.sleep(0)


def with_defaults(address: Any, session: Any, callback: Any = None, more: int = 1) -> None:
    callback()


@pytest.mark.parametrize(
    "hook",
    [
        AsyncCallable(),
        with_callback,
        functools.partial(with_more, "tag"),
        with_defaults,
        lambda *arguments: arguments[-1](),
    ],
)
def test_any_callable_with_the_right_arguments_can_be_a_hook(run: Any, hook: Any) -> None:
    run(sends_one(Sink().server(on_rcpt_to=hook)))


async def _three(a: Any, b: Any, c: Any, d: Any) -> None: ...


@pytest.mark.parametrize(
    "name, hook",
    [
        ("on_connect", lambda session: None),
        ("on_mail_from", lambda address, session: None),
        ("on_rcpt_to", lambda: None),
        ("on_data", lambda stream, session, callback, more: None),
        ("on_data", _three),
        ("on_close", lambda session, callback: None),
        ("on_data", 42),
        ("on_data", "on_data"),
    ],
)
def test_a_hook_of_the_wrong_form_is_refused_when_it_is_set(name: str, hook: Any) -> None:
    with pytest.raises(TypeError, match=name):
        SMTPServer(**{name: hook})
    server = SMTPServer()
    with pytest.raises(TypeError, match=name):
        setattr(server, name, hook)
    with pytest.raises(TypeError, match=name):
        type("Mine", (SMTPServer,), {name: staticmethod(hook) if callable(hook) else hook})()


@pytest.mark.parametrize(
    "given, error, text",
    [
        ({"max_client": 1}, TypeError, "max_clients"),
        ({"maxClients": 1}, TypeError, "max_clients"),
        ({"on_dta": print}, TypeError, "on_data"),
        ({"size": "big"}, TypeError, "size"),
        ({"size": -1}, ValueError, "size"),
        ({"bare_newline": "maybe"}, ValueError, "bare_newline"),
        ({"lmtp": True, "hide_pipelining": True}, ValueError, "hide_pipelining"),
        ({"lmtp": True, "hide_enhancedstatuscodes": True}, ValueError, "hide_enhancedstatuscodes"),
        ({"banner": "two\r\nlines"}, ValueError, "banner"),
    ],
)
def test_wrong_options_are_named(given: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        SMTPServer(**given)


def test_connections_are_there_from_the_greeting_to_the_end_of_the_last_message(run: Any) -> None:
    async def scenario() -> None:
        at_work, may_end = asyncio.Event(), asyncio.Event()

        async def on_data(stream: Any, session: Any) -> None:
            async for _ in stream:
                pass
            at_work.set()
            await may_end.wait()

        server = Sink().server(on_data=on_data)
        async with running(server) as address:
            assert len(server.connections) == 0
            async with await Client.greeted(address) as client:
                client.send(TX + b"BDAT 3 LAST\r\nabc")
                await happened(at_work)
            assert len(server.connections) == 1
            may_end.set()
            await until(lambda: not server.connections)

    run(scenario())
