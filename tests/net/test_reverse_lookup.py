"""Names of clients: how often a resolver is asked, and what a slow, dead or faulty one costs.

Time is that of a loop that stands still; resolvers that are programs of others run over sockets.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from clients import Client, Sink, until
from dns_kit import NO_ERROR, NO_SUCH_NAME, SERVER_FAILURE, name_server, reply
from scenario import DEFAULTS, EH, codes

import fastsmtp._net.reverse_dns as limits
from fastsmtp import SMTPServer
from fastsmtp._net.resolvers import MAX_THREADS, AsyncResolver, SystemResolver, _OpenLoop
from fastsmtp._net.reverse_dns import ReverseLookup
from fastsmtp.server import state_of
from fastsmtp.testing import VirtualLoop, Wire, running

PATIENCE = 60.0


class LookupServer:
    """A resolver, and the server that asks it. answer: called for each address."""

    def __init__(self, loop: VirtualLoop, answer: Callable[[str], Any]) -> None:
        self.asked: list[str] = []
        self.answer = answer
        self.loop = loop
        self.server = SMTPServer(**DEFAULTS | {"disable_reverse_lookup": False})
        state_of(self.server).lookup = ReverseLookup(self, loop.time)

    def __call__(self, address: str) -> Any:
        self.asked.append(address)
        return self.answer(address)

    def client(self, address: str = "192.0.2.1") -> Wire:
        return Wire(self.server, peer=(address, 4000), loop=self.loop)

    def waits(self, address: str) -> bool:
        """A client of `address` connects; True when it is not greeted at once."""
        with self.client(address) as wire:
            return codes(wire.receive()) != ["220"]

    def leaves_with_name(self, address: str) -> str:
        with self.client(address) as wire:
            wire.advance(limits.LOOKUP_TIMEOUT)
            return wire.session.client_hostname


async def never(address: str) -> list[str]:
    await asyncio.get_running_loop().create_future()
    return []


def after(seconds: float, outcome: Any) -> Callable[[str], Any]:
    async def answer(address: str) -> Any:
        await asyncio.sleep(seconds)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return answer


def raising(error: BaseException) -> Callable[[str], Any]:
    def answer(address: str) -> Any:
        raise error

    return answer


def clients(first: int = 1) -> Iterator[str]:
    """Addresses of different nets."""
    number = first
    while True:
        yield f"192.0.{number >> 8}.{number & 255}"
        number += 1


# --- one question for all ---


def test_clients_of_one_address_wait_for_one_answer(loop: VirtualLoop) -> None:
    office = LookupServer(loop, after(1.0, ["m.example"]))
    wires = [office.client() for _ in range(50)]
    loop.advance(1.0)
    for wire in wires:
        assert codes(wire.receive()) == ["220"]
        assert wire.session.client_hostname == "m.example"
        wire.close()
    assert office.asked == ["192.0.2.1"]


def test_clients_that_come_and_leave_ask_no_more_than_one_that_stays(loop: VirtualLoop) -> None:
    office = LookupServer(loop, after(1.0, ["m.example"]))
    for _ in range(200):
        office.client().close()
    with office.client() as wire:
        wire.advance(1.0)
        assert wire.session.client_hostname == "m.example"
    assert office.asked == ["192.0.2.1"]


def test_a_client_that_joins_late_waits_no_longer_than_the_first(loop: VirtualLoop) -> None:
    office = LookupServer(loop, never)
    with office.client() as first:
        first.advance(1.0)
        with office.client() as second:
            assert codes(second.advance(0.5)) == codes(first.receive()) == ["220"]


# --- failures ---


@pytest.mark.parametrize("answer", [never, raising(OSError()), after(0.1, OSError()), after(0, 42)])
def test_a_failure_is_remembered_for_a_minute(loop: VirtualLoop, answer: Any) -> None:
    office = LookupServer(loop, answer)
    office.leaves_with_name("192.0.2.1")
    assert not office.waits("192.0.2.1")
    assert len(office.asked) == 1
    loop.advance(limits.FAILURE_SECONDS)
    office.answer = after(0.1, ["m.example"])
    assert office.leaves_with_name("192.0.2.1") == "m.example"
    assert len(office.asked) == 2


@pytest.mark.parametrize(
    "error",
    [
        socket.herror(1, "Unknown host"),
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    ],
)
def test_a_missing_name_is_an_answer_and_not_a_failure(loop: VirtualLoop, error: Any) -> None:
    office = LookupServer(loop, after(1.0, error))
    for address, _ in zip(clients(), range(3 * limits.MAX_SLOW), strict=False):
        assert office.waits(address)
        loop.advance(1.0)
    loop.advance(limits.CACHE_SECONDS - 3 * limits.MAX_SLOW * 1.0 - 1.0)
    assert not office.waits("192.0.0.1")
    loop.advance(limits.CACHE_SECONDS)
    assert office.waits("192.0.0.1")


@pytest.mark.row("OPS-14")
@pytest.mark.parametrize("answer", [never, after(1.4, OSError()), after(0.5, 42)])
def test_a_dead_resolver_delays_only_the_first_greetings(loop: VirtualLoop, answer: Any) -> None:
    office = LookupServer(loop, answer)
    addresses = clients()
    delayed = 0
    for address, _ in zip(addresses, range(100), strict=False):
        if office.waits(address):
            delayed += 1
            loop.advance(limits.LOOKUP_TIMEOUT)
    assert delayed == len(office.asked) == limits.MAX_SLOW
    # After the pause one client at a time waits for it, and a failure begins the next pause.
    loop.advance(limits.PAUSE)
    with office.client(next(addresses)) as trial:
        assert trial.receive() == b""
        assert not office.waits(next(addresses))
        trial.advance(limits.LOOKUP_TIMEOUT)
    assert not office.waits(next(addresses))
    # One that answers again is asked again.
    loop.advance(limits.PAUSE)
    office.answer = after(0.1, ["m.example"])
    for address, _ in zip(addresses, range(10), strict=False):
        assert office.leaves_with_name(address) == "m.example"


def test_clients_that_wait_are_greeted_when_a_resolver_is_given_up(loop: VirtualLoop) -> None:
    office = LookupServer(loop, never)
    addresses = clients()
    early = [office.client(next(addresses)) for _ in range(limits.MAX_SLOW)]
    loop.advance(limits.LOOKUP_TIMEOUT - 0.1)
    late = office.client(next(addresses))
    assert late.receive() == b""
    loop.advance(0.1)
    assert [codes(wire.receive()) for wire in (*early, late)] == [["220"]] * len([*early, late])
    for wire in (*early, late):
        wire.close()


def test_failures_without_delay_do_not_pause_the_lookups(loop: VirtualLoop) -> None:
    office = LookupServer(loop, raising(OSError("no network")))
    for address, _ in zip(clients(), range(50), strict=False):
        assert not office.waits(address)
    assert len(office.asked) == 50


# --- places ---


def test_beyond_the_places_a_client_has_no_name_and_does_not_wait(loop: VirtualLoop) -> None:
    office = LookupServer(loop, after(1.0, ["m.example"]))
    addresses = clients()
    waiting = [office.client(next(addresses)) for _ in range(limits.MAX_IN_FLIGHT)]
    assert not office.waits(next(addresses))
    assert office.waits("192.0.0.1")  # of an address that is asked for already
    loop.advance(1.0)
    assert all(wire.session.client_hostname == "m.example" for wire in waiting)
    assert office.leaves_with_name(next(addresses)) == "m.example"
    for wire in waiting:
        wire.close()


def test_a_coroutine_that_does_not_end_keeps_its_place(loop: VirtualLoop) -> None:
    gate = loop.create_future()

    async def stubborn(address: str) -> list[str]:
        while not gate.done():
            try:
                await asyncio.shield(gate)
            except asyncio.CancelledError:
                pass
        return []

    office = LookupServer(loop, stubborn)
    addresses = clients()
    lookup = state_of(office.server).lookup
    assert lookup is not None
    for _ in range(limits.MAX_SLOW):
        office.client(next(addresses)).close()
    loop.advance(limits.LOOKUP_TIMEOUT + limits.PAUSE)
    assert len(lookup._busy) == limits.MAX_SLOW
    loop.step(lambda: gate.set_result(None))
    assert not lookup._busy


def test_one_ipv6_net_cannot_take_the_places_of_others_or_stop_the_lookups(
    loop: VirtualLoop,
) -> None:
    office = LookupServer(loop, never)
    wires = [office.client(f"2001:db8::{number:x}") for number in range(1, 200)]
    assert len(office.asked) == limits.MAX_PER_HOST
    loop.advance(limits.LOOKUP_TIMEOUT)
    for number in range(200, 250):
        assert not office.waits(f"2001:db8::{number:x}")
    office.answer = after(0.1, ["m.example"])
    for address, _ in zip(clients(), range(limits.MAX_IN_FLIGHT), strict=False):
        assert office.leaves_with_name(address) == "m.example"
    for wire in wires:
        wire.close()


def test_the_cache_of_names_is_bounded(loop: VirtualLoop) -> None:
    lookup = ReverseLookup(lambda address: ["m.example"], loop.time)

    def ask() -> None:
        for address, _ in zip(clients(), range(limits.CACHE_SIZE + 100), strict=False):
            assert lookup.known(loop, address) == (False, None)
            lookup.begin(address, lambda name: None)

    loop.step(ask)
    assert len(lookup._cache) == limits.CACHE_SIZE


# --- odd resolvers ---


class Trap:
    """An object on which everything fails."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("trap")

    def __bool__(self) -> bool:
        raise RuntimeError("trap")


class Broken:
    def __await__(self) -> Any:
        raise GeneratorExit
        yield


def of_another_loop(address: str) -> Any:
    other = asyncio.new_event_loop()
    other.close()
    return other.create_future()


ODD: dict[str, Callable[[str], Any]] = {
    "CancelledError": raising(asyncio.CancelledError()),
    "CancelledError later": after(0.1, asyncio.CancelledError()),
    "GeneratorExit": raising(GeneratorExit()),
    "GeneratorExit later": after(0.1, GeneratorExit()),
    "StopIteration": raising(StopIteration("x")),
    "StopIteration later": after(0.1, StopIteration("x")),
    "RecursionError": raising(RecursionError()),
    "a trap": lambda address: Trap(),
    "a trap later": after(0.1, Trap()),
    "a broken awaitable": lambda address: Broken(),
    "a future of another loop": of_another_loop,
    "an error as a value": after(0.1, OSError("x")),
    "a lone surrogate": lambda address: ["\udcff"],
    "a NUL": lambda address: ["a\0b"],
    "a coroutine of a coroutine": lambda address: after(0.1, never(address))(address),
}


@pytest.mark.filterwarnings("ignore:coroutine 'never' was never awaited")
@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
def test_a_resolver_with_an_invalid_result_costs_the_name_and_no_log_line(
    loop: VirtualLoop, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    office = LookupServer(loop, answer)
    with office.client() as wire:
        loop.advance(limits.LOOKUP_TIMEOUT)
        assert codes(wire.receive() + wire.send(EH))[0] == "220"
        assert wire.session.client_hostname == "[192.0.2.1]"
    # One client leaves while its name is looked up.
    office.client("192.0.2.2").close()
    loop.advance(limits.LOOKUP_TIMEOUT)
    assert caplog.records == []


def test_a_result_of_aiodns_is_understood(loop: VirtualLoop) -> None:
    class Result:
        name = "M.example."

    assert LookupServer(loop, after(0.1, Result())).leaves_with_name("192.0.2.1") == "m.example"


def test_a_server_that_is_closed_releases_its_resolver(run: Any) -> None:
    async def scenario() -> None:
        ended = asyncio.Event()

        async def resolver(address: str) -> list[str]:
            try:
                return await never(address)
            finally:
                ended.set()

        server = Sink().server(disable_reverse_lookup=False, resolver=resolver)
        async with running(server) as address, await Client.connect(address):
            await until(lambda: state_of(server).lookup._busy)
            await server.close()
        await asyncio.wait_for(ended.wait(), PATIENCE)
        known = state_of(server).lookup.known(asyncio.get_running_loop(), "192.0.2.9")
        assert known == (True, None)

    run(scenario())


# --- the system's resolver ---


class SlowSystem:
    """Stands for the C library: `getnameinfo` returns when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, outcome: Any = ("m.example", "0")) -> None:
        self.outcome = outcome
        self.began: list[str] = []
        self.go = threading.Event()
        monkeypatch.setattr(socket, "getnameinfo", self)

    def __call__(self, address: tuple[str, int], flags: int) -> tuple[str, str]:
        assert flags == socket.NI_NAMEREQD
        self.began.append(address[0])
        assert self.go.wait(PATIENCE)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        found: tuple[str, str] = self.outcome
        return found


def lookup_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "fastsmtp-lookup"]


def ask(lookup: ReverseLookup, address: str) -> asyncio.Future[str | None]:
    """Ask as a connection does; the future has the name."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str | None] = loop.create_future()
    known, name = lookup.known(loop, address)
    if known:
        future.set_result(name)
    else:
        lookup.begin(address, future.set_result)
    return future


def test_a_place_is_held_until_the_thread_has_ended(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waited has long been greeted; a second thread for its place would be one too many."""

    async def scenario() -> None:
        monkeypatch.setattr(limits, "LOOKUP_TIMEOUT", 0.01)
        monkeypatch.setattr(limits, "SLOW", 1000.0)  # no look-up is given up here
        system = SlowSystem(monkeypatch)
        lookup = ReverseLookup("system", lambda: 0.0)
        addresses = clients()
        first = [ask(lookup, next(addresses)) for _ in range(MAX_THREADS)]
        assert await asyncio.gather(*first) == [None] * MAX_THREADS
        assert len(lookup_threads()) == MAX_THREADS
        for _ in range(100):
            assert ask(lookup, next(addresses)).done()
        assert len(lookup_threads()) == MAX_THREADS
        system.go.set()
        await until(lambda: not lookup._busy)
        # What came too late for its client is known to the next one.
        assert ask(lookup, "192.0.0.1").result() == "m.example"
        monkeypatch.setattr(limits, "LOOKUP_TIMEOUT", PATIENCE)
        assert await ask(lookup, next(addresses)) == "m.example"
        await lookup.close()
        await until(lambda: not lookup_threads())

    run(scenario())


@pytest.mark.parametrize(
    "outcome, name",
    [
        (("M.Example.", "0"), "m.example"),
        (("two words", "0"), None),
        (socket.gaierror(socket.EAI_NONAME, "x"), None),
        (socket.gaierror(socket.EAI_AGAIN, "x"), None),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), None),
        ((), None),
        (SystemExit(), None),
    ],
)
def test_any_result_of_the_system_resolver_becomes_a_name_or_none(
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    outcome: Any,
    name: str | None,
) -> None:
    async def scenario() -> None:
        SlowSystem(monkeypatch, outcome).go.set()
        lookup = ReverseLookup("system", lambda: 0.0)
        assert await ask(lookup, "192.0.2.1") == name
        await lookup.close()
        await until(lambda: not lookup_threads())

    run(scenario())
    assert caplog.records == []


def test_a_thread_that_cannot_be_started_costs_the_name(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(
            threading.Thread, "start", lambda self: raising(RuntimeError("can't start"))("")
        )
        lookup = ReverseLookup("system", lambda: 0.0)
        assert await ask(lookup, "192.0.2.1") is None
        assert not lookup._busy

    run(scenario())


def test_an_answer_of_the_system_after_the_loop_was_closed_is_dropped(
    loop_factory: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    system = SlowSystem(monkeypatch)

    async def scenario() -> None:
        ask(ReverseLookup("system", lambda: 0.0), "192.0.2.1")
        await until(lambda: system.began)

    loop = loop_factory()
    loop.run_until_complete(scenario())
    loop.close()
    threads = lookup_threads()
    system.go.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert capfd.readouterr() == ("", "")


# --- which resolver ---


def test_aiodns_is_asked_where_it_is_installed_and_else_the_system(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("aiodns")
    assert isinstance(ReverseLookup(None, float)._resolver, AsyncResolver)
    assert isinstance(ReverseLookup("aiodns", float)._resolver, AsyncResolver)
    assert isinstance(ReverseLookup("system", float)._resolver, SystemResolver)
    monkeypatch.setitem(sys.modules, "aiodns", None)
    assert isinstance(ReverseLookup(None, float)._resolver, SystemResolver)
    assert caplog.records == []
    with pytest.raises(ValueError, match=r"'aiodns'.*pip install 'fastsmtp-engine\[dns\]'"):
        SMTPServer(resolver="aiodns")


def test_an_aiodns_that_cannot_be_loaded_is_logged_and_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    (tmp_path / "aiodns.py").write_text("raise RuntimeError('no c-ares')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "aiodns", raising=False)
    assert isinstance(ReverseLookup(None, float)._resolver, SystemResolver)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "no c-ares" in caplog.text
    with pytest.raises(ValueError, match="no c-ares"):
        SMTPServer(resolver="aiodns")


# --- aiodns ---


def test_an_aiodns_that_does_not_start_is_logged_once_and_costs_the_names(
    run: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    aiodns = pytest.importorskip("aiodns")

    async def scenario() -> None:
        lookup = ReverseLookup("aiodns", lambda: 0.0)
        for address in ("192.0.2.1", "192.0.2.2"):
            assert await ask(lookup, address) is None

    monkeypatch.setattr(
        aiodns, "DNSResolver", lambda **options: raising(OSError("no descriptors"))("")
    )
    run(scenario())
    assert [record.getMessage() for record in caplog.records] == [
        "names of clients cannot be looked up: aiodns: no descriptors"
    ]


def asynchronous(port: int) -> ReverseLookup:
    """A look-up that asks the name server of a test."""
    pytest.importorskip("aiodns")
    lookup = ReverseLookup("aiodns", lambda: 0.0)
    lookup._resolver = AsyncResolver(nameservers=["127.0.0.1"], udp_port=port, tcp_port=port)
    return lookup


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
def test_a_name_is_found_without_a_thread_of_ours(run: Any, address: str) -> None:
    async def scenario() -> None:
        async with name_server(lambda query, _: reply(query, NO_ERROR, "Mail.Example")) as server:
            sink = Sink()
            smtp = sink.server(disable_reverse_lookup=False)
            state_of(smtp).lookup = asynchronous(server.port)
            assert await ask(state_of(smtp).lookup, address) == "mail.example"
            here = ("127.0.0.9", 0)  # the hosts file has no name for it
            async with (
                running(smtp) as place,
                await Client.connect(place, local_addr=here) as client,
            ):
                assert await client.reply() == "220"
                assert smtp.connections.copy().pop().session.client_hostname == ("mail.example")
            assert server.asked == [address, "127.0.0.9"]
            assert not lookup_threads()

    run(scenario())


@pytest.mark.parametrize(
    "answer, name",
    [
        (lambda query: reply(query, NO_ERROR, "m.example", "m.example"), "m.example"),
        (lambda query: reply(query, NO_ERROR), None),
        (lambda query: reply(query, NO_SUCH_NAME), None),
        (lambda query: reply(query, SERVER_FAILURE), None),
        (lambda query: reply(query, NO_ERROR, "x\r\n250 evil"), None),
        (lambda query: reply(query, NO_ERROR, "m\xfcnchen.example"), None),
        (lambda query: reply(query, NO_ERROR, ""), None),
        (lambda query: reply(query, NO_ERROR, ".".join(["x" * 62] * 4)), ".".join(["x" * 62] * 4)),
        (lambda query: query[:2] + bytes(range(256)) * 2, None),
        (lambda query: reply(query, NO_ERROR, "cut.example")[:-5], None),
        (lambda query: b"", None),
        (lambda query: None, None),
    ],
)
def test_any_answer_of_a_name_server_becomes_a_name_or_none(
    run: Any, caplog: pytest.LogCaptureFixture, answer: Any, name: str | None
) -> None:
    async def scenario() -> None:
        async with name_server(lambda query, _: answer(query)) as server:
            lookup = asynchronous(server.port)
            assert await ask(lookup, "192.0.2.7") == name
            await lookup.close()

    run(scenario())
    assert caplog.records == []


def test_a_missing_name_in_dns_is_remembered_as_an_answer(run: Any) -> None:
    async def scenario() -> None:
        async with name_server(lambda query, _: reply(query, NO_SUCH_NAME)) as server:
            lookup = asynchronous(server.port)
            assert await ask(lookup, "192.0.2.7") is None
            assert lookup._cache == {"192.0.2.7": (limits.CACHE_SECONDS, None)}
            await lookup.close()

    run(scenario())


@pytest.mark.parametrize("closes", [True, False])
def test_an_answer_of_aiodns_after_the_loop_was_closed_is_dropped(
    loop_factory: Any,
    closes: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """c-ares calls from a thread of its own; its last answer is that the query timed out."""
    pytest.importorskip("aiodns")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as dead:
        dead.bind(("127.0.0.1", 0))
        resolver = AsyncResolver(
            nameservers=["127.0.0.1"], udp_port=dead.getsockname()[1], timeout=0.1, tries=1
        )
        told = threading.Event()
        tell = _OpenLoop.call_soon_threadsafe

        def call_soon_threadsafe(loop: _OpenLoop, *arguments: Any) -> None:
            tell(loop, *arguments)
            told.set()

        monkeypatch.setattr(_OpenLoop, "call_soon_threadsafe", call_soon_threadsafe)

        async def scenario() -> None:
            resolver("192.0.2.1")
            if closes:
                await resolver.close()

        loop = loop_factory()
        loop.run_until_complete(scenario())
        loop.close()
        assert told.wait(PATIENCE)
    assert capfd.readouterr() == ("", "")


def test_a_server_serves_on_one_loop_after_the_other(loop_factory: Any) -> None:
    async def scenario() -> None:
        async with name_server(lambda query, _: reply(query, NO_ERROR, "m.example")) as server:
            lookup._resolver._options |= {"udp_port": server.port, "tcp_port": server.port}
            lookup._cache.clear()
            assert await ask(lookup, "192.0.2.7") == "m.example"
            # Left with its loop; the next one has places for others.
            server.answer = lambda query, _: None
            for address, _ in zip(clients(), range(limits.MAX_IN_FLIGHT), strict=False):
                ask(lookup, address)

    lookup = asynchronous(0)
    for _ in range(2):
        loop = loop_factory()
        loop.run_until_complete(scenario())
        loop.close()
