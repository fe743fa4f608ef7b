"""`await stream.read()` gives the whole body or raises: a part never looks like all of it.

With a limit it raises above that; what is longer than the option `size` is never given as if it
were the message. RFC 5321 §4.1.1.4, RFC 1870 §6.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any

import pytest
from clients import Client, Sink, happened, stuffed
from consumers import LINE, READ, begun
from hook_kit import BODY, END, MAIL, RCPT
from scenario import COUNTERS_OFF, DEFAULTS, EH, codes

from fastsmtp import MessageTooLarge
from fastsmtp.testing import Wire, running

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

LARGE = b"".join(b"%06d %s\r\n" % (number, b"x" * 60) for number in range(75_000))  # 5 MB


class Reader:
    """An `on_data` that reads with `limit`, and what came of it."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.bodies: list[bytes] = []
        self.errors: list[Exception] = []

    async def on_data(self, stream: Any, session: Any) -> str:
        try:
            self.bodies.append(await stream.read(self.limit))
        except Exception as error:
            self.errors.append(error)
            raise
        return f"stored {len(self.bodies[-1])}"


@row("HOOK-11", "HOOK-12")
@pytest.mark.parametrize("command", ["DATA", "BDAT"])
def test_read_returns_the_whole_of_a_large_body_over_a_real_connection(
    run: Any, command: str
) -> None:
    async def scenario() -> None:
        reader = Reader()
        server = Sink().server(on_data=reader.on_data)
        async with running(server) as address, await Client.greeted(address) as client:
            client.send(MAIL + RCPT)
            assert await client.replies(2) == ["250 2.1.0", "250 2.1.5"]
            if command == "DATA":
                assert await client.ask(b"DATA\r\n") == "354"
                client.send(stuffed(LARGE) + END)
            else:
                client.send(b"BDAT %d LAST\r\n" % len(LARGE) + LARGE)
            assert await client.reply() == "250 2.6.0"
        assert reader.bodies == [LARGE]

    run(scenario())


@row("HOOK-11")
@pytest.mark.parametrize("size", [1, 2, 3, 1000, 100_000])
def test_read_returns_the_same_body_however_it_was_cut(size: int) -> None:
    reader = Reader()
    body = LINE * (5 if size < 10 else 5000)
    with begun(reader.on_data) as wire:
        octets = body + END
        for at in range(0, len(octets), size):
            assert wire.transport.reading  # a whole body needs no credit
            reply = wire.send(octets[at : at + size])
        assert codes(reply) == ["250 2.6.0"]
    assert reader.bodies == [body]


@row("HOOK-08")
def test_a_body_that_waited_is_read_whole_by_a_hook_that_comes_late() -> None:
    gate = asyncio.Event()
    bodies: list[bytes] = []

    async def on_data(stream: Any, session: Any) -> None:
        await gate.wait()
        bodies.append(await stream.read())

    with begun(on_data) as wire:
        sent = 0
        while wire.transport.reading:
            wire.send(READ)
            sent += 1
        wire.loop.step(gate.set)
        for _ in range(20):
            assert wire.transport.reading
            wire.send(READ)
        assert codes(wire.send(END)) == ["250 2.6.0"]
    assert bodies == [READ * (sent + 20)]


def test_read_after_pieces_returns_the_rest() -> None:
    bodies: list[bytes] = []

    async def on_data(stream: Any, session: Any) -> None:
        async for piece in stream:
            bodies.append(piece)
            break
        bodies.append(await stream.read())

    with begun(on_data) as wire:
        wire.send(BODY)
        assert codes(wire.send(LINE + READ + END)) == ["250 2.6.0"]
    assert bodies == [BODY, LINE + READ]


def test_read_of_an_empty_body_returns_no_octets() -> None:
    reader = Reader(0)
    with begun(reader.on_data) as wire:
        assert codes(wire.send(END)) == ["250 2.6.0"]
    assert reader.bodies == [b""]


# --- limits ---


@row("SIZE-03")
@pytest.mark.parametrize("over", [0, 1, 100_000])
@pytest.mark.parametrize("reads", [1, 3])
@pytest.mark.parametrize("lmtp", [False, True])
def test_a_body_above_the_limit_is_refused_for_good(over: int, reads: int, lmtp: bool) -> None:
    reader = Reader(1000)
    body = b"x" * (998 + over) + b"\r\n"
    with Wire(**{**DEFAULTS, "on_data": reader.on_data, "lmtp": lmtp}) as wire:
        wire.send(b"LHLO c\r\n" if lmtp else EH)
        wire.send(MAIL + RCPT + b"DATA\r\n")
        step = len(body) // reads + 1
        for at in range(0, len(body), step):
            wire.send(body[at : at + step])
        reply = wire.send(END)
    if over:
        assert reply == b"552 5.3.4 Error: message exceeds fixed maximum message size 1000\r\n"
        assert [type(error) for error in reader.errors] == [MessageTooLarge]
        assert reader.errors[0].limit == 1000  # type: ignore[attr-defined]
    else:
        assert codes(reply) == ["250 2.6.0"]
        assert reader.bodies == [body]


@row("SIZE-03")
@pytest.mark.parametrize("command", ["DATA", "BDAT"])
@pytest.mark.parametrize("limit", [None, 10_000, 2**70])
def test_a_body_above_size_is_not_given_as_if_it_were_whole(
    command: str, limit: int | None
) -> None:
    reader = Reader(limit)
    body = b"x" * 20_000 + b"\r\n"
    with Wire(**{**DEFAULTS, "on_data": reader.on_data, "size": 10_000}) as wire:
        wire.send(EH)
        wire.send(MAIL + RCPT)
        if command == "DATA":
            wire.send(b"DATA\r\n")
            reply = wire.send(body + END)
        else:
            reply = wire.send(b"BDAT %d LAST\r\n" % len(body) + body)
    assert reply == b"552 5.3.4 Error: message exceeds fixed maximum message size 10000\r\n"
    assert not reader.bodies
    assert [type(error) for error in reader.errors] == [MessageTooLarge]


@row("HOOK-09")
def test_a_hook_may_refuse_a_body_that_is_too_large_with_its_own_text() -> None:
    def on_data(stream: Any, session: Any, callback: Any) -> None:
        async def read() -> None:
            try:
                await stream.read(10)
            except MessageTooLarge as error:
                callback(ValueError(f"more than {error.limit}"))

        session.data["reading"] = asyncio.ensure_future(read())

    with begun(on_data) as wire:
        assert wire.send(BODY + END) == b"450 4.7.1 more than 10\r\n"


def test_a_callback_takes_the_error_that_read_raises() -> None:
    def on_data(stream: Any, session: Any, callback: Any) -> None:
        async def read() -> None:
            try:
                await stream.read(10)
            except MessageTooLarge as error:
                callback(error)

        session.data["reading"] = asyncio.ensure_future(read())

    with begun(on_data) as wire:
        assert codes(wire.send(BODY + END)) == ["552 5.3.4"]


@row("HOOK-01")
@pytest.mark.parametrize("limit", [-1, -(2**70), "1000", 1.5])
def test_an_invalid_limit_is_a_failure_of_the_hook(limit: Any) -> None:
    reader = Reader(limit)
    with begun(reader.on_data) as wire:
        wire.server.on("error", lambda error: None)
        assert codes(wire.send(BODY + END)) == ["451 4.3.0"]
    assert isinstance(reader.errors[0], (TypeError, ValueError))
    assert "limit" in str(reader.errors[0])


def test_a_read_that_was_too_large_has_taken_nothing() -> None:
    bodies: list[bytes] = []

    async def on_data(stream: Any, session: Any) -> None:
        with pytest.raises(MessageTooLarge):
            await stream.read(len(BODY))
        bodies.append(b"".join([piece async for piece in stream]))

    with begun(on_data) as wire:
        wire.send(BODY)
        wire.send(LINE)
        wire.send(READ)
        assert codes(wire.send(END)) == ["250 2.6.0"]
    assert bodies == [BODY + LINE + READ]


# --- reads that do not come to their end ---


@row("HOOK-12")
def test_a_read_that_is_cancelled_has_taken_nothing(run: Any) -> None:
    async def scenario() -> None:
        bodies: list[bytes] = []
        half = asyncio.Event()

        async def on_data(stream: Any, session: Any) -> None:
            reading = asyncio.ensure_future(stream.read())
            while stream.byte_length < len(READ):
                await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            half.set()
            bodies.append(await stream.read())

        server = Sink().server(on_data=on_data)
        async with running(server) as address, await Client.in_data(address) as client:
            client.send(READ)
            await happened(half)
            assert await client.ask(READ * 10 + END) == "250 2.6.0"
        assert bodies == [READ * 11]

    run(scenario())


@row("HOOK-08")
def test_a_client_waits_for_a_hook_that_has_given_up_a_large_read() -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    bodies: list[bytes] = []

    async def on_data(stream: Any, session: Any) -> None:
        reading = asyncio.ensure_future(stream.read())
        await gates[0].wait()
        reading.cancel()
        await gates[1].wait()
        bodies.append(b"".join([piece async for piece in stream]))

    with begun(on_data) as wire:
        for _ in range(5):
            wire.send(READ)
            assert wire.transport.reading
        wire.loop.step(gates[0].set)
        wire.send(READ)
        assert not wire.transport.reading
        wire.loop.step(gates[1].set)
        assert wire.transport.reading
        assert codes(wire.send(END)) == ["250 2.6.0"]
    assert bodies == [READ * 6]


@row("HOOK-12")
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_discarded_body_cannot_be_read_whole(when: str) -> None:
    async def on_data(stream: Any, session: Any) -> None:
        if when == "before":
            stream.discard()
        reading = asyncio.ensure_future(stream.read())
        await asyncio.sleep(0)
        stream.discard()
        with pytest.raises(RuntimeError, match="discarded"):
            await reading

    with begun(on_data) as wire:
        wire.send(BODY)
        assert codes(wire.send(END)) == ["250 2.6.0"]


# --- memory ---


@row("MEM-01")
def test_a_body_in_crumbs_takes_hardly_more_memory_than_its_octets() -> None:
    reader = Reader()
    with begun(reader.on_data, **COUNTERS_OFF) as wire:
        wire.send(BODY)
        tracemalloc.start()
        try:
            for _ in range(50_000):
                wire.connection.data_received(bytes(bytearray(b"xy")))
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 200_000
        assert codes(wire.send(b"\r\n" + END)) == ["250 2.6.0"]
    assert reader.bodies == [BODY + b"xy" * 50_000 + b"\r\n"]
