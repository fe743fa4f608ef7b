"""`fastsmtp serve --spool` that is killed, or loses its power, under load: what was acknowledged is
in the Maildir after the next start has drained the spool, whole.

Twice only what the Maildir had and the spool had not noted yet, and with the same id.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pytest
from c_library import build_library, preload
from mail_load import Load
from power_cut import make_disk, mounted
from serving import PATIENCE, Gateway, body_of, leftovers, messages

from fastsmtp.delivery.spool.control import perform
from fastsmtp.delivery.spool.drainer import MARKS
from fastsmtp.delivery.spool.sink import PARALLEL

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc, LD_PRELOAD, loop devices")

KILLS = 5  # of one chain, one after the other, of a night
NIGHTLY_KILLS = int(os.environ.get("FASTSMTP_KILL_CYCLES", "300"))
NIGHTLY_CUTS = int(os.environ.get("FASTSMTP_POWER_CUTS", "30"))
SIZES = (10, 1000, 20_000, 200_000)
MEGABYTES = 128


class Chain(NamedTuple):
    """A spool and the Maildir that it drains into."""

    spool: Path
    maildir: Path

    def gateway(self, env: dict[str, str] | None = None) -> Gateway:
        return Gateway(self.maildir, f"--spool={self.spool}", env=env)

    def found(self) -> dict[str, list[bytes]]:
        """The messages in the Maildir: SHA-256 of the body, and the id of each copy."""
        found: dict[str, list[bytes]] = {}
        for message in messages(self.maildir):
            id = re.search(rb"\n\tby \S+ with \S+ id (\S+)", message)
            assert id is not None
            found.setdefault(sha256(body_of(message)).hexdigest(), []).append(id[1])
        return found

    async def drained(self) -> None:
        """Start again, and end when the spool is empty."""
        with self.gateway() as gateway:
            async with asyncio.timeout(PATIENCE):
                while [each async for each in perform(str(self.spool), {"command": "list"})]:
                    await asyncio.sleep(0.02)
            assert gateway.stop() == 0
        assert gateway.errors() == []
        assert list((self.spool / "bodies").iterdir()) == []
        assert leftovers(self.maildir) == []

    async def check(self, acknowledged: set[str], crashes: int = 1) -> int:
        """Drain, and compare with what clients were told; return how many came twice."""
        await self.drained()
        found = self.found()
        lost = acknowledged - found.keys()
        assert not lost, f"{len(lost)} of {len(acknowledged)} are lost"
        assert all(len(set(ids)) == 1 for ids in found.values())
        repeated = sum(map(len, found.values())) - len(found)
        assert repeated <= crashes * (PARALLEL + MARKS)
        return repeated


async def crash(gateway: Gateway, chance: random.Random, end: Callable[[Load], None]) -> set[str]:
    """Call `end` some moment after so many messages; return what was acknowledged by then."""
    load = Load(gateway.ports[0], 8, seed=chance.getrandbits(32), sizes=SIZES)
    last, pause = chance.choice([1, 3, 20, 200]), chance.uniform(0, 0.02)

    def on_acknowledged(count: int) -> None:
        if count == last:
            asyncio.get_running_loop().call_later(pause, end, load)

    load.on_acknowledged = on_acknowledged
    await load.run()
    assert gateway.wait() == -signal.SIGKILL
    assert load.refused == []
    return load.acknowledged


# kill -9.


async def killed(directory: Path, seed: int, kills: int) -> tuple[int, int]:
    """Return how many messages were acknowledged, and how many are there twice."""
    chance = random.Random(seed)
    chain = Chain(directory / "spool", directory / "mail")
    acknowledged: set[str] = set()
    for _ in range(kills):
        with chain.gateway() as gateway:
            acknowledged |= await crash(gateway, chance, lambda _: gateway.process.kill())
    assert acknowledged
    return len(acknowledged), await chain.check(acknowledged, kills)


@pytest.mark.parametrize("seed", range(2))
def test_ops_05_a_killed_gateway_with_a_spool_delivers_what_it_acknowledged(
    tmp_path: Path, seed: int
) -> None:
    asyncio.run(killed(tmp_path, seed, 2))


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(100, 100 + NIGHTLY_KILLS // KILLS))
def test_ops_05_a_killed_gateway_with_a_spool_delivers_it_every_night(
    tmp_path: Path, seed: int, record_property: Callable[[str, object], None]
) -> None:
    acknowledged, repeated = asyncio.run(killed(tmp_path, seed, KILLS))
    record_property("acknowledged", acknowledged)
    record_property("repeated", repeated)
    print(f"{acknowledged} acknowledged, {repeated} delivered twice")


# Power cuts.


async def cut(
    directory: Path, disks: int, seed: int, env: dict[str, str] | None = None
) -> tuple[Chain, set[str]]:
    """Cut the power of a chain on so many disks; return what is left of it, by the images of the
    disks, and what was acknowledged.
    """
    images = [make_disk(directory, f"disk{number}", MEGABYTES) for number in range(disks)]
    copies = [image.with_name(f"{image.stem}-after.img") for image in images]
    told: set[str] = set()
    with contextlib.ExitStack() as mounts:
        places = [mounts.enter_context(mounted(image)).path for image in images]
        gateway = mounts.enter_context(Chain(places[0] / "spool", places[-1] / "mail").gateway(env))

        def end(load: Load) -> None:
            told.update(load.acknowledged)
            gateway.process.send_signal(signal.SIGSTOP)
            for image, copy in zip(images, copies, strict=True):
                shutil.copyfile(image, copy)
            gateway.process.kill()

        await crash(gateway, random.Random(seed), end)
    return Chain(copies[0], copies[-1]), told


async def lost_by_a_cut(directory: Path, disks: int, seed: int) -> tuple[int, int]:
    """Return how many messages were acknowledged, and how many are there twice; none is lost."""
    images, told = await cut(directory, disks, seed)
    with contextlib.ExitStack() as mounts:
        places = {
            image: mounts.enter_context(mounted(image)).path for image in dict.fromkeys(images)
        }
        chain = Chain(places[images.spool] / "spool", places[images.maildir] / "mail")
        return len(told), await chain.check(told)


@pytest.mark.parametrize("disks", [1, 2])
def test_ops_06_a_power_cut_of_spool_and_maildir_loses_nothing_acknowledged(
    tmp_path: Path, disks: int
) -> None:
    assert asyncio.run(lost_by_a_cut(tmp_path, disks, seed=disks))[0] > 0


@pytest.mark.nightly
@pytest.mark.parametrize("disks", [1, 2])
@pytest.mark.parametrize("seed", range(100, 100 + NIGHTLY_CUTS))
def test_ops_06_power_cuts_of_spool_and_maildir_lose_nothing_any_night(
    tmp_path: Path, disks: int, seed: int, record_property: Callable[[str, object], None]
) -> None:
    acknowledged, repeated = asyncio.run(lost_by_a_cut(tmp_path, disks, seed))
    record_property("acknowledged", acknowledged)
    record_property("repeated", repeated)
    print(f"{acknowledged} acknowledged, {repeated} delivered twice")


def test_a_power_cut_finds_what_spool_and_maildir_have_not_synced(tmp_path: Path) -> None:
    env = {"LD_PRELOAD": preload(build_library("no_sync", tmp_path))}
    images, told = asyncio.run(cut(tmp_path, 1, 1, env))
    with mounted(images.spool) as disk:
        chain = Chain(disk.path / "spool", disk.path / "mail")
        found: set[str] = set()
        # Without syncs, the spool may be damaged, or the directories missing.
        with contextlib.suppress(AssertionError, FileNotFoundError):
            asyncio.run(chain.drained())
        with contextlib.suppress(FileNotFoundError):
            found.update(chain.found())
    assert told - found
