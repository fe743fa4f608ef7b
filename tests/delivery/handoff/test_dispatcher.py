"""The dispatcher: what waits is sent together, tried again until its deadline, always answered."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from on_loops import on_loops

from fastsmtp.delivery import (
    DeliveryError,
    Full,
    Receipt,
    Record,
    Refused,
    TooLarge,
    Unavailable,
    Unclear,
)
from fastsmtp.delivery.handoff import Availability, Dispatcher, availability, dispatcher
from fastsmtp.errors import SMTPError

PATIENCE = 60.0
DOWN = 0.3  # seconds of a deadline: long enough for three tries on a busy machine
REFUSED = Refused(SMTPError("No such user", 550, "5.1.1"))

Answer = Receipt | BaseException
# What `send` does next: raise it, return it for each record, or return these.
Step = Answer | list[Answer]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(dispatcher, "MOST_PAUSE", 0.01)
    monkeypatch.setattr(availability, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(availability, "MOST_PAUSE", 0.01)


class Raised(Exception):
    """`send` raises `error` for the whole batch."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class Remote:
    """Another side that does what its script says, then takes everything. With `held`, a batch
    waits until the test lets it go.
    """

    def __init__(self, *script: Any, held: bool = False) -> None:
        self.script = deque(script)
        self.batches: list[list[str]] = []
        self.probes = 0
        self.is_up = True
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.cancelled = 0
        if not held:
            self.go_on.set()

    async def send(self, records: list[Record]) -> Sequence[Answer]:
        self.batches.append([record.id for record in records])
        self.begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        step = self.script.popleft() if self.script else "ok"
        if isinstance(step, Raised):
            raise step.error
        if callable(step):
            return step(records)
        return [step] * len(records)

    async def probe(self) -> None:
        self.probes += 1
        if not self.is_up:
            raise ConnectionRefusedError("nobody listens")


class Sending:
    def __init__(self, remote: Remote, **options: Any) -> None:
        self.availability = Availability("remote", remote.probe, lambda: self.dispatcher.look())
        self.dispatcher = Dispatcher(remote.send, self.availability, name="remote", **options)

    def add(self, id: str, octets: int = 1) -> asyncio.Future[Receipt]:
        return self.dispatcher.add(Record(id, "", ()), octets)

    async def results(self, ids: str, **options: Any) -> list[Receipt | BaseException]:
        async with asyncio.timeout(PATIENCE):
            futures = [self.add(id) for id in ids]
            return await asyncio.gather(*futures, return_exceptions=True)


@asynccontextmanager
async def sending(remote: Remote, **options: Any) -> AsyncIterator[Sending]:
    made = Sending(remote, **options)
    made.dispatcher.start()
    try:
        yield made
    finally:
        await made.dispatcher.close(PATIENCE)
        await made.availability.close()


def kinds(results: Sequence[object]) -> list[object]:
    return [type(each) if isinstance(each, BaseException) else each for each in results]


@on_loops
async def test_messages_of_one_turn_of_the_loop_are_one_batch() -> None:
    remote = Remote()
    async with sending(remote) as it:
        assert await it.results("abc") == ["ok"] * 3
    assert remote.batches == [["a", "b", "c"]]


@on_loops
async def test_messages_that_wait_while_a_batch_is_sent_are_the_next_batch() -> None:
    remote = Remote(held=True)
    async with sending(remote) as it:
        first = it.add("a")
        await remote.begun.wait()
        others = [it.add("b"), it.add("c")]
        remote.go_on.set()
        assert await asyncio.gather(first, *others) == ["ok"] * 3
    assert remote.batches == [["a"], ["b", "c"]]


@on_loops
async def test_a_message_waits_for_those_that_are_announced_and_still_come() -> None:
    remote, announced = Remote(), list("bc")
    async with sending(remote, coming=lambda: len(announced)) as it:
        futures = [it.add("a")]
        while announced:
            await asyncio.sleep(0)
            futures.append(it.add(announced.pop(0)))
        await asyncio.gather(*futures)
    assert remote.batches == [["a", "b", "c"]]


@on_loops
async def test_a_batch_has_no_more_messages_and_octets_than_allowed() -> None:
    remote = Remote()
    async with sending(remote, max_items=2, max_octets=5) as it:
        futures = [it.add(id, octets) for id, octets in zip("abcde", (1, 1, 9, 3, 3), strict=True)]
        await asyncio.gather(*futures)
    assert remote.batches == [["a", "b"], ["c"], ["d"], ["e"]]


@on_loops
async def test_so_many_batches_are_under_way_at_a_time_as_allowed() -> None:
    remote = Remote(held=True)
    async with sending(remote, parallel=2, max_items=1) as it:
        futures = [it.add(id) for id in "abc"]
        while len(remote.batches) < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert remote.batches == [["a"], ["b"]]
        remote.go_on.set()
        await asyncio.gather(*futures)
    assert remote.batches == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize(
    "failure", [Unavailable("down"), Unclear("no answer"), ConnectionResetError(), EOFError()]
)
@on_loops
async def test_a_message_without_an_answer_is_sent_again_with_the_same_id(
    failure: Exception,
) -> None:
    remote = Remote(Raised(failure), failure)
    async with sending(remote) as it:
        assert await it.results("a") == ["ok"]
    assert remote.batches == [["a"]] * 3


@on_loops
async def test_only_the_messages_without_an_answer_are_sent_again() -> None:
    remote = Remote(lambda records: ["1", Unclear(""), "3"])
    async with sending(remote) as it:
        assert await it.results("abc") == ["1", "ok", "3"]
    assert remote.batches == [["a", "b", "c"], ["b"]]


@pytest.mark.parametrize("final", [Full(""), TooLarge(""), REFUSED])
@on_loops
async def test_a_final_answer_is_given_at_once(final: DeliveryError) -> None:
    remote = Remote(lambda records: ["1", final])
    async with sending(remote) as it:
        assert await it.results("ab") == ["1", final]
    assert remote.batches == [["a", "b"]]


@pytest.mark.parametrize("error", [ValueError("poison"), TooLarge(""), REFUSED])
@on_loops
async def test_a_batch_that_one_message_spoils_is_sent_message_by_message(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def spoilt(records: list[Record]) -> list[Answer]:
        if any(record.id == "b" for record in records):
            raise error
        return ["ok"] * len(records)

    remote = Remote(*[spoilt] * 4)
    async with sending(remote) as it:
        results = await it.results("abc")
        assert not it.availability.is_down
    kind = Unclear if isinstance(error, ValueError) else type(error)
    assert kinds(results) == ["ok", kind, "ok"]
    assert remote.batches == [["a", "b", "c"], ["a"], ["b"], ["c"]]


@on_loops
async def test_full_for_a_batch_is_full_for_each_message() -> None:
    remote = Remote(Raised(Full("no room")))
    async with sending(remote) as it:
        assert kinds(await it.results("abc")) == [Full] * 3
    assert remote.batches == [["a", "b", "c"]]


@on_loops
async def test_a_message_that_cuts_the_connection_each_time_does_not_take_others_with_it() -> None:
    def cut_by_b(records: list[Record]) -> list[Answer]:
        if any(record.id == "b" for record in records):
            raise ConnectionResetError("cut")
        return ["ok"] * len(records)

    remote = Remote(*[cut_by_b] * 1000)
    async with sending(remote, deadline=0.3) as it:
        assert kinds(await it.results("abc")) == ["ok", Unclear, "ok"]


@on_loops
async def test_a_wrong_number_of_results_is_unclear_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    remote = Remote(*[lambda records: []] * 3)
    async with sending(remote) as it:
        assert kinds(await it.results("ab")) == [Unclear] * 2
    assert "returned 0 results" in caplog.text


@on_loops
async def test_after_the_deadline_a_message_is_unavailable_if_nothing_was_sent() -> None:
    remote = Remote(*[Unavailable("nobody listens")] * 3)
    remote.is_up = False  # nothing is under way when the deadline comes
    async with sending(remote, deadline=DOWN) as it:
        (error,) = await it.results("a")
    assert kinds([error]) == [Unavailable]
    assert "nobody listens" in str(error)


@on_loops
async def test_after_the_deadline_a_message_is_unclear_if_any_try_may_have_stored_it() -> None:
    remote = Remote(Unclear("no ack"), *[Unavailable("nobody listens")] * 1000)
    async with sending(remote, deadline=0.05) as it:
        assert kinds(await it.results("a")) == [Unclear]


@on_loops
async def test_a_send_that_hangs_is_ended_at_the_deadline_and_its_place_is_free_again() -> None:
    remote = Remote(held=True)
    async with sending(remote, deadline=0.05) as it:
        assert kinds(await it.results("ab")) == [Unclear] * 2
        remote.go_on.set()
        assert await it.results("c") == ["ok"]
    assert remote.cancelled == 1


@on_loops
async def test_a_failure_that_comes_after_the_deadline_is_not_tried_again() -> None:
    async def stubborn(records: list[Record]) -> Sequence[Answer]:
        batches.append([record.id for record in records])
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionResetError("cut") from None
        return []

    batches: list[list[str]] = []
    remote = Remote()
    remote.send = stubborn  # type: ignore[method-assign]
    async with sending(remote, deadline=0.02) as it:
        assert kinds(await it.results("a")) == [Unclear]
        for _ in range(5):
            await asyncio.sleep(0.002)
    assert batches == [["a"]]


@on_loops
async def test_a_library_that_cancels_its_own_work_is_tried_again() -> None:
    remote = Remote(Raised(asyncio.CancelledError()))
    async with sending(remote) as it:
        assert await it.results("a") == ["ok"]


@on_loops
async def test_a_message_whose_future_was_cancelled_is_not_sent() -> None:
    remote = Remote(held=True)
    async with sending(remote) as it:
        first, second, third = it.add("a"), it.add("b"), it.add("c")
        second.cancel()
        remote.go_on.set()
        await asyncio.gather(first, third)
    assert remote.batches == [["a", "c"]]


@on_loops
async def test_while_it_is_down_messages_wait_and_only_the_probe_asks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    remote = Remote(*[Unavailable("nobody listens")] * 3)
    remote.is_up = False
    async with sending(remote) as it:
        waiting = it.add("a")
        while not remote.probes:
            await asyncio.sleep(0.001)
        tried = len(remote.batches)
        later = it.add("b")
        refusal = it.availability.refusal()
        assert refusal is not None
        assert (refusal.response_code, refusal.enhanced_code) == (451, "4.3.0")
        while remote.probes < 4:
            await asyncio.sleep(0.001)
        assert len(remote.batches) == tried == 3
        remote.is_up = True
        assert await asyncio.gather(waiting, later) == ["ok", "ok"]
        assert it.availability.refusal() is None
    assert [record.getMessage() for record in caplog.records] == [
        "remote is down: nobody listens",
        "remote is up again",
    ]


@on_loops
async def test_one_failure_after_a_probe_is_enough_to_be_down_again() -> None:
    remote = Remote(*[Unavailable("read only")] * 4)
    async with sending(remote) as it:
        assert await it.results("a") == ["ok"]
        assert remote.probes == 2
    assert len(remote.batches) == 5


@on_loops
async def test_messages_whose_deadline_is_over_are_not_kept_while_it_is_down() -> None:
    remote = Remote(*[Unavailable("")] * 3)
    remote.is_up = False
    async with sending(remote, deadline=DOWN) as it:
        assert kinds(await it.results("abc")) == [Unavailable] * 3
        assert not it.dispatcher._waiting


@on_loops
async def test_closing_sends_what_waits() -> None:
    remote = Remote(held=True)
    async with sending(remote) as it:
        first = it.add("a")
        await remote.begun.wait()
        second = it.add("b")
        remote.go_on.set()
    assert await asyncio.gather(first, second) == ["ok", "ok"]


@on_loops
async def test_closing_without_patience_is_unclear_for_what_was_begun_and_ends_it() -> None:
    remote = Remote(held=True)
    async with sending(remote) as it:
        begun = it.add("a")
        await remote.begun.wait()
        waiting = it.add("b")
        await it.dispatcher.close(0.01)
        after = it.add("c")
        results = await asyncio.gather(begun, waiting, after, return_exceptions=True)
    assert kinds(results) == [Unclear, Unavailable, Unavailable]
    assert remote.cancelled == 1


@on_loops
async def test_it_starts_again_after_closing() -> None:
    remote = Remote()
    async with sending(remote) as it:
        with pytest.raises(RuntimeError, match="was started before"):
            it.dispatcher.start()
        await it.dispatcher.close(PATIENCE)
        it.dispatcher.start()
        assert await it.results("a") == ["ok"]


@on_loops
async def test_a_message_before_the_start_is_a_clear_error() -> None:
    with pytest.raises(RuntimeError, match="comes first"):
        Sending(Remote()).add("a")


@on_loops
async def test_a_forked_child_gets_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sending(Remote()) as it:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(RuntimeError, match="parent of this process"):
            it.add("a")
        monkeypatch.undo()
