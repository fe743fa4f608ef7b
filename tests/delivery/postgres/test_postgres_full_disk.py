"""A disk of PostgreSQL that is full, on loop devices: that of the table is 452, that of the log of
transactions ends the server, which is 451; what was acknowledged is kept, and mail flows again.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import randbytes

import pytest
from postgres_kit import Postgres as Server
from postgres_kit import cluster, give_away, owned_directory, why_no_postgres
from power_cut import make_disk, mounted
from spool_kit import record

from fastsmtp.delivery import Full, Unavailable, Unclear
from fastsmtp.delivery.postgres import Postgres, schema

REASON = why_no_postgres()

pytestmark = [
    pytest.mark.interop,
    pytest.mark.nightly,
    pytest.mark.skipif(bool(REASON), reason=REASON),
    pytest.mark.skipif(sys.platform != "linux", reason="loop devices"),
]

TOGETHER = 20
SIZE = 100_000


@contextlib.contextmanager
def small_disk(megabytes: int, filler: int = 0) -> Iterator[Path]:
    """A directory of the server's user on a disk of its own, with a file of `filler` octets."""
    with owned_directory() as directory, mounted(make_disk(directory, "d", megabytes)) as disk:
        disk.path.chmod(0o755)
        (disk.path / "filler").write_bytes(bytes(filler))
        own = disk.path / "own"
        own.mkdir()
        give_away(own)
        own.chmod(0o700)
        yield own


async def put_until_refused(server: Server) -> tuple[set[str], list[BaseException]]:
    """Return the ids of what was acknowledged, and the errors."""
    kept: set[str] = set()
    refused: list[BaseException] = []
    async with Postgres(server.dsn, deadline=2.0) as sink:
        number = 0
        while not refused:
            names = [f"{number}-{each}" for each in range(TOGETHER)]
            puts = [sink.put(record(name, randbytes(SIZE))) for name in names]
            found = await asyncio.gather(*puts, return_exceptions=True)
            for name, result in zip(names, found, strict=True):
                if isinstance(result, BaseException):
                    refused.append(result)
                else:
                    kept.add(name)
            number += 1
    return kept, refused


async def put_one(server: Server) -> None:
    async with Postgres(server.dsn) as sink:
        await sink.put(record("last", b"x" * SIZE))


def test_a_full_disk_of_the_table_is_452_until_it_has_room() -> None:
    with small_disk(60, filler=10_000_000) as directory, cluster() as server:
        server.run(f"CREATE TABLESPACE small LOCATION '{directory}'")
        server.run(schema())
        server.run("ALTER TABLE mail SET TABLESPACE small")
        kept, refused = asyncio.run(put_until_refused(server))
        assert kept
        assert {type(each) for each in refused} == {Full}
        assert set(server.lines("SELECT id FROM mail")) == kept
        (directory.parent / "filler").unlink()
        asyncio.run(put_one(server))
        assert set(server.lines("SELECT id FROM mail")) == kept | {"last"}


def test_a_full_disk_of_the_log_is_451_until_it_has_room_and_keeps_what_was_acknowledged() -> None:
    with small_disk(120, filler=40_000_000) as directory, owned_directory() as home:
        server = Server(home, max_wal_size="1GB")
        server.make()
        log = server.data / "pg_wal"
        subprocess.run(["cp", "-a", log, directory], check=True)
        shutil.rmtree(log)
        log.symlink_to(directory / "pg_wal")
        server.start()
        try:
            server.run(schema())
            kept, refused = asyncio.run(put_until_refused(server))
            assert kept
            assert {type(each) for each in refused} <= {Unavailable, Unclear}
            assert server.log is not None
            assert any("PANIC" in line for line in server.log.all)
            server.kill()
            (directory.parent / "filler").unlink()
            server.start()
            assert kept <= set(server.lines("SELECT id FROM mail"))
            asyncio.run(put_one(server))
            assert "last" in server.lines("SELECT id FROM mail")
        finally:
            server.kill()
