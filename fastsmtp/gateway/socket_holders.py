"""Which process has a listening socket: from /proc, as far as this user may look.

In: an address or a path. Out: words for a message, and whether the process is a server of ours.
For ports: how many clients are about to be connected.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

__all__ = ["Holder", "handshakes", "holder_of_path", "holder_of_port"]

_LISTENS: Final = "0A"  # the state TCP_LISTEN in /proc/net/tcp
_BEGINS: Final = "03"  # TCP_SYN_RECV
_ACCEPTS: Final = 0x10000  # the flag SO_ACCEPTCON in /proc/net/unix


class Holder(NamedTuple):
    """words: "fastsmtp, process 4711", or "another process". is_ours: it is `fastsmtp serve`, or
    systemd, which opens sockets for services.
    """

    words: str
    is_ours: bool


_OURS: Final = ("fastsmtp", "systemd")
_UNKNOWN: Final = Holder("another process", False)


def holder_of_port(family: socket.AddressFamily, address: str, port: int) -> Holder:
    """Return the process that listens on a port that cannot be bound to `address`."""
    own = _hexadecimal(family, address)
    # A socket for IPv6 may serve IPv4 too, as ::ffff:192.0.2.1 (RFC 4291 §2.5.5.2).
    mapped = f"{'0' * 16}{_hexadecimal(socket.AF_INET6, '::ffff:0:0')[16:24]}{own}"
    conflicting = {own, mapped, "0" * 8, "0" * 32}
    inodes = set()
    for fields in (*_rows("/proc/net/tcp"), *_rows("/proc/net/tcp6")):
        place, _, number = fields[1].partition(":")
        overlaps = place in conflicting or own.strip("0") == ""
        if overlaps and int(number, 16) == port and fields[3] == _LISTENS:
            inodes.add(fields[9])
    return _holder(inodes)


def handshakes(ports: Collection[int]) -> int:
    """Return how many clients have sent the first packet of a connection to these ports, and not
    yet the last one of its handshake. Raises OSError where that cannot be read.
    """
    os.stat("/proc/net/tcp")
    return sum(
        fields[3] == _BEGINS and int(fields[1].partition(":")[2], 16) in ports
        for fields in (*_rows("/proc/net/tcp"), *_rows("/proc/net/tcp6"))
    )


def holder_of_path(path: str) -> Holder | None:
    """Return the process that listens on a UNIX socket, None if there is none."""
    inodes = {
        fields[6]
        for fields in _rows("/proc/net/unix")
        if len(fields) > 7 and fields[7] == path and int(fields[3], 16) & _ACCEPTS
    }
    return _holder(inodes) if inodes else None


def _hexadecimal(family: socket.AddressFamily, address: str) -> str:
    """Return an address as /proc/net/tcp has it: words of 32 bits, in the order of this machine."""
    octets = socket.inet_pton(family, address.partition("%")[0])
    words = (octets[start : start + 4] for start in range(0, len(octets), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


def _rows(path: str) -> Iterator[list[str]]:
    with (
        contextlib.suppress(OSError),
        open(path, encoding="utf-8", errors="surrogateescape") as file,
    ):
        next(file, "")  # the names of the columns
        yield from (line.split() for line in file)


def _holder(inodes: set[str]) -> Holder:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    with contextlib.suppress(OSError):
        for entry in os.scandir("/proc"):
            if entry.name.isdecimal() and _has_one_of(entry.path, wanted):
                return _described(entry.path, entry.name)
    return _UNKNOWN


def _has_one_of(process: str, sockets: set[str]) -> bool:
    with contextlib.suppress(OSError):  # of another user, or ended
        for entry in os.scandir(f"{process}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(entry.path) in sockets:
                    return True
    return False


def _described(process: str, number: str) -> Holder:
    try:
        with open(f"{process}/cmdline", encoding="utf-8", errors="surrogateescape") as file:
            arguments = file.read().split("\0")[:-1]
    except OSError:
        return _UNKNOWN
    names = [os.path.basename(argument) for argument in arguments[:3]]
    name = names[0] if names else "a program"
    if "fastsmtp" in names and "serve" in arguments:
        name = "fastsmtp"
    return Holder(f"{name}, process {number}", name in _OURS)
