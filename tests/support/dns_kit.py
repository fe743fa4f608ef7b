"""A name server on a free UDP port of 127.0.0.1 that answers as a test says, or not at all."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

NO_ERROR, SERVER_FAILURE, NO_SUCH_NAME = 0, 2, 3  # RCODE, RFC 1035 §4.1.1
PTR = 12

# The octets of an answer to (query, address that is asked for), None for silence.
type_answer = Callable[[bytes, str], bytes | None]


def wire_name(name: str) -> bytes:
    """Return a domain name as labels; a label may hold any octets (as Latin-1)."""
    labels = name.encode("latin-1").split(b".") if name else []
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def question_of(query: bytes) -> tuple[str, bytes]:
    """Return the name that is asked for, and the octets of the question."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    return ".".join(labels), query[12 : at + 5]


def reply(query: bytes, code: int = NO_ERROR, *names: str) -> bytes:
    """Return an answer with a PTR record for each of `names`."""
    question = question_of(query)[1]
    head = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(names), 0, 0)
    records = b""
    for name in names:
        data = wire_name(name)
        records += b"\xc0\x0c" + struct.pack(">HHIH", PTR, 1, 60, len(data)) + data
    return head + question + records


class NameServer(asyncio.DatagramProtocol):
    """asked: the addresses, in the order of the queries. Each query is answered by `answer`."""

    def __init__(self, answer: type_answer) -> None:
        self.asked: list[str] = []
        self.answer = answer
        self.port = 0
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        address = address_of(question_of(data)[0])
        self.asked.append(address)
        octets = self.answer(data, address)
        if octets is not None:
            self._transport.sendto(octets, addr)


def address_of(name: str) -> str:
    """Return the address that a name below in-addr.arpa or ip6.arpa stands for."""
    labels = name.lower().split(".")
    if labels[-2] == "in-addr":
        return ".".join(reversed(labels[:-2]))
    digits = "".join(reversed(labels[:-2]))
    return str(ipaddress.IPv6Address(int(digits, 16)))


@asynccontextmanager
async def name_server(answer: type_answer) -> AsyncIterator[NameServer]:
    """Run a name server until the end of the block."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer(answer), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()
        await asyncio.sleep(0)
