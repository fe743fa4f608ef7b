"""Hosts and their addresses.

In: the hosts of listeners. Out: what the system's resolver finds, as values that can be sent to
another process. `find` waits for it; an address as a host needs no wait.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from fastsmtp.gateway.config import Listener

__all__ = ["Infos", "Names", "find", "infos_of", "names_in"]

Infos: TypeAlias = list[tuple[int, tuple[Any, ...]]]  # family, and address with port 0
# What was looked up; the error's number and text in place of addresses.
Names: TypeAlias = Mapping[str, Infos | tuple[int, str]]


def names_in(listeners: Iterable[Listener]) -> set[str]:
    """Return the hosts that are names."""
    return {each.host for each in listeners if each.host and not _is_address(each.host)}


def _is_address(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True


def find(hosts: Iterable[str]) -> dict[str, Infos | tuple[int, str]]:
    """Look up hosts, which takes as long as the resolver does."""
    found: dict[str, Infos | tuple[int, str]] = {}
    for host in hosts:
        try:
            found[host] = _looked_up(host)
        except OSError as error:
            found[host] = error.errno or 0, error.strerror or str(error)
        except UnicodeError:
            found[host] = socket.EAI_NONAME, "no such host"
    return found


def _looked_up(host: str) -> Infos:
    infos = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((int(family), address) for family, _, _, _, address in infos))


def infos_of(host: str, names: Names) -> Infos:
    """Return the addresses of a host; one that is not in `names` is looked up. Raises OSError."""
    found = names.get(host) or find([host])[host]
    if isinstance(found, tuple):
        raise OSError(*found)
    return found
