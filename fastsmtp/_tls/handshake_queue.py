"""Handshakes of one server: the time that they may use in a turn of the loop, and their failures.

A handshake is half a millisecond or more of signing. A flood of them waits in a queue here, so that
connected clients are still served; a waiting client counts as a client, and its deadline runs.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Final, Protocol

from fastsmtp._counts.families import cell
from fastsmtp._counts.tally import Tally
from fastsmtp._failures import Place, text_of
from fastsmtp._log import logger
from fastsmtp.log_text import escaped

__all__ = ["Handshakes"]

_FAILURES: Final = cell("tls_failures_total")
_SUCCESSES: Final = {
    name: cell("tls_handshakes_total", name) for name in ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
}

TURN: Final = 0.002  # seconds of a loop turn for handshakes; one step is done in any case
MAX_REASON: Final = 128  # characters of OpenSSL's text
LOG_EVERY: Final = 1.0  # seconds between two log lines about failures


class Shaking(Protocol):
    """A connection whose handshake has octets to process. context: contextvars for its steps, None:
    any.
    """

    context: Context | None

    def handshake_step(self) -> None:
        """Do one step. Raises nothing."""


class Handshakes:
    """The queue, and the counts. tally: where they are. now: a monotonic clock, in seconds."""

    def __init__(self, tally: Tally, now: Callable[[], float] = time.monotonic) -> None:
        self._tally = tally
        self._now = now
        self._waiting: deque[Shaking] = deque()
        self._spent = 0.0  # seconds of this turn
        self._turning = False
        self.failures = 0
        self._unsaid = 0  # failures since the last line
        self._said_at = -LOG_EVERY

    def request(self, connection: Shaking, loop: asyncio.AbstractEventLoop) -> bool:
        """Do a step for `connection` now, or queue it for later; False: it is queued."""
        if not self._turning:
            self._turning = True
            self._spent = 0.0
            loop.call_soon(self._next_turn, loop)
        elif self._waiting or self._spent >= TURN:
            self._waiting.append(connection)
            return False
        self._step(connection)
        return True

    def go_on(self, connection: Shaking) -> None:
        """Queue one more step for `connection`, after the waiting ones; called inside of a step."""
        self._waiting.append(connection)

    def _next_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._spent = 0.0
        if not self._waiting:
            self._turning = False
            return
        loop.call_soon(self._next_turn, loop)
        while self._waiting and self._spent < TURN:
            connection = self._waiting.popleft()
            if connection.context is None:
                self._step(connection)
            else:  # this callback has the context of another connection
                connection.context.run(self._step, connection)

    def _step(self, connection: Shaking) -> None:
        began = self._now()
        connection.handshake_step()
        self._spent += self._now() - began

    def succeeded(self, version: str) -> None:
        """Count a handshake. version: as OpenSSL names it."""
        number = _SUCCESSES.get(version)
        if number is not None:
            self._tally.add(number)

    def failed(self, error: BaseException, place: Place) -> None:
        """Count a failure, and log at most one in `LOG_EVERY` seconds."""
        self.failures += 1
        self._tally.add(_FAILURES)
        self._unsaid += 1
        now = self._now()
        if now - self._said_at >= LOG_EVERY:
            more = f" ({self._unsaid - 1} more since the last such line)" * (self._unsaid > 1)
            reason = escaped(
                getattr(error, "reason", None) or text_of(error), MAX_REASON, plain=" "
            )
            logger.info("%s: %s: TLS failed: %s%s", place.session_id, place.client, reason, more)
            self._said_at = now
            self._unsaid = 0
