"""Which worker gets a client: classic BPF programs for the sockets that share one port.

In: the sockets of a port, one per worker, in the order in which they began to listen. Out: from
then on the kernel gives each new connection to the socket whose position the program returns. The
limits per client are those of one process, so all connections of an address go to the same worker;
of an IPv6 address the first 64 bits count, as in `networks.host_key`.
"""

from __future__ import annotations

import array
import secrets
import socket
import struct
from typing import Final

__all__ = ["new_salt", "refuse_new", "steer"]

# asm-generic/socket.h, which Python's module does not have
SO_ATTACH_FILTER: Final = 26
SO_ATTACH_REUSEPORT_CBPF: Final = 51

# linux/filter.h: instructions are named as in the kernel's documentation of BPF.
LDB_ABS: Final = 0x30
LDW_ABS: Final = 0x20
JA: Final = 0x05
JEQ: Final = 0x15
JSET: Final = 0x45
RSH: Final = 0x74
MUL: Final = 0x24
MOD: Final = 0x94
XOR: Final = 0xA4
XOR_X: Final = 0xAC
TAX: Final = 0x07
RET: Final = 0x06
RET_A: Final = 0x16

NETWORK_HEADER: Final = -0x100000  # SKF_NET_OFF
RANDOM: Final = -0x1000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM
IPV4_SOURCE: Final = NETWORK_HEADER + 12
IPV6_SOURCE: Final = NETWORK_HEADER + 8
TCP_FLAGS: Final = 13
SYN: Final = 0x02
WHOLE: Final = 0xFFFFFFFF  # octets of a packet that is let through

# Odd numbers whose multiples are spread evenly: of the golden ratio, and of MurmurHash3.
GOLDEN: Final = 0x9E3779B1
MURMUR: Final = 0x85EBCA6B

_Program = list[tuple[int, int, int, int]]  # code, jump if true, jump if false, operand


def new_salt() -> int:
    """Return a number that keeps clients from choosing their worker by choosing addresses."""
    return secrets.randbits(32)


def steer(group: socket.socket, workers: int, *, salt: int | None) -> None:
    """Spread new connections over the first `workers` sockets of the port of `group`.

    salt: by the address of the client; None: at random, for a server behind a balancer. Raises
    OSError where the kernel has no such programs.
    """
    spread = _at_random(workers) if salt is None else _by_address(workers, salt)
    _attach(group, SO_ATTACH_REUSEPORT_CBPF, spread)


def refuse_new(listener: socket.socket) -> None:
    """Drop the first packet of new connections, so that the queue of `listener` can be emptied.

    The client repeats it a second later, when the socket is closed. Raises OSError.
    """
    program = [(LDB_ABS, 0, 0, TCP_FLAGS), (JSET, 0, 1, SYN), (RET, 0, 0, 0), (RET, 0, 0, WHOLE)]
    _attach(listener, SO_ATTACH_FILTER, program)


def _by_address(workers: int, salt: int) -> _Program:
    return [
        (LDB_ABS, 0, 0, NETWORK_HEADER),  # version and length of the header
        (RSH, 0, 0, 4),
        (JEQ, 2, 0, 6),
        (LDW_ABS, 0, 0, IPV4_SOURCE),
        (JA, 0, 0, 5),
        (LDW_ABS, 0, 0, IPV6_SOURCE),
        (MUL, 0, 0, GOLDEN),
        (TAX, 0, 0, 0),
        (LDW_ABS, 0, 0, IPV6_SOURCE + 4),
        (XOR_X, 0, 0, 0),
        (XOR, 0, 0, salt),
        (MUL, 0, 0, MURMUR),
        (RSH, 0, 0, 16),
        (MOD, 0, 0, workers),
        (RET_A, 0, 0, 0),
    ]


def _at_random(workers: int) -> _Program:
    return [(LDW_ABS, 0, 0, RANDOM), (MOD, 0, 0, workers), (RET_A, 0, 0, 0)]


def _attach(sock: socket.socket, option: int, program: _Program) -> None:
    octets = b"".join(
        struct.pack("HBBI", code, yes, no, operand & 0xFFFFFFFF)
        for code, yes, no, operand in program
    )
    instructions = array.array("B", octets)
    address, _ = instructions.buffer_info()
    # struct sock_fprog; the kernel copies the instructions.
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("HP", len(program), address))
