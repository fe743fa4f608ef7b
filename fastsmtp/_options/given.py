"""Types of option values that need more than a word. The engine itself does not import this."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Set
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol, TypeAlias, TypeVar

from fastsmtp.networks import Networks

__all__ = ["HasReverse", "ListOf", "NetworkList", "PemSource", "Resolve"]

A_co = TypeVar("A_co", covariant=True)


class ListOf(Protocol[A_co]):
    """A list that is only read: a `list[str]` is also a `ListOf[str | Exception]`."""

    def __iter__(self) -> Iterator[A_co]: ...
    def reverse(self) -> None:
        """A method that str, tuple and set, which are not accepted as lists, do not have."""


# A path, or PEM text.
PemSource: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Network: TypeAlias = str | IPv4Network | IPv6Network | IPv4Address | IPv6Address
NetworkList: TypeAlias = (
    Networks | list[Network] | ListOf[Network] | tuple[Network, ...] | Set[Network]
)
Names: TypeAlias = list[str] | tuple[str, ...] | str | None
Resolve: TypeAlias = Callable[[str], Names | Awaitable[Names]]


class HasReverse(Protocol):
    """A resolver as an object."""

    def reverse(self, address: str, /) -> Names | Awaitable[Names]:
        """Return the names of an address, or an awaitable of them."""
