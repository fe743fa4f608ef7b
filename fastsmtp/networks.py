"""Lists of networks, matched against the textual address of a peer.

In: entries as an operator writes them, checked once, when the list is made. Out: yes or no for an
address. There are no host names and no lookups, and a malformed address does not raise.
A list states which hosts to trust, so ambiguous entries are refused: host bits, zone ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final, TypeAlias, final

__all__ = ["Networks", "host_key", "peer_address"]

_Network: TypeAlias = IPv4Network | IPv6Network
# for each prefix length: how many bits to shift an address right, and the networks so shifted
_Lengths: TypeAlias = tuple[tuple[int, frozenset[int]], ...]

_MAPPED: Final = 0xFFFF  # ::ffff:0:0/96, IPv4-mapped IPv6 addresses, RFC 4291 §2.5.5.2
_UNIX: Final = "unix"


@final
class Networks:
    """An immutable list of networks. Its length is the number of entries; an empty one is false.

    entries: a network in CIDR notation or a single address, as str (`"192.0.2.0/24"`,
    `"2001:db8::1"`) or as an object of `ipaddress`, and the word `"unix"` for UNIX sockets.
    `"0.0.0.0/0"` is all of IPv4, `"::/0"` all of IPv6. Raises TypeError or ValueError for any other
    entry; the message names it.
    """

    __slots__ = ("_ipv4", "_ipv6", "entries", "unix")

    entries: tuple[str, ...]  # as str in canonical form, in the order given
    unix: bool  # "unix" is among them

    def __init__(self, entries: Iterable[object] = ()) -> None:
        networks: list[_Network] = []
        texts: list[str] = []
        for entry in entries:
            if entry == _UNIX:
                texts.append(_UNIX)
            else:
                networks.append(_parse_network(entry))
                texts.append(str(networks[-1]))
        self.entries = tuple(dict.fromkeys(texts))
        self.unix = _UNIX in texts
        self._ipv4 = _by_length([one for one in networks if isinstance(one, IPv4Network)])
        self._ipv6 = _by_length([one for one in networks if isinstance(one, IPv6Network)])

    def match(self, address: str) -> bool:
        """Return whether one of the networks contains `address`, an IPv4 or IPv6 address as text.

        `""` and other text that is not an address are in no network; nor is `"unix"`: use the
        attribute `unix`. An IPv4-mapped IPv6 address is looked up as IPv4. The work grows with the
        number of prefix lengths in the list, at most 129, not with the number of entries.
        """
        if not self.entries:
            return False
        try:
            if ":" in address:
                number = int.from_bytes(inet_pton(AF_INET6, address))
                lengths = self._ipv6
                if number >> 32 == _MAPPED:
                    number &= 0xFFFFFFFF
                    lengths = self._ipv4
            else:
                number = int.from_bytes(inet_pton(AF_INET, address))
                lengths = self._ipv4
        except (OSError, ValueError):  # ValueError: a NUL or a lone surrogate in it
            return False
        for shift, networks in lengths:  # noqa: SIM110  (a generator takes longer than the loop)
            if number >> shift in networks:
                return True
        return False

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Networks):
            return NotImplemented
        return frozenset(self.entries) == frozenset(other.entries)

    def __hash__(self) -> int:
        return hash(frozenset(self.entries))

    def __repr__(self) -> str:
        return f"Networks({list(self.entries)!r})"


def _parse_network(entry: object) -> _Network:
    if isinstance(entry, str):
        network = _read_network(entry)
    elif isinstance(entry, IPv4Network | IPv6Network):
        network = entry
    elif isinstance(entry, IPv4Address | IPv6Address):
        network = ip_network(entry)
    else:  # ip_network() would make networks of int and bytes too
        raise TypeError(f"{entry!r:.80} ({type(entry).__name__}) is not a network as str")
    if isinstance(network, IPv6Network):
        if network.network_address.scope_id is not None:
            raise ValueError(f"{str(entry)!r:.80} has a zone id, and addresses are matched without")
        if network.prefixlen >= 96 and int(network.network_address) >> 32 == _MAPPED:
            # Peers have plain IPv4 addresses here, so the entry as written would never match.
            mapped = int(network.network_address) & 0xFFFFFFFF
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


def _read_network(entry: str) -> _Network:
    try:
        network = ip_network(entry, strict=False)
        if "." in entry.partition("/")[2]:  # 10.0.0.0/0.255.255.255: a mask, or its opposite
            raise ValueError
    except ValueError:
        why = f"{entry!r:.80} is not an IPv4 or IPv6 network in CIDR notation"
        raise ValueError(why) from None
    try:
        return ip_network(entry)
    except ValueError:
        raise ValueError(f"{entry!r:.80} has host bits set, its net is {str(network)!r}") from None


def _by_length(networks: list[_Network]) -> _Lengths:
    lengths: dict[int, set[int]] = {}
    for network in networks:
        shift = network.max_prefixlen - network.prefixlen
        lengths.setdefault(shift, set()).add(int(network.network_address) >> shift)
    return tuple((shift, frozenset(numbers)) for shift, numbers in sorted(lengths.items()))


def peer_address(name: object) -> tuple[str, int]:
    """Return address and port of a socket name; "" and 0 if it has none (UNIX sockets, reset
    connections).
    """
    if not isinstance(name, tuple) or len(name) < 2 or not isinstance(name[0], str):
        return "", 0
    address = name[0].partition("%")[0]
    if ":" in address:
        with suppress(ValueError):
            parsed = IPv6Address(address)
            address = str(parsed.ipv4_mapped or parsed)
    return address, int(name[1])


def host_key(address: str) -> str:
    """Return the unit that `max_clients_per_host` counts by: an IPv4 address, or an IPv6 /64."""
    if ":" not in address:
        return address
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((parsed, 64), strict=False))
