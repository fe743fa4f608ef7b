"""The PROXY protocol: the header in which a load balancer describes its client.

In: octets as they are read. Out: the header, or why it was refused, as soon as the octets suffice.
No input of a peer raises, and how the octets are cut into feeds changes nothing. Versions 1 and 2,
TCP over IPv4 and IPv6; at most 16 + 4096 octets are held.
"""

from enum import IntEnum
from typing import final

class ProxyFault(IntEnum):
    """Why a header was refused."""

    NO_HEADER = 1
    """Not the beginning of either version."""
    TOO_LONG = 2
    """No CR LF within the 107 octets of version 1, or a length beyond 4096 in version 2."""
    BAD_LINE = 3
    """Version 1 does not have the fields that it must have, with single spaces between them."""
    BAD_ADDRESS = 4
    """An address or port of version 1."""
    BAD_VERSION = 5
    """The signature is that of version 2, and the version is not 2."""
    BAD_COMMAND = 6
    """Neither PROXY nor LOCAL."""
    BAD_FAMILY = 7
    """Not TCP over IPv4 or IPv6, for example UNIX sockets and datagrams."""
    TOO_SHORT = 8
    """The length leaves no room for the addresses."""
    BAD_TLV = 9
    """A TLV is beyond its container, longer than its type may be, or a second checksum."""
    BAD_CHECKSUM = 10
    """The CRC32C of the header does not match."""

@final
class ProxyHeader:
    """One header that was accepted."""

    @property
    def version(self) -> int:
        """1 or 2."""
    @property
    def command(self) -> str:
        """`"PROXY"`; `"LOCAL"` for a connection of the balancer's own; `"UNKNOWN"` for a client
        whose address it does not know.
        """
    @property
    def source(self) -> tuple[str, int] | None:
        """Address and port of the client, the address in canonical form; None unless `"PROXY"`."""
    @property
    def destination(self) -> tuple[str, int] | None:
        """Address and port that the client connected to; None unless `"PROXY"`."""
    @property
    def tlvs(self) -> list[tuple[int, bytes]]:
        """(type, value) of each TLV in order, without NOOP, which is padding."""
    @property
    def ssl(self) -> tuple[int, int, list[tuple[int, bytes]]] | None:
        """Of the TLV SSL: the bits `client`, the result `verify`, and the TLVs within."""

@final
class ProxyReader:
    """Reads the header of one connection."""

    def __init__(self) -> None: ...
    def feed(self, data: bytes) -> ProxyHeader | int | None:
        """Take octets; return the header, a ProxyFault as int, or None while more are needed.

        Must not be called again after an answer other than None.
        """
    @property
    def rest(self) -> bytes:
        """The octets after the header; after a fault, all octets that were fed."""
