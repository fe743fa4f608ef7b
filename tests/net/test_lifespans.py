"""The lifespan of a server, and hooks that are asynchronous context managers: entered before the
first client, left after the last one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from clients import PATIENCE, Client, Sink, greets, refused
from on_loops import on_loops
from scenario import DEFAULTS

from fastsmtp import SMTPServer
from fastsmtp.testing import running


class Hook:
    """An `on_data` with a beginning and an end; `said` is what has happened to all of them."""

    said: list[str]

    def __init__(self, said: list[str], name: str = "data", error: Exception | None = None) -> None:
        self.said, self.name, self.error = said, name, error

    __hash__ = None  # type: ignore[assignment]  # as a dataclass has it

    def __eq__(self, other: object) -> bool:
        return True

    async def __aenter__(self) -> Hook:
        await asyncio.sleep(0)
        self.said.append(f"enter {self.name}")
        if self.error is not None:
            raise self.error
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.said.append(f"leave {self.name}")

    def __call__(self, *arguments: Any) -> None:
        """Any hook: that at the close has no callback."""
        self.said.append(f"call {self.name}")
        if len(arguments) > 1:
            arguments[-1]()


Factory = Callable[[SMTPServer], AbstractAsyncContextManager[None]]


def told(said: list[str], at_start: Any = None, at_end: Any = None) -> Factory:
    """A lifespan that says when it begins and ends, and does something there: an exception is
    raised, another value called and awaited.
    """

    async def do(what: Any) -> None:
        if isinstance(what, BaseException):
            raise what
        if what is not None:
            await what()

    @asynccontextmanager
    async def lifespan(server: SMTPServer) -> AsyncIterator[None]:
        said.append("start")
        await do(at_start)
        yield  # without `finally`: the clean-up is to run whatever has happened to others
        said.append("clean up")
        await do(at_end)

    return lifespan


@on_loops
async def test_a_hook_is_entered_before_the_first_client_and_left_after_the_last() -> None:
    said: list[str] = []
    server = Sink().server(on_data=Hook(said), on_close=lambda session: said.append("close"))
    async with running(server) as address, await Client.in_data(address) as client:
        assert await client.ask(b".\r\n") == "250 2.6.0"
    assert said == ["enter data", "call data", "close", "leave data"]


@on_loops
async def test_a_lifespan_is_around_hooks_and_ends_before_the_event_close() -> None:
    said: list[str] = []
    server = Sink().server(on_data=Hook(said), lifespan=told(said))
    server.on("listening", lambda address: said.append("listening"))
    server.on("close", lambda: said.append("close"))
    async with running(server) as address:
        await greets(address)
    assert said == ["start", "enter data", "listening", "leave data", "clean up", "close"]


@on_loops
async def test_hooks_are_left_in_the_reverse_order_and_one_of_two_places_is_entered_once() -> None:
    said: list[str] = []
    both = Hook(said, "both")
    server = SMTPServer(**DEFAULTS, on_mail_from=both, on_rcpt_to=both, on_data=Hook(said, "data"))
    async with running(server):
        await server.listen(0, "127.0.0.1")
    assert said == ["enter both", "enter data", "leave data", "leave both"]


@on_loops
async def test_a_hook_that_is_set_while_the_server_listens_is_entered_and_left_first() -> None:
    said: list[str] = []
    server = SMTPServer(**DEFAULTS, lifespan=told(said), on_data=Hook(said, "early"))
    async with running(server) as address:
        server.on_data = Hook(said, "late")
        server.on_close = server.on_data  # once, although it is two hooks
        async with await Client.in_data(address) as client:
            assert await client.ask(b"x\r\n.\r\n") == "250 2.6.0"
    assert [line for line in said if line.split()[0] in ("enter", "leave")] == [
        *("enter early", "enter late", "leave late", "leave early")
    ]
    assert said[0] != said[-1]


@on_loops
async def test_a_hook_that_is_set_on_a_server_without_a_lifespan_is_entered_and_left() -> None:
    said: list[str] = []
    server = SMTPServer(**DEFAULTS)
    for _ in range(2):  # in each life
        async with running(server) as address:
            server.on_data = Hook(said)
            async with await Client.in_data(address) as client:
                assert await client.ask(b"x\r\n.\r\n") == "250 2.6.0"
        del server.on_data
    assert said == ["enter data", "call data", "leave data"] * 2


@on_loops
async def test_a_hook_that_the_start_of_a_lifespan_sets_is_entered_before_listening() -> None:
    said: list[str] = []

    @asynccontextmanager
    async def lifespan(server: SMTPServer) -> AsyncIterator[None]:
        server.on_data = Hook(said)
        yield
        said.append("end")

    async with running(SMTPServer(**DEFAULTS, lifespan=lifespan)):
        assert said == ["enter data"]
    assert said == ["enter data", "leave data", "end"]


@on_loops
async def test_a_late_hook_that_cannot_be_entered_is_logged_and_the_server_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said: list[str] = []
    server = SMTPServer(**DEFAULTS)
    async with running(server) as address:
        server.on_data = Hook(said, "first", OSError("no"))
        server.on_data = Hook(said, "second")
        async with await Client.in_data(address) as client:
            assert await client.ask(b"x\r\n.\r\n") == "250 2.6.0"
    assert said == ["enter first", "enter second", "call second", "leave second"]
    (line,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert line.getMessage() == "a hook of a server that listens cannot be entered"


@on_loops
async def test_a_late_hook_that_hangs_at_its_start_is_called_off_by_close() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    class Hanging(Hook):
        async def __aenter__(self) -> Hook:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return self

    said: list[str] = []
    server = SMTPServer(**DEFAULTS, on_close=Hook(said, "early"))
    async with running(server):
        server.on_data = Hanging(said)
        await asyncio.wait_for(begun.wait(), PATIENCE)
    assert cancelled.is_set()
    assert said == ["enter early", "leave early"]


@on_loops
async def test_listening_side_by_side_enters_a_hook_once() -> None:
    said: list[str] = []
    server = SMTPServer(**DEFAULTS, on_data=Hook(said))
    await asyncio.gather(*(server.listen(0, "127.0.0.1") for _ in range(3)))
    await server.close()
    assert said == ["enter data", "leave data"]


@on_loops
async def test_each_life_of_a_server_enters_its_lifespan_anew() -> None:
    said: list[str] = []
    server = Sink().server(on_data=Hook(said), lifespan=told(said))
    for _ in range(2):
        await server.listen(0, "127.0.0.1")
        await server.close()
    assert said == ["start", "enter data", "leave data", "clean up"] * 2


@on_loops
async def test_an_error_of_a_hook_that_is_entered_is_raised_by_listen_and_nothing_listens() -> None:
    said: list[str] = []
    server = SMTPServer(
        **DEFAULTS,
        on_mail_from=Hook(said, "first"),
        on_data=Hook(said, "second", OSError("no such folder")),
    )
    with pytest.raises(OSError, match="no such folder"):
        await server.listen(0, "127.0.0.1")
    assert server.address() is None
    assert said == ["enter first", "enter second", "leave first"]
    await server.close()
    assert said == ["enter first", "enter second", "leave first"]


@on_loops
async def test_a_start_that_has_failed_may_be_tried_again() -> None:
    said: list[str] = []
    hook = Hook(said, error=OSError("not yet"))
    server = SMTPServer(**DEFAULTS, on_data=hook, lifespan=told(said))
    with pytest.raises(OSError, match="not yet"):
        await server.listen(0, "127.0.0.1")
    assert said == ["start", "enter data", "clean up"]
    hook.error = None
    async with running(server) as address:
        await greets(address)
    assert said[3:] == ["start", "enter data", "leave data", "clean up"]


@on_loops
async def test_an_address_in_use_leaves_the_lifespan_of_a_server_that_does_not_listen() -> None:
    said: list[str] = []
    async with running(Sink().server()) as (host, port):
        server = Sink().server(lifespan=told(said))
        with pytest.raises(OSError):
            await server.listen(port, host)
        assert said in ([], ["start", "clean up"])
        before = len(said)
        await server.listen(0, host)
        with pytest.raises(OSError):
            await server.listen(port, host)
        assert said[before:] == ["start"]
        await server.close()
        assert said[before:] == ["start", "clean up"]


@on_loops
async def test_a_start_that_hangs_ends_when_the_call_of_listen_is_cancelled() -> None:
    said: list[str] = []
    begun = asyncio.Event()

    async def hang() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            said.append("cancelled")

    server = Sink().server(lifespan=told(said, hang))
    listening = asyncio.ensure_future(server.listen(0, "127.0.0.1"))
    await begun.wait()
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    assert said == ["start", "cancelled"]
    assert server.address() is None


@on_loops
async def test_closing_a_server_calls_off_a_start_that_hangs() -> None:
    begun = asyncio.Event()

    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    server = Sink().server(lifespan=told([], hang))
    listening = asyncio.ensure_future(server.listen(0, "127.0.0.1"))
    await begun.wait()
    await server.close()
    with pytest.raises(RuntimeError, match="the start was cancelled"):
        await listening
    assert server.address() is None


@on_loops
async def test_nobody_is_let_in_before_the_start_has_ended() -> None:
    go_on = asyncio.Event()
    begun = asyncio.Event()

    async def wait() -> None:
        begun.set()
        await go_on.wait()

    async with running(Sink().server()) as (_, port):
        pass  # a port that is free now
    server = Sink().server(lifespan=told([], wait))
    listening = asyncio.ensure_future(server.listen(port, "127.0.0.1"))
    await begun.wait()
    await refused(("127.0.0.1", port))
    go_on.set()
    await listening
    await greets(("127.0.0.1", port))
    await server.close()


@on_loops
async def test_a_clean_up_that_raises_is_logged_and_the_others_run() -> None:
    said: list[str] = []
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]

    class Broken(Hook):
        async def __aexit__(self, *exception: object) -> None:
            await super().__aexit__()
            raise OSError("disk full")

    server = SMTPServer(
        **DEFAULTS,
        on_mail_from=Hook(said, "first"),
        on_data=Broken(said, "second"),
        lifespan=told(said, at_end=ValueError("no pool")),
    )
    server.on("close", lambda: said.append("close"))
    logging.getLogger("fastsmtp").addHandler(handler)
    try:
        async with running(server):
            pass
    finally:
        logging.getLogger("fastsmtp").removeHandler(handler)
    assert said[3:] == ["leave second", "leave first", "clean up", "close"]
    errors = [record.exc_info[1] for record in records if record.exc_info]
    assert [str(error) for error in errors] == ["disk full", "no pool"]


@on_loops
async def test_a_task_group_may_stay_open_in_a_lifespan() -> None:
    said: list[str] = []
    server = Sink().server()

    @asynccontextmanager
    async def lifespan(server: SMTPServer) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(stop.wait())
            yield
            stop.set()
        said.append("group ended")

    server = Sink().server(lifespan=lifespan)
    # Another Task closes than the one that has listened.
    await asyncio.create_task(server.listen(0, "127.0.0.1"))
    await asyncio.create_task(server.close())
    assert said == ["group ended"]


@on_loops
async def test_a_task_of_the_lifespan_may_close_the_server() -> None:
    @asynccontextmanager
    async def lifespan(server: SMTPServer) -> AsyncIterator[None]:
        async def watch() -> None:
            await asyncio.sleep(0)
            while server.address() is None:
                await asyncio.sleep(0)
            await server.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            yield

    server = Sink().server(lifespan=lifespan)
    async with asyncio.timeout(PATIENCE):
        await server.listen(0, "127.0.0.1")
        await server.serve_forever()
    assert server.address() is None


@on_loops
@pytest.mark.parametrize("when", ["at_start", "at_end"])
async def test_a_lifespan_may_close_its_own_server(when: str) -> None:
    said: list[str] = []

    async def close() -> None:
        await server.close()
        said.append("closed")

    server = Sink().server(lifespan=told(said, **{when: close}))
    async with asyncio.timeout(PATIENCE):
        if when == "at_start":
            with pytest.raises(RuntimeError, match=r"closed|cancelled"):
                await server.listen(0, "127.0.0.1")
        else:
            await server.listen(0, "127.0.0.1")
        await server.close()
    assert server.address() is None
    assert "clean up" in said or when == "at_start"


@on_loops
async def test_listening_in_the_start_of_the_own_lifespan_is_an_error() -> None:
    async def listen() -> None:
        await server.listen(0, "127.0.0.1")

    server = Sink().server(lifespan=told([], listen))
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(RuntimeError, match="start of a lifespan"):
            await server.listen(0, "127.0.0.1")


@on_loops
async def test_a_hook_is_left_although_its_server_is_cut() -> None:
    said: list[str] = []
    server = Sink().server(on_data=Hook(said), close_timeout=0)
    async with running(server) as address, await Client.in_data(address):
        await server.close()
        await refused(address)
        assert said[-1] == "leave data"


async def no_manager(server: SMTPServer) -> None:
    pass


@on_loops
@pytest.mark.parametrize("factory", [no_manager, lambda server: None])
async def test_a_lifespan_that_is_no_context_manager_is_an_error_that_says_so(factory: Any) -> None:
    server = Sink().server(lifespan=factory)
    with pytest.raises(TypeError, match="asynccontextmanager"):
        await server.listen(0, "127.0.0.1")
    assert server.address() is None


def test_a_lifespan_that_is_no_function_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"lifespan takes a function .*not int"):
        SMTPServer(lifespan=1)  # type: ignore[arg-type]
