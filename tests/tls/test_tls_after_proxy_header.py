"""TLS behind a load balancer: one stream holds a PROXY header, the handshake, and the session.

Each by itself: net/test_proxy_protocol.py, tls/test_implicit_tls.py, tls/test_starttls.py.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from clients import Client, Sink, digest
from conftest import Run
from proxy_kit import (
    DESTINATION,
    LINE,
    LINE6,
    LOCAL,
    SOURCE,
    SOURCE6,
    binary,
    tlv,
    with_checksum,
)
from scenario import DEFAULTS, EH, TX, codes
from tls_kit import TLS12, MemoryClient, MemoryTLS, certified, client_context

from fastsmtp.testing import Wire, running

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

BALANCER = ("10.0.0.7", 40000)
TRUSTED: dict[str, Any] = {"use_proxy": ["10.0.0.0/8"]}
HEADERS = {"v1": LINE, "v2": binary(), "v2 with a checksum": with_checksum(tlv(5, b"id"))}
UNKNOWN = {"v1": b"PROXY UNKNOWN\r\n", "v2": binary(command=LOCAL, family=0, addresses=b"")}
# TLS between client and balancer, its certificate good (PROXY protocol §2.2.6)
OUTER_TLS = tlv(0x20, struct.pack("!BI", 7, 0) + tlv(0x21, b"TLSv1.3"))


def behind(secure: bool = True, **options: Any) -> Wire:
    """A connection of the balancer to a server with a certificate."""
    return Wire(peer=BALANCER, **certified(secure=secure, **{**TRUSTED, **options}))


# --- implicit TLS ---


@row("PROXY-08", "PROXY-01", "TLS-26")
@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("cuts", [0, 1, 50, 300])
@pytest.mark.parametrize("version", [{}, TLS12])
def test_header_and_hello_may_come_in_one_segment_and_in_any_others(
    header: str, cuts: int, version: dict[str, Any]
) -> None:
    with behind() as wire:
        assert wire.receive() == b""
        client = MemoryClient(wire, context=client_context(**version))
        client.handshake(cuts, before=HEADERS[header])
        assert codes(client.hear()) == ["220"]
        session = wire.session
        assert (session.remote_address, session.remote_port) == SOURCE
        assert (session.local_address, session.local_port) == DESTINATION
        assert session.proxy["peer"] == BALANCER
        assert session.secure
        assert session.servername == "srv.test"
        assert b" Nice to meet you, [192.0.2.1]\r\n" in client.say(EH)
        assert session.transmission_type == "ESMTPS"
        assert client.codes(b"STARTTLS\r\n") == ["503 5.5.1"]


@row("PROXY-08")
@pytest.mark.parametrize("header", [LINE, binary()])
def test_the_end_of_the_header_and_the_hello_may_share_a_segment(header: bytes) -> None:
    for at in (1, 5, 12, 15, len(header) - 1):
        with behind() as wire:
            assert wire.send(header[:at]) == b""
            client = MemoryClient(wire)
            client.handshake(before=header[at:])
            assert codes(client.hear()) == ["220"]
            assert wire.session.remote_address == SOURCE[0]


@row("PROXY-04", "PROXY-05")
@pytest.mark.parametrize("header", UNKNOWN)
def test_a_header_without_a_client_is_followed_by_tls_all_the_same(header: str) -> None:
    trusted = ["0.0.0.0/0", "::/0"]
    with behind(use_xclient=trusted, use_xforward=trusted) as wire:
        client = MemoryClient(wire)
        client.handshake(before=UNKNOWN[header])
        assert codes(client.hear()) == ["220"]
        assert wire.session.remote_address == BALANCER[0]
        greeting = client.say(EH)
        assert b"XCLIENT" not in greeting
        assert b"XFORWARD" not in greeting
        assert client.codes(b"XCLIENT ADDR=192.0.2.9\r\n") == ["550 5.7.0"]


@row("PROXY-03", "TLS-14")
@pytest.mark.parametrize("first", [b"", EH, b"\r\n", LINE.replace(b"TCP4", b"TCP5")])
def test_a_handshake_without_a_good_header_is_not_answered(first: bytes) -> None:
    with behind() as wire:
        assert wire.send(first + MemoryTLS().shake()) == b""
        assert wire.closed
        assert wire.session.remote_address == BALANCER[0]
        assert not wire.session.secure


@row("TLS-14", "PROXY-08")
def test_plaintext_after_the_header_on_a_tls_port_gets_no_reply() -> None:
    with behind() as wire:
        answer = wire.send(LINE + EH)
        assert not answer or answer[0] == 0x15  # an alert
        assert wire.closed


@row("TLS-12", "SLOW-04", "SLOW-02")
def test_the_timeout_of_the_handshake_begins_after_the_header() -> None:
    with behind(proxy_timeout=60) as wire:
        assert wire.advance(50) == b""
        assert wire.send(LINE) == b""
        assert wire.advance(14.9) == b""
        assert not wire.closed
        assert wire.advance(0.2) == b""
        assert wire.transport.closed
    with behind() as wire:
        client = MemoryClient(wire)
        assert wire.advance(4.9) == b""
        assert wire.send(LINE) == b""
        assert wire.advance(14.9) == b""
        client.handshake()
        assert codes(client.hear()) == ["220"]


@row("PROXY-11")
def test_one_client_of_a_host_too_many_is_cut_before_its_handshake() -> None:
    with behind(max_clients_per_host=1) as first:
        client = MemoryClient(first)
        client.handshake(before=LINE)
        assert codes(client.hear()) == ["220"]
        with Wire(first.server, peer=BALANCER, loop=first.loop) as second:
            assert second.send(LINE + MemoryTLS().shake()) == b""
            assert second.closed
        with Wire(first.server, peer=BALANCER, loop=first.loop) as third:
            other = MemoryClient(third)
            other.handshake(before=LINE6)
            assert codes(other.hear()) == ["220"]
            assert third.session.remote_address == SOURCE6[0]


@row("PROXY-11", "HOOK-14")
def test_the_hooks_see_the_client_and_not_the_balancer() -> None:
    seen: list[Any] = []

    def on_connect(session: Any, callback: Any) -> None:
        seen.append(("connect", session.remote_address, session.secure))
        callback()

    def on_secure(socket: Any, session: Any, callback: Any) -> None:
        seen.append(("secure", session.remote_address, socket.version))
        callback()

    with behind(on_connect=on_connect, on_secure=on_secure) as wire:
        client = MemoryClient(wire)
        client.handshake(before=LINE)
        assert codes(client.hear()) == ["220"]
    assert seen == [("connect", SOURCE[0], True), ("secure", SOURCE[0], "TLSv1.3")]


@row("PROXY-09")
@pytest.mark.parametrize("header", [LINE, binary()])
def test_a_header_within_tls_is_a_command(header: bytes) -> None:
    with behind() as wire:
        client = MemoryClient(wire)
        client.handshake(before=LINE)
        client.hear()
        answer = client.codes(header)
        assert answer[-1] == ("421 4.7.0" if header is LINE else "500 5.5.2")
        assert wire.closed
        assert wire.session.remote_address == SOURCE[0]


@row("PIPE-01", "PROXY-08")
def test_a_client_that_talks_early_within_tls_is_refused_where_there_is_a_delay() -> None:
    with behind(greet_delay=5) as wire:
        client = MemoryClient(wire)
        client.handshake(before=LINE)  # neither header nor handshake is early talk
        assert client.hear() == b""
        assert codes(client.say(EH)) == ["421"]
    with behind(greet_delay=5) as wire:
        client = MemoryClient(wire)
        client.handshake(before=LINE)
        assert codes(client.advance(5.1)) == ["220"]


# --- STARTTLS ---


@row("PROXY-08", "TLS-26")
@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("cuts", [0, 1])
def test_starttls_works_after_a_header(header: str, cuts: int) -> None:
    trusted = ["192.0.2.0/24"]
    with behind(secure=False, use_xclient=trusted) as wire:
        client = MemoryClient(wire)
        assert codes(wire.send(HEADERS[header] + EH)) == ["220", "250"]
        assert client.starttls() == "220 2.0.0"
        client.handshake(cuts)
        assert client.hear() == b""  # there is no second greeting
        session = wire.session
        assert (session.remote_address, session.remote_port) == SOURCE
        assert session.proxy["peer"] == BALANCER
        greeting = client.say(EH)
        assert b" Nice to meet you, [192.0.2.1]\r\n" in greeting
        assert b"XCLIENT" in greeting
        # Trust is decided again, on an address that came through all three.
        assert client.codes(b"XCLIENT ADDR=198.51.100.7\r\n") == ["220"]
        assert session.remote_address == "198.51.100.7"
        assert session.proxy["source"] == SOURCE
        assert session.secure
        assert b"XCLIENT" not in client.say(EH)
        assert client.codes(b"XCLIENT ADDR=192.0.2.1\r\n") == ["550 5.7.0"]


@row("TLS-01", "PROXY-08")
@pytest.mark.parametrize("strict", [True, False])
def test_a_hello_in_the_segment_of_starttls_is_refused_after_a_header(strict: bool) -> None:
    with behind(secure=False, strict_pipelining=strict) as wire:
        answer = wire.send(LINE + b"STARTTLS\r\n" + MemoryTLS().shake())
        assert codes(answer) == ["220", "554 5.5.0"]
        assert wire.closed
        assert not wire.session.secure


@row("PROXY-07", "TLS-11")
def test_the_tls_facts_of_a_header_do_not_secure_the_connection() -> None:
    with behind(secure=False, needs_upgrade=True) as wire:
        greeting = wire.send(binary(OUTER_TLS) + EH)
        assert b"250-STARTTLS\r\n" in greeting
        assert wire.session.proxy["ssl"]["version"] == "TLSv1.3"
        assert not wire.session.secure
        assert codes(wire.send(TX)) == ["530 5.7.0"] * 2
        client = MemoryClient(wire)
        assert client.starttls() == "220 2.0.0"
        client.handshake()
        assert client.codes(EH) == ["250"]
        assert client.codes(TX) == ["250 2.1.0", "250 2.1.5"]
    with Wire(peer=BALANCER, **DEFAULTS, **TRUSTED, secured=True) as wire:  # that is what does
        assert b"STARTTLS" not in wire.send(binary(OUTER_TLS) + EH)
        assert wire.session.secure
        assert wire.session.tls_options is None


# --- sockets ---


@row("PROXY-08")
@pytest.mark.parametrize("header", [LINE, binary()])
def test_a_message_arrives_over_sockets_with_header_and_hello_in_one_segment(
    run: Run, header: bytes
) -> None:
    text = b"Subject: x\r\n\r\n" + b"text\r\n" * 50_000

    async def main() -> None:
        sink = Sink()
        given = certified(secure=True, use_proxy=["127.0.0.1"])
        async with (
            running(sink.server(**given)) as address,
            await Client.connect(address) as client,
        ):
            tls = MemoryTLS()
            flight = header + tls.shake()
            while flight:
                client.send(flight)
                flight = b""
                if not tls.done:
                    flight = tls.shake(await client.reader.read(65536))
            said = tls.decrypt(b"")

            async def says(count: int) -> list[str]:
                nonlocal said
                while said.count(b"\r\n") < count:
                    said += tls.decrypt(await client.reader.read(65536))
                told, said = codes(said), b""
                return told

            assert await says(1) == ["220"]
            client.send(tls.encrypt(b"HELO c.example\r\n"))
            assert await says(1) == ["250"]
            client.send(tls.encrypt(TX + b"DATA\r\n"))
            assert await says(3) == ["250 2.1.0", "250 2.1.5", "354"]
            client.send(tls.encrypt(text + b".\r\n"))
            assert await says(1) == ["250 2.6.0"]
            client.send(tls.encrypt(b"QUIT\r\n"))
            assert await says(1) == ["221 2.0.0"]
        assert [told.digest for told in sink.arrived] == [digest(text)]

    run(main())
