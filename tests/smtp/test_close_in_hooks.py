"""`await server.close()` in a hook: it returns when all others have gone, and the hook's own client
still hears the answer, then 421.

To wait for the hook that waits for it would be a deadlock, ended by `close_timeout`. Here that is
longer than any test waits, unless a test says otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from clients import CLOSING, PATIENCE, Client, Sink, happened, refused, until
from hook_kit import MAIL, RCPT
from scenario import DEFAULTS, EH, codes

from fastsmtp import SMTPError, SMTPServer
from fastsmtp.testing import Wire, running

NEVER = 10_000.0
SOON = 0.05  # seconds; a close_timeout that a test waits for

row = pytest.mark.row


class ClosingServer:
    """A server whose hook `name` closes it, in one of the ways below. steps: what has happened."""

    def __init__(self, name: str, way: str, **options: Any) -> None:
        self.steps: list[str] = []
        self.returned = asyncio.Event()
        self.tasks: list[asyncio.Future[Any]] = []
        self.server = Sink().server(**{"close_timeout": NEVER, **options})
        self.server.on("close", lambda: self.steps.append("close"))
        setattr(self.server, name, self.hook(name, way))

    def hook(self, name: str, way: str) -> Callable[..., Any]:
        begin = WAYS[way]

        async def close() -> None:
            self.steps.append("begins")
            await self.server.close(lambda: self.steps.append("callback"))
            self.steps.append("returns")
            self.returned.set()

        if name == "on_connect":

            async def coroutine_connect(session: Any) -> None:
                await begin(self, close, None)

            def plain_connect(session: Any, callback: Any) -> None:
                begin(self, close, callback)

            return plain_connect if "callback" in way else coroutine_connect

        async def coroutine(subject: Any, session: Any) -> None:
            if name == "on_data":
                await subject.read()
            await begin(self, close, None)

        async def both(subject: Any, session: Any, callback: Any) -> None:
            if name == "on_data":
                await subject.read()
            await begin(self, close, None)
            callback()

        def plain(subject: Any, session: Any, callback: Any) -> None:
            if name == "on_data":
                subject.consume(lambda piece: None, lambda error: begin(self, close, callback))
            else:
                begin(self, close, callback)

        if way == "both":
            return both
        return plain if "callback" in way else coroutine

    def keep(self, awaitable: Awaitable[Any]) -> asyncio.Future[Any]:
        self.tasks.append(asyncio.ensure_future(awaitable))
        return self.tasks[-1]


async def awaits(scene: ClosingServer, close: Any, callback: Any) -> None:
    await close()


async def awaits_after_a_turn(scene: ClosingServer, close: Any, callback: Any) -> None:
    await asyncio.sleep(0)
    await close()


async def waits_for_a_task(scene: ClosingServer, close: Any, callback: Any) -> None:
    await scene.keep(close())


async def waits_with_a_limit(scene: ClosingServer, close: Any, callback: Any) -> None:
    await asyncio.wait_for(close(), PATIENCE)


async def gathers(scene: ClosingServer, close: Any, callback: Any) -> None:
    await asyncio.gather(asyncio.sleep(0), close())


def answers_from_a_task(scene: ClosingServer, close: Any, callback: Any) -> None:
    async def finish() -> None:
        await close()
        callback()

    scene.keep(finish())


def answers_when_it_is_done(scene: ClosingServer, close: Any, callback: Any) -> None:
    scene.keep(close()).add_done_callback(lambda done: callback())


def answers_at_once(scene: ClosingServer, close: Any, callback: Any) -> None:
    scene.keep(close())
    callback()


WAYS: dict[str, Any] = {
    "coroutine": awaits,
    "coroutine, after a turn": awaits_after_a_turn,
    "both": awaits,
    "coroutine, in a task": waits_for_a_task,
    "coroutine, with a limit": waits_with_a_limit,
    "coroutine, in a group": gathers,
    "callback, from a task": answers_from_a_task,
    "callback, when it is done": answers_when_it_is_done,
    "callback, at once": answers_at_once,
}
ITS_OWN_TASK = ("coroutine", "coroutine, after a turn", "both")
each_way = pytest.mark.parametrize("way", WAYS)
# What a client sends to come to the hook, and what it hears.
TALKS: dict[str, tuple[list[bytes], list[str]]] = {
    "on_mail_from": ([MAIL], ["250 2.1.0"]),
    "on_rcpt_to": ([MAIL, RCPT], ["250 2.1.0", "250 2.1.5"]),
    "on_data": (
        [MAIL, RCPT, b"DATA\r\n", b"text\r\n.\r\n"],
        ["250 2.1.0", "250 2.1.5", "354", "250 2.6.0"],
    ),
}


async def talks(address: Any, name: str) -> list[str]:
    """Come to the hook, and return all that is heard from there to the end."""
    async with await Client.greeted(address) as client:
        says, expected = TALKS[name]
        heard: list[str] = []
        for octets in says[:-1]:
            heard.append(await client.ask(octets))
        client.send(says[-1])
        heard += await client.rest()
        assert heard[: len(expected)] == expected
        return heard[len(expected) :]


@row("OPS-02", "HOOK-16")
@each_way
@pytest.mark.parametrize("name", TALKS)
@pytest.mark.parametrize("has_factory", [False, True])
def test_a_hook_that_closes_its_server_answers_its_own_client(
    run: Any, name: str, way: str, has_factory: bool
) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        if has_factory:
            loop.set_task_factory(
                lambda loop, coroutine, **options: asyncio.Task(coroutine, loop=loop, **options)
            )
        scene = ClosingServer(name, way)
        async with running(scene.server) as address:
            assert await talks(address, name) == [CLOSING]
            await happened(scene.returned)
            await refused(address)
            await until(lambda: len(scene.steps) == 4)
        assert sorted(scene.steps) == ["begins", "callback", "close", "returns"]
        assert scene.steps.index("close") < scene.steps.index("callback")
        if way != "callback, at once":  # the end comes after the hook's own
            assert scene.steps == ["begins", "returns", "close", "callback"]
        loop.set_task_factory(None)

    run(scenario())


@row("OPS-02")
@each_way
def test_a_client_gets_421_in_place_of_its_greeting_when_on_connect_has_closed_the_server(
    run: Any, way: str
) -> None:
    async def scenario() -> None:
        if way == "both":
            return
        scene = ClosingServer("on_connect", way)
        async with running(scene.server) as address, await Client.connect(address) as client:
            heard = await client.rest()
            assert heard in (["421"], ["220", CLOSING])
            assert heard == ["421"] or way == "callback, at once"
            await client.close()
            await happened(scene.returned)
            await until(lambda: "callback" in scene.steps)

    run(scenario())


@row("OPS-02")
@each_way
def test_close_in_a_hook_waits_for_the_messages_of_others(run: Any, way: str) -> None:
    async def scenario() -> None:
        scene = ClosingServer("on_rcpt_to", way)
        async with running(scene.server) as address:
            # The hook closes at the first RCPT; the other one has its body under way before.
            closing, scene.server.on_rcpt_to = scene.server.on_rcpt_to, None
            other = await Client.in_data(address)
            async with other, await Client.greeted(address) as client:
                scene.server.on_rcpt_to = closing
                client.send(MAIL + RCPT)
                assert await client.reply() == "250 2.1.0"
                await refused_at_last(address)
                # Which hook a Task is of that is not its own is not known: none is waited for then.
                if way in ITS_OWN_TASK:
                    assert "returns" not in scene.steps
                other.send(b"text\r\n.\r\n")
                assert await other.rest() == ["250 2.6.0", CLOSING]
                await other.close()
                assert await client.rest() == ["250 2.1.5", CLOSING]

    run(scenario())


async def refused_at_last(address: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                client = await Client.connect(address)
            except OSError:
                return
            await client.close()


@row("OPS-02")
@each_way
@pytest.mark.parametrize("name", TALKS)
def test_hooks_that_close_at_once_do_not_wait_for_each_other(run: Any, name: str, way: str) -> None:
    async def scenario() -> None:
        scene = ClosingServer(name, way)
        async with (
            running(scene.server) as address,
            await Client.greeted(address) as one,
            await Client.greeted(address) as two,
        ):
            says, expected = TALKS[name]
            for octets, reply in zip(says[:-1], expected[:-1], strict=True):
                assert await one.ask(octets) == reply
                assert await two.ask(octets) == reply
            one.send(says[-1])
            two.send(says[-1])
            for client in (one, two):
                told = await client.rest()
                # The first has closed before the command of the second was there, or not.
                assert told in ([expected[-1], CLOSING], [CLOSING])
                await client.close()
            await happened(scene.returned)

    run(scenario())


@row("OPS-02")
@pytest.mark.parametrize("way", ["coroutine", "callback, from a task"])
def test_close_sees_two_hooks_that_wait_for_it(run: Any, way: str) -> None:
    async def scenario() -> None:
        scene = ClosingServer("on_rcpt_to", way)
        both = asyncio.Event()
        close, calls = scene.server.close, []

        async def when_both_are_there(callback: Any = None) -> None:
            calls.append("call")
            if len(calls) == 2:
                both.set()
            await both.wait()
            await close(callback)

        scene.server.close = when_both_are_there  # type: ignore[method-assign]
        async with running(scene.server) as address:
            told = await asyncio.gather(talks(address, "on_rcpt_to"), talks(address, "on_rcpt_to"))
            assert told == [[CLOSING], [CLOSING]]
            scene.server.close = close  # type: ignore[method-assign]
            await until(lambda: scene.steps.count("callback") == 2)
        assert scene.steps.count("close") == 1

    run(scenario())


@row("OPS-02")
@pytest.mark.parametrize("way", ["coroutine", "callback, from a task"])
@pytest.mark.parametrize("timeout", [0, SOON])
def test_the_client_of_the_hook_is_answered_after_others_were_cut(
    run: Any, way: str, timeout: float
) -> None:
    async def scenario() -> None:
        scene = ClosingServer("on_rcpt_to", way, close_timeout=timeout)
        async with running(scene.server) as address:
            closing, scene.server.on_rcpt_to = scene.server.on_rcpt_to, None
            async with await Client.in_data(address) as other:
                scene.server.on_rcpt_to = closing
                assert await talks(address, "on_rcpt_to") == [CLOSING]
                with suppress(ConnectionResetError):  # a FIN is as good
                    assert await other.rest() == []
                await other.close()
            await until(lambda: "callback" in scene.steps)

    run(scenario())


@row("OPS-02")
def test_a_hook_that_does_not_end_after_close_has_returned_is_cut(run: Any) -> None:
    async def scenario() -> None:
        steps: list[str] = []

        async def on_rcpt_to(address: Any, session: Any) -> None:
            await server.close()
            steps.append("returned")
            try:
                await asyncio.sleep(NEVER)
            except asyncio.CancelledError:
                steps.append("cancelled")
                raise

        server = Sink().server(on_rcpt_to=on_rcpt_to, close_timeout=0)
        async with running(server) as address, await Client.greeted(address) as client:
            client.send(MAIL + RCPT)
            with suppress(ConnectionResetError):
                assert await client.rest() == ["250 2.1.0"]
            await client.close()
        assert steps == ["returned", "cancelled"]

    run(scenario())


@row("OPS-02")
@pytest.mark.parametrize("first", ["hook", "program"])
def test_a_hook_and_the_program_may_both_close(run: Any, first: str) -> None:
    async def scenario() -> None:
        scene = ClosingServer("on_rcpt_to", "coroutine, after a turn")
        steps = scene.steps
        async with running(scene.server) as address, await Client.greeted(address) as client:
            assert await client.ask(MAIL) == "250 2.1.0"
            client.send(RCPT)
            if first == "hook":
                await until(lambda: steps)
            else:
                await until(lambda: next(iter(scene.server.connections)).has_hook_at_work())
            await scene.server.close(lambda: steps.append("program"))
            assert not scene.server.connections
            assert "returns" in steps
            assert steps.index("close") < steps.index("program")
            assert await client.rest() == ["250 2.1.5", CLOSING]
            await client.close()

    run(scenario())


@row("OPS-02", "HOOK-16")
def test_on_close_may_close_the_server(run: Any) -> None:
    async def scenario() -> None:
        steps: list[str] = []
        returned = asyncio.Event()

        async def on_close(session: Any) -> None:
            await server.close(lambda: steps.append("callback"))
            steps.append("returned")
            returned.set()

        server = Sink().server(on_close=on_close, close_timeout=NEVER, hook_timeout=NEVER)
        async with running(server) as address:
            async with await Client.greeted(address) as client:
                assert await client.ask(b"QUIT\r\n") == "221 2.0.0"
            await happened(returned)
            await until(lambda: "callback" in steps)
        assert steps == ["returned", "callback"]

    run(scenario())


@row("OPS-02")
def test_close_goes_on_when_its_caller_is_cancelled(run: Any) -> None:
    async def scenario() -> None:
        server = Sink().server(close_timeout=NEVER)
        async with running(server) as address, await Client.in_data(address) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(server.close(), SOON)
            await refused(address)
            assert await client.ask(b"text\r\n.\r\n") == "250 2.6.0"
            assert await client.rest() == [CLOSING]
            await client.close()

    run(scenario())


@row("OPS-02")
def test_on_data_may_close_the_server_before_it_reads(run: Any) -> None:
    async def scenario() -> None:
        bodies: list[bytes] = []

        async def on_data(stream: Any, session: Any) -> None:
            await server.close()
            bodies.append(await stream.read())

        server = Sink().server(on_data=on_data, close_timeout=NEVER)
        async with running(server) as address, await Client.in_data(address) as client:
            await refused_at_last(address)
            client.send(b"text\r\n.\r\n")
            assert await client.rest() == ["250 2.6.0", CLOSING]
            await client.close()
        assert bodies == [b"text\r\n"]

    run(scenario())


@row("OPS-02")
def test_a_rejection_after_close_reaches_the_client(run: Any) -> None:
    async def scenario() -> None:
        async def on_rcpt_to(address: Any, session: Any) -> None:
            await server.close()
            raise SMTPError("come back tomorrow", 450)

        server: SMTPServer = Sink().server(on_rcpt_to=on_rcpt_to, close_timeout=NEVER)
        async with running(server) as address, await Client.greeted(address) as client:
            client.send(MAIL + RCPT)
            assert await client.rest() == ["250 2.1.0", "450 4.2.1", CLOSING]
            await client.close()

    run(scenario())


@row("OPS-02")
@pytest.mark.parametrize("begins_a_task", [False, True])
def test_a_hook_that_closes_its_server_answers_over_a_wire_too(begins_a_task: bool) -> None:
    async def coroutine(address: Any, session: Any) -> None:
        await wire.server.close()

    def plain(address: Any, session: Any, callback: Any) -> None:
        async def finish() -> None:
            await wire.server.close()
            callback()

        session.data["finishing"] = asyncio.ensure_future(finish())

    hook = plain if begins_a_task else coroutine
    with Wire(**DEFAULTS, on_rcpt_to=hook) as wire:
        wire.send(EH)
        assert codes(wire.send(MAIL)) == ["250 2.1.0"]
        assert codes(wire.send(RCPT)) == ["250 2.1.5", CLOSING]
