"""The sink NATS when servers die, stand still or cannot be heard: nothing that was acknowledged is
lost, a message is stored once, and everything recovers by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from faulty_network import Between, between
from nats_kit import NATS_SERVER, REASON, STREAM, SUBJECT, Asking, Node, ask, nodes, record
from on_loops import on_loops

from fastsmtp.delivery import DeliveryError, Promise
from fastsmtp.delivery.handoff import availability
from fastsmtp.delivery.nats import NATS
from fastsmtp.delivery.nats import link as link_module
from fastsmtp.delivery.nats import publisher as publisher_module
from fastsmtp.delivery.sink import Receipt
from fastsmtp.delivery.spool import Spool, drainer
from fastsmtp.delivery.spool.patient import Patient

pytestmark = [
    pytest.mark.interop,
    pytest.mark.one_python,
    pytest.mark.skipif(not NATS_SERVER, reason=REASON),
]

DEADLINE = 60.0  # seconds; only what hangs ever waits so long

_numbers = itertools.count(1)


class Flow:
    """Messages, one after the other in each of several lanes. receipts: of those that got one."""

    def __init__(self, sink: NATS, lanes: int = 4) -> None:
        self.receipts: dict[str, Receipt] = {}
        self.errors: list[DeliveryError] = []
        self._sink = sink
        self._ends = False
        self._new = asyncio.Event()
        self._lanes = [asyncio.ensure_future(self._lane()) for _ in range(lanes)]

    async def _lane(self) -> None:
        while not self._ends:
            sent = record(1000)
            try:
                self.receipts[sent.id] = await self._sink.put(sent)
            except DeliveryError as error:
                self.errors.append(error)
            self._new.set()

    async def more(self, count: int = 50) -> None:
        """Wait for so many more receipts."""
        until = len(self.receipts) + count
        while len(self.receipts) < until:
            self._new.clear()
            await self._new.wait()

    async def end(self) -> None:
        self._ends = True
        await asyncio.gather(*self._lanes)

    async def check(self, asking: Asking, *, stream: str = STREAM) -> None:
        """What was acknowledged is stored, each message once, where its receipt says."""
        found = [id for id, _ in await asking.messages(stream)]
        assert len(found) == len(set(found))
        places = {id: f"{stream}:{place}" for place, id in enumerate(found, 1)}
        assert {id: places.get(id) for id in self.receipts} == self.receipts


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Losses are seen soon, so that the tests are short. Call it after the start, which is not
    repeated.
    """
    monkeypatch.setattr(link_module, "PING", 0.2)

    def hurry() -> None:
        monkeypatch.setattr(link_module, "STEP", 0.5)
        monkeypatch.setattr(publisher_module, "ANSWER", 1.0)

    return hurry


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """No connection is given up because the machine stands still."""
    monkeypatch.setattr(link_module, "PING", 60.0)
    return lambda: None


# One server, and a network between.


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with nodes(tmp_path_factory.mktemp("nats"), sync="always") as found:
        yield found[0]


@asynccontextmanager
async def far(
    node: Node, hurry: Callable[[], None], deadline: float = DEADLINE
) -> AsyncIterator[tuple[Between, NATS, Asking]]:
    """A sink with a stream of its own, and the network between it and the server."""
    name = f"S{next(_numbers)}"
    async with ask(node) as asking, between(node.port) as network:
        await asking.stream(name, subjects=[f"{SUBJECT}.{name}"])
        url = f"nats://127.0.0.1:{network.port}"
        async with NATS(url, stream=name, sync="always", deadline=deadline) as sink:
            hurry()
            yield network, sink, asking
        await asking.remove(name)


def stream_of(sink: NATS) -> str:
    return sink.where.rpartition(" ")[2]


@on_loops
@pytest.mark.parametrize("direction", ["to_client", "to_server"])
async def test_a_network_that_loses_one_direction_costs_no_mail_and_no_second_copy(
    node: Node, quick: Callable[[], None], direction: str
) -> None:
    async with far(node, quick) as (network, sink, asking):
        flow = Flow(sink)
        await flow.more()
        # Lost towards the client are acknowledgements: the messages are stored, and come again.
        network.swallow(direction)
        await flow.more()
        await flow.end()
        assert network.lost_octets > 0
        assert flow.errors == []
        await flow.check(asking, stream=stream_of(sink))


@on_loops
async def test_connections_that_are_reset_cost_no_mail(
    node: Node, quick: Callable[[], None]
) -> None:
    async with far(node, quick) as (network, sink, asking):
        flow = Flow(sink)
        for _ in range(5):
            await flow.more(20)
            network.cut()
        await flow.more(20)
        await flow.end()
        assert flow.errors == []
        assert network.accepted > 5
        await flow.check(asking, stream=stream_of(sink))


@on_loops
async def test_a_connection_that_breaks_during_its_login_is_made_again(
    node: Node, quick: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nats.aio import client as library

    read_info: Any = library.Client._process_info
    broken = 0

    async def and_break(client: Any, *arguments: Any, **named: Any) -> None:
        nonlocal broken
        await read_info(client, *arguments, **named)
        if broken < 2:
            broken += 1
            client._transport._io_writer.transport.abort()
            await asyncio.sleep(0)

    async with far(node, quick) as (network, sink, asking):
        flow = Flow(sink)
        await flow.more(20)
        with monkeypatch.context() as patched:
            patched.setattr(library.Client, "_process_info", and_break)
            network.cut()
            await flow.more(20)
        await flow.end()
        assert broken == 2
        assert flow.errors == []
        await flow.check(asking, stream=stream_of(sink))


@on_loops
async def test_a_slow_network_only_takes_longer(node: Node, patient: Callable[[], None]) -> None:
    async with far(node, patient) as (network, sink, asking):
        network.delay = 0.02
        flow = Flow(sink)
        await flow.more(20)
        await flow.end()
        assert flow.errors == []
        assert network.accepted == 1
        await flow.check(asking, stream=stream_of(sink))


@on_loops
async def test_a_server_that_is_never_heard_is_451_and_recovers_by_itself(
    node: Node, quick: Callable[[], None], log: list[str]
) -> None:
    async with far(node, quick, deadline=1.0) as (network, sink, asking):
        flow = Flow(sink, lanes=2)
        await flow.more(10)
        network.all_new = {"to_client"}
        network.swallow("to_client")
        while sink.refusal() is None:
            await asyncio.sleep(0.01)
        await flow.end()
        assert {error.reply.response_code for error in flow.errors} == {451}
        network.all_new = set()
        network.cut()
        while sink.refusal() is not None:
            await asyncio.sleep(0.01)
        again = Flow(sink)
        await again.more(10)
        await again.end()
        flow.receipts |= again.receipts
        await flow.check(asking, stream=stream_of(sink))
    # Once each, unless the machine has stood still.
    downs = [line for line in log if "is down" in line]
    assert len(downs) == sum("is up again" in line for line in log) >= 1


@on_loops
async def test_a_server_that_starts_again_is_used_again(
    node: Node, quick: Callable[[], None]
) -> None:
    async with far(node, quick) as (_, sink, asking):
        flow = Flow(sink)
        await flow.more(20)
        node.end(signal.SIGKILL)
        node.start()
        await asyncio.to_thread(node.ready)
        await flow.more(20)
        await flow.end()
        assert flow.errors == []
        async with ask(node) as asking:
            await flow.check(asking, stream=stream_of(sink))


async def _outage(node: Node, path: Path) -> None:
    name = f"S{next(_numbers)}"
    async with ask(node) as asking:
        await asking.stream(name, subjects=[f"{SUBJECT}.{name}"])
    sink = NATS(node.url, stream=name, sync="always", deadline=0.5)
    spool = Spool(str(path / "spool"), drain_into=Patient(sink, "NATS"))
    async with spool:
        node.end(signal.SIGKILL)
        sent = [record() for _ in range(3)]
        for each in sent:
            await spool.put(each)
        while spool.counts.deferred < 15 * len(sent):
            await asyncio.sleep(0.01)
        node.start()
        async with asyncio.timeout(100):
            while spool.count:
                await asyncio.sleep(0.01)
    async with ask(node) as asking:
        assert {id for id, _ in await asking.messages(name)} == {each.id for each in sent}
        await asking.remove(name)


def test_mail_that_was_spooled_during_a_long_outage_is_there_soon_after_it(
    node: Node, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((availability, "MOST_PAUSE"), (drainer, "MOST_PAUSE")):
        monkeypatch.setattr(module, name, 0.05)
    monkeypatch.setattr(drainer, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(drainer, "FIRST_DELAY", 0.01)  # after 15 tries it would be minutes
    asyncio.run(_outage(node, tmp_path))


# Three servers.


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    with nodes(tmp_path_factory.mktemp("cluster"), 3, sync="always") as found:
        yield found


@asynccontextmanager
async def replicated(
    cluster: list[Node], hurry: Callable[[], None] = lambda: None, deadline: float = DEADLINE
) -> AsyncIterator[tuple[NATS, Callable[[str], Node], Asking]]:
    """A sink with a stream of three copies, and what finds a node by its name."""
    by_name = {node.name: node for node in cluster}
    async with ask(*cluster) as asking:
        await asking.stream(num_replicas=3)
        await asking.leader()
        urls = [node.url for node in cluster]
        monitor = [node.monitor_url for node in cluster]
        try:
            async with NATS(urls, stream=STREAM, monitor=monitor, deadline=deadline) as sink:
                assert sink.promise is Promise.QUORUM_DISK
                assert sink.remarks == ()
                hurry()
                yield sink, by_name.__getitem__, asking
        finally:
            await asking.remove()


async def up(node: Node) -> None:
    """Start a node again, and wait until it has what the others have."""
    node.start()
    await asyncio.to_thread(node.ready, "")


async def after(cluster: list[Node], flow: Flow) -> None:
    """End, and look at what is there; the client of the test may have lost its server."""
    await flow.end()
    async with ask(*cluster) as asking:
        await flow.check(asking)


async def _killed(
    cluster: list[Node], which: str, hurry: Callable[[], None] = lambda: None
) -> None:
    async with replicated(cluster, hurry) as (sink, node, asking):
        flow = Flow(sink)
        await flow.more()
        leader = await asking.leader()
        names = {each.name for each in cluster}
        killed = node(leader if which == "leader" else sorted(names - {leader})[0])
        killed.end(signal.SIGKILL)
        await flow.more()
        await up(killed)
        await flow.more()
        assert flow.errors == []
        await after(cluster, flow)


def test_a_killed_leader_costs_no_mail_and_no_error(
    cluster: list[Node], quick: Callable[[], None]
) -> None:
    asyncio.run(_killed(cluster, "leader", quick))


@pytest.mark.nightly
def test_a_killed_follower_costs_no_mail_and_no_error(cluster: list[Node]) -> None:
    asyncio.run(_killed(cluster, "follower"))


async def _stopped(cluster: list[Node]) -> None:
    async with replicated(cluster) as (sink, node, asking):
        flow = Flow(sink)
        await flow.more()
        leader = node(await asking.leader())
        leader.send(signal.SIGSTOP)
        try:
            await flow.more()
        finally:
            leader.send(signal.SIGCONT)
        await flow.more()
        assert flow.errors == []
        await after(cluster, flow)


@pytest.mark.nightly
def test_a_leader_that_stands_still_costs_no_mail_and_no_error(cluster: list[Node]) -> None:
    asyncio.run(_stopped(cluster))


async def _rolling(cluster: list[Node]) -> None:
    async with replicated(cluster) as (sink, _, _):
        flow = Flow(sink)
        for node in cluster:
            await flow.more()
            node.end(signal.SIGTERM)
            await up(node)
        await flow.more()
        assert flow.errors == []
        await after(cluster, flow)


@pytest.mark.nightly
def test_a_rolling_restart_costs_no_mail_and_no_error(cluster: list[Node]) -> None:
    asyncio.run(_rolling(cluster))


async def _most_down(cluster: list[Node]) -> None:
    async with replicated(cluster, deadline=5.0) as (sink, _, _):
        flow = Flow(sink)
        await flow.more()
        for node in cluster[:2]:
            node.end(signal.SIGKILL)
        while sink.refusal() is None:
            await asyncio.sleep(0.05)
        await flow.end()
        assert {error.reply.response_code for error in flow.errors} == {451}
        for node in cluster[:2]:
            node.start()
        while sink.refusal() is not None:
            await asyncio.sleep(0.05)
        again = Flow(sink)
        await again.more()
        await again.end()
        flow.receipts |= again.receipts
        await after(cluster, flow)


@pytest.mark.nightly
def test_two_dead_servers_of_three_are_451_until_one_is_back(cluster: list[Node]) -> None:
    asyncio.run(_most_down(cluster))
