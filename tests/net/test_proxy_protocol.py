"""Behind a load balancer: from which peers a PROXY header is taken, and what follows from it.

The grammar of headers is in wire/test_proxy_header.py; here it is the connection around it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from clients import Client, Sink, happened, until
from fuzz.clean import Lines
from proxy_kit import (
    BAD_LINES,
    DESTINATION,
    INET6,
    LINE,
    LINE6,
    LOCAL,
    SIGNATURE,
    SOURCE,
    SOURCE6,
    UNIX,
    binary,
    tlv,
    with_checksum,
)
from scenario import (
    DEFAULTS,
    EH,
    FIN,
    RST,
    Conversation,
    Script,
    codes,
    every_cut,
    octet_by_octet,
    pause,
)
from tls_kit import certified

from fastsmtp import SMTPError, SMTPServer
from fastsmtp.server import state_of
from fastsmtp.testing import VirtualLoop, Wire, running

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

BALANCER = ("10.0.0.7", 40000)
TRUSTED: dict[str, Any] = {"use_proxy": ["10.0.0.0/8"]}
HEADERS = {"v1": LINE, "v2": binary(), "v2 with a checksum": with_checksum(tlv(5, b"id"))}
UNKNOWN = {
    "v1": b"PROXY UNKNOWN\r\n",
    "v1 with addresses": b"PROXY UNKNOWN 192.0.2.1 198.51.100.2 1 2\r\n",
    "v2 LOCAL": binary(command=LOCAL, family=0, addresses=b""),
    "v2 LOCAL with addresses": binary(b"\xff", command=LOCAL),
    "v2 UNSPEC": binary(b"abc", family=0),
}
COMMANDS = {"v1": "UNKNOWN", "v1 with addresses": "UNKNOWN", "v2 UNSPEC": "UNKNOWN"}


def behind(hooks: Script | None = None, **options: Any) -> Conversation:
    """A connection of the balancer."""
    return Conversation(hooks, peer=BALANCER, **{**TRUSTED, **options})


@contextmanager
def log() -> Iterator[list[str]]:
    """The lines that are logged at any level."""
    handler = Lines()
    logger = logging.getLogger("fastsmtp")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def assert_cut_in_silence(session: Conversation) -> None:
    """Closed, without an octet, a hook, or an `on_close`; and the place is given back."""
    assert session.closed
    if not session.wire.transport.closed:
        session.do(FIN)
    assert session.wire.transport.closed
    assert b"".join(session.written) == b""
    assert session.trace == []
    assert not session.wire.server.connections


# --- peers that have to send a header ---


@row("PROXY-01")
@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("cut", [lambda octets: [octets], octet_by_octet])
def test_a_trusted_balancer_names_its_client(
    header: str, cut: Callable[[bytes], list[bytes]]
) -> None:
    with Conversation(peer=BALANCER, cut=cut, **TRUSTED) as session:
        assert session.written == [b""]
        assert session.do(HEADERS[header]) == ["220"]
        facts = session.wire.session
        assert (facts.remote_address, facts.remote_port) == SOURCE
        assert (facts.local_address, facts.local_port) == DESTINATION
        assert facts.client_hostname == "[192.0.2.1]"
        assert facts.proxy["peer"] == BALANCER
        assert facts.proxy["command"] == "PROXY"
        assert (facts.proxy["source"], facts.proxy["destination"]) == (SOURCE, DESTINATION)
        assert facts.proxy["version"] == int(header[1])
        assert session.do(EH) == ["250"]
        assert b" Nice to meet you, [192.0.2.1]\r\n" in session.written[-1]


@row("PROXY-01")
@pytest.mark.parametrize("header", [LINE6, binary(family=INET6)])
def test_a_client_over_ipv6_is_known_by_its_canonical_address(header: bytes) -> None:
    with behind() as session:
        assert session.do(header) == ["220"]
        assert session.wire.session.remote_address == SOURCE6[0]


@row("PROXY-02")
@pytest.mark.parametrize("networks", [[], ["192.0.2.0/24"], ["unix"]])
def test_a_header_of_an_untrusted_client_is_refused(networks: list[str]) -> None:
    with Conversation(peer=BALANCER, use_proxy=networks) as session:
        assert session.codes == ["220"]
        assert session.do(LINE + EH) == ["421 4.7.0"]
        assert session.closed
        assert session.wire.session.remote_address == BALANCER[0]
        assert session.wire.session.proxy is None


@row("PROXY-12")
def test_a_binary_header_to_a_port_without_balancers_is_four_bad_lines() -> None:
    run = every_cut([binary()])
    assert run.codes == ["220", *["500 5.5.2"] * 4]


@row("PROXY-03", "PROXY-06", "PROXY-07")
@pytest.mark.parametrize(
    "octets",
    [
        EH,
        b"\x16\x03\x01\x00\xa5",
        LINE.replace(b"\r", b""),
        LINE.replace(b"192.0.2.1", b"192.0.2.1\x1b[2J"),
        b"PROXY TCP4 " + b"1" * 200,
        binary(family=UNIX, addresses=bytes(216)),
        SIGNATURE + b"\x21\x11" + struct.pack("!H", 4097),
        SIGNATURE + b"\x21\x11\xff",
        binary(tlv(3, b"abcd")),
        b"PROXY\r\n" + "‮evil".encode(),
    ],
)
@pytest.mark.parametrize("cut", [lambda octets: [octets], octet_by_octet])
def test_an_invalid_header_closes_the_connection_with_one_clean_log_line(
    octets: bytes, cut: Callable[[bytes], list[bytes]]
) -> None:
    with log() as lines, Conversation(peer=BALANCER, cut=cut, **TRUSTED) as session:
        session.do(octets)
        assert_cut_in_silence(session)
    (line,) = [line for line in lines if "PROXY" in line]
    assert "10.0.0.7" in line
    assert re.fullmatch(r"[\x20-\x7e\xa1-\xff]+", line)
    assert len(line) < 300


@row("PROXY-03")
@pytest.mark.parametrize("name", BAD_LINES)
def test_an_invalid_header_line_reaches_no_hook(name: str) -> None:
    with behind() as session:
        session.do(BAD_LINES[name] + EH * 3)
        assert_cut_in_silence(session)


@row("PROXY-10", "SLOW-02")
@pytest.mark.parametrize("octets", [b"", b"PROX", binary()[:-1]])
@pytest.mark.parametrize("end", [FIN, RST])
def test_a_balancer_that_leaves_within_the_header_is_released(octets: bytes, end: Any) -> None:
    with log() as lines, behind() as session:
        session.do(octets, end)
        assert_cut_in_silence(session)
    assert [line for line in lines if "PROXY" in line] == []


# --- time ---


@row("SLOW-02")
def test_octets_do_not_extend_the_timeout_of_the_header() -> None:
    with log() as lines, behind() as session:
        for octet in (b"P", b"R", b"O", b"X"):
            session.do(octet, pause(1.2))
        assert not session.closed
        session.do(pause(0.3))
        assert session.closed
        session.do(LINE[4:] + EH)  # too late
        assert_cut_in_silence(session)
    assert len([line for line in lines if "not complete in time" in line]) == 1


@row("SLOW-02", "SLOW-03")
def test_the_time_for_the_header_is_an_option_and_ends_with_the_header() -> None:
    with behind(proxy_timeout=60) as session:
        session.do(SIGNATURE, pause(59))
        assert session.do(binary()[12:]) == ["220"]
        assert session.do(pause(299)) == []
        assert session.do(EH) == ["250"]


@row("SLOW-03")
def test_a_length_that_is_too_large_is_not_waited_for() -> None:
    with behind() as session:
        session.do(SIGNATURE + b"\x21\x11\xff\xff")
        assert_cut_in_silence(session)


def test_a_closing_server_sends_nothing_before_the_header_is_complete(run: Any) -> None:
    async def scenario() -> None:
        sink = Sink()
        server = sink.server(use_proxy=["127.0.0.1"], proxy_timeout=100)
        async with running(server) as address, await Client.connect(address) as client:
            client.send(LINE[:20])
            await until(lambda: server.connections)
            closed = asyncio.ensure_future(server.close())
            assert await client.rest() == []
            client.finish()
            await closed
        assert sink.closed == []

    run(scenario())


# --- octets after the header ---


@row("PROXY-08", "PIPE-01")
@pytest.mark.parametrize("header", [*HEADERS.values(), *UNKNOWN.values()])
def test_octets_after_the_header_are_the_first_command(header: bytes) -> None:
    run = every_cut([header + EH], Script(), peer=BALANCER, **TRUSTED)
    assert run.codes == ["220", "250"]


@row("PROXY-08", "PIPE-01")
def test_octets_after_the_header_are_early_talk_where_there_is_a_delay() -> None:
    with behind(greet_delay=5) as session:
        assert session.do(LINE + b"E") == ["421"]
    with behind(greet_delay=5) as session:
        assert session.do(LINE, pause(4)) == []
        assert session.do(pause(1.1)) == ["220"]


@row("PROXY-09")
@pytest.mark.parametrize("header", HEADERS.values())
def test_a_second_header_is_a_command(header: bytes) -> None:
    run = every_cut([header + LINE + EH], Script(), peer=BALANCER, **TRUSTED)
    assert run.codes == ["220", "421 4.7.0"]


def test_a_whole_message_in_one_read_with_the_header_arrives(run: Any) -> None:
    async def scenario() -> None:
        sink = Sink()
        server = sink.server(use_proxy=["127.0.0.1"], strict_pipelining=False)
        async with running(server) as address, await Client.connect(address) as client:
            client.send(
                with_checksum(tlv(4, bytes(3000)))
                + EH
                + b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n"
                + b"x\r\n.\r\nQUIT\r\n"
            )
            expected = ["220", "250", "250 2.1.0", "250 2.1.5", "354", "250 2.6.0", "221 2.0.0"]
            assert await client.rest() == expected
        assert len(sink.arrived) == 1

    run(scenario())


# --- LOCAL and UNKNOWN ---


@row("PROXY-04", "PROXY-05")
@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_client_keeps_the_addresses_of_the_balancer_and_is_not_trusted(
    name: str,
) -> None:
    everyone = ["0.0.0.0/0", "::/0", "unix"]
    lists = {"use_xclient": everyone, "use_xforward": everyone, "bare_newline_exclusions": everyone}
    with behind(Script(), **lists) as session:
        assert session.do(UNKNOWN[name]) == ["220"]
        facts = session.wire.session
        assert (facts.remote_address, facts.remote_port) == BALANCER
        assert facts.proxy["command"] == COMMANDS.get(name, "LOCAL")
        assert facts.proxy["source"] is facts.proxy["destination"] is None
        assert session.do(EH) == ["250"]
        assert b"XCLIENT" not in session.written[-1]
        assert b"XFORWARD" not in session.written[-1]
        assert session.do(b"XCLIENT ADDR=192.0.2.1\r\nXFORWARD NAME=x\r\n") == ["550 5.7.0"] * 2
        session.do(b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n")
        assert session.do(b"a\nb\r\n.\r\n") == ["550 5.5.2"]


# --- what goes by the address ---


@row("PROXY-11")
def test_clients_are_counted_by_the_address_in_the_header() -> None:
    loop = VirtualLoop()
    server = SMTPServer(**DEFAULTS, **TRUSTED, max_clients_per_host=1)
    greeted = []
    other = LINE.replace(b"192.0.2.1", b"192.0.2.9")
    wires = [Wire(server, peer=BALANCER, loop=loop) for _ in range(6)]
    local = binary(command=LOCAL)
    try:
        for wire, header in zip(wires, [LINE, LINE, other, local, local, LINE], strict=True):
            greeted += codes(wire.send(header + EH))[:1]
        assert greeted == ["220", "421", "220", "220", "220", "421"]
        wires[0].reset()
        with Wire(server, peer=BALANCER, loop=loop) as again:
            assert codes(again.send(LINE)) == ["220"]
    finally:
        for wire in wires:
            wire.close()
        loop.close()
    assert not state_of(server).registry._hosts


@row("PROXY-01", "PROXY-11")
@pytest.mark.parametrize(
    "words",
    [
        b"::ffff:192.0.2.1 ::ffff:198.51.100.25",  # HAProxy, one socket for both families
        b"::FFFF:C000:201 2001:db8::25",
        b"192.0.2.1 2001:db8::25",  # nginx, with a listener of IPv6
        b"192.0.2.1 198.51.100.25",
    ],
)
def test_an_ipv4_client_in_a_tcp6_line_is_the_same_host_as_in_a_tcp4_line(words: bytes) -> None:
    loop = VirtualLoop()
    server = SMTPServer(**DEFAULTS, **TRUSTED, max_clients_per_host=1, use_xclient=["192.0.2.0/24"])
    try:
        with (
            Wire(server, peer=BALANCER, loop=loop) as first,
            Wire(server, peer=BALANCER, loop=loop) as second,
        ):
            assert b"XCLIENT" in first.send(b"PROXY TCP6 " + words + b" 1 25\r\n" + EH)
            assert first.session.remote_address == "192.0.2.1"
            assert codes(second.send(LINE)) == ["421"]
    finally:
        loop.close()


@row("PROXY-11")
def test_lists_of_networks_are_matched_with_the_address_in_the_header() -> None:
    lists = {"use_xclient": ["192.0.2.0/24"], "use_xforward": ["10.0.0.0/8"]}
    with behind(**lists) as session:
        session.do(LINE, EH)
        assert b"XCLIENT" in session.written[-1]
        assert b"XFORWARD" not in session.written[-1]


@row("PROXY-11")
def test_the_name_of_the_client_is_looked_up_and_not_that_of_the_balancer() -> None:
    asked: list[str] = []

    def resolver(address: str) -> list[str]:
        asked.append(address)
        return ["client.example"]

    with behind(disable_reverse_lookup=False, resolver=resolver) as session:
        assert session.do(LINE) == ["220"]
        assert asked == ["192.0.2.1"]
        assert session.wire.session.client_hostname == "client.example"


@row("PROXY-11")
def test_the_hooks_see_the_client_and_the_event_too() -> None:
    seen: list[Any] = []
    hooks = Script(connect=lambda _, session: seen.append(session.remote_address))
    with behind(hooks) as session:
        session.wire.server.on("connect", seen.append)
        session.do(LINE)
        assert seen[0] == "192.0.2.1"
        assert (seen[1]["remote_address"], seen[1]["local_port"]) == ("192.0.2.1", 25)


@row("PROXY-11")
def test_the_log_names_the_balancer_beside_the_client() -> None:
    with log() as lines, behind(Script(connect=ValueError("a hook that fails"))) as session:
        assert session.do(LINE) == ["421"]
        name = session.wire.session.id
    failures = [line for line in lines if line.startswith(f"{name}: 192.0.2.1 via 10.0.0.7: on_")]
    assert len(failures) == 1
    assert "on_connect failed: ValueError: a hook that fails" in failures[0]
    assert [line for line in lines if "PROXY header: PROXY 192.0.2.1 via 10.0.0.7" in line]


def test_a_refusal_at_connect_is_as_for_any_client() -> None:
    with behind(Script(connect=SMTPError("no"))) as session:
        assert session.do(LINE + EH) == ["554"]


# --- TLVs ---


@row("PROXY-07")
def test_the_session_has_the_values_of_the_tlvs() -> None:
    ssl = b"\x05\x00\x00\x00\x02" + tlv(0x21, b"TLSv1.3") + tlv(0x22, "Zoë Ö".encode())
    ssl += tlv(0x23, b"ECDHE") + tlv(0x24, b"SHA256") + tlv(0x25, b"RSA2048") + tlv(0x29, b"?")
    octets = [(1, b"smtp"), (2, b""), (4, b"pad"), (5, b"\x00id"), (0x20, ssl), (0x30, b"blue")]
    with behind() as session:
        session.do(with_checksum(b"".join(tlv(*one) for one in octets), tlv(0xE5, b"own")))
        proxy = session.wire.session.proxy
        assert not session.wire.session.secure
        assert session.wire.session.tls_options is None
    assert proxy["alpn"] == "smtp"
    assert proxy["authority"] == ""
    assert proxy["unique_id"] == b"\x00id"
    assert proxy["netns"] == "blue"
    assert proxy["ssl"] == {
        "client": 5,
        "verify": 2,
        "version": "TLSv1.3",
        "cn": "Zoë Ö",
        "cipher": "ECDHE",
        "sig_alg": "SHA256",
        "key_alg": "RSA2048",
    }
    assert [kind for kind, _ in proxy["tlvs"]] == [1, 2, 5, 0x20, 0x30, 3, 0xE5]
    assert proxy["tlvs"][-1] == (0xE5, b"own")


@row("PROXY-07")
def test_texts_of_tlvs_are_made_safe_for_logs() -> None:
    ssl = bytes(5) + tlv(0x22, b"a\r\nb\xff\\")
    octets = tlv(1, b"\x1b[2J") + tlv(2, "‮".encode()) + tlv(0x30, b"x" * 2000) + tlv(0x20, ssl)
    with behind() as session:
        session.do(binary(octets))
        proxy = session.wire.session.proxy
    assert proxy["alpn"] == "\\x1b[2J"
    assert proxy["authority"] == "\\u202e"
    assert len(proxy["netns"]) == 512
    assert proxy["ssl"]["cn"] == "a\\x0d\\x0ab\\udcff\\x5c"
    assert proxy["ssl"]["version"] is None
    assert "unique_id" not in proxy


# --- sockets ---


@row("PROXY-01", "PROXY-08")
@pytest.mark.parametrize("header", [*HEADERS.values(), *UNKNOWN.values()])
def test_headers_are_taken_over_sockets(run: Any, header: bytes) -> None:
    async def scenario() -> None:
        sink = Sink()
        server = sink.server(use_proxy=["127.0.0.1"])
        async with running(server) as address, await Client.connect(address) as client:
            client.send(header + EH)
            assert await client.replies(2) == ["220", "250"]
            assert await client.ask(b"QUIT\r\n") == "221 2.0.0"
        assert len(sink.closed) == 1

    run(scenario())


@row("PROXY-03")
def test_a_fault_closes_the_socket_without_an_octet(run: Any) -> None:
    async def scenario() -> None:
        sink = Sink()
        server = sink.server(use_proxy=["127.0.0.1"])
        async with running(server) as address, await Client.connect(address) as client:
            client.send(EH)
            assert await client.rest() == []
        assert sink.closed == []

    run(scenario())


@row("PROXY-01", "PROXY-11")
def test_a_balancer_may_sit_at_a_unix_socket(run: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        path = str(tmp_path / "socket")
        connected = asyncio.Event()
        told: list[Any] = []

        def on_connect(session: Any, callback: Callable[..., object]) -> None:
            told.append((session.remote_address, session.proxy["peer"]))
            connected.set()
            callback()

        lists = {"use_proxy": ["unix"], "use_xclient": ["unix"], "use_xforward": ["192.0.2.1"]}
        server = Sink().server(on_connect=on_connect, **lists)
        async with running(server, path=path), await Client.connect(path) as client:
            client.send(LINE + EH)
            await happened(connected)
            assert await client.replies(2) == ["220", "250"]
            assert await client.ask(b"XCLIENT ADDR=192.0.2.9\r\n") == "550 5.7.0"
            assert await client.ask(b"XFORWARD NAME=h.example\r\n") == "250 2.0.0"
        assert told == [("192.0.2.1", ("", 0))]

    run(scenario())


@row("PROXY-11")
def test_the_log_names_the_balancer_of_a_handshake_that_failed() -> None:
    with log() as lines, behind(**certified(secure=True)) as session:
        assert session.wire.send(LINE + b"EHLO c.example\r\n") == b""
    assert [line for line in lines if "192.0.2.1 via 10.0.0.7: TLS failed" in line]


@row("PROXY-11", "AUTH-13")
@pytest.mark.parametrize(
    ("header", "client"),
    [(LINE, "192.0.2.1 via 10.0.0.7"), (UNKNOWN["v1"], "- via 10.0.0.7"), (b"", "10.0.0.7")],
    ids=["a client", "an unknown client", "no balancer"],
)
def test_the_log_names_the_balancer_of_a_login(header: bytes, client: str) -> None:
    options: dict[str, Any] = {
        **{"use_proxy": ["10.0.0.0/8"] if header else [], "allow_insecure_auth": True},
        "on_auth": lambda auth, session, callback: callback(SMTPError("no", 535)),
    }
    with log() as lines, behind(**options) as session:
        session.do(header + EH)
        assert session.do(b"AUTH PLAIN AGFubgBwdw==\r\n") == ["535 5.7.8"]
    (line,) = [line for line in lines if "AUTH PLAIN" in line]
    assert line.endswith(f": AUTH PLAIN of ann at {client}: 535")


@row("PROXY-11", "TLS-01")
def test_the_log_names_the_balancer_of_octets_after_starttls() -> None:
    with log() as lines, behind(**certified()) as session:
        session.do(LINE + EH)
        assert session.do(b"STARTTLS\r\nNOOP\r\n") == ["554 5.5.0"]
    assert [
        line for line in lines if ": 192.0.2.1 via 10.0.0.7: octets after STARTTLS, which" in line
    ]
