"""What a handshake that does not end makes the server hold: first flights that are too long, cut
off or in pieces, second ones, and the certificates of clients.

Octets are counted by the C library, because most of them are OpenSSL's.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
import ssl
import struct
from pathlib import Path
from typing import Any

import pytest
from clients import until
from conftest import Run
from memory import malloced_octets, needs_malloc
from tls_kit import (
    TLS12,
    MemoryClient,
    MemoryTLS,
    authority,
    ca_pem,
    certified,
    client_context,
    cut,
    server_context,
    server_pump,
)

from fastsmtp import SMTPServer
from fastsmtp._counts.tally import Tally
from fastsmtp._tls.handshake_queue import TURN, Handshakes
from fastsmtp._tls.pump import MAX_FLIGHT, Pump
from fastsmtp.server import state_of
from fastsmtp.testing import Wire, running

row = pytest.mark.row
KIB = 1024
COUNT = 40  # connections
# Of the 64 KiB that one may hold, what small objects of Python take is not seen here; a plaintext
# connection has 3.5 of them.
MOST = 60 * KIB
MOST_WITH_CERTIFICATES = 176 * KIB  # OpenSSL reserves four thirds of 100 KiB for a chain
KEY_SHARE, PADDING = 51, 21  # extensions, RFC 8446 §4.2.8, RFC 7685
DEMAND = {"ca": ca_pem(), "request_cert": True, "reject_unauthorized": True}


def hello(version: dict[str, Any] | None = None) -> bytes:
    """The ClientHello of an ordinary client, without a record around it."""
    return MemoryTLS(client_context(ca=None, **(version or {}))).shake()[5:]


def with_extension(message: bytes, kind: int, octets: bytes) -> bytes:
    """A ClientHello with another extension of that kind."""
    at = 4 + 34
    for width in (1, 2, 1):  # session id, cipher suites, compression methods
        at += width + int.from_bytes(message[at : at + width])
    start, rest = message[4:at], message[at + 2 :]
    extensions: dict[int, bytes] = {}
    while rest:
        found, size = struct.unpack("!HH", rest[:4])
        extensions[found] = rest[4 : 4 + size]
        rest = rest[4 + size :]
    extensions[kind] = octets
    listed = b"".join(
        struct.pack("!HH", found, len(each)) + each for found, each in extensions.items()
    )
    body = start + struct.pack("!H", len(listed)) + listed
    return b"\1" + len(body).to_bytes(3) + body


def padded(message: bytes, size: int) -> bytes:
    """A ClientHello of `size` octets, its header of four not counted."""
    return with_extension(message, PADDING, bytes(size - len(message)))


def records(message: bytes, size: int = 16384) -> bytes:
    """A handshake message in records of `size` octets, in clear."""
    parts = (message[at : at + size] for at in range(0, len(message), size))
    return b"".join(b"\x16\3\3" + len(part).to_bytes(2) + part for part in parts)


def unfinished(kind: int, size: int) -> bytes:
    """A handshake message of which all but the last octet is there, in records."""
    return records(bytes([kind]) + size.to_bytes(3) + bytes(size - 1))


CLIENT_HELLO, CERTIFICATE, CLIENT_KEY_EXCHANGE = 1, 11, 16
NO_SHARE = with_extension(hello(), KEY_SHARE, b"\0\0")  # a HelloRetryRequest is the answer
LONGEST = padded(hello(), 16384)
EMPTY = b"\x16\3\3\0\0"
CHANGE_CIPHER_SPEC = b"\x14\3\3\0\1\1"

# What is sent, and all of it is taken before the next piece comes.
FLIGHTS = {
    "nothing but a hello": [records(hello())],
    "a hello of TLS 1.2": [records(hello(TLS12))],
    "a hello that is too long": [unfinished(CLIENT_HELLO, 131_000)],
    "a hello that is too long after an empty record": [EMPTY + unfinished(CLIENT_HELLO, 131_000)],
    "the longest hello, cut": [records(LONGEST)[:-1]],
    "the longest hello": [records(LONGEST)],
    "the longest hello in tiny records": [records(LONGEST, 40)[:-1]],
    "the longest hello, then half a record": [records(LONGEST), b"\x17\3\3\x41\0" + bytes(16000)],
    "the longest hello, then half a short record": [
        *[records(LONGEST), b"\x17\3\3\x0f\0" + bytes(3000)]
    ],
    "a second hello that is too long": [records(NO_SHARE), unfinished(CLIENT_HELLO, 131_000)],
    "a second hello that is too long after another record": [
        *[records(NO_SHARE), CHANGE_CIPHER_SPEC + unfinished(CLIENT_HELLO, 131_000)]
    ],
    "a second hello in the record of the first": [
        records(NO_SHARE + b"\1" + (131_000).to_bytes(3)) + bytes(9000)
    ],
    "a second hello in the segment of the first": [
        records(NO_SHARE) + unfinished(CLIENT_HELLO, 131_000)
    ],
    "the longest second hello, cut": [records(NO_SHARE), records(LONGEST)[:-1]],
    "the longest second hello in tiny records": [records(NO_SHARE), records(LONGEST, 40)[:-1]],
    "a key exchange that is too long": [
        *[records(hello(TLS12)), unfinished(CLIENT_KEY_EXCHANGE, 131_000)]
    ],
    "a certificate that was not requested": [
        *[records(hello(TLS12)), unfinished(CERTIFICATE, 100_000)]
    ],
}


async def held_by(server: SMTPServer, pieces: list[bytes]) -> float:
    """Octets that a client costs that sends `pieces` and then nothing."""
    loop = asyncio.get_running_loop()

    async def connect(address: Any) -> socket.socket:
        before = set(server.connections)
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        await until(lambda: server.connections - before)
        (connection,) = server.connections - before
        pump: Any = connection.output.pump
        for number, piece in enumerate(pieces, 1):
            sent = sum(map(len, pieces[:number]))
            try:
                await loop.sock_sendall(sock, piece)
            except OSError:  # it was refused in the middle
                break
            await until(lambda sent=sent: pump.error or (pump.taken >= sent and not pump.more))
        return sock

    async with running(server) as address:
        socks = [await connect(address) for _ in range(4)]
        gc.collect()
        before = malloced_octets()
        socks += [await connect(address) for _ in range(COUNT)]
        gc.collect()
        held = (malloced_octets() - before) / COUNT
        for sock in socks:
            sock.close()
        await until(lambda: not server.connections)
    return held


@row("MEM-03", "TLS-13")
@needs_malloc
@pytest.mark.parametrize("name", FLIGHTS)
def test_a_handshake_that_does_not_end_holds_less_than_64_kib(run: Run, name: str) -> None:
    server = SMTPServer(**certified(secure=True, max_clients=0))
    assert run(held_by(server, FLIGHTS[name])) < MOST


@row("MEM-03", "TLS-13")
@needs_malloc
@pytest.mark.parametrize("size", [1, 16384])
def test_a_chain_that_does_not_end_holds_less_than_176_kib(run: Run, size: int) -> None:
    server = SMTPServer(**certified(secure=True, max_clients=0, **DEMAND))
    flight = unfinished(CERTIFICATE, 102_400)
    pieces = [records(hello(TLS12)), flight if size > 1 else flight[: 16384 + 5]]
    assert run(held_by(server, pieces)) < MOST_WITH_CERTIFICATES


# --- what is refused, and what is not ---


def shaken_to_the_end(pump: Pump, client: MemoryTLS, before_second: bytes = b"") -> bytes | None:
    """Shake hands; returns the plaintext that followed. before_second: sent before the second
    flight.
    """
    flight, plaintext = client.shake(), None
    while flight:
        plaintext = pump.shake(flight)
        said = pump.take_output()
        while pump.more and not pump.established:
            plaintext = pump.shake(b"")
            said += pump.take_output()
        flight = client.shake(said)
        if flight:
            flight, before_second = before_second + flight, b""
    return plaintext


def said_to(pump: Pump, flight: bytes) -> bytes:
    """What the server says to `flight`."""
    pump.shake(flight)
    said = pump.take_output()
    while pump.more:
        pump.shake(b"")
        said += pump.take_output()
    return said


ILLEGAL_PARAMETER = b"\x15\3\3\0\2\2\x2f"


@row("TLS-14")
def test_a_hello_that_claims_too_much_is_refused_at_its_header() -> None:
    pump = server_pump()
    assert said_to(pump, b"\x16\3\3\x40\0\1" + (16384 + 1).to_bytes(3)) == ILLEGAL_PARAMETER
    assert isinstance(pump.error, ssl.SSLError)
    assert pump.tls is None  # OpenSSL was never asked


@row("TLS-14")
@pytest.mark.parametrize("before", [b"", CHANGE_CIPHER_SPEC, CHANGE_CIPHER_SPEC * 3])
@pytest.mark.parametrize("in_one", [True, False])
def test_a_second_hello_that_claims_too_much_is_refused(before: bytes, in_one: bool) -> None:
    pump = server_pump()
    second = before + b"\x16\3\3\x40\0\1" + (16384 + 1).to_bytes(3)
    if in_one:
        said = said_to(pump, records(NO_SHARE) + second)
    else:
        said = said_to(pump, records(NO_SHARE)) + said_to(pump, second)
    assert said.startswith(b"\x16\3\3")  # the HelloRetryRequest
    assert said.endswith(ILLEGAL_PARAMETER)
    assert pump.error is not None


@row("TLS-26")
@pytest.mark.parametrize("before", [b"", CHANGE_CIPHER_SPEC])
@pytest.mark.parametrize("cuts", [0, 1, 100])
def test_a_second_hello_is_taken(before: bytes, cuts: int) -> None:
    pump = server_pump(ssl_context=server_context("secp384r1"))
    client = MemoryTLS()
    flights = 0
    flight = client.shake()
    while flight:
        flights += 1
        said = b"".join(said_to(pump, piece) for piece in cut(flight, cuts))
        flight = client.shake(said)
        if flights == 1:
            flight = before + flight
    assert pump.established
    assert flights == 3
    assert client.decrypt(pump.send(b"220 hello\r\n")) == b"220 hello\r\n"


@row("TLS-14")
def test_an_alert_in_place_of_a_second_hello_is_understood() -> None:
    pump = server_pump()
    said_to(pump, records(NO_SHARE))
    said_to(pump, b"\x15\3\3\0\2\2\x28")  # handshake_failure
    assert "ALERT_HANDSHAKE_FAILURE" in str(pump.error)


@row("TLS-14")
def test_a_handshake_without_an_end_is_cut() -> None:
    pump = server_pump(**DEMAND)
    said_to(pump, records(hello(TLS12)))
    record = b"\x16\3\3\0\5" + bytes([CERTIFICATE]) + (100_000).to_bytes(3) + b"x"
    sent = 0
    while pump.error is None:
        said_to(pump, record)
        sent += len(record)
        record = b"\x16\3\3\0\1x" * 500
    assert MAX_FLIGHT - len(record) < sent < MAX_FLIGHT + len(record)


@row("TLS-26")
@pytest.mark.parametrize("version", [{}, TLS12], ids=["1.3", "1.2"])
def test_the_longest_hello_and_a_chain_of_90_kib_are_taken(
    version: dict[str, Any], tmp_path: Path
) -> None:
    own = authority().issue_cert("client.test")
    chain = b"".join(blob.bytes() for blob in own.cert_chain_pems)
    other = ssl.PEM_cert_to_DER_cert(authority("theirs").cert_pem.bytes().decode())
    chain += authority("theirs").cert_pem.bytes() * (90 * KIB // len(other))
    (tmp_path / "own.pem").write_bytes(own.private_key_pem.bytes() + chain)
    context = client_context(**version)
    context.load_cert_chain(tmp_path / "own.pem")
    pump, client = server_pump(**DEMAND), MemoryTLS(context)
    assert shaken_to_the_end(pump, client) == b""
    assert pump.trusted
    assert pump.taken > 90 * KIB


@row("TLS-24")
def test_a_first_flight_that_is_too_long_does_not_wait_for_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = SMTPServer(**certified(secure=True))
    monkeypatch.setattr(state_of(server).handshakes, "request", lambda connection, loop: False)
    with Wire(server) as wire:
        assert wire.send(records(hello())) == b""
        assert not wire.closed  # it waits
    with Wire(server) as wire:
        assert wire.send(records(hello()) + bytes(64 * KIB)) == ILLEGAL_PARAMETER
        assert wire.closed


def test_a_handshake_of_many_slices_shares_the_turns() -> None:
    """Meanwhile nothing more is read."""
    server = SMTPServer(**certified(**DEMAND))
    clock = itertools.count(step=TURN)
    # A step takes all of a turn.
    state_of(server).handshakes = Handshakes(Tally(), lambda: next(clock))
    with Wire(server) as wire:
        client = MemoryClient(wire)
        assert client.greet() == "220 2.0.0"
        wire.connection.data_received(records(hello(TLS12)))
        wire.advance(0)
        wire.connection.data_received(records(b"\x0b\1\0\0" + bytes(40_000)))
        pump: Any = wire.connection.output.pump
        assert pump.more
        assert not wire.transport.reading
        turns = 0
        while pump.more:
            wire.loop.call_soon(wire.loop.stop)
            wire.loop.run_forever()
            turns += 1
        assert turns == 2  # of 16 KiB each, after the first 16 KiB at once
        assert wire.transport.reading
