"""Reverse lookup: the client's name, if it has one. Bounded in time, in number and in memory.

In: an address. Out: a host name that is safe to show, or None. RFC 5321 §3.6 asks for no such name;
it is for people.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import socket
from collections.abc import Callable
from typing import Any, Final

__all__ = ["ReverseLookup", "cleaned_name"]

LOOKUP_TIMEOUT: Final = 1.5  # seconds; a greeting that comes later would be noticed
MAX_IN_FLIGHT: Final = 64  # lookups at a time; beyond it a client has no name
CACHE_SIZE: Final = 4096  # addresses
CACHE_SECONDS: Final = 300.0
MAX_NAME: Final = 253  # octets, RFC 1035 §2.3.4

_NAME: Final = r"[A-Za-z0-9._-]+"

# The `resolver` option: returns or awaits one name, a list of names, or None.
type_resolver = Callable[[str], Any]


def cleaned_name(name: object) -> str | None:
    """Return a host name in lower case, None when it is not one or is too long."""
    if not name or not isinstance(name, str):
        return None
    name = name.rstrip(".")
    if len(name) > MAX_NAME or not re.fullmatch(_NAME, name):
        return None
    return name.lower()


async def _system_resolver(address: str) -> str | None:
    loop = asyncio.get_running_loop()
    # Whoever waits may leave, the system cannot: uvloop fails aloud where its answer finds nobody.
    asking = asyncio.ensure_future(loop.getnameinfo((address, 0), socket.NI_NAMEREQD))
    asking.add_done_callback(lambda done: done.cancelled() or done.exception())  # is looked at
    try:
        name, _ = await asyncio.shield(asking)
    except OSError:
        return None
    return name


class ReverseLookup:
    """Names by address, of one server. resolver: from an address to its names, or to an
    awaitable of them.
    """

    def __init__(self, resolver: type_resolver | None, now: Callable[[], float]) -> None:
        self._resolver = resolver or _system_resolver
        self._now = now
        self._cache: dict[str, tuple[float, str | None]] = {}
        self._in_flight = 0

    def cached(self, address: str) -> tuple[bool, str | None]:
        """Return (is it known, name)."""
        entry = self._cache.get(address)
        if entry is None or entry[0] < self._now():
            return False, None
        return True, entry[1]

    async def name_of(self, address: str) -> str | None:
        """Ask the resolver; whatever goes wrong there, the answer is None."""
        if self._in_flight >= MAX_IN_FLIGHT:
            return None
        self._in_flight += 1
        try:
            found: Any = self._resolver(address)
            if inspect.isawaitable(found):
                found = await asyncio.wait_for(found, LOOKUP_TIMEOUT)
            name = cleaned_name(found if isinstance(found, str) or not found else found[0])
        except Exception:  # the resolver is foreign code, and no lookup is worth a connection
            return None
        finally:
            self._in_flight -= 1
        if len(self._cache) >= CACHE_SIZE:
            self._cache.pop(next(iter(self._cache)))
        self._cache[address] = (self._now() + CACHE_SECONDS, name)
        return name
