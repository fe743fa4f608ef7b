"""The pump without a connection: octets in, octets out, in any cuts; and the look into a
ClientHello.
"""

from __future__ import annotations

import random
import re
import ssl
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tls_kit import TLS12, MemoryTLS, client_context, cut, server_pump

from fastsmtp._tls.client_hello import (
    BAD,
    MAX_HELLO,
    MAX_HELLO_RECORDS,
    MORE,
    NO_TLS,
    read_hello,
    server_name,
)
from fastsmtp._tls.pump import Pump

row = pytest.mark.row


def shaken(size: int = 0, **client: object) -> tuple[Pump, MemoryTLS]:
    """A pump and its client after the handshake; size: octets of each segment."""
    pump, client_end = server_pump(), MemoryTLS(**client)  # type: ignore[arg-type]
    flight = client_end.shake()
    plaintext = None
    while flight:
        for piece in cut(flight, size):
            assert plaintext is None
            plaintext = pump.shake(piece)
        assert pump.error is None
        flight = client_end.shake(pump.take_output())
    assert plaintext == b""
    assert pump.established
    return pump, client_end


def in_small_records(octets: bytes) -> bytes:
    """One handshake message, an octet in each record."""
    return b"".join(b"\x16\x03\x01\x00\x01%c" % octet for octet in octets)


# --- the handshake ---


@row("TLS-26")
@pytest.mark.parametrize("size", [0, 1, 7, 300])
@pytest.mark.parametrize("version", [{}, TLS12])
def test_a_handshake_succeeds_in_any_segments(size: int, version: dict[str, object]) -> None:
    pump, client = shaken(size, context=client_context(**version))
    assert pump.servername == "srv.test"
    assert client.decrypt(pump.send(b"220 hello\r\n")) == b"220 hello\r\n"
    assert pump.receive(client.encrypt(b"EHLO x\r\n")) == b"EHLO x\r\n"


def test_data_in_the_read_of_the_last_flight_is_not_lost() -> None:
    pump, client = server_pump(), MemoryTLS()
    assert pump.shake(client.shake()) is None
    flight = client.shake(pump.take_output()) + client.encrypt(b"EHLO x\r\n" + b"y" * 50_000)
    assert pump.shake(flight) == b"EHLO x\r\n" + b"y" * 50_000


def test_data_sent_before_the_handshake_is_dropped() -> None:
    pump, client = server_pump(), MemoryTLS()
    assert pump.send(b"250 in clear\r\n") == b""
    pump.shake(client.shake())
    pump.take_output()
    assert pump.send(b"250 in clear\r\n") == b""
    assert pump.close() == b""


@row("TLS-03", "TLS-14")
@pytest.mark.parametrize("octets", [b"EHLO x\r\n", b"RSET\r\n", b"\x00", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_client_that_does_not_speak_tls_gets_no_octet(octets: bytes) -> None:
    pump = server_pump()
    assert pump.shake(octets) is None
    assert pump.error is not None
    assert pump.take_output() == b""


def test_a_broken_handshake_ends_with_an_alert() -> None:
    pump, client = server_pump(), MemoryTLS()
    flight = bytearray(client.shake())
    flight[9:11] = b"\x99\x99"  # a version that does not exist
    pump.shake(bytes(flight[:43]) + b"\xff" * (len(flight) - 43))
    assert isinstance(pump.error, ssl.SSLError)
    assert pump.take_output()[0] == 21  # alert
    assert pump.shake(b"x") is None
    assert pump.receive(b"x") == b""


# --- octets ---


@settings(max_examples=40)
@given(
    pieces=st.lists(st.integers(1, 40_000), min_size=1, max_size=6),
    seed=st.integers(0, 2**32),
)
def test_octets_arrive_as_they_were_sent_at_any_cuts(pieces: list[int], seed: int) -> None:
    pump, client = shaken()
    dice = random.Random(seed)
    sent = [dice.randbytes(size) for size in pieces]
    wire = b"".join(map(client.encrypt, sent))
    got = []
    while wire:
        size = dice.choice([1, 5, 200, 17_000, 300_000])
        got.append(pump.receive(wire[:size]))
        wire = wire[size:]
    assert b"".join(got) == b"".join(sent)
    assert b"".join(client.decrypt(pump.send(piece)) for piece in sent) == b"".join(sent)


def test_a_read_that_is_larger_than_the_buffer_arrives_whole() -> None:
    pump, client = shaken()
    body = random.Random(1).randbytes(600_000)
    assert pump.receive(client.encrypt(body)) == body


@row("TLS-16")
def test_octets_after_close_notify_are_not_read() -> None:
    pump, client = shaken()
    wire = client.encrypt(b"NOOP\r\n") + client.close_notify() + b"QUIT\r\n"
    assert pump.receive(wire) == b"NOOP\r\n"
    assert pump.ended
    assert pump.error is None
    assert pump.receive(b"RSET\r\n") == b""
    assert client.decrypt(pump.send(b"250 OK\r\n")) == b"250 OK\r\n"


@row("TLS-15")
@pytest.mark.parametrize("version", [{}, TLS12])
def test_a_record_that_is_too_long_ends_the_connection_with_an_alert(
    version: dict[str, object],
) -> None:
    pump, _ = shaken(context=client_context(**version))
    size = 16_384 + 2048 + 1
    assert pump.receive(b"\x17\x03\x03" + struct.pack("!H", size) + b"x" * size) == b""
    assert isinstance(pump.error, ssl.SSLError)
    assert pump.take_output() != b""
    assert pump.send(b"x") == b""


@pytest.mark.parametrize("version", [{}, TLS12])
@pytest.mark.parametrize(
    "header",
    [b"\x13\3\3\0\x20", b"\x18\3\3\0\x20", b"\x17\2\3\0\x20", b"\x17\3\3\xff\xff", b"EHLO "],
    ids=["below types", "above types", "version", "length", "text"],
)
@pytest.mark.parametrize("size", [0, 1, 3])
def test_an_invalid_record_header_ends_the_connection_at_once(
    header: bytes, size: int, version: dict[str, object]
) -> None:
    pump, client = shaken(context=client_context(**version))
    wire = client.encrypt(b"NOOP\r\n") + header
    assert b"".join(map(pump.receive, cut(wire, size))) == b"NOOP\r\n"
    if pump.error is None:  # a type is looked at when the record is whole
        assert version
        assert pump.receive(bytes(0x20)) == b""
    assert isinstance(pump.error, ssl.SSLError)


@pytest.mark.parametrize("version", [{}, TLS12])
def test_records_of_any_size_arrive_at_every_cut(version: dict[str, object]) -> None:
    sizes = [1, 2, 500, 1, 300, 16_384, 1, 12_440, 12_500, 16_384, 16_384, 7]
    pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    small = b"".join(pieces[:5])
    pump, client = shaken(context=client_context(**version))
    for first in range(1, 1000):
        wire = b"".join(map(client.encrypt, pieces[:5]))
        assert pump.receive(wire[:first]) + pump.receive(wire[first:]) == small
    wire = b"".join(map(client.encrypt, pieces))
    for first in [4096, 12_400, 13_000, 16_400, 20_000, 65_536]:
        got = [pump.receive(piece) for piece in cut(wire, first)]
        assert b"".join(got) == b"".join(pieces)
        wire = b"".join(map(client.encrypt, pieces))


@row("TLS-16")
def test_close_notify_is_found_at_every_cut() -> None:
    for first in range(70):
        pump, client = shaken()
        wire = client.encrypt(b"NOOP\r\n") + client.close_notify() + b"QUIT\r\n"
        assert pump.receive(wire[:first]) + pump.receive(wire[first:]) == b"NOOP\r\n"
        assert pump.ended
        assert pump.error is None


@row("TLS-15")
def test_records_before_a_broken_one_are_given_out() -> None:
    pump, client = shaken()
    wire = bytearray(client.encrypt(b"one\r\n") + client.encrypt(b"two\r\n"))
    wire[-1] ^= 1
    assert pump.receive(bytes(wire)) == b"one\r\n"
    assert pump.error is not None


def test_close_notify_is_sent_last() -> None:
    pump, client = shaken()
    last = pump.send(b"221 bye\r\n") + pump.close()
    assert client.decrypt(last) == b"221 bye\r\n"
    assert client.ended
    assert pump.send(b"x") == b""
    assert pump.close() == b""


# --- the look into a ClientHello ---


def hello(name: str | None = "srv.test") -> bytes:
    return MemoryTLS(client_context(ca=None), server_name=name).shake()


def made(name: bytes) -> bytes:
    """A ClientHello that asks for `name`, which may be no name at all."""
    names = b"\0" + struct.pack("!H", len(name)) + name
    listed = struct.pack("!H", len(names)) + names
    extensions = struct.pack("!HH", 0, len(listed)) + listed
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0"
    body += struct.pack("!H", len(extensions)) + extensions
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + struct.pack("!H", len(message)) + message


@row("TLS-22", "TLS-26")
def test_a_name_is_found_as_soon_as_the_hello_is_whole() -> None:
    octets = hello("Mail.Example.ORG")
    assert server_name(octets) == "mail.example.org"
    assert {server_name(octets[:end]) for end in range(len(octets))} == {MORE}
    assert server_name(octets + b"more") == "mail.example.org"


@row("TLS-26")
def test_a_hello_may_lie_in_several_records() -> None:
    octets = hello()
    body = octets[5:]
    records = b"".join(
        b"\x16\x03\x01" + struct.pack("!H", len(part)) + part for part in cut(body, 50)
    )
    assert server_name(records) == "srv.test"


@row("TLS-22")
@pytest.mark.parametrize(
    "name",
    [
        *[b"a" * 256, b"caf\xc3\xa9.example", b"a\\", b"a/../b", b"", b"a..b", b".a", b"a\x00b"],
        *[b"a b", b"x\r\n", b"*.example"],
    ],
)
def test_a_name_that_is_not_valid_is_ignored(name: bytes) -> None:
    assert server_name(made(name)) == ""


@row("TLS-22")
def test_a_hello_without_a_name_and_names_with_a_last_dot_or_an_address_are_read() -> None:
    assert server_name(hello(None)) == ""
    assert server_name(made(b"Srv.Test.")) == "srv.test"
    assert server_name(made(b"192.0.2.1")) == "192.0.2.1"


@settings(max_examples=300)
@given(octets=st.binary(max_size=300), seed=st.integers(0, 2**32))
def test_reading_a_name_never_fails_on_any_octets(octets: bytes, seed: int) -> None:
    server_name(b"\x16" + octets)
    dice = random.Random(seed)
    broken = bytearray(HELLO)
    for _ in range(dice.randrange(1, 6)):
        broken[dice.randrange(1, len(broken))] = dice.randrange(256)
    assert server_name(bytes(broken)) != NO_TLS


HELLO = hello()


class Cursor:
    """The oracle's: slow, and it raises at the end."""

    def __init__(self, octets: bytes) -> None:
        self.rest = octets

    def take(self, count: int) -> bytes:
        if count > len(self.rest):
            raise EOFError
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def vector(self, width: int) -> Cursor:
        return Cursor(self.take(int.from_bytes(self.take(width), "big")))


def name_in(body: bytes) -> str:
    """What the name of a ClientHello without its header is (RFC 8446 §4.1.2, RFC 6066 §3)."""
    cursor = Cursor(body)
    try:
        cursor.take(34)
        for width in (1, 2, 1):
            cursor.vector(width)
        extensions = cursor.vector(2) if cursor.rest else cursor
        while extensions.rest:
            kind, extension = extensions.take(2), extensions.vector(2)
            if kind == b"\0\0":
                names = extension.vector(2)
                name = names.vector(2).rest if names.take(1) == b"\0" else b""
                good = re.fullmatch(rb"([0-9A-Za-z_-]+\.)*[0-9A-Za-z_-]+\.?", name[:256])
                return name.decode().lower().removesuffix(".") if good and len(name) < 256 else ""
    except EOFError:
        pass
    return ""


def in_record(body: bytes) -> bytes:
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + struct.pack("!H", len(message)) + message


@row("TLS-22", "TLS-26")
def test_a_hello_that_is_cut_or_changed_at_any_octet_is_what_the_oracle_says() -> None:
    body = HELLO[9:]
    assert name_in(body) == "srv.test"
    for at in range(len(body)):
        assert server_name(in_record(body[:at])) == name_in(body[:at])
        for octet in (0, 1, body[at] ^ 1, body[at] + 1 & 255, body[at] - 1 & 255, 255):
            changed = body[:at] + bytes([octet]) + body[at + 1 :]
            assert server_name(in_record(changed)) == name_in(changed)


@row("TLS-26")
def test_a_record_that_is_changed_at_any_octet_is_looked_at_without_harm() -> None:
    records = in_small_records(HELLO[5:])
    for at in range(1, len(records)):
        for octet in (0, 1, 255):
            changed = records[:at] + bytes([octet]) + records[at + 1 :]
            name, count = read_hello(changed)
            assert name == BAD or re.fullmatch("[a-z.]*", name)
            if name == MORE:
                assert len(changed) < count <= MAX_HELLO_RECORDS
            else:
                assert count <= len(changed)
                assert (count == 0) == (name == BAD)


@row("TLS-26")
def test_a_hello_of_many_small_records_is_looked_at_a_few_times() -> None:
    sent = in_small_records(b"\x01" + (3000).to_bytes(3) + bytes(3000))
    looks, wanted = 0, 0
    for end in range(1, len(sent) + 1):
        if end >= wanted:
            looks += 1
            found, wanted = read_hello(sent[:end])
            assert found == (MORE if end < len(sent) else "")
    assert looks < 100


@pytest.mark.parametrize("size", [0, 1])
def test_a_hello_in_small_records_succeeds_in_any_segments(size: int) -> None:
    pump, client = server_pump(), MemoryTLS()
    for piece in cut(in_small_records(client.shake()[5:]), size):
        assert pump.shake(piece) is None
    assert pump.error is None
    assert pump.servername == "srv.test"
    assert pump.shake(client.shake(pump.take_output())) == b""


def test_records_that_no_client_sends_hold_no_hello() -> None:
    assert read_hello(b"\x16\x03\x01\x00\x01\x01") == (MORE, 9)
    empty = b"\x16\x03\x01\x00\x00"  # OpenSSL would pass over it (RFC 8446 §5.1 allows none)
    assert read_hello(empty) == (BAD, 0)
    assert read_hello(b"\x16\x03\x01\x00\x01\x01" + empty) == (BAD, 0)
    assert read_hello(HELLO[:9] + b"\x15\x03\x01\x00\x02\x01\x00")[0] == MORE
    alert_inside = b"\x16\x03\x01\x00\x01\x01" + b"\x15\x03\x01\x00\x02\x01\x5a"
    assert read_hello(alert_inside) == (BAD, 0)
    two = len(HELLO) - 5 + 4
    assert read_hello(b"\x16\x03\x01" + two.to_bytes(2) + HELLO[5:] + HELLO[5:9]) == (BAD, 0)
    assert read_hello(b"\x16\x03\x01\x00\x04\x02\xff\xff\xff") == ("", 9)  # no ClientHello


def test_a_hello_has_16384_octets_at_most_and_with_its_records_18432() -> None:
    header = b"\x16\x03\x01\x40\x00\x01"
    assert read_hello(header + MAX_HELLO.to_bytes(3)) == (MORE, 9 + MAX_HELLO)
    assert read_hello(header + (MAX_HELLO + 1).to_bytes(3)) == (BAD, 0)
    assert read_hello(header + b"\xff\xff\xff") == (BAD, 0)
    small = in_small_records(b"\x01" + MAX_HELLO.to_bytes(3) + bytes(MAX_HELLO))
    assert read_hello(small[: MAX_HELLO_RECORDS - 1]) == (MORE, MAX_HELLO_RECORDS)
    assert read_hello(small[:MAX_HELLO_RECORDS]) == (BAD, 0)
