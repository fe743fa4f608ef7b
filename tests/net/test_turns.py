"""One budget of time for each turn of the loop: which flow is visited, in what order, for how long.

Turns are counted, not milliseconds: the clock of these tests moves only when somebody looks at it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from clients import Client, Sink, until
from scenario import COUNTERS_OFF, TX
from tls_kit import certified, client_context

from fastsmtp._connection import server_state
from fastsmtp._net.epoll_transport import NEWCOMERS_TURN
from fastsmtp._net.turns import CREDIT, SLICE, TURN, Continuation, Receiver, Turns
from fastsmtp.testing import running

row = pytest.mark.row


class Loop:
    """As much of a loop as turns take. time: moves with the work."""

    def __init__(self) -> None:
        self.time = 0.0
        self.due: list[Callable[..., object]] = []
        self.reported: list[dict[str, Any]] = []

    def call_soon(self, callback: Callable[..., object], *, context: Any) -> None:
        self.due.append(callback)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.reported.append(context)

    def turn(self) -> None:
        due, self.due = self.due, []
        for callback in due:
            callback()


class Work(Receiver):
    """A connection that has so many visits' work, each of `seconds`."""

    def __init__(self, turns: Turns, loop: Loop, name: str, visits: int, seconds: float) -> None:
        self.loop, self.name, self.left, self.seconds = loop, name, visits, seconds
        self.flow = Continuation(turns, self)
        self.done: list[str] = []

    def go_on(self) -> None:
        self.loop.time += self.seconds
        self.done.append(self.name)
        self.left -= 1
        if self.left:
            self.flow.go_on_later()


class LoopWithTurns:
    """Turns on a loop of their own, and what is done in them."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.turns = Turns(self.loop, lambda: self.loop.time)  # type: ignore[arg-type]
        self.done: list[str] = []

    def work(self, name: str, visits: int = 1, seconds: float = SLICE) -> Work:
        work = Work(self.turns, self.loop, name, visits, seconds)
        work.done = self.done
        return work

    def turn(self) -> list[str]:
        before = len(self.done)
        self.loop.turn()
        return self.done[before:]


@row("CPU-02")
def test_a_turn_visits_as_many_as_its_time_allows_and_the_next_one_the_rest() -> None:
    turning = LoopWithTurns()
    for number in range(50):
        turning.work(str(number)).flow.go_on_later()
    sizes = [len(turning.turn()) for _ in range(4)]
    assert sum(sizes) == 50
    assert max(sizes) <= TURN / SLICE + 1
    turning.turn()
    assert not turning.loop.due  # at rest nothing keeps the loop awake
    assert turning.done == [str(number) for number in range(50)]


@row("CPU-02")
def test_flows_with_more_work_take_turns() -> None:
    turning = LoopWithTurns()
    for name in "abc":
        turning.work(name, 1000).flow.go_on_later()
    for _ in range(30):
        turning.turn()
    counts = {name: turning.done.count(name) for name in "abc"}
    assert max(counts.values()) - min(counts.values()) <= 1


@row("CPU-02")
def test_a_flow_that_has_used_little_comes_before_those_that_have_used_much() -> None:
    turning = LoopWithTurns()
    for number in range(256):
        turning.work(f"heavy {number}", 1000, 2 * SLICE).flow.go_on_later()
    for _ in range(40):
        turning.turn()
    light = turning.work("light", 1, SLICE / 10)
    for _ in range(20):
        light.left = 1
        light.flow.go_on_later()
        assert turning.turn()[0] == "light"


@row("CPU-02")
def test_saved_up_time_is_bounded_by_the_credit() -> None:
    turning = LoopWithTurns()
    for number in range(8):
        turning.work(f"heavy {number}", 10_000).flow.go_on_later()
    late = turning.work("late", 10_000)
    for _ in range(500):
        turning.turn()
    late.flow.go_on_later()
    done = [name for _ in range(40) for name in turning.turn()]
    ahead = done.count("late") - done.count("heavy 0")
    assert ahead <= CREDIT / SLICE + 2


def test_a_pause_of_the_process_counts_as_one_bounded_visit() -> None:
    turning = LoopWithTurns()
    for number in range(8):
        turning.work(f"heavy {number}", 10_000).flow.go_on_later()
    unlucky = turning.work("unlucky", 1000)
    unlucky.flow.go_on_later()
    unlucky.seconds = 10.0
    while "unlucky" not in turning.turn():
        pass
    unlucky.seconds = SLICE / 10
    assert "unlucky" in [name for _ in range(10) for name in turning.turn()]


def test_work_outside_of_visits_shares_the_turn() -> None:
    turning = LoopWithTurns()
    allowed = 0
    for number in range(100):
        work = turning.work(str(number))
        if turning.turns.enter(work.flow) == 1:
            allowed += 1
            turning.loop.time += SLICE
            turning.turns.leave(work.flow)
    assert allowed <= TURN / SLICE + 1
    turning.turn()
    work = turning.work("next turn")
    assert turning.turns.enter(work.flow) == 1
    turning.turns.leave(work.flow)


def test_a_visit_that_fails_is_reported_and_stops_no_other() -> None:
    turning = LoopWithTurns()
    other = turning.work("other")

    class Failing(Receiver):
        def go_on(self) -> None:
            raise ZeroDivisionError

    Continuation(turning.turns, Failing()).go_on_later()
    other.flow.go_on_later()
    assert turning.turn() == ["other"]
    assert [type(each["exception"]) for each in turning.loop.reported] == [ZeroDivisionError]


# --- an honest client beside the others, over sockets ---

CROWD = 48
# From our command to the reply: to be read, to have its turn, to be seen by our own side.
TURNS_OF_A_REPLY = 8
TICK = SLICE / 2  # a look at the clock, and a hook, take so long: a slice is a few commands
# Each visit looks at the clock before it, and may end one command after its slice. What is done
# outside of visits has a budget too, where the turn begins with it.
MOST_TICKS = 1.25 * (2 * TURN + NEWCOMERS_TURN) / TICK

FLOODS: dict[str, tuple[bytes, bytes]] = {
    "one-octet chunks": (TX, b"BDAT 1\r\nx"),
    "one-octet messages": (b"", TX + b"BDAT 1 LAST\r\nx"),
    "NOOP": (b"", b"NOOP\r\n"),
    "MAIL and RSET": (b"", b"MAIL FROM:<a@x.example>\r\nRSET\r\n"),
    "recipients": (b"MAIL FROM:<a@x.example>\r\n", b"RCPT TO:<b@y.example>\r\n"),
}


class Turnstile:
    """Counts the turns of the running loop, and the ticks of its clock in each.

    The clock moves when somebody looks at it, and when a hook works.
    """

    def __init__(self) -> None:
        self.turns = 0
        self.ticks = 0
        self.most = 0
        self.time = 0.0
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self.turns += 1
        self.most = max(self.most, self.ticks)
        self.ticks = 0
        self._handle = self._loop.call_soon(self._turn)

    def stop(self) -> None:
        self._handle.cancel()

    def tick(self) -> None:
        self.ticks += 1
        self.time += TICK

    def now(self) -> float:
        self.tick()
        return self.time

    def work(self, address: Any, session: Any, callback: Callable[..., object]) -> None:
        """A hook for MAIL or RCPT."""
        self.tick()
        callback()


class Flood(asyncio.Protocol):
    """A client that waits for replies until it has sent `opening`, and then never."""

    def __init__(self, opening: bytes, pattern: bytes) -> None:
        self.lines = [b"EHLO c.example\r\n", *opening.splitlines(keepends=True)]
        self.octets = pattern * (32_768 // len(pattern))
        self.floods = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        if self.lines:
            self.transport.write(self.lines.pop(0))
        elif not self.floods:
            self.floods = True
            self.resume_writing()

    def resume_writing(self) -> None:
        for _ in range(4):  # beyond the mark at which it has to pause
            self.transport.write(self.octets)


class Newcomers(asyncio.Protocol):
    """A client that sends a line, leaves at the reply, and comes again. context: TLS comes first;
    without a line to send it leaves after the handshake.
    """

    def __init__(self, address: Any, word: bytes, context: ssl.SSLContext | None = None) -> None:
        self.address, self.word, self.context = address, word, context
        self.visits = 0
        self.over = False
        self._coming: asyncio.Task[Any] | None = None
        self.come()

    def come(self) -> None:
        connect = asyncio.get_running_loop().create_connection
        name = "srv.test" if self.context is not None else None
        coming = connect(lambda: self, *self.address, ssl=self.context, server_hostname=name)
        self._coming = asyncio.ensure_future(coming)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.visits += 1
        if not self.word:
            transport.abort()  # type: ignore[attr-defined]
        self.transport.write(self.word)

    def data_received(self, data: bytes) -> None:
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over:
            self.come()

    async def end(self) -> None:
        self.over = True
        if self._coming is not None:
            await self._coming
        self.transport.abort()


async def honest(address: Any, turnstile: Turnstile) -> int:
    """A session with one message; returns the most turns that one of its replies has taken."""
    most = 0
    client = await Client.connect(address)
    parts = [b"EHLO c.example\r\n", *TX.splitlines(keepends=True), b"DATA\r\n", b"text\r\n.\r\n"]
    assert await client.reply() == "220"
    for part in parts:
        began = turnstile.turns
        client.send(part)
        assert (await client.reply())[0] in "23"
        most = max(most, turnstile.turns - began)
    await client.close()
    return most


async def beside(floods: list[Flood], monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """An honest session beside so many clients that flood the server."""
    turnstile = Turnstile()
    monkeypatch.setattr(server_state, "Turns", lambda loop: Turns(loop, turnstile.now))
    loop = asyncio.get_running_loop()
    hooks = {"on_mail_from": turnstile.work, "on_rcpt_to": turnstile.work}
    server = Sink().server(**COUNTERS_OFF, **{"max_recipients": 0, **hooks, **options})
    async with running(server) as address:
        for flood in floods:
            await loop.create_connection(lambda flood=flood: flood, *address)  # type: ignore[misc]
        await until(lambda: all(flood.floods for flood in floods))
        for _ in range(20):  # until all of them wait for their turns
            await asyncio.sleep(0)
        turnstile.most = 0
        assert await honest(address, turnstile) <= TURNS_OF_A_REPLY
        assert not any(flood.transport.is_closing() for flood in floods)
        assert turnstile.most <= MOST_TICKS
        for flood in floods:
            flood.transport.abort()
        await until(lambda: not server.connections)
    turnstile.stop()


@row("CPU-02", "FLOOD-06")
@pytest.mark.parametrize("name", [*FLOODS, "all of them"])
def test_an_honest_session_beside_floods_takes_few_turns(
    name: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(FLOODS) if name == "all of them" else [name]
    floods = [Flood(*FLOODS[names[number % len(names)]]) for number in range(CROWD)]
    run(beside(floods, monkeypatch))


@row("CPU-02")
def test_hooks_that_answer_later_share_the_turn_too(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def on_mail_from(address: Any, session: Any) -> None:
        await asyncio.sleep(0)

    floods = [Flood(*FLOODS["MAIL and RSET"]) for _ in range(CROWD)]
    run(beside(floods, monkeypatch, on_mail_from=on_mail_from))


@row("CPU-02", "TLS-18")
def test_an_honest_session_beside_floods_in_tls_and_newcomers_takes_few_turns(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind at the same time: commands without end in clear and in TLS, clients that are
    always new, and handshakes.
    """

    async def scenario() -> None:
        turnstile = Turnstile()
        monkeypatch.setattr(server_state, "Turns", lambda loop: Turns(loop, turnstile.now))
        hooks = {"on_mail_from": turnstile.work, "on_rcpt_to": turnstile.work}
        server = Sink().server(**certified(max_recipients=0, **COUNTERS_OFF, **hooks))
        async with running(server) as address:
            await server.listen(0, "127.0.0.1", secure=True)
            inside, context = server.addresses()[1], client_context()
            floods = [Flood(*flood) for flood in FLOODS.values() for _ in range(4)]
            secured = [Flood(*flood) for flood in FLOODS.values()]
            connect = asyncio.get_running_loop().create_connection
            for flood in floods:
                await connect(lambda flood=flood: flood, *address)  # type: ignore[misc]
            for flood in secured:
                await connect(
                    lambda flood=flood: flood,  # type: ignore[misc]
                    *inside,
                    ssl=context,
                    server_hostname="srv.test",
                )
            await until(lambda: all(flood.floods for flood in [*floods, *secured]))
            newcomers = [Newcomers(address, b"EHLO c.example\r\n") for _ in range(4)]
            newcomers += [Newcomers(inside, b"", context) for _ in range(2)]
            await until(lambda: all(newcomer.visits > 1 for newcomer in newcomers))
            turnstile.most = 0
            assert await honest(address, turnstile) <= TURNS_OF_A_REPLY
            assert turnstile.most <= MOST_TICKS
            for newcomer in newcomers:
                await newcomer.end()
            for flood in [*floods, *secured]:
                flood.transport.abort()
            await until(lambda: not server.connections)
        turnstile.stop()

    run(scenario())
