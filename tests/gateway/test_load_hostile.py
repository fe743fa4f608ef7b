"""Servers that lie, stall, flood and vanish: the load generator counts that, and ends."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_kit import Peer, peers, plan_of, send
from on_loops import on_loops

from fastsmtp.gateway.bench import run as runs
from fastsmtp.gateway.bench.client import Client, Work
from fastsmtp.gateway.bench.figures import Figures
from fastsmtp.gateway.bench.schedule import Schedule
from fastsmtp.gateway.bench.script import Script
from fastsmtp.gateway.bench.target import BenchError

SHORT = 0.3  # seconds of --timeout, where that is what ends a run


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "FIRST_PAUSE", 0.0)


async def hangs(peer: Peer) -> None:
    await asyncio.Event().wait()


async def floods(peer: Peer, octets: bytes) -> None:
    while True:
        peer.says(octets)
        await peer.writer.drain()


def after_greeting(reply: bytes) -> Callable[[Peer], Any]:
    async def talk(peer: Peer) -> None:
        peer.says(reply)
        await peer.reader.read()

    return talk


GREETINGS: dict[str, tuple[Callable[[Peer], Any], str]] = {
    "it closes": (lambda peer: asyncio.sleep(0), "closed by the server before the greeting"),
    "it says nothing": (hangs, "the greeting did not come within"),
    "it is no SMTP": (after_greeting(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "not a reply"),
    "it sends a long line": (after_greeting(b"2" * 1_000_000), "a line of more than"),
    "it sends lines for ever": (
        lambda peer: floods(peer, b"220-and\r\n" * 1000),
        "a reply without an end",
    ),
    "it sends NUL for ever": (lambda peer: floods(peer, bytes(100_000)), "a line of more than"),
    "it sends a 354": (after_greeting(b"354 go on\r\n"), "the reply 354"),
    "it replies too soon": (after_greeting(b"220 a\r\n250 b\r\n250 c\r\n"), "no command asked"),
    "it refuses": (after_greeting(b"554 no\r\n"), "554 no"),
    "it closes with 421": (after_greeting(b"421 busy\r\n"), "421 busy"),
}


@pytest.mark.parametrize("name", GREETINGS)
@on_loops
async def test_a_server_that_does_not_greet_is_one_line_with_the_reason(name: str) -> None:
    talk, reason = GREETINGS[name]
    async with peers(talk) as address:
        with pytest.raises(BenchError) as caught:
            await send(address, timeout=SHORT)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", GREETINGS)
@on_loops
async def test_a_run_whose_server_stops_greeting_gives_up(name: str) -> None:
    async def talk(peer: Peer) -> None:
        if peer.number:
            await GREETINGS[name][0](peer)
        else:
            await peer.greets()
            await peer.serves()

    async with peers(talk) as address:
        outcome = await send(address, timeout=SHORT, connections=1)
    figures = outcome.figures
    assert outcome.ended_early.startswith("gave up")
    assert figures.connections_failed == runs.FAILURES
    assert (figures.finished, figures.has_failed) == (0, True)
    assert not figures.errors or GREETINGS[name][1] in "".join(figures.errors)


WRONG = {
    "closes": b"",
    "is no SMTP": b"OK\r\n",
    "says 354 to everything": b"354 go on\r\n",
    "says 250 twice": b"250 a\r\n250 b\r\n250 c\r\n250 d\r\n250 e\r\n",
    "sends a long line": b"250 " + b"x" * 1_000_000,
    "sends many lines": b"250-x\r\n" * 100_000,
    "has another code in the next line": b"250-x\r\n251 y\r\n",
}


@pytest.mark.parametrize("profile", ["keep", "pipe"])
@pytest.mark.parametrize("stage", ["mail", "rcpt", "message"])
@pytest.mark.parametrize("name", WRONG)
@on_loops
async def test_a_wrong_reply_is_a_failed_message(name: str, stage: str, profile: str) -> None:
    async def talk(peer: Peer) -> None:
        await peer.greets()
        await peer.serves(**{stage: WRONG[name]})

    async with peers(talk) as address:
        outcome = await send(address, profile=profile, timeout=SHORT, messages=4)
    figures = outcome.figures
    assert figures.finished == 4
    assert figures.has_failed
    assert figures.failed or figures.errors
    assert all(text.isprintable() for text in figures.errors)


@pytest.mark.parametrize("profile", ["keep", "pipe"])
@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "message"])
@on_loops
async def test_no_reply_fails_a_message_after_the_timeout(stage: str, profile: str) -> None:
    async def talk(peer: Peer) -> None:
        await peer.greets()
        # A part of a reply is no progress either.
        await peer.serves(**{stage: b"250-"})

    async with peers(talk) as address:
        outcome = await send(address, profile=profile, timeout=SHORT, messages=2)
    assert outcome.figures.failed == 2
    (text,) = outcome.figures.errors
    assert f"did not come within {SHORT} s" in text


@on_loops
async def test_a_reply_to_data_that_does_not_ask_for_the_message_is_wrong() -> None:
    async def talk(peer: Peer) -> None:
        await peer.greets()
        await peer.serves(data=b"250 thanks\r\n")

    async with peers(talk) as address:
        outcome = await send(address, messages=2)
    assert outcome.figures.failed == 2
    assert list(outcome.figures.errors) == ["the reply 250, where the reply to DATA was due"]


@on_loops
async def test_a_server_that_reads_no_more_fails_a_message_after_the_timeout() -> None:
    async def talk(peer: Peer) -> None:
        await peer.greets()
        for reply in (b"250 OK\r\n", b"250 OK\r\n", b"354 go\r\n"):
            if (await peer.hears()).startswith(b"QUIT"):
                return
            peer.says(reply)
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async with peers(talk) as address:
        outcome = await send(address, timeout=SHORT, size="64M", messages=1)
    assert outcome.figures.failed == 1
    assert list(outcome.figures.errors) == [f"no more of a message is read within {SHORT} s"]


@on_loops
async def test_a_reply_before_the_end_of_a_message_is_wrong() -> None:
    async def talk(peer: Peer) -> None:
        await peer.greets()
        for reply in (b"250 OK\r\n", b"250 OK\r\n", b"354 go\r\n"):
            if (await peer.hears()).startswith(b"QUIT"):
                return
            peer.says(reply)
        await peer.hears()
        peer.says(b"552 too large\r\n")
        await peer.writer.drain()
        await peer.reads_message()

    async with peers(talk) as address:
        outcome = await send(address, size="64M", messages=1)
    assert outcome.figures.failed == 1
    assert "the reply 552" in "".join(outcome.figures.errors)


HANDSHAKES: dict[str, Callable[[Peer], Any]] = {
    "closes": lambda peer: asyncio.sleep(0),
    "sends no TLS": after_greeting(b"250 this is not TLS\r\n" * 100),
    "says nothing": hangs,
}


@pytest.mark.parametrize("kind", ["starttls", "implicit"])
@pytest.mark.parametrize("name", HANDSHAKES)
@on_loops
async def test_a_handshake_that_fails_is_one_line(name: str, kind: str) -> None:
    async def talk(peer: Peer) -> None:
        if kind == "starttls":
            peer.says(b"220 hello\r\n")
            await peer.hears()
            peer.says(b"250-hello\r\n250 STARTTLS\r\n")
            await peer.hears()
            peer.says(b"220 go on\r\n")
        await HANDSHAKES[name](peer)

    async with peers(talk) as (host, port):
        target = f"smtps://{host}:{port}" if kind == "implicit" else f"{host}:{port}"
        with pytest.raises(BenchError) as caught:
            await send(target, starttls=kind == "starttls", timeout=SHORT)
    assert str(caught.value).startswith(f"127.0.0.1:{port}: ")
    assert "\n" not in str(caught.value)


@on_loops
async def test_octets_after_the_reply_to_starttls_are_not_taken_for_replies_inside_tls() -> None:
    """An attacker on the way could have put them there."""

    async def talk(peer: Peer) -> None:
        peer.says(b"220 hello\r\n")
        await peer.hears()
        peer.says(b"250-hello\r\n250 STARTTLS\r\n")
        await peer.hears()
        peer.says(b"220 go on\r\n250 PIPELINING\r\n")
        await peer.reader.read()

    async with peers(talk) as address:
        with pytest.raises(BenchError, match="after the reply to STARTTLS"):
            await send(address, starttls=True)


@on_loops
async def test_a_server_that_closes_between_messages_costs_a_connection_and_no_message() -> None:
    async def talk(peer: Peer) -> None:
        await peer.greets()
        while line := await peer.hears():
            if line.startswith(b"QUIT"):
                return
            peer.says(b"354 go\r\n" if line.startswith(b"DATA") else b"250 OK\r\n")
            if line.startswith(b"DATA"):
                await peer.reads_message()
                peer.says(b"250 OK\r\n421 that was enough\r\n")
                return

    async with peers(talk) as address:
        outcome = await send(address, messages=5, connections=1)
    assert outcome.figures.accepted == 5
    assert outcome.figures.connections == 5
    assert outcome.figures.replies["unasked"] == {421: 5}
    assert not outcome.figures.has_failed


# Whatever a server sends, in whatever pieces.

PIECES = st.sampled_from(
    [
        *(b"220 hi\r\n", b"250 OK\r\n", b"250-PIPELINING\r\n", b"250 SIZE\r\n", b"354 go\r\n"),
        *(b"550 no\r\n", b"450 later\r\n", b"421 bye\r\n", b"221 bye\r\n", b"251 x\r\n"),
        *(b"250", b"-", b" ", b"\r\n", b"\n", b"\x00\xff", b"354", b"999 x\r\n", b"x" * 5000),
        *(b"220 hi\r\n250 OK\r\n", b"250 a\r\n250 b\r\n354 c\r\n"),
    ]
)
EVENTS = st.lists(PIECES | st.sampled_from(["pause", "resume", "tick", "lost"]), max_size=40)


class Wire(asyncio.Transport):
    """Keeps nothing of what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.closed

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


@given(EVENTS, st.sampled_from(["keep", "pipe", "big"]), st.booleans())
def test_whatever_a_server_sends_every_message_that_was_begun_has_one_outcome(
    events: list[bytes | str], profile: str, lmtp: bool
) -> None:
    async def play() -> None:
        place = "lmtp:2525" if lmtp else "2525"
        plan = plan_of(place, profile=profile, recipients=2, messages=3, timeout=1.0)
        figures, schedule = Figures(), Schedule(plan)
        client = Client(Work(plan, Script(plan), figures, schedule), perf_counter())
        wire = Wire()
        client.connection_made(wire)
        now = perf_counter()
        prelude: list[bytes | str] = [b"220 hi\r\n", b"250-x\r\n250 PIPELINING\r\n"]
        for event in [*prelude, *events, "lost"]:
            if wire.closed:
                break
            if isinstance(event, bytes):
                client.data_received(event)
            elif event == "pause":
                client.pause_writing()
            elif event == "resume":
                client.resume_writing()
            elif event == "tick":
                now += 0.4
                client.check(now)
            else:
                break
        client.connection_lost(None)
        await client.ended
        assert figures.finished == schedule.taken <= 3
        assert figures.accepted * 2 >= figures.recipients_accepted >= figures.accepted
        assert figures.message.count == figures.end.count == figures.accepted

    asyncio.run(play())


def test_a_flood_of_octets_takes_no_memory() -> None:
    async def play() -> int:
        plan = plan_of("2525")
        client = Client(Work(plan, Script(plan), Figures(), Schedule(plan)), perf_counter())
        client.connection_made(Wire())
        tracemalloc.start()
        try:
            for _ in range(200):
                client.data_received(b"220-" + b"x" * 60_000)
                client.data_received(b"220-x\r\n" * 8_000)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert asyncio.run(play()) < 1_000_000
