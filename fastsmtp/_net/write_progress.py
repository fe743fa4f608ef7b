"""Whether the client takes our output: looked at a few times per `write_timeout`, while some
waits.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Final

from fastsmtp._net.epoll_transport import SocketTransport

__all__ = ["WriteWatch"]

HIGH_WATER: Final = 64 * 1024  # octets that the client has not taken before the pump stops
LOW_WATER: Final = 16 * 1024
CHECKS: Final = 8  # looks per `write_timeout`

_INFINITY: float = inf


class WriteWatch:
    """Octets written and taken on one transport. check_at: when to look next, infinity while
    all is taken.
    """

    def __init__(self, transport: asyncio.WriteTransport | SocketTransport, timeout: float) -> None:
        self._transport = transport
        # The same again, where what it does is known to C: it has sent what it could at once.
        self._direct = transport if isinstance(transport, SocketTransport) else None
        if self._direct is None:  # the other has these marks
            transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        self._timeout = timeout
        self._written = 0
        self._taken = 0
        self._taken_at = 0.0
        self.check_at = inf

    def write(self, octets: bytes, now: float) -> None:
        """Hand octets to the transport."""
        if self.check_at == _INFINITY and self._direct is not None:
            before = self._direct.get_write_buffer_size()
            self._written += len(octets)
            self._direct.write(octets)
            if before or self._direct.get_write_buffer_size():
                self._begin(now, len(octets) + before)
            return
        if self.check_at == _INFINITY:
            self._begin(now, self._transport.get_write_buffer_size())
        self._written += len(octets)
        self._transport.write(octets)

    def _begin(self, now: float, waiting: int) -> None:
        """Look now and then from here on. waiting: octets that the client has not taken yet."""
        self._taken = self._written - waiting
        self._taken_at = now
        self.check_at = now + self._timeout / CHECKS

    def unsent(self) -> int:
        """Octets that the client has not taken."""
        direct = self._direct
        if direct is not None:
            return direct.get_write_buffer_size()
        return self._transport.get_write_buffer_size()

    def is_stalled(self, now: float) -> bool:
        """Look: True when the client has taken nothing for the whole timeout."""
        if now < self.check_at:
            return False
        waiting = self._transport.get_write_buffer_size()
        if waiting == 0:
            self.check_at = inf
            return False
        taken = self._written - waiting
        if taken != self._taken:
            self._taken = taken
            self._taken_at = now
        elif now - self._taken_at >= self._timeout:
            return True
        self.check_at = now + self._timeout / CHECKS
        return False
