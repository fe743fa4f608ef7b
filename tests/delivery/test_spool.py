"""A spool keeps what it has promised, and hands it over once, the oldest first."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest
from on_loops import on_loops
from spool_kit import BODY, LARGE, Collector, database, emptied, record

from fastsmtp.delivery import Full, Promise, Record, Unavailable, parse_record
from fastsmtp.delivery.maildir import Maildir
from fastsmtp.delivery.spool import Spool


def rows(path: Path) -> list[Record]:
    """The records in the file of a spool that nobody has open, bodies in files left out."""
    connection = sqlite3.connect(database(path))
    try:
        found = connection.execute("SELECT octets FROM record ORDER BY seq").fetchall()
    finally:
        connection.close()
    return [parse_record(octets) for (octets,) in found]


async def put_large(spool: Spool, id: str, body: bytes = LARGE) -> str:
    large = record(id, b"")
    writer = spool.begin(large)
    for start in range(0, len(body), 50_000):
        if (ready := writer.write(body[start : start + 50_000])) is not None:
            await ready
    large.set_body(await writer.finish())
    receipt = await spool.put(large)
    assert isinstance(receipt, str)
    return receipt


@on_loops
async def test_a_record_is_in_the_file_and_its_number_is_the_receipt(tmp_path: Path) -> None:
    async with Spool(str(tmp_path / "s")) as spool:
        assert spool.promise is Promise.DISK
        receipts = await asyncio.gather(*(spool.put(record(f"s-{n}")) for n in range(5)))
        assert receipts == ["1", "2", "3", "4", "5"]
        assert spool.count == 5
    found = rows(tmp_path / "s")
    assert [each.id for each in found] == ["s-0", "s-1", "s-2", "s-3", "s-4"]
    assert {each.body for each in found} == {BODY}


@on_loops
async def test_records_that_wait_together_are_one_transaction(tmp_path: Path) -> None:
    commits = []

    def traced(statement: str) -> None:
        if statement.startswith(("INSERT INTO record", "BEGIN")):
            commits.append(statement)

    async with Spool(str(tmp_path / "s")) as spool:
        await spool._shelf.ask(lambda store: store._connection.set_trace_callback(traced))
        await asyncio.gather(*(spool.put(record(f"s-{n}")) for n in range(100)))
    assert len(commits) == 1


@on_loops
async def test_messages_are_drained_in_their_order_with_the_same_octets(tmp_path: Path) -> None:
    sink = Collector()
    bodies = [b"Subject: %d\r\n\r\n" % n + os.urandom(n * 7) for n in range(300)]
    async with Spool(str(tmp_path / "s"), drain_into=sink, parallel=8) as spool:
        puts = [spool.put(record(f"s-{n}", body)) for n, body in enumerate(bodies)]
        await asyncio.gather(*puts)
        await emptied(spool)
        assert spool.counts.delivered == 300
        assert spool.used == 0
    assert [octets for _, _, octets in sink.taken] == bodies
    assert sink.ids == [f"s-{n}" for n in range(300)]
    assert sink.is_closed
    assert rows(tmp_path / "s") == []


@on_loops
async def test_records_that_were_not_drained_are_drained_after_the_next_start(
    tmp_path: Path,
) -> None:
    async with Spool(str(tmp_path / "s")) as spool:
        for n in range(3):
            await spool.put(record(f"s-{n}"))
        await put_large(spool, "s-3")
    sink = Collector()
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        assert spool.count == 4
        await emptied(spool)
        assert spool.counts.repeated == 0  # the spool was closed: nothing was under way
    assert sink.ids == ["s-0", "s-1", "s-2", "s-3"]


@on_loops
async def test_no_more_than_parallel_are_under_way(tmp_path: Path) -> None:
    sink = Collector()
    sink.hold = True
    async with Spool(str(tmp_path / "s"), drain_into=sink, parallel=4) as spool:
        await asyncio.gather(*(spool.put(record(f"s-{n}")) for n in range(20)))
        await sink.until(lambda: len(sink.held) == 4)
        sink.hold = False
        sink.answer()
        await emptied(spool)
    assert sink.most == 4
    assert len(sink.taken) == 20


@on_loops
async def test_a_large_body_lies_in_a_file_until_it_was_drained(tmp_path: Path) -> None:
    sink = Collector()
    sink.hold = True
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await put_large(spool, "s-1")
        await sink.until(lambda: sink.held)
        (file,) = (tmp_path / "s" / "bodies").iterdir()
        assert file.read_bytes() == LARGE
        assert spool.used > len(LARGE)
        sink.hold = False
        sink.answer()
        await emptied(spool)
        async with asyncio.timeout(60):
            while file.exists():
                await asyncio.sleep(0.001)
        assert spool.used == 0
    assert sink.taken == [("s-1", ("b@y.example",), LARGE)]


@on_loops
async def test_a_body_beyond_what_the_sink_takes_in_a_record_is_handed_over_in_pieces(
    tmp_path: Path,
) -> None:
    sink = Collector(max_record=1000)
    body = b"Subject: x\r\n\r\n" + b"y" * 5000
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await spool.put(record("s-1", body))
        await emptied(spool)
    assert sink.taken == [("s-1", ("b@y.example",), body)]


@on_loops
async def test_messages_small_and_large_are_drained_into_a_maildir(tmp_path: Path) -> None:
    huge = b"Subject: huge\r\n\r\n" + b"0123456789abcde\r\n" * 100_000
    sink = Maildir(str(tmp_path / "mail"))
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await spool.put(record("s-1"))
        await put_large(spool, "s-2")
        await put_large(spool, "s-3", huge)
        await emptied(spool)
    found = [path.read_bytes() for path in (tmp_path / "mail" / "new").iterdir()]
    headers = record().headers
    sent = [(headers + body).replace(b"\r\n", b"\n") for body in (BODY, LARGE, huge)]
    assert sorted(found) == sorted(sent)
    assert list((tmp_path / "mail" / "tmp").iterdir()) == []


@on_loops
async def test_orphans_are_removed_at_the_start_and_bodies_of_records_are_not(
    tmp_path: Path,
) -> None:
    async with Spool(str(tmp_path / "s")) as spool:
        await put_large(spool, "s-1")
        orphan = spool.begin(record("s-2", b""))
        ready = orphan.write(LARGE)
        assert ready is not None
        await ready
        orphan._close()  # and never finished, as in a crash
    bodies = tmp_path / "s" / "bodies"
    assert len(list(bodies.iterdir())) == 2
    sink = Collector()
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await emptied(spool)
    assert sink.taken == [("s-1", ("b@y.example",), LARGE)]
    assert list(bodies.iterdir()) == []


@on_loops
async def test_beyond_its_quota_a_spool_is_full_and_says_so_before_the_message(
    tmp_path: Path,
) -> None:
    async with Spool(str(tmp_path / "s"), quota=5300) as spool:
        assert spool.refusal() is None
        for number in range(3):
            await spool.put(record(f"s-{number}", b"x" * 1000))
        with pytest.raises(Full, match="quota of 5300"):
            await spool.put(record("s-4", b"x" * 1000))
        await spool.put(record("small", b"x"))  # there is room for this one
        with pytest.raises(Full):
            await spool.put(record("s-9", b"x" * 1000))
        assert spool.used <= 5300


@on_loops
async def test_at_its_quota_a_spool_refuses_with_452_and_takes_mail_again_once_it_is_drained(
    tmp_path: Path,
) -> None:
    size = len(BODY) + 700
    sink = Collector()
    sink.hold = True
    async with Spool(str(tmp_path / "s"), drain_into=sink, quota=size) as spool:
        await spool.put(record("s-1"))
        spool._shelf._quota = spool.used
        refusal = spool.refusal()
        assert refusal is not None
        assert (refusal.response_code, refusal.enhanced_code) == (452, "4.3.1")
        sink.hold = False
        sink.answer()
        await emptied(spool)
        assert spool.refusal() is None


@on_loops
async def test_bodies_on_their_way_count_towards_the_quota(tmp_path: Path) -> None:
    async with Spool(str(tmp_path / "s"), quota=300_000) as spool:
        first, second = spool.begin(record("s-1")), spool.begin(record("s-2"))
        for _ in range(2):
            written = first.write(b"x" * 100_000)
            assert written is not None
            await written
        assert spool.used == 200_000
        written = second.write(b"x" * 100_001)
        assert written is not None
        with pytest.raises(Full):
            await written
        second.discard()
        assert spool.used == 200_000
        message = record("s-1", b"")
        message.set_body(await first.finish())
        await spool.put(message)
        assert 200_000 < spool.used < 201_000
        third = spool.begin(record("s-3"))
        written = third.write(b"x" * 90_000)
        assert written is not None
        third.discard()
        await asyncio.wait([written])
        assert 200_000 < spool.used < 201_000


@on_loops
async def test_a_disk_without_the_reserve_is_full(tmp_path: Path) -> None:
    async with Spool(str(tmp_path / "s"), reserve=1 << 60) as spool:
        with pytest.raises(Full, match="octets left"):
            await spool.put(record())
        refusal = spool.refusal()
        assert refusal is not None
        assert refusal.response_code == 452
        assert spool.count == spool.used == 0
    assert rows(tmp_path / "s") == []


@on_loops
async def test_a_large_message_that_is_not_taken_leaves_no_body(tmp_path: Path) -> None:
    async with Spool(str(tmp_path / "s"), quota=len(LARGE)) as spool:
        with pytest.raises(Full):
            await put_large(spool, "s-1")
        async with asyncio.timeout(60):
            while list((tmp_path / "s" / "bodies").iterdir()):
                await asyncio.sleep(0.001)


@on_loops
async def test_a_message_whose_client_has_gone_is_removed_again(tmp_path: Path) -> None:
    async with Spool(str(tmp_path / "s")) as spool:
        message = record()
        receipt = await spool.put(message)
        spool.undo(message, receipt)
        await emptied(spool)
    assert rows(tmp_path / "s") == []


@on_loops
async def test_a_message_on_its_way_is_not_removed(tmp_path: Path) -> None:
    sink = Collector()
    sink.hold = True
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        message = record()
        receipt = await spool.put(message)
        await sink.until(lambda: sink.held)
        spool.undo(message, receipt)
        sink.hold = False
        sink.answer()
        await emptied(spool)
    assert sink.ids == ["s-1"]


@on_loops
async def test_a_spool_is_started_before_it_is_used_and_once(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "s"))
    with pytest.raises(RuntimeError, match="not started"):
        spool.put(record())
    await spool.start()
    with pytest.raises(RuntimeError, match="started before"):
        await spool.start()
    await spool.close(5)
    await spool.close(5)
    with pytest.raises(Unavailable):
        await spool.put(record())


@on_loops
async def test_an_inner_sink_that_cannot_start_releases_the_spool(tmp_path: Path) -> None:
    class Broken(Collector):
        async def start(self) -> Promise:
            raise ValueError("set its address")

    with pytest.raises(ValueError, match="set its address"):
        await Spool(str(tmp_path / "s"), drain_into=Broken()).start()
    async with Spool(str(tmp_path / "s")) as spool:
        assert spool.count == 0
