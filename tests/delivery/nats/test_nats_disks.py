"""Power cuts and full disks of the servers, on loop devices: what was acknowledged is kept if they
sync each message. With the default of JetStream it is not, so the test can tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from nats_kit import NATS_SERVER, REASON, STREAM, Node, ask, nodes, record
from power_cut import make_disk, mounted

from fastsmtp.delivery import DeliveryError, Promise, Unclear
from fastsmtp.delivery.nats import NATS

pytestmark = [
    pytest.mark.interop,
    pytest.mark.one_python,
    pytest.mark.nightly,
    pytest.mark.skipif(not NATS_SERVER, reason=REASON),
    pytest.mark.skipif(sys.platform != "linux", reason="loop devices"),
]

LANES = 20


async def acknowledged(cluster: list[Node], count: int, promise: Promise) -> set[str]:
    """Put messages until so many are acknowledged, and stop all servers; return their ids."""
    told: set[str] = set()
    enough = asyncio.Event()

    async def lane() -> None:
        while True:
            sent = record(1000)
            with contextlib.suppress(DeliveryError):
                await sink.put(sent)
                told.add(sent.id)
            if len(told) >= count:
                enough.set()

    async with ask(*cluster) as asking:
        await asking.stream(num_replicas=len(cluster))
        await asking.leader()
    sink = NATS(
        [node.url for node in cluster],
        stream=STREAM,
        monitor=[node.monitor_url for node in cluster],
    )
    assert await sink.start() is promise
    lanes = [asyncio.ensure_future(lane()) for _ in range(LANES)]
    await enough.wait()
    for node in cluster:
        node.send(signal.SIGSTOP)
    await asyncio.sleep(0.1)  # what the servers have sent before that counts
    found = set(told)
    for task in lanes:
        task.cancel()
    await asyncio.gather(*lanes, return_exceptions=True)
    await sink.close(0)
    return found


async def found(cluster: list[Node]) -> set[str]:
    async with ask(*cluster) as asking:
        if "error" in json.dumps(await asking.info()):
            return set()  # the stream itself is lost
        await asking.leader()
        return {id for id, _ in await asking.messages()}


def lost_by_a_cut(tmp_path: Path, copies: int, sync: str, promise: Promise, count: int) -> int:
    """Cut the power of all servers under load; return how many acknowledged messages are lost."""
    images = [make_disk(tmp_path, f"disk{number}") for number in range(copies)]
    cut = [tmp_path / f"cut{number}.img" for number in range(copies)]
    with contextlib.ExitStack() as stack:
        disks = [stack.enter_context(mounted(image)) for image in images]
        stores = [disk.path / "store" for disk in disks]
        (tmp_path / "before").mkdir()
        with nodes(tmp_path / "before", copies, sync=sync, stores=stores) as cluster:
            told = asyncio.run(acknowledged(cluster, count, promise))
            for image, copy in zip(images, cut, strict=True):
                shutil.copyfile(image, copy)
    with contextlib.ExitStack() as stack:
        disks = [stack.enter_context(mounted(image)) for image in cut]
        stores = [disk.path / "store" for disk in disks]
        (tmp_path / "after").mkdir()
        with nodes(tmp_path / "after", copies, sync=sync, stores=stores) as cluster:
            kept = asyncio.run(found(cluster))
    assert len(told) >= count
    return len(told - kept)


@pytest.mark.parametrize("count", [200, 2000])
@pytest.mark.parametrize("copies, promise", [(1, Promise.DISK), (3, Promise.QUORUM_DISK)])
def test_a_power_cut_of_all_servers_loses_nothing_that_they_have_synced(
    tmp_path: Path, copies: int, promise: Promise, count: int
) -> None:
    assert lost_by_a_cut(tmp_path, copies, "always", promise, count) == 0


async def put_until_refused(node: Node) -> tuple[set[str], list[object]]:
    """Return the ids of what was acknowledged, and the errors."""
    kept: set[str] = set()
    refused: list[object] = []
    async with NATS(node.url, stream=STREAM, sync="always", deadline=2.0) as sink:
        while len(refused) < LANES:
            sent = [record(100_000) for _ in range(LANES)]
            found = await asyncio.gather(*map(sink.put, sent), return_exceptions=True)
            kept |= {a.id for a, b in zip(sent, found, strict=True) if isinstance(b, str)}
            refused += [each for each in found if isinstance(each, BaseException)]
    return kept, refused


def health_of(node: Node) -> str:
    try:
        with urlopen(f"{node.monitor_url}/healthz", timeout=5) as answer:
            return str(answer.read())
    except HTTPError as error:
        return str(error.read())


def test_a_full_disk_of_a_server_is_451_until_it_has_room_and_starts_again(tmp_path: Path) -> None:
    async def scenario(node: Node, filler: Path) -> None:
        async with ask(node) as asking:
            await asking.stream()
        kept, refused = await put_until_refused(node)
        assert kept
        # The server does not answer to its clients; only its address for monitoring has the reason.
        assert {type(each) for each in refused} == {Unclear}
        assert "no space left on device" in health_of(node)
        filler.unlink()
        node.end()
        node.start()
        node.ready()
        async with NATS(node.url, stream=STREAM, sync="always") as sink:
            sent = record(1000)
            await sink.put(sent)
        async with ask(node) as asking:
            assert kept | {sent.id} <= {id for id, _ in await asking.messages()}

    with mounted(make_disk(tmp_path, "disk", 40)) as disk:
        filler = disk.path / "filler"
        filler.write_bytes(bytes(10_000_000))
        with nodes(tmp_path, sync="always", stores=[disk.path / "store"]) as cluster:
            asyncio.run(scenario(cluster[0], filler))


@pytest.mark.parametrize("copies, promise", [(1, Promise.MEMORY), (3, Promise.QUORUM)])
def test_a_power_cut_with_the_default_of_jetstream_loses_mail(
    tmp_path: Path, copies: int, promise: Promise
) -> None:
    assert lost_by_a_cut(tmp_path, copies, "", promise, 200) > 0
