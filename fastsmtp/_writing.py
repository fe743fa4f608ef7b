"""Whether the client takes our output: looked at a few times per `write_timeout`, while some
waits.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Final

__all__ = ["WriteWatch"]

CHECKS: Final = 8  # looks per `write_timeout`


class WriteWatch:
    """Octets written and taken on one transport. check_at: when to look next, infinity while
    all is taken.
    """

    __slots__ = ("_taken", "_taken_at", "_timeout", "_transport", "_written", "check_at")

    def __init__(self, transport: asyncio.WriteTransport, timeout: float) -> None:
        self._transport = transport
        self._timeout = timeout
        self._written = 0
        self._taken = 0
        self._taken_at = 0.0
        self.check_at = inf

    def write(self, octets: bytes, now: float) -> None:
        """Hand octets to the transport."""
        if self.check_at == inf:
            self._taken = self._written - self._transport.get_write_buffer_size()
            self._taken_at = now
            self.check_at = now + self._timeout / CHECKS
        self._written += len(octets)
        self._transport.write(octets)

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
