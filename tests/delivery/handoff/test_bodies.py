"""Large bodies of a sink on another machine: in its store before the record, removed without it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from clients import until
from on_loops import on_loops
from remote_kit import RemoteServer, ScriptedSink

from fastsmtp.delivery import Promise, Record, TooLarge, Unclear, parse_record
from fastsmtp.delivery.bodies import FileBodies
from fastsmtp.delivery.handoff import availability, dispatcher

PATIENCE = 60.0
BODY = b"Subject: large\r\n\r\n" + b"x" * 200_000 + b"\r\n"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (availability, dispatcher):
        monkeypatch.setattr(module, "FIRST_PAUSE", 0.005)
        monkeypatch.setattr(module, "MOST_PAUSE", 0.02)


@asynccontextmanager
async def started(path: Path) -> AsyncIterator[tuple[RemoteServer, ScriptedSink]]:
    async with asyncio.timeout(PATIENCE), RemoteServer() as server:
        sink = ScriptedSink(server.port, deadline=0.05, bodies=FileBodies(path))
        async with sink:
            yield server, sink


async def put(sink: ScriptedSink) -> object:
    record = Record("a", "anne@example.org", ())
    writer = sink.begin(record)
    if (ready := writer.write(BODY)) is not None:
        await ready
    record.set_body(await writer.finish())
    return await sink.put(record)


@on_loops
async def test_a_large_body_is_in_the_store_and_its_record_names_it(tmp_path: Path) -> None:
    async with started(tmp_path) as (server, sink):
        assert sink.promise is Promise.DISK
        assert sink.max_body is None
        assert await put(sink) == "ok"
        (octets,) = server.stored["a"]
    body = parse_record(octets, FileBodies(tmp_path).stored).body
    assert not isinstance(body, bytes)
    with body.open() as file:
        assert file.read() == BODY


@on_loops
async def test_a_body_whose_record_is_refused_is_removed(tmp_path: Path) -> None:
    async with started(tmp_path) as (server, sink):
        server.answer = lambda id: "too large"
        with pytest.raises(TooLarge):
            await put(sink)
        await until(lambda: os.listdir(tmp_path) == [])


@on_loops
async def test_a_body_whose_record_may_be_stored_stays_for_its_consumer(tmp_path: Path) -> None:
    async with started(tmp_path) as (server, sink):
        server.drops_acks = True
        with pytest.raises(Unclear):
            await put(sink)
    # Without the marker of a record with a 250: it is removed by its age.
    (name,) = os.listdir(tmp_path)
    assert not name.endswith(".kept")


@on_loops
async def test_without_a_store_a_large_body_is_refused(tmp_path: Path) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        RemoteServer() as server,
        ScriptedSink(server.port) as sink,
    ):
        assert sink.max_body == sink.max_record
        with pytest.raises(NotImplementedError):
            await put(sink)
