"""A spool that cannot be used is one line with what to do; a damaged one is repaired by hand."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from on_loops import on_loops
from serving import PATIENCE
from spool_kit import BODY, Collector, database, emptied, record

from fastsmtp.delivery import Unavailable
from fastsmtp.delivery.maildir import Maildir
from fastsmtp.delivery.spool import Spool, SpoolError
from fastsmtp.delivery.spool import strays as strays_module
from fastsmtp.delivery.spool.control import ControlServer
from fastsmtp.delivery.spool.directory import SpoolDirectory, SpoolInUse
from fastsmtp.delivery.spool.salvage import salvage
from fastsmtp.delivery.spool.store import FORMAT, PAGE, Store
from fastsmtp.delivery.spool.strays import Strays

DATA = Path(__file__).parent / "data"
is_root = os.geteuid() == 0


async def refused(path: Path) -> str:
    """Start a spool that cannot start; return the line."""
    with pytest.raises(SpoolError) as caught:
        await Spool(str(path), drain_into=Collector()).start()
    (line,) = str(caught.value).splitlines()
    assert str(path) in line
    return line


async def filled(path: Path, count: int, size: int = 200) -> None:
    async with Spool(str(path)) as spool:
        body = BODY + b"x" * size
        await asyncio.gather(*(spool.put(record(f"s-{n}", body)) for n in range(count)))


@on_loops
async def test_a_missing_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    async with Spool(str(tmp_path / "a" / "b")):
        assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
        for name in ("spool.db", "spool.db-wal", "lock", "control"):
            assert (tmp_path / "a" / "b" / name).stat().st_mode & 0o777 == 0o600


@on_loops
async def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    assert "is not a directory: name another one" in await refused(tmp_path / "s")


@on_loops
async def test_a_directory_with_other_files_is_no_spool(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    assert "is not a spool, and it has other files" in await refused(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@on_loops
async def test_a_root_of_a_file_system_may_be_a_spool(tmp_path: Path) -> None:
    (tmp_path / "s" / "lost+found").mkdir(parents=True)
    async with Spool(str(tmp_path / "s")) as spool:
        assert spool.count == 0


@pytest.mark.skipif(not is_root, reason="only root can give files away")
@on_loops
async def test_a_directory_of_another_owner_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    os.chown(tmp_path / "s", 1, 1)
    assert "run this as that user" in await refused(tmp_path / "s")
    os.chown(tmp_path / "s", 54321, 1)
    assert "the user with number 54321" in await refused(tmp_path / "s")


@on_loops
async def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s").chmod(0o770)
    assert "chmod 700 it" in await refused(tmp_path / "s")


@pytest.mark.skipif(is_root, reason="root may write everywhere")
@on_loops
async def test_a_directory_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s").chmod(0o500)
    assert "Permission denied" in await refused(tmp_path / "s")
    (tmp_path / "s").chmod(0o700)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,mode=700", "tmpfs", str(directory)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


@on_loops
async def test_a_read_only_file_system_is_refused(read_only: Path) -> None:
    assert "Read-only file system" in await refused(read_only)


@on_loops
async def test_a_second_process_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from fastsmtp.delivery.spool import Spool\n"
        "try: asyncio.run(Spool(sys.argv[1]).start())\n"
        "except ValueError as error: sys.exit(str(error))"
    )
    async with Spool(str(tmp_path / "s")) as spool:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code, str(tmp_path / "s")), stderr=asyncio.subprocess.PIPE
        )
        _, told = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 1
        assert f"in use by process {os.getpid()}: end that one first" in told.decode()
        assert len(told.splitlines()) == 1
        await spool.put(record())
    with pytest.raises(SpoolInUse):
        async with Spool(str(tmp_path / "s")):
            await Spool(str(tmp_path / "s")).start()


@on_loops
async def test_a_database_that_another_program_has_locked_is_an_error_that_names_it(
    tmp_path: Path,
) -> None:
    await filled(tmp_path / "s", 1)
    other = sqlite3.connect(database(tmp_path / "s"), isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        assert "another program has opened" in await refused(tmp_path / "s")
    finally:
        other.close()


@on_loops
async def test_a_newer_format_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    await filled(tmp_path / "s", 1)
    connection = sqlite3.connect(database(tmp_path / "s"))
    connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    connection.close()
    before = database(tmp_path / "s").read_bytes()
    line = await refused(tmp_path / "s")
    assert f"format {FORMAT + 1}, this one knows {FORMAT}): use that version" in line
    assert database(tmp_path / "s").read_bytes() == before


@on_loops
async def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(0o700)
    connection = sqlite3.connect(database(tmp_path / "s"))
    connection.execute("CREATE TABLE other (x)")
    connection.close()
    assert "the database of another program" in await refused(tmp_path / "s")


@pytest.mark.parametrize("format", range(1, FORMAT + 1))
@on_loops
async def test_a_spool_that_an_older_version_has_written_is_read(
    tmp_path: Path, format: int
) -> None:
    shutil.copytree(DATA / f"spool-format-{format}", tmp_path / "s")
    (tmp_path / "s").chmod(0o700)
    sink = Collector()
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await sink.until(lambda: len(sink.taken) == 2)
        entry = await spool._shelf.ask(lambda store: store.entry(3))
        assert entry is not None
        assert entry.trouble is not None
        assert (entry.trouble.state, entry.trouble.reason) == ("refused", "No such user")
    assert sink.taken == [
        ("s-1", ("b@y.example", "c@y.example"), BODY),
        ("s-2", ("b@y.example",), b"Subject: in a file\r\n\r\n" + b"line\r\n" * 100),
    ]


# Damage.


def damage(path: Path, *pages: int) -> None:
    """Write nonsense over pages of the database, 1 is the first."""
    with open(database(path), "r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE)
            file.write(b"\xa5" * PAGE)


def pages_of(path: Path) -> int:
    return database(path).stat().st_size // PAGE


@pytest.mark.parametrize("pages", [(1,), (2,), (9,), (8, 9, 20)])
@on_loops
async def test_a_damaged_database_is_refused_and_repaired_by_hand(
    tmp_path: Path, pages: tuple[int, ...]
) -> None:
    await filled(tmp_path / "s", 1000)
    assert pages_of(tmp_path / "s") > 30
    damage(tmp_path / "s", *pages)
    damaged = database(tmp_path / "s").read_bytes()
    line = await refused(tmp_path / "s")
    assert f"run fastsmtp spool repair {tmp_path / 's'}" in line

    directory = SpoolDirectory(str(tmp_path / "s"))
    directory.acquire(create=False)
    done = salvage(directory)
    directory.release()
    assert Path(done.kept).read_bytes() == damaged
    sink = Collector()
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        assert spool.count == done.records
        await emptied(spool)
    # A page has some 25 records; the first is the file's own, the second the root of the records.
    expected = {1: 1000, 2: 0}.get(pages[0], 1000 - len(pages) * 40)
    assert len(sink.taken) >= expected
    assert len(set(sink.ids)) == len(sink.ids) == done.records
    assert all(octets == BODY + b"x" * 200 for _, _, octets in sink.taken)
    assert (done.gaps > 0) == (pages != (1,))


@pytest.mark.parametrize("steps", [1, 2])
@on_loops
async def test_a_repair_that_was_cut_short_costs_no_record_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    path = tmp_path / "s"
    async with Spool(str(path)) as spool:
        await spool.put(record("s-1"))
        copy = {each.name: each.read_bytes() for each in path.glob("spool.db*")}
    for name, octets in copy.items():  # as a process that was killed leaves them
        (path / name).write_bytes(octets)
    assert (path / "spool.db-wal").stat().st_size > 0
    calls = iter(range(steps))

    class Killed(BaseException):
        pass

    def cut(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: str) -> None:
            if next(calls, None) is None:
                raise Killed
            real(*arguments)

        monkeypatch.setattr(os, name, call)

    directory = SpoolDirectory(str(path))
    directory.acquire(create=False)
    cut("link")
    cut("rename")
    with pytest.raises(Killed):
        salvage(directory)
    monkeypatch.undo()
    directory.release()
    sink = Collector()
    async with Spool(str(path), drain_into=sink) as spool:
        await emptied(spool)
    assert sink.ids == ["s-1"]
    assert list(path.glob("*.damaged-*")) == []


@on_loops
async def test_bodies_whose_records_cannot_be_read_are_kept(tmp_path: Path) -> None:
    async with Spool(str(tmp_path / "s")) as spool:
        message = record("s-1", b"")
        writer = spool.begin(message)
        writer.write(BODY)
        message.set_body(await writer.finish())
        await spool.put(message)
    damage(tmp_path / "s", 2)
    directory = SpoolDirectory(str(tmp_path / "s"))
    directory.acquire(create=False)
    done = salvage(directory)
    directory.release()
    assert (done.records, done.bodies) == (0, 1)
    (file,) = Path(f"{done.kept}.bodies").iterdir()
    assert file.read_bytes() == BODY
    async with Spool(str(tmp_path / "s")) as spool:
        assert spool.count == 0


@on_loops
async def test_a_damaged_index_costs_no_record_its_body_and_is_made_again(tmp_path: Path) -> None:
    """SQLite's quick check does not compare an index with its table."""
    path = tmp_path / "s"
    async with Spool(str(path)) as spool:
        message = record("s-1", b"")
        writer = spool.begin(message)
        writer.write(BODY)
        message.set_body(await writer.finish())
        await spool.put(message)
    connection = sqlite3.connect(database(path), isolation_level=None)
    (whole,) = connection.execute(
        "SELECT sql FROM sqlite_master WHERE name = 'record_body'"
    ).fetchone()
    connection.executescript(f"""
        DROP INDEX record_body;
        {whole} AND seq < 0;
        PRAGMA writable_schema = ON;
    """)
    connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'record_body'", (whole,))
    connection.close()
    sink = Collector()
    async with Spool(str(path), drain_into=sink) as spool:
        await emptied(spool)
    assert sink.taken[0][2] == BODY


@on_loops
async def test_damage_that_appears_while_it_runs_refuses_mail_until_it_is_repaired(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await filled(tmp_path / "s", 2000)
    sink = Collector()
    sink.hold = True
    spool = Spool(str(tmp_path / "s"), drain_into=sink, parallel=2)
    await spool.start()
    try:
        await sink.until(lambda: sink.held)
        damage(tmp_path / "s", pages_of(tmp_path / "s") - 5)
        await spool._shelf.ask(lambda store: store._connection.execute("PRAGMA cache_size = 0"))
        sink.hold = False
        sink.answer()
        async with asyncio.timeout(60):
            while spool.refusal() is None:
                await asyncio.sleep(0.005)
        refusal = spool.refusal()
        assert refusal is not None
        assert refusal.response_code == 451
        with pytest.raises(Unavailable):
            await spool.put(record())
    finally:
        await spool.close(0)  # what cannot be noted would be waited for
    assert "stop the server and run fastsmtp spool repair" in caplog.text
    directory = SpoolDirectory(str(tmp_path / "s"))
    directory.acquire(create=False)
    salvage(directory)
    directory.release()
    again = Collector()
    async with Spool(str(tmp_path / "s"), drain_into=again) as spool:
        await emptied(spool)
    assert len({*sink.ids, *again.ids}) >= 1900


def test_the_check_at_the_start_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "spool.db"))
    try:
        assert store.check(10.0) == []
        assert store.check(0.0) == []  # it was cut, and what it did not see is read all the same
        assert store.is_empty()
    finally:
        store.close()


@on_loops
async def test_a_start_that_fails_late_closes_the_sink_that_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(server: ControlServer) -> None:
        raise OSError("no more descriptors")

    box = Maildir(tmp_path / "mail")
    spool = Spool(str(tmp_path / "s"), drain_into=box)
    with monkeypatch.context() as patched:
        patched.setattr(ControlServer, "start", fail)
        with pytest.raises(OSError, match="no more descriptors"):
            await spool.start()
    assert box.promise is None
    await spool.start()
    await spool.close(5.0)
    assert box.promise is None


def strays_of(path: Path, *sinks: Exception | Collector) -> Strays:
    """Strays whose sinks are these in turn; an exception is raised."""
    rest = [*sinks]

    def make_sink() -> Collector:
        made = rest.pop(0)
        if isinstance(made, Exception):
            raise made
        return made

    return Strays(str(path), str(path), make_sink)


@on_loops
async def test_a_stray_spool_that_cannot_be_drained_is_reported_and_the_others_are_drained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (2, 3):
        await filled(tmp_path / "workers" / str(number), count=1)
    sink = Collector()
    strays = strays_of(tmp_path, RuntimeError("no sink today"), sink)
    strays.start()
    await sink.until(lambda: sink.ids == ["s-0"])
    await strays.close(5.0)
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if line.endswith("workers/2: no sink today")] != []
    directory = SpoolDirectory(str(tmp_path / "workers" / "2"))
    directory.acquire(create=False)  # it is not locked
    directory.release()


@on_loops
async def test_a_stray_spool_that_could_not_be_drained_is_tried_again_and_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strays_module, "TRY_AGAIN", 0.0)
    monkeypatch.setattr(strays_module, "LOOK_AGAIN", 0.001)
    await filled(tmp_path / "workers" / "2", count=1)
    sink = Collector()
    strays = strays_of(tmp_path, OSError("disk full"), OSError("disk full"), sink)
    strays.start()
    await sink.until(lambda: sink.ids == ["s-0"])
    await strays.close(5.0)
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if line.endswith("workers/2: disk full")]) == 1
