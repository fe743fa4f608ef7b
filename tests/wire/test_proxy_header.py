"""The reader of PROXY headers: what it takes, what it refuses, when it knows.

The oracles are a slow reader of our own, and the library proxy-protocol.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from proxy_kit import (
    ADDRESSES,
    ADDRESSES6,
    BAD_LINES,
    DESTINATION,
    DESTINATION6,
    INET,
    INET6,
    LINE,
    LINE6,
    LOCAL,
    PROXY,
    SIGNATURE,
    SOURCE,
    SOURCE6,
    UNIX,
    binary,
    expected,
    tlv,
    with_checksum,
)
from scenario import octet_by_octet, split

from fastsmtp._wire.proxy_header import ProxyFault, ProxyHeader, ProxyReader

row = pytest.mark.row

type_result = tuple[Any, bytes]
MANY = 1_000_000


def read(*segments: bytes) -> type_result:
    """Feed until there is an answer: a tuple, a ProxyFault or None, and what is after it."""
    reader = ProxyReader()
    for index, segment in enumerate(segments):
        found = reader.feed(segment)
        if found is not None:
            rest = reader.rest + b"".join(segments[index + 1 :])
            if isinstance(found, ProxyHeader):
                return as_tuple(found), rest
            return ProxyFault(found), rest
    return None, b""


def as_tuple(header: ProxyHeader) -> tuple[Any, ...]:
    ways = header.source, header.destination
    return header.version, header.command, *ways, header.tlvs, header.ssl


def check(octets: bytes, after: bytes = b"EHLO x\r\n\r\n\x00") -> type_result:
    """Read whole, split at every point and octet by octet, followed by others; compare with the
    oracle.
    """
    whole = read(octets + after)
    oracle = expected(octets + after)
    if isinstance(oracle, tuple):
        *facts, size = oracle
        assert whole == (tuple(facts), (octets + after)[size:])
    elif oracle is False:
        assert isinstance(whole[0], ProxyFault)
    kind = whole[0]
    for cut in range(len(octets) + 1):
        again = read(octets[:cut], octets[cut:] + after)
        assert again == whole or (isinstance(kind, ProxyFault) and again[0] == kind)
    again = read(*octet_by_octet(octets + after))
    assert again == whole or (isinstance(kind, ProxyFault) and again[0] == kind)
    return whole


def fault(octets: bytes) -> ProxyFault:
    found, _ = check(octets)
    assert isinstance(found, ProxyFault), found
    return found


def octets_needed(octets: bytes) -> int:
    """After how many octets the reader knows."""
    reader = ProxyReader()
    for index, octet in enumerate(octet_by_octet(octets)):
        if reader.feed(octet) is not None:
            return index + 1
    return MANY


# --- version 1 ---


@row("PROXY-01")
@pytest.mark.parametrize(
    "octets, source, destination",
    [
        (LINE, SOURCE, DESTINATION),
        (LINE6, SOURCE6, DESTINATION6),
        (
            b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n",
            ("0.0.0.0", 0),
            ("255.255.255.255", 65535),
        ),
        (b"PROXY TCP6 ::1 2001:DB8:0:0::1 1 2\r\n", ("::1", 1), ("2001:db8::1", 2)),
        (
            b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.25 1 2\r\n",
            ("192.0.2.1", 1),
            ("198.51.100.25", 2),
        ),
        (
            b"PROXY TCP6 0000:0000:0000:0000:0000:FFFF:192.100.200.210 ::ffff:102:304 1 2\r\n",
            ("192.100.200.210", 1),
            ("1.2.3.4", 2),
        ),
        (b"PROXY TCP6 192.0.2.1 2001:db8::1 1 2\r\n", ("192.0.2.1", 1), ("2001:db8::1", 2)),
        (b"PROXY TCP6 192.0.2.1 198.51.100.25 1 2\r\n", ("192.0.2.1", 1), ("198.51.100.25", 2)),
    ],
)
def test_a_proxy_line_names_the_client(octets: bytes, source: Any, destination: Any) -> None:
    assert check(octets)[0] == (1, "PROXY", source, destination, [], None)
    assert octets_needed(octets) == len(octets)


@row("PROXY-04")
@pytest.mark.parametrize(
    "rest", [b"", b" ", b" 192.0.2.1 x 1 2", b" \xff\x00\r \n", b" " + b"f" * 91]
)
def test_a_proxy_line_may_name_no_client(rest: bytes) -> None:
    octets = b"PROXY UNKNOWN" + rest + b"\r\n"
    assert len(octets) <= 107
    assert check(octets)[0] == (1, "UNKNOWN", None, None, [], None)


@row("PROXY-03")
@pytest.mark.parametrize("name", BAD_LINES)
def test_a_line_that_is_not_by_the_rules_is_refused(name: str) -> None:
    assert expected(BAD_LINES[name] + bytes(107)) is False
    fault(BAD_LINES[name])


@row("PROXY-03")
@pytest.mark.parametrize(
    "octets, needed",
    [
        (b"EHLO x\r\n", 1),
        (b"PROXZ", 5),
        (b"PROXY TCP5 ", 10),
        (b"PROXY TCP4 1.2.3.4\n", 19),
        (b"PROXY TCP4 " + b"1" * 200, 107),
        (b"PROXY UNKNOWN " + b"1" * 200, 107),
        (b"\r\n\r\r", 4),
        (SIGNATURE[:11] + b"\r", 12),
        (SIGNATURE + b"\x31", 13),
        (SIGNATURE + b"\x22", 13),
        (SIGNATURE + b"\x21\x31", 14),
        (SIGNATURE + b"\x21\x11\x10\x01", 16),
        (SIGNATURE + b"\x21\x11\xff\xff", 15),
        (SIGNATURE + b"\x21\x11\x00\x0b", 16),
    ],
)
def test_a_refusal_comes_with_the_octet_that_decides(octets: bytes, needed: int) -> None:
    assert octets_needed(octets) == needed


# --- version 2 ---


@row("PROXY-06")
@pytest.mark.parametrize(
    "octets, source, destination",
    [
        (binary(), SOURCE, DESTINATION),
        (binary(family=INET6), SOURCE6, DESTINATION6),
        (
            binary(
                family=INET6, addresses=bytes(10) + b"\xff\xff" + ADDRESSES[:4] + ADDRESSES6[16:]
            ),
            SOURCE,
            DESTINATION6,
        ),
    ],
)
def test_a_binary_header_names_the_client(octets: bytes, source: Any, destination: Any) -> None:
    assert check(octets)[0] == (2, "PROXY", source, destination, [], None)
    assert octets_needed(octets) == len(octets)


@row("PROXY-05")
@pytest.mark.parametrize("family", [0x00, INET, INET6, UNIX, 0x12, 0xFF])
@pytest.mark.parametrize("body", [b"", b"x", b"\x04\x00", bytes(300)])
def test_a_local_connection_is_taken_with_any_body(family: int, body: bytes) -> None:
    octets = binary(body, command=LOCAL, family=family, addresses=b"")
    assert check(octets)[0] == (2, "LOCAL", None, None, [], None)


@row("PROXY-05", "PROXY-06")
@pytest.mark.parametrize("body", [b"", b"xyz", tlv(5, b"id")])
def test_an_unspecified_family_names_no_client(body: bytes) -> None:
    assert check(binary(body, family=0))[0] == (2, "UNKNOWN", None, None, [], None)


@row("PROXY-06")
def test_a_wrong_octet_anywhere_in_the_signature_is_refused() -> None:
    for at in range(len(SIGNATURE)):
        octets = bytearray(binary())
        octets[at] ^= 0x20
        assert fault(bytes(octets)) == ProxyFault.NO_HEADER


@row("PROXY-06")
def test_versions_and_commands_other_than_2_local_and_proxy_are_refused() -> None:
    for octet in range(256):
        header = binary(command=octet, family=INET)
        if octet in (PROXY, LOCAL):
            assert read(header)[0][0] == 2
        elif octet >> 4 == 2:
            assert fault(header) == ProxyFault.BAD_COMMAND
        else:
            assert fault(header) == ProxyFault.BAD_VERSION


@row("PROXY-06")
def test_families_and_protocols_other_than_tcp_over_ip_are_refused() -> None:
    for family in range(256):
        header = binary(family=family, addresses=ADDRESSES6 + bytes(200))
        if family in (0, INET, INET6):
            assert isinstance(check(header)[0], tuple | ProxyFault)
        else:
            assert fault(header) == ProxyFault.BAD_FAMILY


@row("PROXY-06", "SLOW-03")
def test_the_length_is_judged_as_soon_as_it_is_read() -> None:
    start = SIGNATURE + b"\x21"
    for family, octets, kind in (
        (INET, (11).to_bytes(2), ProxyFault.TOO_SHORT),
        (INET6, (35).to_bytes(2), ProxyFault.TOO_SHORT),
        (INET, (4097).to_bytes(2), ProxyFault.TOO_LONG),
        (INET6, (65535).to_bytes(2), ProxyFault.TOO_LONG),
    ):
        assert fault(start + bytes([family]) + octets) == kind
    largest = binary(tlv(4, bytes(4096 - 12 - 3)))
    assert len(largest) == 16 + 4096
    assert read(*octet_by_octet(largest))[0] == (2, "PROXY", SOURCE, DESTINATION, [], None)


@row("PROXY-06")
def test_a_header_that_is_cut_off_is_waited_for() -> None:
    header = with_checksum(tlv(5, b"some id"))
    for size in range(len(header)):
        assert read(header[:size]) == (None, b"")
        assert read(header[:size], header[size:])[0][1] == "PROXY"


# --- TLVs ---

SSL = b"\x07\x00\x00\x00\x00" + tlv(0x21, b"TLSv1.3") + tlv(0x22, "Zoë".encode())


@row("PROXY-07")
def test_tlvs_are_kept_in_order_and_padding_is_not() -> None:
    tlvs = [
        (1, b"smtp"),
        (2, b"mx.example"),
        (5, b"\x00\xff"),
        (0x20, SSL),
        (0x30, b"ns"),
        (0xE5, b"x"),
    ]
    octets = b"".join(tlv(4, bytes(size)) + tlv(*one) for size, one in enumerate(tlvs))
    *_, kept, ssl = check(binary(octets + tlv(4, b"")))[0]
    assert kept == tlvs
    assert ssl == (7, 0, [(0x21, b"TLSv1.3"), (0x22, "Zoë".encode())])


@row("PROXY-07")
def test_a_thousand_empty_tlvs_are_taken() -> None:
    octets = binary(tlv(0xE0, b"") * 1000)
    assert read(octets)[0][4] == [(0xE0, b"")] * 1000
    assert read(*octet_by_octet(octets)) == read(octets)


@row("PROXY-07")
@pytest.mark.parametrize(
    "octets",
    [
        tlv(5, b"abc")[:-1],
        b"\x05\x00",
        b"\x05",
        tlv(4, b"x") + b"\x04\xff\xff",
        tlv(0x20, SSL[:-1]),
        tlv(0x20, SSL + b"\x21\x00\x01"),
        tlv(0x20, b"\x01\x00\x00\x00"),
        tlv(0x20, b""),
        tlv(2, b"a" * 300),
        tlv(2, b"a" * 256),
        tlv(5, b"a" * 129),
        tlv(3, b"abc"),
        tlv(3, b"abcde"),
    ],
)
def test_a_tlv_beyond_its_container_or_its_type_is_refused(octets: bytes) -> None:
    assert fault(binary(octets)) == ProxyFault.BAD_TLV


@row("PROXY-07")
@pytest.mark.parametrize(
    "octets", [tlv(2, b""), tlv(2, b"a" * 255), tlv(5, b"a" * 128), tlv(4, b"")]
)
def test_a_tlv_at_its_limits_is_taken(octets: bytes) -> None:
    assert check(binary(octets))[0][1] == "PROXY"


@row("PROXY-07")
@pytest.mark.parametrize("family", [INET, INET6])
@pytest.mark.parametrize("before, after", [(b"", b""), (tlv(1, b"x"), tlv(4, b"yz"))])
def test_the_checksum_is_that_of_the_whole_header(family: int, before: bytes, after: bytes) -> None:
    octets = with_checksum(before, after, family=family)
    assert check(octets)[0][1] == "PROXY"
    for at in range(16, len(octets)):
        wrong = octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :]
        if isinstance(found := read(wrong)[0], tuple):
            assert 3 not in [kind for kind, _ in found[4]]  # it is another TLV now
        else:
            assert found in (ProxyFault.BAD_CHECKSUM, ProxyFault.BAD_TLV)
    assert fault(binary(tlv(3, b"abcd"))) == ProxyFault.BAD_CHECKSUM


def test_two_checksums_are_refused() -> None:
    assert fault(binary(tlv(3, bytes(4)) * 2)) == ProxyFault.BAD_TLV


def test_octets_after_a_header_are_not_lost() -> None:
    after = bytes(range(256)) * 1000
    for octets in (LINE, binary(), with_checksum(tlv(4, bytes(4000)))):
        assert read(octets + after)[1] == after


def test_a_header_is_read_from_bytes_only() -> None:
    with pytest.raises(TypeError):
        ProxyReader().feed("PROXY")  # type: ignore[arg-type]


# --- properties, and another implementation ---

_ADDRESSES = st.one_of(
    st.tuples(st.just(4), st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.just(6), st.ip_addresses(v=6), st.ip_addresses(v=6)),
)
_PORTS = st.tuples(st.integers(0, 65535), st.integers(0, 65535))
_TLVS = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 3, 4, 5, 0x20, 0x30, 0xE0]), st.binary(max_size=9) | st.just(SSL)
    ),
    max_size=5,
)
_LINES = st.from_regex(rb"PROXY (TCP4|TCP6|UNKNOWN)( [0-9a-f.:]{0,12}){0,5}\r\n", fullmatch=True)
_BINARY = st.builds(
    lambda command, family, addresses, tlvs, cut: binary(
        b"".join(tlv(*one) for one in tlvs), command=command, family=family, addresses=addresses
    )[: cut or None],
    st.sampled_from([PROXY, PROXY, PROXY, LOCAL, 0x22, 0x11]),
    st.sampled_from([INET, INET, INET6, 0, UNIX]),
    st.sampled_from([ADDRESSES, ADDRESSES6]),
    _TLVS,
    st.integers(-3, 0),
)
_SUMMED = st.builds(
    lambda before, after: with_checksum(
        b"".join(tlv(*one) for one in before if one[0] != 3), tlv(4, after)
    ),
    _TLVS,
    st.binary(max_size=9),
)


@given(
    st.one_of(_LINES, _BINARY, _SUMMED, st.binary(max_size=120)),
    st.binary(max_size=20),
    st.lists(st.integers(0, 300), max_size=8),
)
def test_no_split_changes_anything(octets: bytes, after: bytes, cuts: list[int]) -> None:
    whole = read(octets + after)
    oracle = expected(octets + after)
    if isinstance(oracle, tuple):
        *facts, size = oracle
        assert whole == (tuple(facts), (octets + after)[size:])
    elif oracle is False:
        assert isinstance(whole[0], ProxyFault)
    else:
        assert whole[0] is None or isinstance(whole[0], ProxyFault)  # earlier than the oracle
    again = read(*split(octets + after, cuts))
    assert again == whole or (isinstance(whole[0], ProxyFault) and again[0] == whole[0])


@row("PROXY-01", "PROXY-06", "PROXY-07")
@given(_ADDRESSES, _PORTS, st.booleans(), st.text("abcxyz.-", max_size=20), st.binary(max_size=64))
def test_a_header_of_another_implementation_is_read(
    addresses: Any, ports: tuple[int, int], verified: bool, name: str, unique: bytes
) -> None:
    result = pytest.importorskip("proxyprotocol.result", reason="needs proxy-protocol")
    tlvs = pytest.importorskip("proxyprotocol.tlv")
    v1 = pytest.importorskip("proxyprotocol.v1").ProxyProtocolV1()
    v2 = pytest.importorskip("proxyprotocol.v2").ProxyProtocolV2()
    version, source, destination = addresses
    made = {4: result.ProxyResultIPv4, 6: result.ProxyResultIPv6}[version]
    ways = (source, ports[0]), (destination, ports[1])
    ssl = tlvs.ProxyProtocolSSLTLV(has_ssl=True, verified=verified, cn=name, version="TLSv1.3")
    more = tlvs.ProxyProtocolTLV(authority=name, unique_id=unique, ssl=ssl, netns="blue")
    octets = v2.pack(made(*ways, protocol=socket.SOCK_STREAM, tlv=more))
    plain = [str(getattr(one, "ipv4_mapped", None) or one) for one in (source, destination)]
    found = check(octets)[0]
    assert found[:4] == (2, "PROXY", (plain[0], ports[0]), (plain[1], ports[1]))
    values = dict(found[4])
    assert (values[2], values[5], values[0x30]) == (name.encode(), unique, b"blue")
    assert 3 in values  # the checksum was there, and was checked
    assert found[5] == (1, 0 if verified else 1, [(0x21, b"TLSv1.3"), (0x22, name.encode())])
    assert check(v1.pack(made(*ways)))[0][:4] == (1, *found[1:4])


@row("PROXY-01", "PROXY-06")
@pytest.mark.parametrize("octets", [LINE, LINE6, binary(), binary(family=INET6), with_checksum()])
def test_another_implementation_reads_what_we_take(octets: bytes) -> None:
    detect = pytest.importorskip("proxyprotocol.detect", reason="needs proxy-protocol")
    result = detect.ProxyProtocolDetect().unpack(octets)
    found = read(octets)[0]
    assert found[2] == (str(result.source[0]), result.source[1])
    assert found[3] == (str(result.dest[0]), result.dest[1])
    assert ipaddress.ip_address(found[2][0]) == result.source[0]
