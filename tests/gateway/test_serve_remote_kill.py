"""`fastsmtp serve --on-unavailable=spool` that is killed under load, while the other machine goes
down and up: what was acknowledged is there after the next start has drained the spool.
"""

from __future__ import annotations

import asyncio
import os
import random
import smtplib
import sys
import threading
from hashlib import sha256
from pathlib import Path

import pytest
import remote_gateway
from mail_load import Load
from remote_kit import RemoteServer, in_a_thread
from serving import PATIENCE, Gateway

from fastsmtp.delivery import parse_record
from fastsmtp.delivery.spool.control import perform

KILLS = 5  # of one chain, one after the other, of a night
NIGHTLY_KILLS = int(os.environ.get("FASTSMTP_KILL_CYCLES", "100"))
SIZES = (10, 1000, 20_000, 200_000)


def gateway(port: int, *arguments: str) -> Gateway:
    return Gateway(
        None,
        f"--deliver=remote://127.0.0.1:{port}",
        *arguments,
        program=(remote_gateway.__file__,),
        env={"PYTHONPATH": ":".join(sys.path)},
    )


async def started(port: int, spool: Path) -> Gateway:
    """In a thread: the remote, which it asks, is on this loop."""
    beside = (f"--spool={spool}", "--on-unavailable=spool", "--handoff-deadline=0.2")
    return await asyncio.to_thread(gateway, port, *beside)


async def flap(remote: RemoteServer, chance: random.Random) -> None:
    """Take the remote down and up."""
    while True:
        await asyncio.sleep(chance.uniform(0, 0.3))
        await remote.stop()
        await asyncio.sleep(chance.uniform(0, 0.3))
        await remote.start()


async def killed(directory: Path, seed: int, kills: int) -> int:
    """Return how many messages were acknowledged; all of them are found."""
    chance, spool = random.Random(seed), directory / "spool"
    acknowledged: set[str] = set()
    async with RemoteServer() as remote:
        for number in range(kills):
            running = await started(remote.port, spool)
            # Every other time it is killed while all mail goes into the spool.
            changing = remote.stop() if number % 2 else flap(remote, chance)
            flapping = asyncio.create_task(changing)
            load = Load(running.ports[0], 8, seed=chance.getrandbits(32), sizes=SIZES)
            last = chance.choice([1, 20, 200, 400])
            load.on_acknowledged = lambda count, last=last, it=running: (
                it.process.kill() if count == last else None
            )
            await load.run()
            assert await asyncio.to_thread(running.wait) == -9
            assert load.refused == []
            acknowledged |= load.acknowledged
            flapping.cancel()
            await asyncio.wait([flapping])
            await remote.stop()
            await remote.start()
        with await started(remote.port, spool) as last_one:
            async with asyncio.timeout(PATIENCE):
                while [each async for each in perform(str(spool), {"command": "list"})]:
                    await asyncio.sleep(0.02)
            assert await asyncio.to_thread(last_one.stop) == 0
        found = {
            sha256(body).hexdigest()
            for copies in remote.stored.values()
            for octets in copies
            if isinstance(body := parse_record(octets).body, bytes)
        }
    lost = acknowledged - found
    assert not lost, f"{len(lost)} of {len(acknowledged)} are lost"
    return len(acknowledged)


def test_a_killed_gateway_beside_a_flapping_machine_has_lost_nothing_acknowledged(
    tmp_path: Path,
) -> None:
    assert asyncio.run(killed(tmp_path, 1, 2)) > 0


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(100, 100 + NIGHTLY_KILLS // KILLS))
def test_a_killed_gateway_beside_a_flapping_machine_loses_nothing_every_night(
    tmp_path: Path, seed: int
) -> None:
    assert asyncio.run(killed(tmp_path, seed, KILLS)) > 0


def test_a_gateway_killed_before_its_250_leaves_a_copy_with_the_fingerprint_of_the_next() -> None:
    message = b"Subject: x\r\n\r\nhello\r\n"
    with in_a_thread() as remote:
        remote.server.is_silent = True  # to the message: the probe of a start is answered
        with gateway(remote.port) as running:
            sending = threading.Thread(target=send_and_lose, args=(running, message))
            sending.start()
            remote.wait_until_received()
            running.kill()
            sending.join(PATIENCE)
        remote.server.is_silent = False
        with gateway(remote.port) as running:
            running.send(message)
            assert running.stop() == 0
    copies = [parse_record(octets) for each in remote.server.stored.values() for octets in each]
    assert len(copies) == 2
    assert len({copy.id for copy in copies}) == 2
    assert len({copy.fingerprint for copy in copies}) == 1


def send_and_lose(running: Gateway, message: bytes) -> None:
    with pytest.raises(smtplib.SMTPServerDisconnected):
        running.send(message)
