"""Records without plaintext, tiny ones, and how many of them a turn of the loop takes: what a
client does that makes TLS work without saying anything.

An honest client beside it is counted in turns of the loop.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from clients import PATIENCE, Client, until
from conftest import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_tls import ALERT, CHANGE_CIPHER_SPEC, HANDSHAKE, RawTLS, key_update
from scenario import COUNTERS_OFF, EH, codes
from tls_kit import TLSClient, certified, cut, server_pump

from fastsmtp import SMTPServer
from fastsmtp._tls.pump import Pump
from fastsmtp._tls.records import IDLE_WEIGHT, MAX_IDLE, RECORDS_PER_CALL
from fastsmtp.testing import VirtualLoop, Wire, running

row = pytest.mark.row
READ = 65536  # octets of one read
WARNING = b"\1\x5a"  # user_canceled, RFC 8446 §6.1
# What one call may work on, when each second record has no plaintext: it counts by 16 records.
PAIRS_PER_CALL = RECORDS_PER_CALL // (1 + IDLE_WEIGHT) + 8


def shaken(version: str) -> tuple[Pump, RawTLS]:
    """A pump and a client that makes its records by hand, after the handshake."""
    pump = server_pump()

    def exchange(octets: bytes) -> bytes:
        pump.shake(octets)
        return pump.take_output()

    return pump, RawTLS(version, exchange)


def fragments(client: RawTLS) -> Iterator[bytes]:
    """A KeyUpdate, an octet in each record."""
    while True:
        yield from [client.record(bytes([octet]), HANDSHAKE) for octet in key_update()]
        client.updated()


def repeated(make: Callable[[], bytes]) -> Iterator[bytes]:
    while True:
        yield make()


# Records without plaintext, one at a time, by what they are.
IDLE: dict[str, tuple[str, Callable[[RawTLS], Iterator[bytes]]]] = {
    "key updates": ("TLSv1.3", lambda one: repeated(one.key_update)),
    "key updates that ask for ours": (
        "TLSv1.3",
        lambda one: repeated(lambda: one.key_update(True)),
    ),
    "fragments of key updates": ("TLSv1.3", fragments),
    "empty records": ("TLSv1.3", lambda one: repeated(lambda: one.record(b""))),
    "warnings": ("TLSv1.3", lambda one: repeated(lambda: one.record(WARNING, ALERT))),
    "hellos": ("TLSv1.3", lambda one: repeated(lambda: one.record(one.hello[5:], HANDSHAKE))),
    "ChangeCipherSpec in clear": ("TLSv1.3", lambda one: repeated(lambda: b"\x14\3\3\0\1\1")),
    "empty records of 1.2": ("TLSv1.2", lambda one: repeated(lambda: one.record(b""))),
    "warnings of 1.2": ("TLSv1.2", lambda one: repeated(lambda: one.record(WARNING, ALERT))),
    "renegotiations": (
        "TLSv1.2",
        lambda one: repeated(lambda: one.record(one.hello[5:], HANDSHAKE)),
    ),
    "fragments of renegotiations": (
        "TLSv1.2",
        lambda one: (one.record(bytes([octet]), HANDSHAKE) for octet in one.hello[5:] * 9),
    ),
    "ChangeCipherSpec of 1.2": (
        "TLSv1.2",
        lambda one: repeated(lambda: one.record(b"\1", CHANGE_CIPHER_SPEC)),
    ),
}


def taken(records: Iterator[bytes], count: int) -> bytes:
    return b"".join(next(records) for _ in range(count))


@row("TLS-18")
@pytest.mark.parametrize("name", IDLE)
@pytest.mark.parametrize("cuts", [0, 1, 7, 100])
def test_a_row_of_records_without_plaintext_ends_the_connection(name: str, cuts: int) -> None:
    version, made = IDLE[name]
    pump, client = shaken(version)
    records = made(client)
    for _ in range(MAX_IDLE + 1):
        for piece in cut(next(records), cuts):
            assert pump.receive(piece) == b""
        if pump.error is not None:
            break  # OpenSSL has less patience with some of them
    assert isinstance(pump.error, ssl.SSLError)
    assert pump.receive(client.record(b"NOOP\r\n")) == b""
    assert not pump.more


@row("TLS-18")
@pytest.mark.parametrize("name", IDLE)
def test_a_read_of_records_without_plaintext_is_worked_on_up_to_the_limit(name: str) -> None:
    version, made = IDLE[name]
    pump, client = shaken(version)
    wire = taken(made(client), 1000) + client.record(b"NOOP\r\n")
    assert pump.receive(wire) == b""
    while pump.more:
        assert pump.receive(b"") == b""
    assert pump.error is not None
    answers = pump.take_output()  # one for each at most, so they tell how many were worked on
    assert len(answers) <= (MAX_IDLE + 1) * 31


@row("TLS-18")
@pytest.mark.parametrize("version", ["TLSv1.3", "TLSv1.2"])
@pytest.mark.parametrize("cuts", [0, 1, 100])
def test_as_many_records_without_plaintext_as_with_it_are_taken(version: str, cuts: int) -> None:
    """OpenSSL's clients of TLS 1.0 send an empty one before each."""
    pump, client = shaken(version)
    wire = b"".join(client.record(b"") + client.record(b"NOOP\r\n") for _ in range(300))
    got = []
    for piece in cut(wire, cuts):
        got.append(pump.receive(piece))
        while pump.more:
            got.append(pump.receive(b""))
    assert b"".join(got) == b"NOOP\r\n" * 300
    assert pump.error is None


@row("TLS-18")
def test_key_updates_between_messages_are_taken() -> None:
    pump, client = shaken("TLSv1.3")
    for _ in range(20):
        assert pump.receive(client.key_updates(1, answer=True)) == b""
        assert client.tls.decrypt(pump.take_output()) == b""
        assert pump.receive(client.record(b"NOOP\r\n")) == b"NOOP\r\n"
        assert client.tls.decrypt(pump.send(b"250 OK\r\n")) == b"250 OK\r\n"
    assert pump.receive(client.key_updates(MAX_IDLE)) == b""
    assert pump.receive(client.record(b"NOOP\r\n")) == b"NOOP\r\n"
    assert pump.error is None


@row("TLS-18", "TLS-26")
@settings(max_examples=60)
@given(
    full=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30)), min_size=1, max_size=8),
    seed=st.integers(0, 2**32),
)
def test_the_end_by_records_without_plaintext_does_not_depend_on_the_cuts(
    full: list[tuple[int, int]], seed: int
) -> None:
    """full: rows of so many records without plaintext, each before so many with it."""
    pump, client = shaken("TLSv1.3")
    dice = random.Random(seed)
    wire, expected, idle = b"", b"", 0
    for row_of_idle, row_of_full in full:
        for _ in range(row_of_idle):
            wire += client.key_update() if dice.random() < 0.5 else client.record(b"")
            idle += 1
            if idle > MAX_IDLE:
                break
        if idle > MAX_IDLE:
            break
        for _ in range(row_of_full):
            wire += client.record(b"N")
            expected += b"N"
            idle = max(0, idle - 1)
    got = b""
    while wire:
        size = dice.choice([1, 27, 100, 700, 10_000])
        got += pump.receive(wire[:size])
        while pump.more:
            got += pump.receive(b"")
        wire = wire[size:]
    assert got == expected
    assert (pump.error is not None) == (idle > MAX_IDLE)


# --- what a call works on ---


def alternating(client: RawTLS, count: int) -> bytes:
    """Key updates, and after each an octet of a command: never too many in a row."""
    return b"".join(client.key_update() + client.record(b"N") for _ in range(count))


@row("TLS-18")
def test_a_call_works_on_a_limited_number_of_records_and_keeps_the_rest() -> None:
    pump, client = shaken("TLSv1.3")
    pieces = [pump.receive(alternating(client, 1000))]
    while pump.more:
        pieces.append(pump.receive(b""))
    assert b"".join(pieces) == b"N" * 1000
    assert max(map(len, pieces)) <= PAIRS_PER_CALL
    pieces = [pump.receive(b"".join(client.record(b"N") for _ in range(2000)))]
    while pump.more:
        pieces.append(pump.receive(b""))
    assert [len(piece) for piece in pieces] == [512, 512, 512, 464]


@row("TLS-18")
@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_reads_that_come_meanwhile_lose_nothing(size: int) -> None:
    pump, client = shaken("TLSv1.3")
    wire = alternating(client, 200) + client.record(b"x" * 16384) + client.record(b"y")
    got = b"".join(map(pump.receive, cut(wire, size)))
    while pump.more:
        got += pump.receive(b"")
    assert got == b"N" * 200 + b"x" * 16384 + b"y"


def test_records_with_plaintext_are_never_put_off() -> None:
    pump, client = shaken("TLSv1.3")
    body = b"x" * 16384
    assert len(pump.receive(b"".join(client.record(body) for _ in range(100)))) == 1_638_400
    assert not pump.more


# --- a connection, in turns ---


class Inside:
    """A client on a `Wire` that has greeted, inside TLS 1.3."""

    def __init__(self, server: SMTPServer, loop: VirtualLoop) -> None:
        self.wire = Wire(server, loop=loop)
        self.raw = RawTLS("TLSv1.3", self.wire.send)
        self.heard = codes(self.raw.tls.decrypt(self.wire.receive()))
        self.pump: Any = self.wire.connection.output.pump
        assert self.say(self.raw.record(EH)) == ["250"]

    def say(self, octets: bytes) -> list[str]:
        return codes(self.raw.tls.decrypt(self.wire.send(octets)))

    def hear(self) -> list[str]:
        return codes(self.raw.tls.decrypt(self.wire.receive()))


def turn(loop: VirtualLoop) -> None:
    """One turn of the loop."""
    loop.call_soon(loop.stop)
    loop.run_forever()


def turns_until(loop: VirtualLoop, condition: Callable[[], object]) -> int:
    turns = 0
    while not condition():
        turn(loop)
        turns += 1
        assert turns < 10_000
    return turns


@row("TLS-18", "TLS-24")
def test_an_honest_client_is_answered_in_the_turn_in_which_it_asks(loop: VirtualLoop) -> None:
    server = SMTPServer(**certified(secure=True, **COUNTERS_OFF))
    attacker, honest = Inside(server, loop), Inside(server, loop)
    pairs = READ // 50
    attacker.wire.connection.data_received(alternating(attacker.raw, pairs))
    assert attacker.pump.more
    assert not attacker.wire.transport.reading  # one read is what it may hold
    said: list[list[str]] = []

    def ask() -> None:
        honest.wire.connection.data_received(honest.raw.record(b"NOOP\r\n"))
        said.append(honest.hear())

    for _ in range(10):
        loop.call_soon(ask)
        turn(loop)
    assert said == [["250 2.0.0"]] * 10
    assert attacker.pump.more
    turns = turns_until(loop, lambda: not attacker.pump.more)
    assert turns + 10 >= pairs // PAIRS_PER_CALL - 1
    assert attacker.wire.transport.reading
    attacker.wire.close()
    honest.wire.close()


@row("TLS-18")
def test_key_updates_without_end_close_the_connection(loop: VirtualLoop) -> None:
    server = SMTPServer(**certified(secure=True))
    heard: list[Any] = []
    server.on("error", heard.append)
    client = Inside(server, loop)
    client.wire.send(client.raw.key_updates(100))
    assert client.wire.closed
    assert [error.stage for error in heard] == ["tls"]
    assert "without plaintext" in str(heard[0])
    client.wire.close()


@row("TLS-18", "PIPE-07")
def test_the_rest_of_a_read_waits_for_a_hook(loop: VirtualLoop) -> None:
    """Nothing is decrypted for a dialogue that takes no more, and nothing is lost."""
    waiting: list[Callable[..., object]] = []
    server = SMTPServer(
        **certified(secure=True, **COUNTERS_OFF),
        on_mail_from=lambda address, session, callback: waiting.append(callback),
    )
    client = Inside(server, loop)
    lines = b"MAIL FROM:<a@x.example>\r\n" + b"NOOP\r\n" * 300
    wire = b"".join(client.raw.record(bytes([octet])) for octet in lines)
    client.wire.connection.data_received(wire)
    for _ in range(20):
        turn(loop)
    assert client.pump.more
    assert not client.wire.transport.reading
    loop.step(waiting[0])
    assert client.hear() == ["250 2.1.0", *["250 2.0.0"] * 300]
    assert not client.pump.more
    assert client.wire.transport.reading
    client.wire.close()


@row("TLS-16", "TLS-18")
@pytest.mark.parametrize("end", ["FIN", "close_notify", "reset", "shutdown"])
def test_the_end_comes_after_the_rest_of_a_read(loop: VirtualLoop, end: str) -> None:
    server = SMTPServer(**certified(secure=True, **COUNTERS_OFF))
    client = Inside(server, loop)
    wire = alternating(client.raw, 100) + client.raw.record(b"\r\nNOOP\r\n")
    if end == "close_notify":
        wire += client.raw.record(b"\1\0", ALERT) + b"\x17\3\3\0\x20" + bytes(32)
    client.wire.connection.data_received(wire)
    assert client.pump.more
    if end == "FIN":
        client.wire.connection.eof_received()
    elif end == "reset":
        client.wire.transport.lose(ConnectionResetError())
    elif end == "shutdown":
        client.wire.connection.shut_down()
    loop.advance()
    told = client.hear()
    assert (
        told
        == {
            "FIN": ["500 5.5.2", "250 2.0.0"],
            "close_notify": ["500 5.5.2", "250 2.0.0"],
            "reset": [],
            "shutdown": ["421 4.3.2"],
        }[end]
    )
    assert client.wire.closed
    client.wire.close()
    assert not server.connections


@row("TLS-18", "SLOW-04")
def test_the_rest_of_a_read_does_not_run_into_a_deadline(loop: VirtualLoop) -> None:
    server = SMTPServer(**certified(secure=True, **COUNTERS_OFF))
    client = Inside(server, loop)
    client.wire.advance(299)
    client.wire.connection.data_received(
        alternating(client.raw, 200) + client.raw.record(b"\r\nNOOP\r\n")
    )
    assert client.pump.more
    loop.advance(2)
    assert client.hear() == ["500 5.5.2", "250 2.0.0"]
    client.wire.close()


# --- on the wire ---


async def raw_client(address: Any, version: str) -> tuple[Client, RawTLS]:
    """A client over a socket that makes its records by hand, after the greeting."""
    plain = await Client.connect(address)
    loop = asyncio.get_running_loop()

    async def talk(octets: bytes) -> bytes:
        plain.send(octets)
        async with asyncio.timeout(PATIENCE):
            return await plain.reader.read(65536)

    def exchange(octets: bytes) -> bytes:
        return asyncio.run_coroutine_threadsafe(talk(octets), loop).result()

    raw = await asyncio.to_thread(RawTLS, version, exchange)
    return plain, raw


@row("TLS-18")
@pytest.mark.parametrize("name", ["key updates", "renegotiations", "empty records of 1.2"])
def test_a_flood_is_cut_on_the_wire_and_others_are_served(run: Run, name: str) -> None:
    version, made = IDLE[name]

    async def main() -> None:
        server = SMTPServer(**certified(secure=True))
        async with running(server) as address:
            flooding, raw = await raw_client(address, version)
            honest = await TLSClient.implicit(address)
            assert await honest.reply() == "220"
            assert await honest.ask(EH) == "250"
            flooding.send(taken(made(raw), 2000))
            assert await honest.ask(b"NOOP\r\n") == "250 2.0.0"
            async with asyncio.timeout(PATIENCE):
                while await flooding.reader.read(65536):  # answers, then its end
                    pass
            assert await honest.ask(b"QUIT\r\n") == "221 2.0.0"
            await flooding.close()
            await honest.close()
            await until(lambda: not server.connections)

    run(main())


@row("TLS-18")
def test_a_flood_that_is_not_cut_shares_the_loop_on_the_wire(run: Run) -> None:
    async def main() -> None:
        server = SMTPServer(**certified(secure=True, **COUNTERS_OFF))
        async with running(server) as address:
            flooding, raw = await raw_client(address, "TLSv1.3")
            honest = await TLSClient.implicit(address)
            assert await honest.reply() == "220"
            assert await honest.ask(EH) == "250"
            flooding.send(alternating(raw, 5000) + raw.record(b"\r\nQUIT\r\n"))
            for _ in range(20):
                assert await honest.ask(b"NOOP\r\n") == "250 2.0.0"
            async with asyncio.timeout(PATIENCE):
                heard = await flooding.reader.read(-1)
            assert codes(raw.tls.decrypt(heard))[-1] == "221 2.0.0"
            await flooding.close()
            await honest.close()

    run(main())
