"""`RemoteSink` with a real TCP server: what clients hear, and what is kept, whatever happens to the
other side.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from on_loops import on_loops
from remote_kit import RemoteServer, ScriptedSink

from fastsmtp.delivery import Full, Promise, Record, Unavailable, Unclear
from fastsmtp.delivery.body_files import BodyFile
from fastsmtp.delivery.handoff import availability, dispatcher, sink

PATIENCE = 60.0
DOWN = 0.3  # seconds of a deadline: long enough for three tries on a busy machine


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(dispatcher, "MOST_PAUSE", 0.02)
    monkeypatch.setattr(availability, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(availability, "MOST_PAUSE", 0.02)


@asynccontextmanager
async def started(**options: Any) -> AsyncIterator[tuple[RemoteServer, ScriptedSink]]:
    async with (
        asyncio.timeout(PATIENCE),
        RemoteServer() as server,
        ScriptedSink(server.port, **options) as made,
    ):
        yield server, made


def record(id: str) -> Record:
    return Record(id, "anne@example.org", (), b"Subject: hello\r\n\r\n")


@on_loops
async def test_a_message_is_there_when_its_future_is_done() -> None:
    async with started() as (server, made):
        assert made.promise is Promise.QUORUM_DISK
        assert await made.put(record("a")) == "ok"
        assert list(server.stored) == ["a"]
    assert made.promise is None


@on_loops
async def test_other_side_down_for_a_moment_a_message_waits_and_is_taken() -> None:
    async with started() as (server, made):
        await server.stop()
        waiting = made.put(record("a"))
        while made.refusal() is None:
            await asyncio.sleep(0.001)
        await server.start()
        assert await waiting == "ok"
        assert made.refusal() is None
    assert list(server.stored) == ["a"]


@on_loops
async def test_other_side_down_beyond_the_deadline_a_message_is_unavailable() -> None:
    async with started(deadline=DOWN) as (server, made):
        await server.stop()
        with pytest.raises(Unavailable):
            await made.put(record("a"))
    assert not server.stored


@on_loops
async def test_other_side_that_never_answers_a_message_is_unclear() -> None:
    async with started(deadline=0.05) as (server, made):
        server.is_silent = True
        with pytest.raises(Unclear, match=r"no answer within 0\.05 seconds"):
            await made.put(record("a"))


@on_loops
async def test_lost_acks_the_same_id_is_sent_until_the_answer_arrives() -> None:
    async with started() as (server, made):
        server.drops_acks = True
        waiting = made.put(record("a"))
        while len(server.batches) < 2:
            await server.received.wait()
            server.received.clear()
        server.drops_acks = False
        assert await waiting == "ok"
    assert set(server.stored) == {"a"}


@on_loops
async def test_full_other_side_a_message_is_full_at_once_and_others_go_on() -> None:
    async with started() as (server, made):
        server.answer = lambda id: "full" if id == "a" else "ok"
        results = await asyncio.gather(
            made.put(record("a")), made.put(record("b")), return_exceptions=True
        )
        assert isinstance(results[0], Full)
        assert results[1] == "ok"
        assert made.refusal() is None
    assert list(server.stored) == ["b"]


@on_loops
async def test_nobody_listens_at_the_start_is_an_error_of_the_system() -> None:
    async with RemoteServer() as server:
        port = server.port
    made = ScriptedSink(port)
    with pytest.raises(ConnectionRefusedError) as error:
        await made.start()
    assert error.value.errno == errno.ECONNREFUSED
    assert made.promise is None


@on_loops
async def test_no_answer_at_the_start_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "CONNECTING", 0.05)
    async with RemoteServer() as server:
        server.is_mute = True
        made = ScriptedSink(server.port)
        with pytest.raises(Unavailable, match=r"no answer within 0\.05 seconds"):
            await made.start()


@on_loops
async def test_an_exception_of_a_library_at_the_start_is_a_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class OfALibrary(Exception):
        pass

    async def failing(made: ScriptedSink) -> Promise:
        raise OfALibrary("no\nresponders")

    monkeypatch.setattr(ScriptedSink, "connect", failing)
    made = ScriptedSink(1)
    with pytest.raises(Unavailable, match=r"OfALibrary: no\\x0aresponders"):
        await made.start()
    assert caplog.text == ""
    assert made.promise is None


@on_loops
async def test_it_is_started_once_and_again_after_closing() -> None:
    async with started() as (_, made):
        with pytest.raises(RuntimeError, match="was started before"):
            await made.start()
        await made.close(PATIENCE)
        await made.start()
        assert await made.put(record("a")) == "ok"


@on_loops
async def test_a_close_that_is_cancelled_closes_the_connection_nevertheless() -> None:
    async with started() as (server, made):
        server.is_silent = True
        waiting = made.put(record("a"))
        async with asyncio.timeout(PATIENCE):
            await server.received.wait()
        closing = asyncio.ensure_future(made.close(0.2))
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        with pytest.raises(Unclear):
            await waiting
        await made.start()  # which a connection that was left would not stop
        server.is_silent = False
        assert await made.put(record("b")) == "ok"


@on_loops
async def test_closing_while_it_is_down_leaves_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "FIRST_PAUSE", 60.0)
    async with started(deadline=DOWN) as (server, made):
        await server.stop()
        with pytest.raises(Unavailable):
            await made.put(record("a"))
        assert made.refusal() is not None


def test_a_deadline_is_a_number_above_zero() -> None:
    with pytest.raises(ValueError, match="deadline takes a number of seconds above 0"):
        ScriptedSink(1, deadline=0)


@on_loops
async def test_a_body_that_the_sink_has_no_store_for_is_refused_and_nothing_is_sent(
    tmp_path: Path,
) -> None:
    """The record alone would be a message without its body, and its client would get 250."""
    async with started() as (server, made):
        kept = record("a")
        kept.set_body(BodyFile(str(tmp_path / "body"), 7, "", lambda: None))
        with pytest.raises(Unavailable, match="no store"):
            await made.put(kept)
        assert list(server.stored) == []
