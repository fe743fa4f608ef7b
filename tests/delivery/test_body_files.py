"""Bodies in files of their own: safe when they are finished, gone when they are discarded."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from on_loops import on_loops

from fastsmtp.delivery import Full, Unavailable
from fastsmtp.delivery.body_files import BodyFiles
from fastsmtp.delivery.body_writer import WRITE_OCTETS

LARGE = b"0123456789abcdef" * (WRITE_OCTETS // 8)
PATIENCE = 60.0


def started(directory: Path) -> BodyFiles:
    files = BodyFiles(str(directory))
    files.start()
    return files


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The order of the calls that matter."""
    made: list[str] = []
    directories: set[int] = set()

    def wrapped(name: str) -> Any:
        real = getattr(os, name)

        def call(first: Any, *rest: Any) -> Any:
            result = real(first, *rest)
            if name == "open" and rest[0] & os.O_DIRECTORY:
                directories.add(result)
            elif name == "fsync":
                made.append("fsync_directory" if first in directories else "fsync")
            else:
                made.append(name)
            return result

        return call

    for name in ("open", "write", "fsync", "unlink"):
        monkeypatch.setattr(os, name, wrapped(name))
    return made


async def emptied(directory: Path) -> None:
    """Wait until nothing is in it."""
    async with asyncio.timeout(PATIENCE):
        while list(directory.iterdir()):
            await asyncio.sleep(0.001)


@on_loops
async def test_a_body_is_synced_with_its_directory_before_it_is_finished(
    tmp_path: Path, calls: list[str]
) -> None:
    files = started(tmp_path)
    writer = files.begin()
    assert writer.write(b"small") is None
    written = writer.write(LARGE)
    assert written is not None
    await written
    body = await writer.finish()
    assert calls == ["open", "write", "fsync", "fsync_directory"]
    assert body.size == len(LARGE) + 5
    assert body.sha256 == hashlib.sha256(b"small" + LARGE).hexdigest()
    with body.open() as file:
        assert file.read() == b"small" + LARGE
    assert os.stat(body.path).st_mode & 0o777 == 0o600
    await files.close(PATIENCE)


@on_loops
async def test_a_finished_body_is_found_by_its_name_and_removed_by_it(tmp_path: Path) -> None:
    files = started(tmp_path)
    writer = files.begin()
    writer.write(b"octets")
    body = await writer.finish()
    name = os.path.basename(body.path)
    found = files.stored(name, body.size, body.sha256)
    with found.open() as file:
        assert file.read() == b"octets"
    files.remove(name)
    files.remove(name)
    assert list(tmp_path.iterdir()) == []
    await files.close(PATIENCE)


@pytest.mark.parametrize("name", ["", "../spool.db", "/etc/passwd", "1-0123456789abcdeg", "1-0\n"])
def test_a_name_that_is_not_ours_is_no_body(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no body"):
        BodyFiles(str(tmp_path)).stored(name, 1, "")


@on_loops
async def test_a_discarded_body_leaves_nothing_at_whatever_moment(tmp_path: Path) -> None:
    files = started(tmp_path)
    empty, written, writing, finished = (files.begin() for _ in range(4))
    for writer in (written, finished):
        ready = writer.write(LARGE)
        assert ready is not None
        await ready
    await finished.finish()
    running = writing.write(LARGE)  # discarded before a thread is at it, or meanwhile
    assert running is not None
    for writer in (empty, written, writing, finished, finished):
        writer.discard()
    await asyncio.wait([running])
    await emptied(tmp_path)
    with pytest.raises(RuntimeError, match="discarded"):
        written.write(b"more")
    await files.close(PATIENCE)


@on_loops
async def test_an_empty_body_that_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    files = started(tmp_path)
    writer = files.begin()
    assert (await writer.finish()).size == 0
    assert len(list(tmp_path.iterdir())) == 1
    writer.discard()
    await emptied(tmp_path)
    await files.close(PATIENCE)


@on_loops
async def test_a_piece_before_the_last_one_is_written_is_an_error(tmp_path: Path) -> None:
    files = started(tmp_path)
    writer = files.begin()
    ready = writer.write(LARGE)
    assert ready is not None
    with pytest.raises(RuntimeError, match="not written yet"):
        writer.write(b"more")
    await ready
    writer.discard()
    await emptied(tmp_path)
    await files.close(PATIENCE)


@pytest.mark.parametrize(
    "number, expected", [(errno.ENOSPC, Full), (errno.EIO, Unavailable), (errno.EDQUOT, Full)]
)
@pytest.mark.parametrize("name", ["open", "write", "fsync"])
@on_loops
async def test_a_disk_that_fails_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    number: int,
    expected: type[Exception],
) -> None:
    def failing(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    files = started(tmp_path)
    writer = files.begin()
    writer.write(b"octets")
    with monkeypatch.context() as patch:
        patch.setattr(os, name, failing)
        finished = writer.finish()
        with pytest.raises(expected):
            await finished
    assert list(tmp_path.iterdir()) == []
    await files.close(PATIENCE)


@on_loops
async def test_orphans_are_removed_and_files_of_others_are_not(tmp_path: Path) -> None:
    files = started(tmp_path)
    names = []
    for _ in range(3):
        writer = files.begin()
        writer.write(b"octets")
        names.append(os.path.basename((await writer.finish()).path))
    (tmp_path / "notes.txt").write_text("of somebody else")
    assert files.remove_all_but({names[1]}) == 2
    assert {path.name for path in tmp_path.iterdir()} == {names[1], "notes.txt"}
    await files.close(PATIENCE)
