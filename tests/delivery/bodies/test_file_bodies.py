"""Bodies outside of their records, in files: kept before the 250, and removed as orphans."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from on_loops import on_loops

from fastsmtp.delivery import (
    Full,
    Promise,
    Receipt,
    Recipient,
    Record,
    Refused,
    StoredBody,
    TooLarge,
    Unavailable,
    Unclear,
    encode_record,
    parse_record,
)
from fastsmtp.delivery.bodies import FileBodies
from fastsmtp.errors import SMTPError

OCTETS = b"0123456789abcdef\r\n" * 10_000
PATIENCE = 60.0
HOUR = 3600.0


def record_with(body: bytes | StoredBody) -> Record:
    return Record("session-1", "a@example.org", (Recipient("b@example.org"),), body)


async def stored(store: FileBodies) -> Record:
    """A record whose body is in the store, and not kept yet."""
    record = record_with(b"")
    writer = store.begin(record)
    written = writer.write(OCTETS)
    if written is not None:
        await written
    record.set_body(await writer.finish())
    return record


def future_of(result: Receipt | BaseException) -> asyncio.Future[Receipt]:
    future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
    return future


async def emptied(directory: Path) -> None:
    async with asyncio.timeout(PATIENCE):
        while list(directory.iterdir()):
            await asyncio.sleep(0.001)


def make_old(directory: Path, seconds: float) -> None:
    for path in directory.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


@on_loops
async def test_a_body_is_kept_before_its_record_counts_as_put(tmp_path: Path) -> None:
    store = FileBodies(tmp_path / "bodies")
    assert await store.start() is Promise.DISK is store.promise
    record = await stored(store)
    assert len(list((tmp_path / "bodies").iterdir())) == 1
    assert await store.follow(record, future_of("7")) == "7"
    assert len(list((tmp_path / "bodies").iterdir())) == 2
    assert store.remove_orphans(time.time() + HOUR) == 0
    await store.close(PATIENCE)
    # A consumer knows the record and the directory.
    consumer = FileBodies(tmp_path / "bodies")
    found = parse_record(encode_record(record), consumer.stored)
    assert not isinstance(found.body, bytes)
    with found.body.open() as file:
        assert hashlib.sha256(file.read()).hexdigest() == found.sha256
    name = os.path.basename(found.body.path)
    consumer.remove(name)
    consumer.remove(name)
    assert list((tmp_path / "bodies").iterdir()) == []


@on_loops
async def test_a_record_with_its_body_inside_is_not_followed(tmp_path: Path) -> None:
    store = FileBodies(tmp_path)
    await store.start()
    future = future_of("7")
    assert store.follow(record_with(b"small"), future) is future
    await store.close(PATIENCE)


REFUSED = Refused(SMTPError("no", 550))


@pytest.mark.parametrize(
    "result",
    [Unavailable("down"), Full("full"), TooLarge("large"), REFUSED, OSError(5, "EIO"), [REFUSED]],
    ids=repr,
)
@on_loops
async def test_a_body_whose_record_was_certainly_not_stored_is_removed(
    tmp_path: Path, result: Receipt | BaseException
) -> None:
    store = FileBodies(tmp_path)
    await store.start()
    answer = store.follow(await stored(store), future_of(result))
    if isinstance(result, BaseException):
        with pytest.raises(type(result)):
            await answer
    else:
        assert await answer is result
    await emptied(tmp_path)
    await store.close(PATIENCE)


@pytest.mark.parametrize("make", [lambda: Unclear("no answer"), lambda: ValueError("a bug")])
@on_loops
async def test_a_body_whose_record_may_be_stored_stays_until_it_is_old(
    tmp_path: Path, make: Callable[[], BaseException]
) -> None:
    store = FileBodies(tmp_path, orphan_age=HOUR)
    await store.start()
    error = make()
    with pytest.raises(type(error)):
        await store.follow(await stored(store), future_of(error))
    assert len(list(tmp_path.iterdir())) == 1
    await store.close(PATIENCE)
    make_old(tmp_path, HOUR - 60)
    await store.start()
    await store.close(PATIENCE)
    assert len(list(tmp_path.iterdir())) == 1
    make_old(tmp_path, HOUR + 60)
    await store.start()
    await emptied(tmp_path)
    await store.close(PATIENCE)


@on_loops
async def test_a_kept_body_is_never_an_orphan_no_matter_how_old(tmp_path: Path) -> None:
    store = FileBodies(tmp_path, orphan_age=HOUR)
    await store.start()
    await store.follow(await stored(store), future_of("7"))
    (tmp_path / "notes.txt").write_text("of somebody else")
    make_old(tmp_path, 1000 * HOUR)
    assert store.remove_orphans(time.time() - HOUR) == 0
    assert len(list(tmp_path.iterdir())) == 3
    await store.close(PATIENCE)


@on_loops
async def test_a_marker_whose_body_was_consumed_is_removed_when_it_is_old(tmp_path: Path) -> None:
    store = FileBodies(tmp_path)
    await store.start()
    record = await stored(store)
    await store.follow(record, future_of("7"))
    assert not isinstance(record.body, bytes)
    os.unlink(record.body.path)
    assert store.remove_orphans(time.time() - HOUR) == 0
    assert len(list(tmp_path.iterdir())) == 1
    store.remove_orphans(time.time() + HOUR)
    assert list(tmp_path.iterdir()) == []
    await store.close(PATIENCE)


@on_loops
async def test_a_body_that_cannot_be_kept_makes_the_answer_unclear(tmp_path: Path) -> None:
    store = FileBodies(tmp_path)
    await store.start()
    record = await stored(store)
    assert not isinstance(record.body, bytes)
    os.unlink(record.body.path)
    with pytest.raises(Unclear, match="not kept"):
        await store.follow(record, future_of("7"))
    await store.close(PATIENCE)


@on_loops
async def test_a_discarded_body_leaves_nothing(tmp_path: Path) -> None:
    store = FileBodies(tmp_path)
    await store.start()
    record = await stored(store)
    assert not isinstance(record.body, bytes)
    store.discard(record.body)
    await emptied(tmp_path)
    await store.close(PATIENCE)


@pytest.mark.parametrize("name", ["", "../x", "/etc/passwd", "1-0123456789abcdef.kept"])
def test_a_name_that_is_not_ours_is_neither_opened_nor_removed(tmp_path: Path, name: str) -> None:
    store = FileBodies(tmp_path)
    with pytest.raises(ValueError, match="no body"):
        store.stored(name, 1, "")
    with pytest.raises(ValueError, match="no body"):
        store.remove(name)


@on_loops
async def test_a_start_makes_nothing_and_the_first_body_makes_the_directory(tmp_path: Path) -> None:
    store = FileBodies(tmp_path / "a" / "b")
    await store.start()
    assert list(tmp_path.iterdir()) == []
    await stored(store)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    await store.close(PATIENCE)


@on_loops
async def test_a_directory_that_cannot_be_made_is_an_error_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = FileBodies(tmp_path / "file" / "bodies")
    with pytest.raises(ValueError, match="file/bodies: Not a directory"):
        await store.start()
    assert store.promise is None


@on_loops
async def test_a_second_start_is_an_error_and_a_start_after_the_end_is_not(tmp_path: Path) -> None:
    store = FileBodies(tmp_path)
    await store.start()
    with pytest.raises(RuntimeError, match="started before"):
        await store.start()
    await store.close(PATIENCE)
    await store.close(PATIENCE)
    await store.start()
    await store.close(PATIENCE)


@pytest.mark.parametrize("age", [0.0, -1.0, 60.0, float("nan")])
def test_an_age_in_which_a_record_may_still_come_is_refused(tmp_path: Path, age: float) -> None:
    with pytest.raises(ValueError, match="3600 or more"):
        FileBodies(tmp_path, orphan_age=age)
