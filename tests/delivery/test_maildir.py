"""The sink `Maildir`: what was put is a file in `new`, whole and for its owner alone.

Faults of the disk are in test_maildir_faults.py, names and leftovers in test_maildir_names.py.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import mailbox
import os
import resource
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from on_loops import on_loops

from fastsmtp.delivery import DeliveryError, Full, Promise, Recipient, Record, Unavailable
from fastsmtp.delivery.maildir import Maildir
from fastsmtp.delivery.maildir._commit import HAS_SYNCFS, Draft, Place, Step, commit
from fastsmtp.delivery.maildir.box import Box

pytestmark = pytest.mark.usefixtures("no_leaks")

HEAD = b"Delivered-To: b@y.example\r\n"
BODY = b"Subject: x\r\n\r\nhello\r\n"
MESSAGE = (HEAD + BODY).replace(b"\r\n", b"\n")
PATIENCE = 60.0


def record(body: bytes = BODY, headers: bytes = HEAD) -> Record:
    return Record("id-1", "a@x.example", (Recipient("b@y.example"),), body, headers=headers)


def files(path: Path) -> dict[str, list[bytes]]:
    """What stands in each part of the Maildir."""
    return {
        part: [file.read_bytes() for file in sorted((path / part).iterdir())]
        for part in ("cur", "new", "tmp")
    }


def only(*messages: bytes) -> dict[str, list[bytes]]:
    return {"cur": [], "new": list(messages), "tmp": []}


@asynccontextmanager
async def maildir(path: Path) -> AsyncIterator[Maildir]:
    async with Maildir(path) as sink:
        yield sink


async def until_empty(directory: Path) -> None:
    """Wait for a thread of the sink to have removed what is in a directory."""
    async with asyncio.timeout(PATIENCE):
        while list(directory.iterdir()):
            await asyncio.sleep(0)


# Messages.


@on_loops
async def test_a_message_that_was_put_is_a_file_with_the_name_of_its_receipt(
    tmp_path: Path,
) -> None:
    async with maildir(tmp_path / "mail") as sink:
        name = await sink.put(record())
    assert (tmp_path / "mail" / "new" / str(name)).read_bytes() == MESSAGE
    assert files(tmp_path / "mail") == only(MESSAGE)


@on_loops
async def test_the_promise_is_the_disk(tmp_path: Path) -> None:
    sink = Maildir(tmp_path / "mail")
    assert sink.promise is None
    assert await sink.start() is sink.promise is Promise.DISK
    await sink.close(PATIENCE)
    assert sink.promise is None


@on_loops
async def test_messages_that_wait_together_are_all_there(tmp_path: Path) -> None:
    async with maildir(tmp_path / "mail") as sink:
        bodies = [b"Subject: %d\r\n\r\n" % number for number in range(300)]
        names = await asyncio.gather(*(sink.put(record(body, b"")) for body in bodies))
    for name, body in zip(names, bodies, strict=True):
        found = (tmp_path / "mail" / "new" / str(name)).read_bytes()
        assert found == body.replace(b"\r\n", b"\n")
    assert len(set(names)) == 300
    assert files(tmp_path / "mail")["tmp"] == []


@on_loops
async def test_an_empty_message_is_a_message(tmp_path: Path) -> None:
    async with maildir(tmp_path / "mail") as sink:
        await sink.put(record(b"", b""))
    assert files(tmp_path / "mail") == only(b"")


@on_loops
async def test_python_reads_what_was_delivered(tmp_path: Path) -> None:
    async with maildir(tmp_path / "mail") as sink:
        name = str(await sink.put(record()))
    box = mailbox.Maildir(str(tmp_path / "mail"), create=False)
    assert box.get_bytes(name) == MESSAGE
    assert box[name]["Subject"] == "x"


@on_loops
async def test_nobody_else_may_read_a_message_or_the_directories(tmp_path: Path) -> None:
    path = tmp_path / "some" / "where" / "mail"
    async with maildir(path) as sink:
        name = str(await sink.put(record()))
    assert stat.S_IMODE((path / "new" / name).stat().st_mode) == 0o600
    assert {stat.S_IMODE(part.stat().st_mode) for part in [path, *path.iterdir()]} == {0o700}


@on_loops
async def test_a_maildir_that_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    for _ in range(2):
        async with maildir(tmp_path / "mail") as sink:
            await sink.put(record())
    assert files(tmp_path / "mail") == only(MESSAGE, MESSAGE)


@on_loops
async def test_a_message_whose_client_got_no_250_is_removed(tmp_path: Path) -> None:
    async with maildir(tmp_path / "mail") as sink:
        name = await sink.put(record())
        sink.undo(record(), name)
        await until_empty(tmp_path / "mail" / "new")
        sink.undo(record(), name)  # somebody has read it: nothing to remove
    assert files(tmp_path / "mail") == only()


# Large bodies.

LARGE = b"Subject: large\r\n\r\n" + (b"x" * 70 + b"\r\n") * 10_000


async def written(sink: Maildir, message: Record, octets: bytes, piece: int = 30_001) -> None:
    writer = sink.begin(message)
    for at in range(0, len(octets), piece):
        waiting = writer.write(octets[at : at + piece])
        if waiting is not None:
            await waiting
    message.set_body(await writer.finish())


@on_loops
async def test_a_large_body_becomes_its_file_as_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "mail"
    async with maildir(path) as sink:
        message = record()
        await written(sink, message, LARGE)
        assert files(path)["new"] == []
        (begun,) = files(path)["tmp"]
        assert begun == (HEAD + LARGE).replace(b"\r\n", b"\n")
        assert not isinstance(message.body, bytes)
        assert (message.size, message.sha256) == (len(LARGE), record(LARGE).sha256)
        with message.body.open() as file:
            assert file.read() == LARGE
        await sink.put(message)
    assert files(path) == only(begun)


@on_loops
async def test_large_and_small_messages_are_committed_together(tmp_path: Path) -> None:
    path = tmp_path / "mail"
    async with maildir(path) as sink:
        large = [record() for _ in range(3)]
        for message in large:
            await written(sink, message, LARGE)
        await asyncio.gather(*(sink.put(each) for each in [record(), *large, record()]))
    assert sorted(map(len, files(path)["new"])) == sorted(
        [len(MESSAGE)] * 2 + [len((HEAD + LARGE).replace(b"\r\n", b"\n"))] * 3
    )
    assert files(path)["tmp"] == []


@on_loops
async def test_no_memory_for_a_part_of_a_batch_commits_no_message_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mail"
    calls: list[int] = []

    def lacking(place: Place, drafts: list[Draft], sync_all: bool) -> float:
        calls.append(len(drafts))
        if len(calls) == 2:
            raise MemoryError
        return commit(place, drafts, sync_all)

    async with maildir(path) as sink:
        large = record()
        await written(sink, large, LARGE)
        sink._place = None  # as after a fault: the next message gets a place of its own
        monkeypatch.setattr("fastsmtp.delivery.maildir.sink.commit", lacking)
        answers = await asyncio.gather(sink.put(large), sink.put(record()), return_exceptions=True)
    assert calls == [1, 1]
    (refused,) = [each for each in answers if not isinstance(each, str)]
    assert isinstance(refused, Unavailable)
    assert "ENOMEM" in str(refused)
    (name,) = [each for each in answers if isinstance(each, str)]
    assert [each.name for each in (path / "new").iterdir()] == [name]
    assert files(path)["tmp"] == []


@on_loops
async def test_a_bare_newline_of_a_large_body_is_read_back_as_crlf(tmp_path: Path) -> None:
    body = b"\n\none\n\r\n" + LARGE
    async with maildir(tmp_path / "mail") as sink:
        message = record()
        await written(sink, message, body)
        assert not isinstance(message.body, bytes)
        assert (message.size, message.sha256) == (len(body), record(body).sha256)
        with message.body.open() as file:
            restored = file.read() == b"\r\n\r\none\r\n\r\n" + LARGE
        assert restored
        await sink.put(message)


@on_loops
async def test_a_large_body_that_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mail"
    async with maildir(path) as sink:
        for is_finished in (False, True):
            writer = sink.begin(record())
            waiting = writer.write(LARGE)
            assert waiting is not None
            await waiting
            assert len(files(path)["tmp"]) == 1
            if is_finished:
                await writer.finish()
            writer.discard()
            writer.discard()
            await until_empty(path / "tmp")


@on_loops
async def test_a_discard_while_a_write_is_under_way_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mail"
    async with maildir(path) as sink:
        for _ in range(50):
            writer = sink.begin(record())
            waiting = writer.write(LARGE)
            assert waiting is not None
            writer.discard()
            await asyncio.wait([waiting])
        await until_empty(path / "tmp")
    assert files(path) == only()


@on_loops
async def test_a_discard_after_the_put_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mail"
    async with maildir(path) as sink:
        message = record()
        writer = sink.begin(message)
        waiting = writer.write(BODY)
        assert waiting is None
        message.set_body(await writer.finish())
        putting = sink.put(message)
        writer.discard()
        outcome = (await asyncio.gather(putting, return_exceptions=True))[0]
    # Which of the two was first is the threads' business; half a message is not among the outcomes.
    assert files(path) == (only() if isinstance(outcome, DeliveryError) else only(MESSAGE))


@on_loops
async def test_a_size_limit_of_the_process_is_a_full_disk_and_not_its_end(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mail"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with maildir(path) as sink:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            with pytest.raises(Full):
                await sink.put(record(b"x" * 5000))
            writer = sink.begin(record())
            waiting = writer.write(LARGE)
            assert waiting is not None
            with pytest.raises(Full):
                await waiting
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await sink.put(record())
    assert files(path) == only(MESSAGE)


@on_loops
async def test_a_body_of_another_sink_is_refused(tmp_path: Path) -> None:
    class Strange:
        path, size, sha256 = "/nowhere", 3, "0"

        def open(self) -> None:
            raise AssertionError

    async with maildir(tmp_path / "mail") as sink:
        message = record()
        message.body = Strange()  # type: ignore[assignment]
        with pytest.raises(DeliveryError, match="has begun itself"):
            await sink.put(message)
    assert files(tmp_path / "mail") == only()


# Start and end.


@on_loops
async def test_a_maildir_starts_once_and_accepts_no_message_before_or_after(tmp_path: Path) -> None:
    sink = Maildir(tmp_path / "mail")
    with pytest.raises(RuntimeError):
        sink.put(record())
    await sink.start()
    with pytest.raises(RuntimeError):
        await sink.start()
    await sink.close(PATIENCE)
    await sink.close(PATIENCE)
    with pytest.raises(Unavailable):
        await sink.put(record())


@on_loops
async def test_a_file_in_place_of_the_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mail").write_text("a file")
    with pytest.raises(NotADirectoryError):
        await Maildir(tmp_path / "mail").start()


@on_loops
async def test_messages_put_before_the_end_are_committed(tmp_path: Path) -> None:
    async with maildir(tmp_path / "mail") as sink:
        putting = [sink.put(record()) for _ in range(20)]
    assert all(isinstance(each.result(), str) for each in putting)
    assert len(files(tmp_path / "mail")["new"]) == 20


# Line ends, and drafts alone.


def delivered(box: Box, pieces: list[bytes]) -> bytes:
    """What the file has when a body comes in these pieces."""
    place = box.open()
    draft = Draft(place, box.unique_name().encode(), b"", pieces[0] if pieces else b"")
    for piece in pieces[1:]:
        assert draft.write(piece)
    commit(place, [draft], False)
    return Path(box.new, draft.final.decode()).read_bytes()


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    return Box(str(tmp_path_factory.mktemp("box") / "mail"))


@given(st.lists(st.text("\r\na", max_size=4).map(str.encode), max_size=8))
def test_line_ends_do_not_depend_on_the_cut_of_the_pieces(box: Box, pieces: list[bytes]) -> None:
    assert delivered(box, pieces) == b"".join(pieces).replace(b"\r\n", b"\n")


@pytest.mark.parametrize("ends", [b"\r\n", b"\r", b"\n", b"\r\r\n"])
@pytest.mark.parametrize("length", [65_534, 65_535, 65_536, 65_537, 131_072])
def test_line_ends_at_the_end_of_a_write_are_like_all_others(
    box: Box, ends: bytes, length: int
) -> None:
    octets = b"x" * length + ends + b"y" + ends
    for pieces in ([octets], [octets[:length], octets[length:]], [octets[:-1], octets[-1:]]):
        assert delivered(box, pieces) == octets.replace(b"\r\n", b"\n")


@given(st.lists(st.binary(max_size=9)))
def test_the_octets_of_the_wire_can_be_restored_from_the_file(box: Box, lines: list[bytes]) -> None:
    lines = [line.replace(b"\r", b"").replace(b"\n", b"") for line in lines]
    sent = b"".join(line + b"\r\n" for line in lines)
    assert delivered(box, [sent]).replace(b"\n", b"\r\n") == sent


def test_a_draft_ends_once(box: Box) -> None:
    place = box.open()
    for end, is_kept in (
        (lambda draft: commit(place, [draft], False), True),
        (Draft.discard, False),
    ):
        draft = Draft(place, box.unique_name().encode(), b"", BODY)
        end(draft)
        name = draft.final
        draft.discard()
        commit(place, [draft], False)
        with pytest.raises(RuntimeError):
            draft.write(b"more")
        assert draft.final == name
        assert Path(box.new, name.decode()).is_file() is bool(name) is is_kept
        assert os.listdir(box.tmp) == []


def test_one_wrong_draft_touches_none_of_its_batch(box: Box) -> None:
    place, other = box.open(), box.open()
    good = Draft(place, box.unique_name().encode(), b"", BODY)
    with pytest.raises(ValueError):
        commit(place, [good, Draft(other, b"name", b"", b"")], False)
    assert (good.step, good.final, os.listdir(box.tmp)) == (Step.DONE, b"", [])
    commit(place, [good], False)
    assert good.final


@pytest.mark.parametrize("name", [b"", b"a/b", b"a\0b", b"x" * 201])
def test_a_draft_has_a_name_for_a_file(box: Box, name: bytes) -> None:
    with pytest.raises(ValueError):
        Draft(box.open(), name, b"", b"")


@pytest.mark.parametrize(
    "make",
    [
        lambda box: Draft(box.open(), b"a/b", b"", b""),
        lambda box: Draft(box.open(), "text", b"", b""),
        lambda box: Place("text", 3),
    ],
)
def test_an_object_whose_construction_fails_closes_no_file_of_others(
    box: Box, make: Callable[[Box], object]
) -> None:
    before = os.fstat(0)
    with pytest.raises((ValueError, TypeError)):
        make(box)
    gc.collect()
    assert os.path.samestat(os.fstat(0), before)


def test_a_draft_that_is_forgotten_is_discarded(box: Box) -> None:
    draft = Draft(box.open(), box.unique_name().encode(), b"", b"")
    assert draft.write(BODY)
    assert os.listdir(box.tmp) == [draft.temporary.decode()]
    del draft
    gc.collect()
    assert os.listdir(box.tmp) == []


@pytest.mark.parametrize("sync_all", [False, HAS_SYNCFS])
def test_a_batch_that_synced_nothing_is_no_measurement_of_syncs(
    tmp_path: Path, sync_all: bool
) -> None:
    box = Box(str(tmp_path / "mail"))
    place = box.open()
    os.rmdir(box.tmp)
    draft = Draft(place, box.unique_name().encode(), b"", b"body")
    assert commit(place, [draft], sync_all) == 0
    assert draft.error == errno.ENOENT
