"""kill -9 at any moment, under load: what was acknowledged is drained after the next start, whole.

Twice only what the sink had and the spool had not noted yet, and with the same id.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest
from disk_faults import Faults
from mail_load import Load
from spool_process import SpoolProcess, drained, ids_of, logged

from fastsmtp.delivery.spool.drainer import MARKS
from fastsmtp.delivery.spool.sink import PARALLEL

pytest_plugins = ["gateway_fixtures"]

NIGHTLY_CYCLES = int(os.environ.get("FASTSMTP_KILL_CYCLES", "300"))
CALLS = ("write", "fsync", "fsync_directory", "open", "unlink", "truncate", "reply")


async def check(path: Path, log: Path, acknowledged: set[str], kills: int = 1) -> None:
    """Drain, and compare with what clients were told."""
    repeated = await drained(path, log)
    found = logged(log)
    lost = acknowledged - found.keys()
    assert not lost, f"{len(lost)} of {len(acknowledged)} are lost"
    twice = {digest: count for digest, count in found.items() if count > 1}
    if kills == 1:
        assert sum(twice.values()) - len(twice) <= repeated
    assert sum(twice.values()) - len(twice) <= kills * (PARALLEL + MARKS)
    assert all(len(ids_of(log)[digest]) == 1 for digest in twice)
    assert list((path / "bodies").iterdir()) == []


async def killed_at_random(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    path, log = tmp_path / "s", tmp_path / "log"
    acknowledged: set[str] = set()
    for cycle in range(3):  # on the same spool: one start after another
        process = SpoolProcess(path, log if chance.random() < 0.7 else None)
        assert await process.start(), process.said
        load = Load(process.port, 8, seed=seed * 10 + cycle)
        last = chance.choice([1, 3, 20, 200])

        def kill(count: int, process: SpoolProcess = process, last: int = last) -> None:
            if count == last:
                process.send(signal.SIGKILL)

        load.on_acknowledged = kill
        await load.run()
        await process.ended()
        acknowledged |= load.acknowledged
        assert load.refused == []
    assert acknowledged
    await check(path, log, acknowledged, kills=3)


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_spool_has_what_it_acknowledged(tmp_path: Path, seed: int) -> None:
    asyncio.run(killed_at_random(tmp_path, seed))


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(100, 100 + NIGHTLY_CYCLES // 3))
def test_a_killed_spool_has_what_it_acknowledged_every_night(tmp_path: Path, seed: int) -> None:
    asyncio.run(killed_at_random(tmp_path, seed))


async def killed_at(faults: Faults, call: str, k: int, action: str) -> bool:
    """Kill the server at its k-th call from now on; return whether it came to that."""
    path, log = faults.directory / "s", faults.directory / "log"
    env = faults.env | {"FAULT_DIR": f"{path}/"}
    process = SpoolProcess(path, log, env=env)
    assert await process.start(), process.said
    faults.forget()
    faults.order(call, action, k)
    load = Load(process.port, 4, seed=k, sizes=(10, 1000, 200_000))
    load.on_acknowledged = lambda count: load.stop() if count >= 30 else None
    await load.run()
    await process.end(signal.SIGKILL)
    fired = faults.fired
    await check(path, log, load.acknowledged)
    return fired


@pytest.mark.parametrize("action", ["kill-before", "kill-after"])
@pytest.mark.parametrize("call", CALLS[:3])
def test_a_spool_killed_at_a_call_has_what_it_acknowledged(
    faults: Faults, call: str, action: str
) -> None:
    assert asyncio.run(killed_at(faults, call, 2, action))


@pytest.mark.nightly
@pytest.mark.parametrize("action", ["kill-before", "kill-after"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 8, 13, 21, 34])
def test_a_spool_killed_at_any_call_has_what_it_acknowledged(
    faults: Faults, call: str, action: str, k: int
) -> None:
    if not asyncio.run(killed_at(faults, call, k, action)):
        pytest.skip(f"there were not so many calls of {call}")
