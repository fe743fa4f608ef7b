"""A drainer gives nothing up and nothing away twice, whatever its sink does."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from on_loops import on_loops
from spool_kit import BODY, Collector, InMemory, database, emptied, record

from fastsmtp import SMTPError
from fastsmtp.delivery import (
    Full,
    Receipt,
    Recipient,
    Record,
    Refused,
    TooLarge,
    Unavailable,
    Unclear,
    encode_record,
)
from fastsmtp.delivery.breaker import FAILURES, Breaker
from fastsmtp.delivery.spool import Spool, drainer
from fastsmtp.delivery.spool.keeper import Changes
from fastsmtp.delivery.spool.shelf import Shelf
from fastsmtp.delivery.spool.store import LOG_OCTETS, NewRecord, Store

REFUSED = Refused(SMTPError("No such user", 550, "5.1.1"))


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drainer, "FIRST_DELAY", 0.02)
    monkeypatch.setattr(drainer, "FIRST_PAUSE", 0.01)


def troubles(path: Path) -> list[tuple[str, int, str]]:
    """State, attempts and reason of the records in a closed spool."""
    connection = sqlite3.connect(database(path))
    try:
        return connection.execute(
            "SELECT state, attempts, reason FROM trouble ORDER BY seq"
        ).fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize("error", [Unavailable("down"), Unclear("no answer"), Full("full")])
@on_loops
async def test_a_record_that_failed_is_tried_again_with_the_same_id(
    tmp_path: Path, error: Exception
) -> None:
    sink = Collector()
    sink.outcomes += [error, error]
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await spool.put(record())
        await emptied(spool)
        assert spool.counts.deferred == 2
        assert spool.counts.repeated == (2 if isinstance(error, Unclear) else 0)
    assert sink.tried == ["s-1"] * 3
    assert sink.ids == ["s-1"]


@on_loops
async def test_a_record_whose_failure_is_noted_late_is_tried_again_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = Shelf.change

    async def slow(shelf: Shelf, changes: Changes, gone: Any = ()) -> None:
        await asyncio.sleep(0.1)  # the disk takes longer than the record has to wait
        await change(shelf, changes, gone)

    monkeypatch.setattr(Shelf, "change", slow)
    sink = Collector()
    sink.outcomes.append(Unavailable("down"))
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await spool.put(record())
        await emptied(spool)
    assert sink.tried == ["s-1"] * 2


@on_loops
async def test_a_clock_that_was_set_back_delays_no_record_for_longer_than_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Collector()
    sink.outcomes.append(Unavailable("busy"))
    now = time.time()
    monkeypatch.setattr(drainer.time, "time", lambda: now)
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await spool.put(record("s-1"))
        async with asyncio.timeout(60):
            while spool.counts.deferred == 0 or spool._drainer is None or spool._drainer._busy:
                await asyncio.sleep(0.005)
        now -= 864_000.0
        await spool.put(record("s-2"))  # something wakes it, at the latest after an hour
        await emptied(spool)
    assert sorted(sink.ids) == ["s-1", "s-2"]


@on_loops
async def test_a_later_message_does_not_wait_for_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drainer, "FIRST_DELAY", 3600.0)
    sink = Collector()
    sink.outcomes.append(Refused(SMTPError("Mailbox busy", 450, "4.2.1")))
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await spool.put(record("s-1"))
        await spool.put(record("s-2"))
        await sink.until(lambda: sink.ids == ["s-2"])
    assert troubles(tmp_path / "s") == [("deferred", 1, "Mailbox busy")]


@pytest.mark.parametrize("error", [REFUSED, TooLarge("too large")])
@on_loops
async def test_a_record_that_is_refused_for_good_is_kept_and_not_tried_again(
    tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Collector()
    sink.outcomes.append(error)
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await spool.put(record("s-1"))
        await spool.put(record("s-2"))
        await sink.until(lambda: sink.ids == ["s-2"])
        assert spool.counts.refused == 1
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await spool.put(record("s-3"))
        await sink.until(lambda: "s-3" in sink.ids)
        assert spool.count <= 2
    assert sink.tried == ["s-1", "s-2", "s-3"]
    assert troubles(tmp_path / "s") == [("refused", 1, str(error))]
    assert "id=s-1 number=1 is refused, and kept" in caplog.text


@on_loops
async def test_a_reason_and_an_id_that_are_no_text_are_kept_all_the_same(tmp_path: Path) -> None:
    sink = Collector()
    sink.outcomes.append(Refused(SMTPError("no \udcff such " + "x" * 5000, 550)))
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await spool.put(record("s-\udc80"))
        await spool.put(record("s-\udc81"))
        await sink.until(lambda: sink.ids == ["s-\udc81"])
    ((state, _, reason),) = troubles(tmp_path / "s")
    assert state == "refused"
    assert reason.startswith("no \\udcff such x")


@on_loops
async def test_recipients_that_failed_are_tried_again_without_the_others(tmp_path: Path) -> None:
    sink = Collector()
    sink.outcomes.append(["taken", Unavailable("busy"), REFUSED, "taken"])
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await spool.put(record("s-1", BODY, "a@y", "b@y", "c@y", "d@y"))
        await sink.until(lambda: sink.taken)
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            while spool.count != 1:
                await asyncio.sleep(0.005)
    assert sink.taken == [("s-1", ("b@y",), BODY)]
    assert troubles(tmp_path / "s") == [("refused", 1, "No such user")]


@on_loops
async def test_a_message_is_split_once_although_the_store_said_that_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drainer, "NOTE_AGAIN", 0.01)
    sink = Collector()
    sink.outcomes.append(["taken", REFUSED])
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        keeper = spool._shelf._keeper
        write = keeper._write
        splits = []

        def unclear(store: Store, items: list[Any]) -> list[Any]:
            results = write(store, items)
            if any(getattr(item, "gone", ()) for item in items):
                splits.append(items)
                return [Unclear("nobody knows")] * len(items)
            return results

        monkeypatch.setattr(keeper, "_write", unclear)
        await spool.put(record("s-1", BODY, "a@y", "b@y"))
        async with asyncio.timeout(60):
            while not splits or spool._drainer is None or spool._drainer._busy:
                await asyncio.sleep(0.005)
        assert len(splits) == 1
        assert spool.count == 1
    assert troubles(tmp_path / "s") == [("refused", 1, "No such user")]


@on_loops
async def test_a_message_is_split_once_although_the_store_failed_and_was_away_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drainer, "NOTE_AGAIN", 0.01)
    sink = Collector()
    sink.outcomes.append(["taken", REFUSED])
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        keeper = spool._shelf._keeper
        write, commit = keeper._write, keeper.commit
        splits = 0
        away = 0

        def unclear(store: Store, items: list[Any]) -> list[Any]:
            nonlocal splits, away
            results = write(store, items)
            if any(getattr(item, "gone", ()) for item in items):
                splits += 1
                away = 3
                return [Unclear("nobody knows")] * len(items)
            return results

        def missing(items: list[Any]) -> Any:
            nonlocal away
            if away:
                away -= 1
                return [Unavailable("it cannot be opened")] * len(items)
            return commit(items)

        monkeypatch.setattr(keeper, "_write", unclear)
        monkeypatch.setattr(spool._shelf._batcher, "_commit", missing)
        await spool.put(record("s-1", BODY, "a@y", "b@y"))
        async with asyncio.timeout(60):
            while not splits or spool._drainer is None or spool._drainer._busy:
                await asyncio.sleep(0.005)
        assert splits == 1
        async with asyncio.timeout(60):
            while spool.count != 1:
                await asyncio.sleep(0.005)
    assert troubles(tmp_path / "s") == [("refused", 1, "No such user")]


@on_loops
async def test_a_record_that_is_removed_while_the_sink_has_it_leaves_no_trouble_for_its_number(
    tmp_path: Path,
) -> None:
    sink = Collector()
    sink.hold = True
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await spool.put(record("s-1"))
        await sink.until(lambda: sink.held)
        entry = await spool._shelf.ask(lambda store: store.entry(1))
        assert entry is not None
        await spool._shelf.remove([entry])
        sink.outcomes.append(REFUSED)
        sink.hold = False
        sink.answer()
        async with asyncio.timeout(60):
            while spool._drainer is None or spool._drainer._busy:
                await asyncio.sleep(0.005)
    assert troubles(tmp_path / "s") == []
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        assert await spool.put(record("s-2")) == "1"
        await emptied(spool)
    assert sink.ids == ["s-2"]


@on_loops
async def test_a_spool_that_ends_while_the_sink_has_a_record_counts_it_as_repeated(
    tmp_path: Path,
) -> None:
    sink = Collector()
    sink.hold = True
    spool = Spool(str(tmp_path / "s"), drain_into=sink)
    await spool.start()
    await spool.put(record("s-1"))
    await sink.until(lambda: sink.held)
    await spool.close(0)
    sink.hold = False
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await emptied(spool)
        assert spool.counts.repeated == 1
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await spool.put(record("s-2"))
        await emptied(spool)
        assert spool.counts.repeated == 0


@on_loops
async def test_a_body_in_a_file_stays_until_the_last_recipient_has_it(tmp_path: Path) -> None:
    sink = Collector()
    sink.outcomes.append([REFUSED, Unavailable("busy")])
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        message = record("s-1", b"", "a@y", "b@y")
        writer = spool.begin(message)
        writer.write(BODY)
        message.set_body(await writer.finish())
        await spool.put(message)
        await sink.until(lambda: sink.taken)
        async with asyncio.timeout(60):
            while spool.count != 1:
                await asyncio.sleep(0.005)
        assert len(list((tmp_path / "s" / "bodies").iterdir())) == 1
        (number,) = await spool._shelf.ask(lambda store: store.numbers_of("s-1"))
        entry = await spool._shelf.ask(lambda store: store.entry(number))
        assert entry is not None
        assert spool._shelf.record_of(entry).rcpt_to == (Recipient("a@y"),)
        await spool._shelf.remove([entry])
        assert list((tmp_path / "s" / "bodies").iterdir()) == []
        assert spool.used == spool.count == 0


@on_loops
async def test_a_sink_that_is_down_gets_one_record_at_a_time_and_the_log_two_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Collector()
    sink.failure = Unavailable("it is down")
    async with Spool(str(tmp_path / "s"), drain_into=sink, parallel=4) as spool:
        await asyncio.gather(*(spool.put(record(f"s-{n}")) for n in range(50)))
        await sink.until(lambda: len(sink.tried) >= 10)
        assert sink.most == 1  # the collector answers at once
        assert len(set(sink.tried)) < 15  # not each of the fifty has met it
        sink.failure = None
        await emptied(spool)
    assert sorted(sink.ids) == sorted(f"s-{n}" for n in range(50))
    lines = [each.getMessage() for each in caplog.records if "drain" in each.getMessage()]
    assert len(lines) == 2
    assert "cannot be drained, and mail waits in it: it\\x20is\\x20down" in lines[0]
    assert "drains again" in lines[1]


@on_loops
async def test_a_large_body_that_was_put_is_never_discarded(tmp_path: Path) -> None:
    """The sink may have taken it, whatever its answer: with no answer, it may name the file."""
    sink = Collector(max_record=10)
    sink.outcomes.append(Unclear("no answer"))
    writers = []

    class Writer(InMemory):
        is_discarded = False

        def discard(self) -> None:
            self.is_discarded = True

    def begin(record: Record) -> Writer:
        writers.append(Writer())
        return writers[-1]

    sink.begin = begin  # type: ignore[method-assign]
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await spool.put(record())
        await emptied(spool)
    assert [writer.is_discarded for writer in writers] == [False, False]


@on_loops
async def test_a_sink_that_raises_or_never_answers_loses_nothing(tmp_path: Path) -> None:
    class Odd(Collector):
        def put(self, record: object) -> asyncio.Future[object]:  # type: ignore[override]
            if not self.tried:
                self.tried.append("raised")
                raise TypeError("a fault of the sink")
            return super().put(record)  # type: ignore[arg-type, return-value]

    sink = Odd()
    async with Spool(str(tmp_path / "s"), drain_into=sink, parallel=2) as spool:
        await spool.put(record("s-1"))
        await sink.until(lambda: sink.ids == ["s-1"])
        sink.hold = True
        await spool.put(record("s-2"))
        await sink.until(lambda: sink.held)
        await emptied_but_one(spool)
        await spool.close(0.1)
    again = Collector()
    async with Spool(str(tmp_path / "s"), drain_into=again) as spool:
        await emptied(spool)
    assert again.ids == ["s-2"]


async def emptied_but_one(spool: Spool) -> None:
    async with asyncio.timeout(60):
        while spool.count != 1:
            await asyncio.sleep(0.005)


@on_loops
async def test_a_delivered_record_is_not_given_again_while_the_store_cannot_note_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drainer, "NOTE_AGAIN", 0.01)
    sink = Collector()
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        keeper = spool._shelf._keeper
        write = keeper._write
        failures = iter(range(5))

        def failing(store: object, items: list[object]) -> list[object]:
            if any(not hasattr(item, "octets") for item in items) and next(failures, None):
                return [Unavailable("the disk is away")] * len(items)
            return write(store, items)  # type: ignore[arg-type]

        monkeypatch.setattr(keeper, "_write", failing)
        await spool.put(record("s-1"))
        await emptied(spool)
    assert sink.tried == ["s-1"]


@on_loops
async def test_a_spool_that_was_cut_counts_what_may_be_delivered_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fastsmtp.delivery")
    async with Spool(str(tmp_path / "s")) as spool:
        await asyncio.gather(*(spool.put(record(f"s-{n}")) for n in range(3)))
    connection = sqlite3.connect(database(tmp_path / "s"))
    connection.execute("UPDATE fact SET value = 1 WHERE name = 'open'")
    connection.commit()
    connection.close()
    sink = Collector()
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await emptied(spool)
        assert spool.counts.repeated == 3
    assert "has 3 messages to drain; the last run did not end cleanly" in caplog.text


@on_loops
async def test_a_damaged_record_is_set_aside_and_the_rest_is_delivered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Spool(str(tmp_path / "s")) as spool:
        for number in range(3):
            await spool.put(record(f"s-{number}"))
    connection = sqlite3.connect(database(tmp_path / "s"))
    (octets,) = connection.execute("SELECT octets FROM record WHERE seq = 2").fetchone()
    damaged = octets.replace(b"hello", b"hullo")
    connection.execute("UPDATE record SET octets = ? WHERE seq = 2", (damaged,))
    connection.commit()
    connection.close()
    sink = Collector()
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await sink.until(lambda: len(sink.taken) == 2)
        assert spool.counts.damaged == 1
    assert sink.ids == ["s-0", "s-2"]
    assert troubles(tmp_path / "s") == [("damaged", 0, "the check sum of a record is wrong")]
    assert "id=s-1 number=2 is damaged, and set aside" in caplog.text


@pytest.mark.parametrize("damage", ["gone", "short"])
@on_loops
async def test_a_record_whose_body_is_gone_or_short_is_set_aside(
    tmp_path: Path, damage: str
) -> None:
    async with Spool(str(tmp_path / "s")) as spool:
        message = record("s-1", b"")
        writer = spool.begin(message)
        writer.write(BODY)
        message.set_body(await writer.finish())
        await spool.put(message)
        await spool.put(record("s-2"))
    (file,) = (tmp_path / "s" / "bodies").iterdir()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(BODY[:-1])
    sink = Collector()
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        async with asyncio.timeout(60):
            while spool.counts.damaged == 0 or spool.count != 1:
                await asyncio.sleep(0.005)
    assert sink.ids == ["s-2"]
    ((state, _, _),) = troubles(tmp_path / "s")
    assert state == "damaged"


def test_a_breaker_opens_after_failures_in_a_row_and_its_pauses_grow_to_a_limit() -> None:
    breaker_ = Breaker(drainer.FIRST_PAUSE, drainer.MOST_PAUSE)
    assert [breaker_.fail("down", 100.0) for _ in range(FAILURES)] == [False, False, True]
    assert breaker_.room(64, 0, 100.0) == 0
    until = [breaker_.until]
    for _ in range(20):
        assert breaker_.room(64, 0, breaker_.until) == 1
        assert breaker_.room(64, 1, breaker_.until) == 0
        assert breaker_.fail("down", breaker_.until) is False
        until.append(breaker_.until)
    assert max(b - a for a, b in itertools.pairwise(until)) == drainer.MOST_PAUSE
    assert breaker_.succeed() is True
    assert breaker_.room(64, 0, 0.0) == 64
    assert [breaker_.fail("down", 1.0), breaker_.succeed()] == [False, False]


class Counter(Collector):
    """Counts what it takes, and keeps nothing; looks at the memory at some of it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.resident: dict[int, int] = {}
        self.logs: list[int] = []
        self.log = Path()

    def put(self, record: Record) -> asyncio.Future[Receipt]:
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        future.set_result("counted")
        self.count += 1
        if self.count % 10_000 == 0:
            self.resident[self.count] = resident()
            self.logs.append(self.log.stat().st_size)
        return future


def resident() -> int:
    """Octets of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/statm")
@on_loops
async def test_memory_and_log_stay_small_while_100_000_messages_are_drained(
    tmp_path: Path,
) -> None:
    (tmp_path / "s").mkdir(0o700)
    (tmp_path / "s" / "lock").touch()
    store = Store(str(database(tmp_path / "s")))
    octets = encode_record(record("s-1", BODY * 50))
    for _ in range(400):
        store.write([NewRecord("s-1", octets, len(octets))] * 250)
        store.carry_over()
    store.close()
    sink = Counter()
    sink.log = tmp_path / "s" / "spool.db-wal"
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        assert spool.count == 100_000
        async with asyncio.timeout(120):
            while spool.count:
                await asyncio.sleep(0.05)
    assert sink.count == 100_000
    assert sink.resident[100_000] - sink.resident[20_000] < 16 * 2**20
    assert max(sink.logs) < 2 * LOG_OCTETS
    # An empty spool gives the disk back at its next start.
    before = database(tmp_path / "s").stat().st_size
    async with Spool(str(tmp_path / "s")):
        pass
    assert database(tmp_path / "s").stat().st_size < before // 100
