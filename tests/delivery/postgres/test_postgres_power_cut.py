"""A power cut of the server loses nothing that was acknowledged; without fsync it does, so the test
can tell.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from postgres_kit import Postgres as Server
from postgres_kit import give_away, owned_directory, why_no_postgres
from power_cut import make_disk, mounted
from spool_kit import record

from fastsmtp.delivery.postgres import Postgres, schema

REASON = why_no_postgres()

pytestmark = [
    pytest.mark.interop,
    pytest.mark.nightly,
    pytest.mark.skipif(bool(REASON), reason=REASON),
    pytest.mark.skipif(sys.platform != "linux", reason="loop devices"),
]

CLIENTS = 20


async def acknowledged_before(server: Server, count: int, image: Path, copy: Path) -> set[str]:
    """Store messages until `count` were acknowledged, and cut the power at that moment."""
    acknowledged: set[str] = set()
    enough = asyncio.Event()

    async def client(sink: Postgres, name: str) -> None:
        number = 0
        while not enough.is_set():
            number += 1
            await sink.put(record(f"{name}-{number}", b"x" * 5000))
            if not enough.is_set():
                acknowledged.add(f"{name}-{number}")
            if len(acknowledged) == count and not enough.is_set():
                enough.set()
                server.send(signal.SIGSTOP)
                shutil.copyfile(image, copy)
                server.kill()

    sink = Postgres(server.dsn)
    await sink.start()
    clients = [asyncio.ensure_future(client(sink, f"c{number}")) for number in range(CLIENTS)]
    await enough.wait()
    await sink.close(0)
    await asyncio.gather(*clients, return_exceptions=True)
    return acknowledged


def lost_by_a_cut(directory: Path, count: int, **settings: str) -> int:
    """Return how many acknowledged messages are not there after a power cut."""
    image, copy = make_disk(directory, "disk", 512), directory / "copy.img"
    with mounted(image) as disk:
        give_away(disk.path)
        server = Server(disk.path, **settings)
        server.make()
        server.start()
        try:
            server.run(schema())
            server.run("CHECKPOINT")
            os.sync()
            told = asyncio.run(acknowledged_before(server, count, image, copy))
        finally:
            server.kill()
    assert len(told) == count
    with mounted(copy) as disk:
        server = Server(disk.path)
        try:
            server.start()
        except AssertionError:
            assert settings  # without fsync the files may be damaged
            return count
        try:
            return len(told - set(server.lines("SELECT id FROM mail")))
        finally:
            server.kill()


@pytest.mark.parametrize("count", [1, 100, 1000])
def test_a_power_cut_loses_nothing_that_was_acknowledged(count: int) -> None:
    with owned_directory() as directory:
        assert lost_by_a_cut(directory, count) == 0


def test_a_power_cut_without_fsync_loses_mail() -> None:
    with owned_directory() as directory:
        assert lost_by_a_cut(directory, 300, fsync="off") > 0
