"""Disks that are full or fail: the client gets 451 or 452, what was acknowledged is kept."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import resource
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from disk_faults import Faults
from mail_load import Load
from on_loops import on_loops
from spool_kit import Collector, emptied, record
from spool_process import SpoolProcess, drained, logged

from fastsmtp.delivery import Full, Unavailable, Unclear
from fastsmtp.delivery.spool import Spool, drainer, keeper
from fastsmtp.delivery.spool.keeper import Keeper
from fastsmtp.delivery.spool.store import NewRecord, Store

pytest_plugins = ["gateway_fixtures"]


async def started(faults: Faults, path: Path) -> SpoolProcess:
    process = SpoolProcess(path, env=faults.env | {"FAULT_DIR": f"{path}/"})
    assert await process.start(), process.said
    faults.forget()
    return process


async def sent(port: int, count: int, seed: int, sizes: tuple[int, ...]) -> Load:
    """Send `count` messages over one connection, whatever becomes of them."""
    load = Load(port, 1, seed=seed, sizes=sizes)
    answered = itertools.count(1)

    def answer(_: object) -> None:
        if next(answered) >= count:
            load.stop()

    load.on_acknowledged = answer
    load.on_refused = answer
    await load.run()
    return load


def test_a_message_is_synced_before_its_250(faults: Faults) -> None:
    async def trace(sizes: tuple[int, ...]) -> list[tuple[str, str]]:
        process = await started(faults, faults.directory / "s")
        await sent(process.port, 1, 1, sizes)
        await process.end()
        calls = [(name, Path(path).name) for name, _, path in faults.trace()]
        return calls[: calls.index(("reply", "-"))]

    small = asyncio.run(trace((1000,)))
    assert small[-1] == ("fsync", "spool.db-wal")
    assert set(small[:-1]) == {("write", "spool.db-wal")}
    large = asyncio.run(trace((200_000,)))
    names = [name for name, _ in large]
    directory = names.index("fsync_directory")
    assert names[:2] == ["open", "write"]
    assert names[directory - 1] == "fsync"
    assert large[directory][1] == "bodies"
    assert large[-1] == ("fsync", "spool.db-wal")
    assert ("write", "spool.db-wal") in large[directory:]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync", "fsync_directory", "open"])
def test_no_call_that_fails_loses_what_was_acknowledged(
    faults: Faults, call: str, number: int
) -> None:
    async def main() -> int:
        path = faults.directory / "s"
        process = await started(faults, path)
        acknowledged: set[str] = set()
        answers: set[bytes] = set()
        for k in itertools.count(1):
            faults.forget()
            faults.order(call, str(number), k)
            load = await sent(process.port, 3, k, (1000, 200_000))
            acknowledged |= load.acknowledged
            answers |= {answer[:9] for answer in load.refused}
            if not faults.fired:
                break
            # It has failed once, and by itself is well again.
            async with asyncio.timeout(60):
                while not (after := await sent(process.port, 1, 1000 + k, (10,))).acknowledged:
                    await asyncio.sleep(0.1)  # the greeting is 421 until the disk was looked at
            acknowledged |= after.acknowledged
        await process.end(signal.SIGKILL)
        await drained(path, faults.directory / "log")
        assert acknowledged <= logged(faults.directory / "log").keys()
        assert answers <= {b"451 4.3.0", b"452 4.3.1"}
        assert answers
        return k

    assert asyncio.run(main()) > 1


def test_a_store_whose_sync_failed_is_opened_anew_and_checked(faults: Faults) -> None:
    async def main() -> bytes:
        process = await started(faults, faults.directory / "s")
        faults.order("fsync", str(errno.EIO))
        load = await sent(process.port, 1, 1, (10,))
        assert [answer[:9] for answer in load.refused] == [b"451 4.3.0"]
        assert (await sent(process.port, 1, 2, (10,))).acknowledged
        await process.end()
        return process.said

    said = asyncio.run(main())
    assert b"has failed and is opened again: SQLITE_IOERR_FSYNC" in said
    assert b"was opened again and is sound" in said


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("code", ["EDQUOT", "EFBIG"])
def test_an_exhausted_quota_is_452_until_there_is_room(faults: Faults, code: str, k: int) -> None:
    """SQLite calls it a write error, and does not show which one."""

    async def main() -> None:
        path = faults.directory / "s"
        process = await started(faults, path)
        before = await sent(process.port, 2, 1, (1000,))
        faults.order("write", f"+{getattr(errno, code)}", k)
        load = await sent(process.port, 3, 2, (60_000,))
        assert load.acknowledged == set()
        assert [answer[:9] for answer in load.refused] == [b"452 4.3.1"] * 3
        faults.order("nothing", "0")
        async with asyncio.timeout(60):
            while not (after := await sent(process.port, 1, 3, (60_000,))).acknowledged:
                await asyncio.sleep(0.1)  # the greeting is 421 until the disk was looked at
        await process.end(signal.SIGKILL)
        assert b"opened again" not in process.said
        await drained(path, faults.directory / "log")
        found = logged(faults.directory / "log")
        assert found.keys() == before.acknowledged | after.acknowledged

    asyncio.run(main())


# In this process.


def failing(code: int, name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    error.sqlite_errorname = name
    return error


@on_loops
async def test_while_the_store_cannot_be_opened_mail_is_refused_and_then_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "PAUSE", 0.01)

    def broken(*arguments: Any, **named: Any) -> Any:
        raise failing(1034, "SQLITE_IOERR_FSYNC")

    async with Spool(str(tmp_path / "s")) as spool:
        await spool.put(record("s-1"))
        with monkeypatch.context() as patch:
            patch.setattr(Store, "write", broken)
            patch.setattr(keeper, "Store", broken)
            with pytest.raises(Unclear):
                await spool.put(record("s-2"))
            refusal = spool.refusal()
            assert refusal is not None
            assert (refusal.response_code, refusal.enhanced_code) == (451, "4.3.0")
            with pytest.raises(Unavailable):
                await spool.put(record("s-3"))
        async with asyncio.timeout(60):
            while spool.refusal() is not None:
                await asyncio.sleep(0.01)
        await spool.put(record("s-4"))
    sink = Collector()
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await emptied(spool)
    assert sink.ids == ["s-1", "s-4"]


def test_what_lies_in_the_log_of_a_store_that_failed_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "spool.db")
    kept = Keeper(path, reserve=0)
    store = kept.open()
    kept.commit([NewRecord("s-1", b"octets", 6)])
    opened: list[int] = []
    left: list[int] = []  # open, so that no other file gets its number

    def look(path: str, *, first: int) -> Store:
        opened.append(os.stat(f"{path}-wal").st_ino)
        return Store(path, first=first)

    def broken(*arguments: Any) -> Any:
        raise failing(1034, "SQLITE_IOERR_FSYNC")

    # A close that cannot carry the log over leaves it as it is.
    copy = (tmp_path / "spool.db-wal").read_bytes()

    def close(self: Store) -> None:
        self._connection.close()
        (tmp_path / "spool.db-wal").write_bytes(copy)
        left.append(os.open(f"{path}-wal", os.O_RDONLY))
        os.truncate(path, 0)

    with monkeypatch.context() as patch:
        patch.setattr(keeper, "Store", look)
        patch.setattr(store, "write", broken)
        patch.setattr(Store, "close", close)
        (answer,) = kept.commit([NewRecord("s-2", b"octets", 6)])
    assert isinstance(answer, Unclear)
    (log,) = left
    assert opened != [os.fstat(log).st_ino]
    assert len(opened) == 1
    os.close(log)
    # A number is never given again, for the drainer knows records by theirs.
    assert kept.commit([NewRecord("s-3", b"octets", 6)]) == ["2"]
    kept.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", str(directory)],
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


async def fill(spool: Spool) -> list[str]:
    """Put messages until there is no room; return the ids of those that were taken."""
    body = b"Subject: x\r\n\r\n" + b"x" * 60_000
    taken: list[str] = []
    while True:
        id = f"s-{len(taken)}"
        (outcome,) = await asyncio.gather(spool.put(record(id, body)), return_exceptions=True)
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, Full)
            assert outcome.reply.response_code == 452
            return taken
        taken.append(id)


@on_loops
async def test_a_full_disk_is_452_and_what_was_taken_is_delivered(small_disk: Path) -> None:
    (small_disk / "other").write_bytes(b"x" * 2**21)
    async with Spool(str(small_disk / "s"), reserve=0) as spool:
        taken = await fill(spool)
        assert len(taken) > 30
        assert spool.count == len(taken)
    (small_disk / "other").unlink()
    sink = Collector()
    async with Spool(str(small_disk / "s"), drain_into=sink, reserve=0) as spool:
        await emptied(spool)
    assert sink.ids == taken


@on_loops
async def test_a_size_limit_of_the_process_is_452_and_what_was_taken_is_delivered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sink = Collector()
    async with Spool(str(tmp_path / "s"), reserve=0) as spool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            taken = await fill(spool)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(taken) > 5
        async with asyncio.timeout(60):
            while spool.refusal() is not None:
                await asyncio.sleep(0.01)
        await spool.put(record("s-last"))
    assert caplog.records == []
    async with Spool(str(tmp_path / "s"), drain_into=sink, reserve=0) as spool:
        await emptied(spool)
    assert sink.ids == [*taken, "s-last"]


@on_loops
async def test_where_nothing_can_be_noted_only_so_many_are_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drainer, "MARKS", 8)
    monkeypatch.setattr(drainer, "NOTE_AGAIN", 0.01)
    sink = Collector()
    async with Spool(str(tmp_path / "s"), drain_into=sink, parallel=4) as spool:
        delete = Store._delete
        attempts = itertools.count()

        def full(self: Store, gone: tuple[int, ...]) -> int:
            if gone and next(attempts) < 20:
                raise failing(13, "SQLITE_FULL")
            return delete(self, gone)

        monkeypatch.setattr(Store, "_delete", full)
        messages = [record(f"s-{number}") for number in range(100)]
        await asyncio.gather(*map(spool.put, messages))
        async with asyncio.timeout(60):
            while next(attempts) < 15:
                await asyncio.sleep(0.005)
        assert 0 < len(sink.taken) <= 12
        await emptied(spool)
    assert sink.ids == [f"s-{number}" for number in range(100)]  # each of them once


@on_loops
async def test_a_full_disk_is_no_reason_not_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> Any:
        raise failing(13, "SQLITE_FULL")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "set_fact", full)
        async with Spool(str(tmp_path / "s")) as spool:
            assert spool.count == 0


@on_loops
async def test_with_its_reserve_a_full_spool_drains_and_takes_mail_again(small_disk: Path) -> None:
    sink = Collector()
    sink.hold = True
    async with Spool(
        str(small_disk / "s"), drain_into=sink, reserve=3 * 2**20, parallel=4
    ) as spool:
        taken = await fill(spool)
        refusal = spool.refusal()
        assert refusal is not None
        assert refusal.response_code == 452
        sink.hold = False
        sink.answer()
        await emptied(spool)
        assert sink.ids == taken
