"""Who is let in, and what comes before the greeting: limits, reverse lookup, greeting delay.

Times are those of the in-memory wire; what depends on the kernel runs over real sockets.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clients import PATIENCE, Client, Sink, greets, until
from scenario import DEFAULTS, EH, codes
from tls_kit import certified

from fastsmtp import SMTPServer, descriptors
from fastsmtp.descriptors import MAX_LINGERING, max_lingering
from fastsmtp.server import state_of
from fastsmtp.testing import VirtualLoop, Wire, running

NEVER = 10_000.0


def server_of(**options: Any) -> SMTPServer:
    return SMTPServer(**{**DEFAULTS, **options})


# --- limits ---------------------------------------------------------------------------------------


def test_a_client_beyond_max_clients_is_answered_421_and_reaches_no_hook(run: Any) -> None:
    async def scenario() -> None:
        sink = Sink()
        connected: list[str] = []

        def on_connect(session: Any, callback: Callable[..., object]) -> None:
            connected.append(session.id)
            callback()

        def resolver(address: str) -> list[str]:
            looked_up.append(address)
            return []

        looked_up: list[str] = []
        options = {"disable_reverse_lookup": False, "resolver": resolver, "max_clients": 2}
        server = sink.server(on_connect=on_connect, **options)
        events: list[Any] = []
        server.on("connect", events.append)
        async with running(server) as address:
            first, second = [await Client.greeted(address) for _ in range(2)]
            before = len(looked_up)
            for _ in range(3):
                async with await Client.connect(address) as third:
                    third.send(EH)
                    assert await third.rest() == ["421"]
            assert len(server.connections) == len(connected) == len(events) == 2
            assert len(looked_up) == before
            assert sink.closed == []
            await first.close()
            await until(lambda: len(server.connections) == 1)
            await greets(address)
            await second.close()
        assert len(sink.closed) == 3

    run(scenario())


def test_a_client_beyond_max_clients_per_host_is_answered_421(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        sink = Sink()
        server = sink.server(max_clients_per_host=1)
        path = str(tmp_path / "smtp")
        async with running(server) as address:
            await server.listen(path=path)
            client = await Client.greeted(address)
            async with await Client.connect(address) as other:
                assert await other.rest() == ["421"]
            async with await Client.connect(address, local_addr=("127.0.0.2", 0)) as elsewhere:
                assert await elsewhere.reply() == "220"
            local = [await Client.greeted(path) for _ in range(3)]
            for one in (client, *local):
                await one.close()
            await until(lambda: not server.connections)
            await greets(address)
        assert len(sink.closed) == 6

    run(scenario())


@pytest.mark.parametrize(
    "first, second, served",
    [
        ("192.0.2.1", "192.0.2.2", True),
        ("192.0.2.1", "::ffff:192.0.2.1", False),
        ("2001:db8::1", "2001:db8::ffff:1:2:3", False),
        ("2001:db8::1", "2001:0db8:0000:0000:1::", False),
        ("2001:db8::1", "2001:db8:0:1::1", True),
        ("fe80::1%eth0", "fe80::2%eth1", False),
        (None, None, True),
    ],
)
def test_a_host_is_an_ipv4_address_or_an_ipv6_net(
    loop: VirtualLoop, first: str | None, second: str | None, served: bool
) -> None:
    server = server_of(max_clients_per_host=1)
    peers = [("" if at is None else (at, 4000)) for at in (first, second)]
    with Wire(server, peer=peers[0], loop=loop) as one:
        assert codes(one.receive()) == ["220"]
        with Wire(server, peer=peers[1], loop=loop) as two:
            assert codes(two.receive()) == ["220" if served else "421"]
            assert two.closed is not served
    loop.advance()
    with Wire(server, peer=peers[1], loop=loop) as again:
        assert codes(again.receive()) == ["220"]


# --- reverse lookup -------------------------------------------------------------------------------


def looked_up(answer: Any) -> str:
    """The `client_hostname` that a resolver's answer leads to."""

    def resolver(address: str) -> Any:
        assert address == "192.0.2.1"
        if isinstance(answer, BaseException):
            raise answer
        return answer

    seen: list[str] = []

    def on_connect(session: Any, callback: Callable[..., object]) -> None:
        seen.append(session.client_hostname)
        callback()

    options = {"disable_reverse_lookup": False, "resolver": resolver, "on_connect": on_connect}
    with Wire(**DEFAULTS | options) as wire:
        assert codes(wire.receive()) == ["220"]
        assert seen[0].encode() in wire.send(EH).split(b"\r\n")[0]
        assert wire.session.client_hostname == seen[0]
    return seen[0]


@pytest.mark.row("OPS-14")
@pytest.mark.parametrize(
    "answer, name",
    [
        (["mail.example"], "mail.example"),
        (["Mail.EXAMPLE", "other.example"], "mail.example"),
        (["a_b-c.example"], "a_b-c.example"),
        (["x" * 253], "x" * 253),
        (["x" * 254], "[192.0.2.1]"),
        ([], "[192.0.2.1]"),
        (None, "[192.0.2.1]"),
        ([""], "[192.0.2.1]"),
        (["two words"], "[192.0.2.1]"),
        (["bad name", "good.example"], "[192.0.2.1]"),
        (["x\r\n250 evil"], "[192.0.2.1]"),
        (["x) by evil ("], "[192.0.2.1]"),
        (["münchen.example"], "[192.0.2.1]"),
        (["\x1b[2J"], "[192.0.2.1]"),
        ([42], "[192.0.2.1]"),
        ([None], "[192.0.2.1]"),
        ([b"mail.example"], "[192.0.2.1]"),
        (42, "[192.0.2.1]"),
        (object(), "[192.0.2.1]"),
        (OSError("no such name"), "[192.0.2.1]"),
        (RuntimeError("bug"), "[192.0.2.1]"),
        (RecursionError(), "[192.0.2.1]"),
        (asyncio.CancelledError(), "[192.0.2.1]"),
        (GeneratorExit(), "[192.0.2.1]"),
    ],
)
def test_a_name_is_cleaned_and_an_invalid_one_is_dropped(answer: Any, name: str) -> None:
    assert looked_up(answer) == name


class Awaited:
    """A resolver that answers after `seconds`, by a coroutine."""

    def __init__(self, seconds: float, answer: Any) -> None:
        self.seconds = seconds
        self.answer = answer
        self.asked: list[str] = []

    async def __call__(self, address: str) -> Any:
        self.asked.append(address)
        await asyncio.sleep(self.seconds)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def with_lookup(resolver: Any, **options: Any) -> dict[str, Any]:
    return {**DEFAULTS, "disable_reverse_lookup": False, "resolver": resolver, **options}


def test_a_coroutine_may_be_the_resolver_and_its_method_reverse_too() -> None:
    class Resolver:
        async def reverse(self, address: str) -> list[str]:
            return ["mail.example"]

    for resolver in (Awaited(0.5, ["mail.example"]), Resolver()):
        with Wire(**with_lookup(resolver)) as wire:
            wire.advance(0.5)
            assert wire.session.client_hostname == "mail.example"


@pytest.mark.row("OPS-14")
@pytest.mark.parametrize("answer", [["late.example"], OSError("late")])
def test_a_slow_resolver_costs_a_second_and_a_half_at_most(answer: Any) -> None:
    with Wire(**with_lookup(Awaited(NEVER, answer))) as wire:
        assert wire.advance(1.49) == b""
        assert codes(wire.advance(0.02)) == ["220"]
        assert wire.session.client_hostname == "[192.0.2.1]"


@pytest.mark.row("OPS-14")
def test_the_lookup_and_the_greeting_delay_go_on_at_the_same_time() -> None:
    for seconds, delay in ((1.0, 0.5), (0.5, 1.0), (1.0, 1.0)):
        with Wire(**with_lookup(Awaited(seconds, ["m.example"]), greet_delay=delay)) as wire:
            assert wire.advance(0.9) == b""
            assert codes(wire.advance(0.2)) == ["220"]
            assert wire.session.client_hostname == "m.example"


def test_a_name_is_looked_up_once_for_many_connections(loop: VirtualLoop) -> None:
    resolver = Awaited(0.2, ["m.example"])
    server = server_of(disable_reverse_lookup=False, resolver=resolver)
    for _ in range(5):
        with Wire(server, loop=loop) as wire:
            wire.advance(0.3)
            assert codes(wire.receive() + wire.send(b"QUIT\r\n"))[-1] == "221 2.0.0"
            assert wire.session.client_hostname == "m.example"
    assert resolver.asked == ["192.0.2.1"]
    with Wire(server, loop=loop, peer=("192.0.2.2", 1)) as wire:
        wire.advance(0.3)
    assert resolver.asked == ["192.0.2.1", "192.0.2.2"]


def test_a_disabled_lookup_asks_no_resolver() -> None:
    resolver = Awaited(0.2, ["m.example"])
    with Wire(**DEFAULTS | {"resolver": resolver}) as wire:
        assert codes(wire.receive()) == ["220"]
        assert wire.session.client_hostname == "[192.0.2.1]"
    assert resolver.asked == []


@pytest.mark.row("PIPE-01")
def test_commands_sent_during_the_lookup_wait_for_the_greeting() -> None:
    with Wire(**with_lookup(Awaited(1.0, ["m.example"]))) as wire:
        assert wire.send(b"NOOP\r\nVRFY x\r\n", b"RSET\r\n") == b""
        assert codes(wire.advance(1.1)) == ["220", "250 2.0.0", "252 2.0.0", "250 2.0.0"]


def test_a_client_that_only_half_closes_during_the_lookup_is_served() -> None:
    """L8: complete lines before the FIN are executed and answered."""
    with Wire(**with_lookup(Awaited(1.0, ["m.example"]))) as wire:
        wire.send(b"NOOP\r\nQUIT\r\n")
        wire.eof()
        assert codes(wire.advance(1.1)) == ["220", "250 2.0.0", "221 2.0.0"]
        assert wire.transport.closed


@pytest.mark.row("FLOOD-11")
def test_refused_clients_that_stay_hold_few_descriptors(run: Any) -> None:
    async def scenario() -> None:
        server = Sink().server(max_clients=1)
        async with running(server) as address, await Client.greeted(address) as honest:
            crowd = [await Client.connect(address) for _ in range(100)]
            for client in crowd:
                assert await client.reply() == "421"
            await until(lambda: len(state_of(server).registry.refused) <= MAX_LINGERING)
            for client in crowd:
                assert await client.rest() == []  # each hears the end
            assert await honest.ask(b"NOOP\r\n") == "250 2.0.0"
            for client in crowd:
                await client.close()
            await until(lambda: not state_of(server).registry.refused)

    run(scenario())


@pytest.mark.row("FLOOD-11")
@pytest.mark.parametrize("lingering", [0, 1])
def test_a_refused_client_that_spoke_first_reads_its_421_and_no_reset(
    run: Any, monkeypatch: pytest.MonkeyPatch, lingering: int
) -> None:
    monkeypatch.setattr(descriptors, "MAX_LINGERING", lingering)

    async def scenario() -> None:
        server = Sink().server(max_clients=1)
        async with running(server) as address, await Client.greeted(address):
            # What blocks here does not wait for the server: the kernel connects and takes octets.
            with socket.create_connection(address, PATIENCE) as early:
                early.sendall(EH * 1000)
                early.setblocking(False)
                octets = await read_to_the_end(early)
        assert codes(octets) == ["421"]

    run(scenario())


async def read_to_the_end(sock: socket.socket) -> bytes:
    """Return what comes up to FIN; raises ConnectionResetError. It sends no FIN."""
    octets = b""
    async with asyncio.timeout(PATIENCE):
        while piece := await asyncio.get_running_loop().sock_recv(sock, 4096):
            octets += piece
    return octets


@pytest.mark.row("FLOOD-11")
def test_a_client_beyond_max_clients_under_implicit_tls_is_closed_at_once(run: Any) -> None:
    """Nothing can be said to it, so nothing is waited for."""

    async def scenario() -> None:
        server = Sink().server(max_clients=1, secure=True, **certified("srv.test"))
        async with running(server) as address, await Client.connect(address):
            await until(lambda: server.connections)
            with socket.create_connection(address, PATIENCE) as other:
                other.sendall(b"\x16\x03\x01")
                other.setblocking(False)
                assert await read_to_the_end(other) == b""
                await until(lambda: not state_of(server).registry.refused)

    run(scenario())


@pytest.mark.parametrize(
    ("files", "lingering"), [(64, 1), (256, 4), (1024, MAX_LINGERING), (10**6, MAX_LINGERING)]
)
def test_fewer_refused_clients_may_linger_where_descriptors_are_few(
    monkeypatch: pytest.MonkeyPatch, files: int, lingering: int
) -> None:
    monkeypatch.setattr(descriptors, "open_files", lambda: files)
    assert max_lingering() == lingering


@pytest.mark.parametrize("before", ["lookup", "delay"])
def test_a_client_that_resets_before_the_greeting_leaves_nothing(run: Any, before: str) -> None:
    """I12, and I4: no hook was reached, so there is no on_close."""

    async def scenario() -> None:
        resolver = Awaited(NEVER, ["m.example"])
        sink = Sink()
        options = {"disable_reverse_lookup": False, "resolver": resolver}
        server = sink.server(**options if before == "lookup" else {"greet_delay": NEVER})
        async with running(server) as address:
            client = await Client.connect(address)
            await until(lambda: server.connections)
            client.reset()
            await client.close()
            await until(lambda: not server.connections)
        assert sink.closed == []

    run(scenario())


def test_a_client_that_closes_during_the_lookup_gives_its_place_back(run: Any) -> None:
    async def scenario() -> None:
        resolver = Awaited(NEVER, ["m.example"])
        server = Sink().server(disable_reverse_lookup=False, resolver=resolver)
        async with running(server) as address:
            async with await Client.connect(address):
                await until(lambda: resolver.asked)
            await until(lambda: not server.connections)

    run(scenario())


def test_the_systems_resolver_is_asked_by_default(run: Any) -> None:
    async def scenario() -> None:
        sink = Sink()
        async with running(sink.server(disable_reverse_lookup=False)) as address:
            await greets(address)

    run(scenario())


# --- greeting delay -------------------------------------------------------------------------------


def test_the_greeting_waits_for_the_delay() -> None:
    with Wire(**DEFAULTS, greet_delay=6) as wire:
        assert wire.advance(5.9) == b""
        assert codes(wire.advance(0.2)) == ["220"]
        assert codes(wire.send(EH)) == ["250"]


@pytest.mark.row("PIPE-01")
@pytest.mark.parametrize("octets", [b"E", EH, b"\r\n", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n"])
def test_an_early_talker_is_cut(octets: bytes) -> None:
    """R03, whatever it says; nothing of it is executed."""
    called: list[str] = []

    def on_connect(session: Any, callback: Callable[..., object]) -> None:
        called.append("on_connect")
        callback()

    with Wire(**DEFAULTS, greet_delay=6, on_connect=on_connect) as wire:
        wire.advance(3)
        assert codes(wire.send(octets, EH)) == ["421"]
        assert wire.closed
        assert wire.advance(100) == b""
        assert wire.transport.closed
    assert called == []


@pytest.mark.row("PIPE-01")
def test_a_client_that_talks_while_on_connect_works_is_an_early_talker_too() -> None:
    callbacks: list[Callable[..., object]] = []
    options = {"greet_delay": 1, "on_connect": lambda session, callback: callbacks.append(callback)}
    with Wire(**DEFAULTS, **options) as wire:
        wire.advance(1.1)
        assert len(callbacks) == 1
        assert codes(wire.send(EH)) == ["421"]
        callbacks[0]()
        assert wire.advance(1) == b""
