"""`fastsmtp serve` with a NATS that is slow or stands still, and many clients: each gets an answer,
memory is bounded, and what was acknowledged is in the stream.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import signal
from collections.abc import Iterator
from functools import partial
from urllib.request import urlopen

import pytest
from clients import PATIENCE
from faulty_network import between
from mail_load import Load
from memory import resident_octets
from nats_kit import NATS_SERVER, REASON, STREAM, Node, ask, nodes
from serving import Gateway

from fastsmtp.delivery import parse_record
from fastsmtp.delivery.hook import MAX_IN_FLIGHT

pytestmark = [
    pytest.mark.interop,
    pytest.mark.one_python,
    pytest.mark.skipif(not NATS_SERVER, reason=REASON),
]

MIB = 1024 * 1024
# The limit of the gateway, what its connections and the kernel's copies take, and Python.
MOST_MEMORY = 300 * MIB
FULL, NOT_NOW = b"452 4.3.1", b"451 4.3.0"
LONG = 120.0  # seconds, for what many clients do on a busy machine


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with nodes(tmp_path_factory.mktemp("nats"), sync="always") as found:
        yield found[0]


@pytest.fixture(autouse=True)
def _stream(node: Node) -> None:
    async def make() -> None:
        async with ask(node) as asking:
            await asking.remove()
            await asking.stream()

    asyncio.run(make())


def serving(port: int, *, deadline: int) -> Gateway:
    return Gateway(
        None,
        f"--deliver=nats://127.0.0.1:{port}",
        f"--nats=stream={STREAM}",
        "--nats=sync=always",
        f"--handoff-deadline={deadline}",
        "--data-hook-timeout=200",
        "--admin=127.0.0.1:0",
    )


class Crowd(Load):
    """Clients that end with the first refusal."""

    def __init__(self, gateway: Gateway, clients: int, size: int) -> None:
        super().__init__(gateway.ports[0], clients, seed=1, sizes=(size,))
        self._gateway = gateway
        self._refused = asyncio.Event()
        self.on_refused = self._end

    @property
    def codes(self) -> set[bytes]:
        """Of the refusals."""
        return {answer[:9] for answer in self.refused}

    def _end(self, answer: bytes) -> None:
        self.stop()
        self._refused.set()

    async def until_refused(self) -> None:
        """Wait for the first refusal, and look at the memory of the gateway."""
        await asyncio.wait_for(self._refused.wait(), LONG)
        await asyncio.to_thread(self.check)

    def check(self) -> None:
        """What the gateway has in memory is bounded, by its own account and the system's."""
        admin = next(line for line in self._gateway.out.all if "metrics and state on" in line)
        with urlopen(f"http://{admin.split()[-1]}/metrics", timeout=PATIENCE) as answer:
            text = answer.read().decode()
        found = re.search(r"^fastsmtp_delivery_in_flight_bytes (\S+)$", text, re.MULTILINE)
        assert found is not None
        assert float(found[1]) <= MAX_IN_FLIGHT + MIB
        assert resident_octets(self._gateway.process.pid) < MOST_MEMORY


async def stored(node: Node) -> list[str]:
    """SHA-256 of the bodies in the stream."""
    async with ask(node) as asking:
        records = [parse_record(octets) for _, octets in await asking.messages()]
    bodies = [record.body for record in records]
    return [hashlib.sha256(body).hexdigest() for body in bodies if isinstance(body, bytes)]


def check_kept(load: Load, found: list[str]) -> None:
    """What was acknowledged is there, and nothing twice."""
    assert len(found) == len(set(found))
    assert load.acknowledged
    assert load.acknowledged <= set(found)


MANY = [(100, 800_000), pytest.param(1000, 200_000, marks=pytest.mark.nightly)]


@pytest.mark.parametrize("clients, size", MANY)
def test_a_server_that_stands_still_makes_452_and_not_memory(
    node: Node, clients: int, size: int
) -> None:
    async def scenario(gateway: Gateway) -> None:
        crowd = Crowd(gateway, clients, size)
        node.send(signal.SIGSTOP)
        try:
            sending = asyncio.ensure_future(crowd.run(LONG))
            await crowd.until_refused()
        finally:
            node.send(signal.SIGCONT)
        await sending
        assert crowd.codes == {FULL}
        check_kept(crowd, await stored(node))

    with serving(node.port, deadline=100) as gateway:
        asyncio.run(scenario(gateway))
        assert gateway.stop() == 0


@pytest.mark.parametrize("clients, size", MANY)
def test_a_slow_network_makes_452_and_not_memory(node: Node, clients: int, size: int) -> None:
    async def scenario() -> None:
        async with between(node.port) as network:
            with await asyncio.to_thread(partial(serving, network.port, deadline=100)) as gateway:
                network.delay = 0.05
                crowd = Crowd(gateway, clients, size)
                sending = asyncio.ensure_future(crowd.run(LONG))
                await crowd.until_refused()
                network.delay = 0.0
                await sending
                assert crowd.codes == {FULL}
                assert await asyncio.to_thread(gateway.stop) == 0
        check_kept(crowd, await stored(node))

    asyncio.run(scenario())


@pytest.mark.nightly
def test_every_client_of_a_server_that_stays_still_is_answered_after_the_deadline(
    node: Node,
) -> None:
    size = 200_000

    async def scenario(gateway: Gateway) -> None:
        crowd = Crowd(gateway, 1000, size)
        node.send(signal.SIGSTOP)
        try:
            await asyncio.wait_for(crowd.run(2 * LONG), LONG)  # it ends by itself
            await asyncio.to_thread(crowd.check)
        finally:
            node.send(signal.SIGCONT)
        assert NOT_NOW in crowd.codes <= {FULL, NOT_NOW}
        again = Load(gateway.ports[0], 10, seed=2, sizes=(size,))
        again.on_acknowledged = lambda count: again.stop()
        while not again.acknowledged:  # until the gateway takes mail again
            await again.run(LONG)
            await asyncio.sleep(0.05)
        check_kept(again, await stored(node))

    with serving(node.port, deadline=30) as gateway:
        asyncio.run(scenario(gateway))
        assert gateway.stop() == 0
