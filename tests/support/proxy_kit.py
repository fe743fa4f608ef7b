"""PROXY headers for tests: made here octet by octet, and a slow reader of the table they obey."""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import Any

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
INET, INET6, UNIX = 0x11, 0x21, 0x31
PROXY, LOCAL = 0x21, 0x20

SOURCE = ("192.0.2.1", 56324)
DESTINATION = ("198.51.100.2", 25)
SOURCE6 = ("2001:db8::1", 56324)
DESTINATION6 = ("2001:db8::25", 25)
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\r\n"
LINE6 = b"PROXY TCP6 2001:db8::1 2001:db8::25 56324 25\r\n"
ADDRESSES = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + struct.pack("!HH", 56324, 25)
ADDRESSES6 = (
    ipaddress.IPv6Address("2001:db8::1").packed
    + ipaddress.IPv6Address("2001:db8::25").packed
    + struct.pack("!HH", 56324, 25)
)


def tlv(kind: int, value: bytes) -> bytes:
    """One TLV."""
    return struct.pack("!BH", kind, len(value)) + value


def binary(
    tlvs: bytes = b"", *, command: int = PROXY, family: int = INET, addresses: bytes | None = None
) -> bytes:
    """A header of version 2."""
    if addresses is None:
        addresses = {INET: ADDRESSES, INET6: ADDRESSES6}.get(family, b"")
    body = addresses + tlvs
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def crc32c(octets: bytes) -> int:
    """RFC 3720 appendix B.4, by the polynomial."""
    crc = 0xFFFFFFFF
    for octet in octets:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def with_checksum(before: bytes = b"", after: bytes = b"", **more: Any) -> bytes:
    """A header with the TLV CRC32C, other TLVs around it."""
    blank = binary(before + tlv(3, bytes(4)) + after, **more)
    at = len(blank) - len(after) - 4
    return blank[:at] + struct.pack("!I", crc32c(blank)) + blank[at + 4 :]


# What is no header of version 1, nor any other.
BAD_LINES = {
    "no line end": b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 25".ljust(108, b" "),
    "no line end, unknown": b"PROXY UNKNOWN ".ljust(108, b"x"),
    "a line end at 108": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "LF only": LINE.replace(b"\r", b""),
    "CR only": LINE[:-1] + b"x",
    "TCP5": LINE.replace(b"TCP4", b"TCP5"),
    "UDP4": LINE.replace(b"TCP4", b"UDP4"),
    "UNKNOWNX": b"PROXY UNKNOWNX\r\n",
    "UNKNOWN and CR": b"PROXY UNKNOWN\rx\r\n",
    "five fields": b"PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
    "seven fields": LINE[:-2] + b" 1\r\n",
    "a double space": LINE.replace(b" 198", b"  198"),
    "a leading space": b" " + LINE,
    "a trailing space": LINE[:-2] + b" \r\n",
    "a tab": LINE.replace(b" 198", b"\t198"),
    "small letters": LINE.replace(b"PROXY", b"proxy"),
    "small letters in the family": LINE.replace(b"TCP4", b"tcp4"),
    "port 0123": LINE.replace(b"56324", b"0123"),
    "port 65536": LINE.replace(b"56324", b"65536"),
    "port 100000": LINE.replace(b"56324", b"100000"),
    "port -1": LINE.replace(b"56324", b"-1"),
    "port +25": LINE.replace(b" 25\r", b" +25\r"),
    "an empty port": LINE.replace(b" 25\r", b" \r"),
    "IPv6 in TCP4": LINE.replace(b"192.0.2.1", b"2001:db8::1"),
    "IPv4 with a leading zero in TCP6": LINE6.replace(b"2001:db8::1", b"192.0.2.01"),
    "three numbers in TCP6": LINE6.replace(b"2001:db8::1", b"192.0.2"),
    "a mapped address in TCP4": LINE.replace(b"192.0.2.1", b"::ffff:1.2.3.4"),
    "a mapped address of five numbers": LINE6.replace(b"2001:db8::1", b"::ffff:1.2.3.4.5"),
    "a mapped address with a leading zero": LINE6.replace(b"2001:db8::1", b"::ffff:1.2.3.04"),
    "an IPv4 address before the end": LINE6.replace(b"2001:db8::1", b"::1.2.3.4:1"),
    "a mapped address with a zone id": LINE6.replace(b"2001:db8::1", b"::ffff:1.2.3.4%1"),
    "a zone id": LINE6.replace(b"2001:db8::1", b"fe80::1%eth0"),
    "two double colons": LINE6.replace(b"2001:db8::1", b"1::2::3"),
    "five digits": LINE6.replace(b"2001:db8::1", b"02001:db8::1"),
    "a long address": LINE6.replace(b"2001:db8::1", b"0" * 46),
    "a host name": LINE.replace(b"192.0.2.1", b"client.example"),
    "leading zeros": LINE.replace(b"192.0.2.1", b"01.02.03.04"),
    "256": LINE.replace(b"192.0.2.1", b"192.0.2.256"),
    "three numbers": LINE.replace(b"192.0.2.1", b"192.0.2"),
    "eight bits": LINE.replace(b"192", b"\xb92"),
    "NUL": LINE.replace(b"192", b"\x0092"),
    "an EHLO": b"EHLO client.example\r\n",
    "a ClientHello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a CR alone": b"\rPROXY",
}


# --- the oracle: slow, obvious, whole headers only ---

_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")
_IPV6 = re.compile(rb"[0-9A-Fa-f:.]{2,45}")


def _port(word: bytes) -> int | None:
    return int(word) if _PORT.fullmatch(word) and int(word) < 65536 else None


def _address(word: bytes, family: bytes) -> str | None:
    try:
        if family == b"TCP4" or b":" not in word:
            return str(ipaddress.IPv4Address(word.decode()))
        address = ipaddress.IPv6Address(word.decode()) if _IPV6.fullmatch(word) else None
    except ValueError:
        return None
    return None if address is None else str(address.ipv4_mapped or address)


def expected(octets: bytes) -> tuple[Any, ...] | bool | None:
    """What the octets are: (version, command, source, destination, tlvs, ssl, octets of the
    header), False for no header, None for the beginning of one (or of nothing yet refused).
    """
    if octets.startswith(b"PROXY "):
        line, end, _ = octets[:107].partition(b"\r\n")
        if not end:
            return False if len(octets) >= 107 else None
        return _line(line[6:], len(line) + 2)
    if not octets.startswith(SIGNATURE):
        return None if (b"PROXY ".startswith(octets) or SIGNATURE.startswith(octets)) else False
    if len(octets) < 16:
        return None
    command, family, length = struct.unpack("!BBH", octets[12:16])
    if command not in (PROXY, LOCAL) or length > 4096:
        return False
    if command == PROXY and (family, length >= {INET: 12, INET6: 36}.get(family, 0)) not in (
        *((0, True), (INET, True), (INET6, True)),
    ):
        return False
    if len(octets) < 16 + length:
        return None
    if command == LOCAL or family == 0:
        return 2, "LOCAL" if command == LOCAL else "UNKNOWN", None, None, [], None, 16 + length
    return _binary(octets[: 16 + length], 4 if family == INET else 16)


def _line(rest: bytes, size: int) -> tuple[Any, ...] | bool:
    if rest == b"UNKNOWN" or rest.startswith(b"UNKNOWN "):
        return 1, "UNKNOWN", None, None, [], None, size
    words = rest.split(b" ")
    if len(words) != 5 or words[0] not in (b"TCP4", b"TCP6"):
        return False
    addresses = [_address(word, words[0]) for word in words[1:3]]
    ports = [_port(word) for word in words[3:]]
    if None in addresses or None in ports:
        return False
    source, destination = zip(addresses, ports, strict=True)
    return 1, "PROXY", source, destination, [], None, size


def split_tlvs(octets: bytes) -> list[tuple[int, bytes]] | None:
    """Cut into (type, value); None where one is cut off."""
    found = []
    while octets:
        if len(octets) < 3 or len(octets) < 3 + int.from_bytes(octets[1:3]):
            return None
        end = 3 + int.from_bytes(octets[1:3])
        found.append((octets[0], octets[3:end]))
        octets = octets[end:]
    return found


def _binary(octets: bytes, size: int) -> tuple[Any, ...] | bool:
    parts = []
    for at in (16, 16 + size):
        address: Any = ipaddress.ip_address(octets[at : at + size])
        parts.append(str(getattr(address, "ipv4_mapped", None) or address))
    start = 20 + 2 * size
    ports = struct.unpack("!HH", octets[start - 4 : start])
    tlvs = split_tlvs(octets[start:])
    if tlvs is None:
        return False
    ssl = None
    for kind, value in tlvs:
        most, least = {2: (255, 0), 3: (4, 4), 5: (128, 0), 32: (4096, 5)}.get(kind, (4096, 0))
        if not least <= len(value) <= most:
            return False
        if kind == 32:
            within = split_tlvs(value[5:])
            if within is None:
                return False
            ssl = value[0], int.from_bytes(value[1:5]), within
    sums = [value for kind, value in tlvs if kind == 3]
    if len(sums) > 1 or (sums and not _sum_is_right(octets, start, tlvs)):
        return False
    source, destination = zip(parts, ports, strict=True)
    kept = [one for one in tlvs if one[0] != 4]
    return 2, "PROXY", source, destination, kept, ssl, len(octets)


def _sum_is_right(octets: bytes, start: int, tlvs: list[tuple[int, bytes]]) -> bool:
    at = start
    for kind, value in tlvs:
        if kind == 3:
            break
        at += 3 + len(value)
    blank = octets[: at + 3] + bytes(4) + octets[at + 7 :]
    return int.from_bytes(octets[at + 3 : at + 7]) == crc32c(blank)
