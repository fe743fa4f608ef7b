"""The batcher: what waits together is committed together, and every item is answered."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from on_loops import on_loops

from fastsmtp.delivery import Batcher, DeliveryError, Full, Unavailable, Unclear

PATIENCE = 60.0
NEVER = 3600.0


class Store:
    """A commit that waits until it is let go, and keeps what it was given."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[str]] = []
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        if not held:
            self.go_on.set()

    def commit(self, items: list[str]) -> Sequence[str | BaseException]:
        self.batches.append(items)
        self.begun.release()
        assert self.go_on.wait(PATIENCE)
        return [item.upper() for item in items]


@asynccontextmanager
async def running(
    commit: Callable[[list[str]], Sequence[str | BaseException]], **options: Any
) -> AsyncIterator[Batcher[str, str]]:
    batcher = Batcher(commit, name="test", **options)
    batcher.start()
    try:
        yield batcher
    finally:
        await batcher.close(PATIENCE)


async def reached(store: Store) -> None:
    assert await asyncio.to_thread(store.begun.acquire, timeout=PATIENCE)


@on_loops
async def test_each_item_gets_its_own_result() -> None:
    async with running(Store().commit) as batcher:
        results = await asyncio.gather(*(batcher.add(item, 1) for item in "abc"))
    assert results == ["A", "B", "C"]


@on_loops
async def test_items_of_one_turn_of_the_loop_are_one_batch() -> None:
    store = Store()
    async with running(store.commit) as batcher:
        await asyncio.gather(*(batcher.add(item, 1) for item in "abc"))
    assert store.batches == [["a", "b", "c"]]


@on_loops
async def test_an_item_waits_for_those_that_are_announced_and_still_come() -> None:
    store = Store()
    announced = list("bc")
    async with running(store.commit, coming=lambda: len(announced)) as batcher:
        futures = [batcher.add("a", 1)]
        while announced:
            await asyncio.sleep(0)
            futures.append(batcher.add(announced.pop(0), 1))
        assert await asyncio.gather(*futures) == ["A", "B", "C"]
    assert store.batches == [["a", "b", "c"]]


@on_loops
async def test_an_item_does_not_wait_for_an_announced_one_that_does_not_come() -> None:
    store = Store()
    async with running(store.commit, coming=lambda: 1) as batcher:
        assert await batcher.add("a", 1) == "A"
    assert store.batches == [["a"]]


@pytest.mark.parametrize("limit", [{"max_items": 2}, {"max_octets": 2}])
@on_loops
async def test_a_full_batch_waits_for_no_announced_item(
    limit: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastsmtp.delivery.gathering.IDLE_TURNS", 1 << 30)
    monkeypatch.setattr("fastsmtp.delivery.gathering.LONGEST", NEVER)
    store = Store()
    async with (
        running(store.commit, coming=lambda: 1, **limit) as batcher,
        asyncio.timeout(PATIENCE),
    ):
        futures = [batcher.add(item, 1) for item in "ab"]
        assert await asyncio.gather(*futures) == ["A", "B"]
    assert store.batches == [["a", "b"]]


@on_loops
async def test_items_that_wait_while_a_batch_is_committed_are_the_next_batch() -> None:
    store = Store(held=True)
    async with running(store.commit) as batcher:
        first = batcher.add("a", 1)
        await reached(store)
        others = [batcher.add("b", 1)]
        await asyncio.sleep(0)
        others.append(batcher.add("c", 1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        store.go_on.set()
        assert await asyncio.gather(first, *others) == ["A", "B", "C"]
    assert store.batches == [["a"], ["b", "c"]]


async def with_one_that_waits(
    batcher: Batcher[str, str], store: Store
) -> tuple[list[asyncio.Future[str]], asyncio.Future[str]]:
    """Answer four items, while a fifth has come that waits for the thread."""
    four = [batcher.add(item, 1) for item in "abcd"]
    await reached(store)
    fifth = batcher.add("e", 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.go_on.set()
    await asyncio.wait(four)
    return four, fifth


@on_loops
async def test_an_item_is_held_for_those_of_the_clients_that_were_just_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastsmtp.delivery.batcher.HOLDING", NEVER)
    store = Store(held=True)
    async with running(store.commit) as batcher, asyncio.timeout(PATIENCE):
        _, fifth = await with_one_that_waits(batcher, store)
        sixth = batcher.add("f", 1)
        assert await asyncio.gather(fifth, sixth) == ["E", "F"]
    assert store.batches == [list("abcd"), ["e", "f"]]


@on_loops
async def test_an_item_that_is_held_in_vain_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsmtp.delivery.batcher.HOLDING", 0.01)
    store = Store(held=True)
    async with running(store.commit) as batcher, asyncio.timeout(PATIENCE):
        _, fifth = await with_one_that_waits(batcher, store)
        assert await fifth == "E"
    assert store.batches == [list("abcd"), ["e"]]


@on_loops
async def test_items_are_not_held_again_and_again_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsmtp.delivery.batcher.HOLDING", 0.01)
    store = Store(held=True)
    async with running(store.commit) as batcher, asyncio.timeout(PATIENCE):
        for _ in range(2):  # the second time it is of no use, the next one is let through
            store.go_on.clear()
            await (await with_one_that_waits(batcher, store))[1]
            await reached(store)  # of the one that was held
        monkeypatch.setattr("fastsmtp.delivery.batcher.HOLDING", NEVER)
        store.go_on.clear()
        assert await (await with_one_that_waits(batcher, store))[1] == "E"


@on_loops
async def test_closing_ends_the_holding_of_an_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsmtp.delivery.batcher.HOLDING", NEVER)
    store = Store(held=True)
    async with running(store.commit) as batcher, asyncio.timeout(PATIENCE):
        _, fifth = await with_one_that_waits(batcher, store)
        await batcher.close(PATIENCE)
        assert await fifth == "E"


@pytest.mark.parametrize(
    "limits, expected",
    [
        ({"max_items": 2}, [["a", "b"], ["c", "d"], ["e"]]),
        ({"max_octets": 30}, [["a", "b", "c"], ["d", "e"]]),
        ({"max_octets": 5}, [["a"], ["b"], ["c"], ["d"], ["e"]]),
    ],
)
@on_loops
async def test_a_batch_is_bounded_and_one_item_is_always_let_through(
    limits: dict[str, int], expected: list[list[str]]
) -> None:
    store = Store()
    async with running(store.commit, **limits) as batcher:
        await asyncio.gather(*(batcher.add(item, 10) for item in "abcde"))
    assert store.batches == expected


@on_loops
async def test_idle_threads_share_the_waiting_items() -> None:
    store = Store(held=True)
    async with running(store.commit, threads=2) as batcher:
        while batcher._resting < 2:
            await asyncio.sleep(0)
        futures = [batcher.add(item, 1) for item in "abcdefghij"]
        await reached(store)
        await reached(store)
        store.go_on.set()
        assert await asyncio.gather(*futures) == list("ABCDEFGHIJ")
    assert sorted(store.batches) == [list("abcde"), list("fghij")]


@on_loops
async def test_several_threads_commit_at_the_same_time() -> None:
    store = Store(held=True)
    async with running(store.commit, threads=2, max_items=1) as batcher:
        futures = [batcher.add(item, 1) for item in "ab"]
        await reached(store)
        await reached(store)
        store.go_on.set()
        assert await asyncio.gather(*futures) == ["A", "B"]


@on_loops
async def test_a_batch_that_fails_is_tried_again_item_by_item() -> None:
    tries: list[list[str]] = []

    def commit(items: list[str]) -> list[str]:
        tries.append(items)
        if "bad" in items:
            raise OSError(28, "No space left on device")
        return items

    async with running(commit) as batcher:
        futures = [batcher.add(item, 1) for item in ("a", "bad", "c")]
        results = await asyncio.gather(*futures, return_exceptions=True)
    assert tries == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]
    assert results[0] == "a"
    assert isinstance(results[1], Full)
    assert results[2] == "c"


@on_loops
async def test_an_exception_in_the_place_of_a_result_is_of_that_item_only() -> None:
    def commit(items: list[str]) -> list[str | BaseException]:
        return [Unavailable("no") if item == "b" else item for item in items]

    async with running(commit) as batcher:
        futures = [batcher.add(item, 1) for item in "abc"]
        results = await asyncio.gather(*futures, return_exceptions=True)
    assert (results[0], str(results[1]), results[2]) == ("a", "no", "c")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError(), ValueError()])
@on_loops
async def test_whatever_commit_raises_the_item_is_answered_and_the_next_one_committed(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def commit(items: list[str]) -> list[str]:
        if items == ["a"]:
            raise error
        return items

    async with running(commit) as batcher:
        with pytest.raises(Unclear):
            await batcher.add("a", 1)
        assert await batcher.add("b", 1) == "b"
    assert "a commit has failed" in caplog.text


class Starved(int):
    """A number of octets that the thread cannot subtract the first times, without memory."""

    failures = 3

    def __rsub__(self, other: int) -> int:
        if self.failures:
            self.failures -= 1
            raise MemoryError
        return other - int(self)


@on_loops
async def test_a_thread_that_gets_no_memory_for_a_batch_tries_again() -> None:
    async with running(lambda items: items) as batcher:
        futures = [batcher.add("a", 1), batcher.add("b", Starved(1)), batcher.add("c", 1)]
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.gather(*futures) == ["a", "b", "c"]


@on_loops
async def test_a_commit_that_returns_too_few_results_is_answered_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(lambda items: []) as batcher:
        futures = [batcher.add(item, 1) for item in "ab"]
        results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(each) for each in results] == [Unclear, Unclear]
    assert "returned 0 results" in caplog.text


@on_loops
async def test_an_item_that_is_cancelled_while_it_waits_is_not_committed() -> None:
    store = Store(held=True)
    async with running(store.commit) as batcher:
        first = batcher.add("a", 1)
        await reached(store)
        unwanted, wanted = batcher.add("b", 1), batcher.add("c", 1)
        unwanted.cancel()
        store.go_on.set()
        assert [await first, await wanted] == ["A", "C"]
    assert store.batches == [["a"], ["c"]]


@on_loops
async def test_an_item_that_is_cancelled_while_it_is_committed_harms_no_other() -> None:
    store = Store(held=True)
    async with running(store.commit) as batcher:
        unwanted, wanted = batcher.add("a", 1), batcher.add("b", 1)
        await reached(store)
        unwanted.cancel()
        store.go_on.set()
        assert await wanted == "B"


@on_loops
async def test_closing_commits_what_waits() -> None:
    store = Store()
    batcher = Batcher(store.commit, name="test")
    batcher.start()
    futures = [batcher.add(item, 1) for item in "ab"]
    await batcher.close(PATIENCE)
    assert [future.result() for future in futures] == ["A", "B"]


@on_loops
async def test_closing_waits_only_as_long_as_it_may_and_answers_all() -> None:
    store = Store(held=True)
    batcher = Batcher(store.commit, name="test")
    batcher.start()
    begun = batcher.add("a", 1)
    await reached(store)
    waiting = batcher.add("b", 1)
    await batcher.close(0.0)
    with pytest.raises(Unclear):
        begun.result()
    with pytest.raises(Unavailable):
        waiting.result()
    store.go_on.set()
    await batcher.close(PATIENCE)
    assert store.batches == [["a"]]


@on_loops
async def test_a_closed_batcher_takes_nothing() -> None:
    batcher = Batcher(Store().commit, name="test")
    batcher.start()
    await batcher.close(PATIENCE)
    with pytest.raises(Unavailable):
        await batcher.add("a", 1)


@on_loops
async def test_closing_twice_and_closing_what_was_never_started_do_nothing() -> None:
    batcher = Batcher(Store().commit, name="test")
    await batcher.close(PATIENCE)
    await batcher.close(PATIENCE)


@on_loops
async def test_threads_end_with_the_batcher() -> None:
    def ours() -> int:
        return sum(each.name.startswith("test-") for each in threading.enumerate())

    before = ours()
    async with running(Store().commit, threads=3):
        assert ours() == before + 3
    for each in threading.enumerate():
        if each.name.startswith("test-"):
            await asyncio.to_thread(each.join, PATIENCE)
    assert ours() == before


@on_loops
async def test_adding_before_the_start_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"await sink\.start\(\)"):
        Batcher(Store().commit, name="test").add("a", 1)


@on_loops
async def test_starting_twice_is_an_error() -> None:
    async with running(Store().commit) as batcher:
        with pytest.raises(RuntimeError, match="started before"):
            batcher.start()


@on_loops
async def test_a_closed_batcher_can_be_started_again() -> None:
    store = Store()
    batcher = Batcher(store.commit, name="test")
    for item in "ab":
        batcher.start()
        assert await batcher.add(item, 1) == item.upper()
        await batcher.close(PATIENCE)
    assert store.batches == [["a"], ["b"]]


@on_loops
async def test_a_batcher_whose_last_commit_hangs_cannot_be_started_again() -> None:
    store = Store(held=True)
    batcher = Batcher(store.commit, name="test")
    batcher.start()
    hanging = batcher.add("a", 1)
    await reached(store)
    await batcher.close(0.0)
    with pytest.raises(RuntimeError, match="has not ended"):
        batcher.start()
    store.go_on.set()
    with pytest.raises(Unclear):
        await hanging


@on_loops
async def test_adding_on_another_loop_is_an_error() -> None:
    async def elsewhere(batcher: Batcher[str, str]) -> DeliveryError | None:
        batcher.add("a", 1)
        return None

    async with running(Store().commit) as batcher:
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, elsewhere(batcher))


@on_loops
async def test_adding_in_a_forked_child_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(Store().commit) as batcher:
        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: -1)
            with pytest.raises(RuntimeError, match="parent of this process"):
                batcher.add("a", 1)


def test_a_loop_that_is_closed_first_ends_the_thread() -> None:
    store = Store(held=True)

    async def begin() -> Batcher[str, str]:
        batcher = Batcher(store.commit, name="orphan")
        batcher.start()
        batcher.add("a", 1)
        await reached(store)
        return batcher

    asyncio.run(begin())
    store.go_on.set()
    for each in threading.enumerate():
        if each.name.startswith("orphan-"):
            each.join(PATIENCE)
            assert not each.is_alive()
