"""Who starts a sink and who closes it: the server that has its hook, unless somebody else did."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import pytest
from clients import PATIENCE, Client, until
from on_loops import on_loops
from scenario import DEFAULTS
from sinks import MemorySink

from fastsmtp import SMTPServer
from fastsmtp.delivery import Promise, Recipient, Record, deliver
from fastsmtp.delivery.maildir import Maildir
from fastsmtp.delivery.spool import Spool
from fastsmtp.delivery.spool.store import Store
from fastsmtp.testing import running


class Counting(MemorySink):
    """A sink that counts its starts and ends."""

    def __init__(self) -> None:
        super().__init__()
        self.promise = None
        self.starts = self.closes = 0

    async def start(self) -> Promise:
        self.starts += 1
        return await super().start()

    async def close(self, patience: float) -> None:
        self.closes += 1
        await super().close(patience)


def server_for(hook: object) -> SMTPServer:
    return SMTPServer(**DEFAULTS, on_data=hook)


@on_loops
async def test_a_server_starts_the_sink_of_its_hook_and_closes_it_at_its_end() -> None:
    sink = Counting()
    async with running(server_for(deliver(sink))) as address:
        assert (sink.starts, sink.promise) == (1, Promise.MEMORY)
        async with await Client.in_data(address) as client:
            assert await client.ask(b"x\r\n.\r\n") == "250 2.6.0"
        assert sink.closes == 0
    assert (sink.starts, sink.closes) == (1, 1)
    assert len(sink.records) == 1


@on_loops
async def test_an_error_at_the_start_of_a_sink_is_raised_by_listen() -> None:
    sink = Counting()
    sink.start_error = PermissionError(13, "Permission denied", "/mail")
    server = server_for(deliver(sink))
    with pytest.raises(PermissionError, match="/mail"):
        await server.listen(0, "127.0.0.1")
    await server.close()
    assert sink.closes == 0


@on_loops
async def test_a_sink_that_was_started_by_its_program_is_left_open_by_the_server() -> None:
    async with Counting() as sink:
        async with running(server_for(deliver(sink))):
            pass
        assert (sink.starts, sink.closes) == (1, 0)
    assert sink.closes == 1


@on_loops
async def test_a_sink_whose_hook_is_set_on_a_listening_server_is_closed_by_it() -> None:
    sink = Counting()
    server = SMTPServer(**DEFAULTS)
    async with running(server) as address:
        server.on_data = deliver(sink)
        async with await Client.in_data(address) as client:
            assert await client.ask(b"x\r\n.\r\n") == "250 2.6.0"
        assert (sink.starts, sink.closes) == (1, 0)
    assert (sink.starts, sink.closes) == (1, 1)


@on_loops
async def test_a_hook_whose_sink_could_not_start_may_be_set_again() -> None:
    sink = Counting()
    sink.start_error = PermissionError(13, "Permission denied", "/mail")
    server = SMTPServer(**DEFAULTS)
    async with running(server) as address:
        server.on_data = hook = deliver(sink)
        async with await Client.in_data(address) as client:
            assert await client.ask(b"x\r\n.\r\n") == "451 4.3.0"
        sink.start_error = None
        server.on_data = hook
        async with await Client.in_data(address) as client:
            assert await client.ask(b"x\r\n.\r\n") == "250 2.6.0"
    assert sink.closes == 1


@on_loops
async def test_a_sink_whose_start_nobody_waits_for_any_more_is_closed() -> None:
    sink = Counting()
    server = server_for(deliver(sink))
    opening = asyncio.ensure_future(server.listen(0, "127.0.0.1"))
    while not sink.starts:
        await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    await until(lambda: sink.closes == 1)
    assert (sink.starts, sink.promise) == (1, None)


@on_loops
async def test_a_start_after_one_that_was_cancelled_waits_for_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one would close the database that the thread of the first is reading."""
    checking, go_on = threading.Event(), threading.Event()
    check = Store.check

    def slow_check(store: Store, seconds: float) -> list[str]:
        checking.set()
        assert go_on.wait(PATIENCE)
        return check(store, seconds)

    monkeypatch.setattr(Store, "check", slow_check)
    spool = Spool(str(tmp_path / "s"))
    first = asyncio.ensure_future(spool.start())
    await until(checking.is_set)
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    second = asyncio.ensure_future(spool.start())
    await asyncio.sleep(0)
    go_on.set()
    async with asyncio.timeout(PATIENCE):
        assert await second is Promise.DISK
    await spool.close(PATIENCE)


@on_loops
async def test_a_spool_whose_close_is_cancelled_ends_and_can_be_started_again(
    tmp_path: Path,
) -> None:
    spool = Spool(str(tmp_path / "s"), drain_into=MemorySink())
    for turns in range(6):
        await spool.start()
        await spool.put(Record("s-1", "", (Recipient("a@b.example"),), b"x\r\n"))
        closing = asyncio.ensure_future(spool.close(PATIENCE))
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        await spool.close(PATIENCE)  # for a close that had not begun


@on_loops
async def test_a_spool_that_two_tasks_start_is_started_once(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "s"))
    results = await asyncio.gather(spool.start(), spool.start(), return_exceptions=True)
    assert {type(result) for result in results} == {Promise, RuntimeError}
    await spool.put(Record("s-1", "", (Recipient("a@b.example"),), b"x\r\n"))
    await spool.close(PATIENCE)


@on_loops
async def test_servers_that_share_a_hook_start_its_sink_once_and_the_last_one_closes_it() -> None:
    sink = Counting()
    hook = deliver(sink)
    first, second = server_for(hook), server_for(hook)
    await asyncio.gather(first.listen(0, "127.0.0.1"), second.listen(0, "127.0.0.1"))
    await first.close()
    assert (sink.starts, sink.closes) == (1, 0)
    await second.close()
    assert (sink.starts, sink.closes) == (1, 1)


@on_loops
async def test_a_server_that_listens_again_starts_its_sink_again(tmp_path: Path) -> None:
    for sink in (Maildir(tmp_path / "m"), Spool(str(tmp_path / "s"), drain_into=MemorySink())):
        server = server_for(deliver(sink))
        for _ in range(2):
            async with running(server) as address, await Client.in_data(address) as client:
                assert await client.ask(b"x\r\n.\r\n") == "250 2.6.0"
    assert len(list((tmp_path / "m" / "new").iterdir())) == 2


@on_loops
async def test_a_server_that_could_not_listen_starts_its_sink_when_it_can(tmp_path: Path) -> None:
    server = server_for(deliver(Maildir(tmp_path)))
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError):
        await server.listen(taken.getsockname()[1], "127.0.0.1")
    async with running(server) as address, await Client.in_data(address) as client:
        assert await client.ask(b"x\r\n.\r\n") == "250 2.6.0"


@pytest.mark.parametrize("wrong", [Maildir, "./mail", None, print])
def test_what_is_no_sink_is_an_error_that_shows_one(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"Maildir\('\./mail'\)"):
        deliver(wrong)  # type: ignore[arg-type]


def test_no_octets_in_flight_is_an_error() -> None:
    with pytest.raises(ValueError, match="max_in_flight"):
        deliver(MemorySink(), max_in_flight=0)
