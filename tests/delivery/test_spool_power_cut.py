"""A power cut loses nothing that was acknowledged; without syncs it does, so the test can tell."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from c_library import build_library, preload
from mail_load import Load
from power_cut import make_disk, mounted
from spool_process import SpoolProcess, drained, logged

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="loop devices")


async def lost_by_a_cut(
    tmp_path: Path, acknowledged: int, drains: bool, env: dict[str, str] | None = None
) -> tuple[int, int]:
    """Cut the power under load; return how many acknowledged messages there were, and are lost."""
    image = make_disk(tmp_path, "disk")
    copy = tmp_path / "copy.img"
    with mounted(image) as disk:
        log = disk.path / "log" if drains else None
        process = SpoolProcess(disk.path / "s", log, env=env)
        assert await process.start(), process.said
        load = Load(process.port, 10, seed=acknowledged, sizes=(10, 1000, 20_000, 200_000))
        told: set[str] = set()

        def cut(count: int) -> None:
            if count == acknowledged:
                told.update(load.acknowledged)
                disk.cut(process.pid, copy)

        load.on_acknowledged = cut
        await load.run()
        await process.ended()
    with mounted(copy) as disk:
        log = disk.path / "log"
        log.touch()
        if env is None or (disk.path / "s" / "spool.db").exists():
            try:
                await drained(disk.path / "s", log)
            except AssertionError:
                assert env is not None  # without syncs the file may be damaged
        found = logged(log)
    return len(told), len(told - found.keys())


@pytest.mark.parametrize("acknowledged", [1, 60, 400])
@pytest.mark.parametrize("drains", [False, True], ids=["kept", "drained"])
def test_a_power_cut_loses_nothing_that_was_acknowledged(
    tmp_path: Path, acknowledged: int, drains: bool
) -> None:
    told, lost = asyncio.run(lost_by_a_cut(tmp_path, acknowledged, drains))
    assert (told, lost) == (acknowledged, 0)


def test_a_power_cut_without_syncs_loses_mail(tmp_path: Path) -> None:
    library = build_library("no_sync", tmp_path)
    env = {"LD_PRELOAD": preload(library)}
    told, lost = asyncio.run(lost_by_a_cut(tmp_path, 60, False, env))
    assert told == 60
    assert lost > 0
