"""`Fallback`: mail goes to the other machine, or into the spool while that is down; no message with
a 250 is lost on the way from one to the other.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from clients import until
from on_loops import on_loops
from remote_kit import RemoteServer, ScriptedSink

from fastsmtp.delivery import (
    Full,
    Promise,
    Receipt,
    Record,
    Refused,
    Unclear,
    deliver,
    parse_record,
)
from fastsmtp.delivery.handoff import availability, dispatcher
from fastsmtp.delivery.spool import Fallback, Spool, SpoolError, drainer, patient

PATIENCE = 60.0
SMALL = b"Subject: hello\r\n\r\n"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (availability, dispatcher, patient, drainer):
        monkeypatch.setattr(module, "FIRST_PAUSE", 0.005)
        monkeypatch.setattr(module, "MOST_PAUSE", 0.02)
    monkeypatch.setattr(drainer, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(drainer, "MOST_DELAY", 0.02)


class Pair:
    """A remote server, a sink for it, and a fallback into the spool in `path`."""

    def __init__(self, server: RemoteServer, path: Path, **options: Any) -> None:
        self.server = server
        self.sink = ScriptedSink(server.port, **{"deadline": 0.05, **options})
        self.fallback = Fallback(self.sink, str(path), name="remote")

    async def put(self, *ids: str, body: bytes = SMALL) -> list[Receipt]:
        futures = [self.fallback.put(record(id, body)) for id in ids]
        return list(await asyncio.gather(*futures))

    async def stored(self, *ids: str) -> None:
        """Wait until the server has these."""
        await until(lambda: set(ids) <= set(self.server.stored))


def record(id: str, body: bytes = SMALL) -> Record:
    return Record(id, "anne@example.org", (), body)


@asynccontextmanager
async def paired(path: Path, *, is_up: bool = True, **options: Any) -> AsyncIterator[Pair]:
    async with asyncio.timeout(PATIENCE), RemoteServer() as server:
        pair = Pair(server, path / "spool", **options)
        if not is_up:
            await server.stop()
        async with pair.fallback:
            yield pair


async def in_spool(path: Path) -> int:
    spool = Spool(str(path / "spool"))
    async with spool:
        return spool.count


@on_loops
async def test_while_the_sink_is_up_mail_goes_to_it_and_not_into_the_spool(tmp_path: Path) -> None:
    async with paired(tmp_path) as pair:
        assert await pair.put("a", "b") == ["ok", "ok"]
        assert set(pair.server.stored) == {"a", "b"}
    assert await in_spool(tmp_path) == 0


@on_loops
async def test_a_sink_that_is_down_at_the_start_is_started_later_and_gets_what_was_spooled(
    tmp_path: Path,
) -> None:
    async with paired(tmp_path, is_up=False) as pair:
        assert pair.fallback.promise is Promise.DISK
        assert await pair.put("a") == ["spool:1"]
        await pair.server.start()
        await pair.stored("a")
        assert await pair.put("b") == ["ok"]
    assert await in_spool(tmp_path) == 0


@on_loops
async def test_a_sink_that_goes_down_has_its_mail_spooled_and_gets_it_when_it_is_up_again(
    tmp_path: Path,
) -> None:
    async with paired(tmp_path) as pair:
        await pair.server.stop()
        # The first one waits for the sink, until its deadline.
        receipts = await pair.put("a")
        await until(lambda: pair.sink.refusal() is not None)
        receipts += await pair.put("b", "c")
        assert sorted(map(str, receipts)) == ["spool:1", "spool:2", "spool:3"]
        assert pair.fallback.refusal() is None
        await pair.server.start()
        await pair.stored("a", "b", "c")
    assert await in_spool(tmp_path) == 0


@on_loops
async def test_a_message_without_an_answer_is_spooled_with_its_id(tmp_path: Path) -> None:
    async with paired(tmp_path) as pair:
        pair.server.drops_acks = True
        assert await pair.put("a") == ["spool:1"]
        pair.server.drops_acks = False
        await until(lambda: len(pair.server.batches) and pair.sink.refusal() is None)
        await pair.stored("a")
    assert set(pair.server.stored) == {"a"}
    for octets in pair.server.stored["a"]:
        assert parse_record(octets).id == "a"


@pytest.mark.parametrize("word, receipt", [("full", "spool:1"), ("unavailable", "spool:1")])
@on_loops
async def test_what_the_sink_has_no_room_for_is_spooled(
    word: str, receipt: str, tmp_path: Path
) -> None:
    async with paired(tmp_path) as pair:
        pair.server.answer = lambda id: word
        assert await pair.put("a") == [receipt]
        pair.server.answer = lambda id: "ok"
        await pair.stored("a")


@on_loops
async def test_a_refusal_of_one_message_is_passed_on_and_nothing_is_kept(tmp_path: Path) -> None:
    async with paired(tmp_path) as pair:
        pair.server.answer = lambda id: "refused"
        with pytest.raises(Refused):
            await pair.put("a")
    assert await in_spool(tmp_path) == 0


@on_loops
async def test_a_body_larger_than_a_record_of_the_sink_goes_through_the_spool(
    tmp_path: Path,
) -> None:
    async with paired(tmp_path) as pair:
        pair.sink.max_record = 10
        assert await pair.put("a") == ["spool:1"]


@on_loops
async def test_with_a_full_spool_and_a_sink_that_is_down_mail_is_refused(tmp_path: Path) -> None:
    async with asyncio.timeout(PATIENCE), RemoteServer() as server:
        # Long enough for three tries on a busy machine: then none is under way at its end.
        sink = ScriptedSink(server.port, deadline=0.3)
        fallback = Fallback(sink, str(tmp_path / "spool"), name="remote", quota=10)
        async with fallback:
            assert fallback.refusal() is None
            assert await fallback.put(record("a")) == "ok"
            await server.stop()
            with pytest.raises(Full):
                await fallback.put(record("b"))
            await until(lambda: sink.refusal() is not None)
            with pytest.raises(Full):
                await fallback.put(record("c"))


@on_loops
async def test_a_message_that_may_be_stored_is_unclear_where_the_spool_has_no_room(
    tmp_path: Path,
) -> None:
    async with asyncio.timeout(PATIENCE), RemoteServer() as server:
        sink = ScriptedSink(server.port, deadline=0.05)
        fallback = Fallback(sink, str(tmp_path / "spool"), name="remote", quota=10)
        async with fallback:
            server.drops_acks = True
            with pytest.raises(Unclear):
                await fallback.put(record("a"))


@on_loops
async def test_closing_spools_what_the_sink_has_not_answered(tmp_path: Path) -> None:
    async with asyncio.timeout(PATIENCE), RemoteServer() as server:
        pair = Pair(server, tmp_path / "spool", deadline=PATIENCE)
        await pair.fallback.start()
        server.go_on.clear()
        waiting = pair.fallback.put(record("a"))
        await until(lambda: server.connections > 1)
        await pair.fallback.close(0.2)
        assert await waiting == "spool:1"
        assert pair.fallback.promise is None
    assert await in_spool(tmp_path) == 1


@on_loops
async def test_it_starts_again_and_drains_what_the_last_run_has_left(tmp_path: Path) -> None:
    async with paired(tmp_path, is_up=False) as pair:
        await pair.put("a")
    async with paired(tmp_path) as pair:
        await pair.stored("a")


@on_loops
async def test_the_promise_is_what_both_give(tmp_path: Path) -> None:
    async with asyncio.timeout(PATIENCE), RemoteServer() as server:
        for found, both in (
            (Promise.QUORUM_DISK, Promise.DISK),
            (Promise.NEXT_HOP, Promise.DISK),
            (Promise.QUORUM, Promise.MEMORY),
        ):
            pair = Pair(server, tmp_path / found.value)
            pair.sink.promises = found
            async with pair.fallback:
                assert pair.fallback.promise is both


@on_loops
async def test_a_sink_that_turns_out_to_promise_less_gets_its_mail_by_way_of_the_spool(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with paired(tmp_path, is_up=False) as pair:
        pair.sink.promises = Promise.QUORUM
        await pair.server.start()
        await until(lambda: pair.sink.promise is not None)
        assert [str(it)[:6] for it in await pair.put("a", "b")] == ["spool:"] * 2
        await pair.stored("a", "b")
    text = "remote promises quorum, and disk was promised: all mail goes through the spool"
    assert caplog.text.count(text) == 1


@on_loops
async def test_a_wrong_setting_of_the_sink_is_an_error_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wrong(sink: ScriptedSink) -> Promise:
        raise ValueError("stream: there is no such stream")

    monkeypatch.setattr(ScriptedSink, "connect", wrong)
    async with RemoteServer() as server:
        pair = Pair(server, tmp_path / "spool")
        with pytest.raises(ValueError, match="no such stream"):
            await pair.fallback.start()
        assert pair.fallback.promise is None
    assert await in_spool(tmp_path) == 0


@on_loops
async def test_a_spool_that_another_has_is_an_error_at_the_start(tmp_path: Path) -> None:
    async with paired(tmp_path) as pair:
        other = Pair(pair.server, tmp_path / "spool")
        with pytest.raises(SpoolError):
            await other.fallback.start()


@on_loops
async def test_a_message_whose_client_got_no_250_is_undone_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undone: list[tuple[type, object]] = []
    for kind in (Spool, ScriptedSink):
        monkeypatch.setattr(kind, "undo", lambda it, _, receipt: undone.append((type(it), receipt)))
    async with paired(tmp_path) as pair:
        pair.fallback.undo(record("a"), "spool:7")
        pair.fallback.undo(record("b"), "ok")
    assert undone == [(Spool, "7"), (ScriptedSink, "ok")]


@on_loops
async def test_counts_and_gauges_of_both_are_in_one_tally(tmp_path: Path) -> None:
    async with paired(tmp_path) as pair:
        hook = deliver(pair.fallback)
        assert pair.sink.tally is pair.fallback.tally is hook.tally
        pair.fallback.coming += 2
        assert pair.sink.coming == pair.fallback.coming == 2
        hook.measure()


@on_loops
async def test_nothing_is_lost_when_the_sink_goes_down_and_up_under_load(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    ways: set[str] = set()

    async def send(pair: Pair, client: int) -> None:
        for number in itertools.count():
            if number >= 40 and ways == {"ok", "spool"}:
                break
            (receipt,) = await pair.put(f"{client}-{number}")
            ways.add(str(receipt).partition(":")[0])
            acknowledged.append(f"{client}-{number}")
            await asyncio.sleep(0)

    async with paired(tmp_path, deadline=0.02, parallel=2, max_items=8) as pair:
        clients = [asyncio.create_task(send(pair, client)) for client in range(10)]
        while not all(client.done() for client in clients):
            await asyncio.sleep(0.01)
            await pair.server.stop()
            await asyncio.sleep(0.01)
            await pair.server.start()
        await asyncio.gather(*clients)
        await pair.stored(*acknowledged)
    assert len(acknowledged) >= 400
    assert await in_spool(tmp_path) == 0
