"""Whether the other side of a sink takes mail, judged by what its tries have said.

After several failures in a row it is down: one log line, and new mail is refused at once instead of
waiting. A probe, which needs no mail, finds out when it is up again: another log line.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from fastsmtp.delivery.breaker import Breaker
from fastsmtp.delivery.errors import DeliveryError, Unavailable, reason_of
from fastsmtp.delivery.log import logger
from fastsmtp.errors import SMTPError

__all__ = ["Availability"]

# Seconds until the first probe, doubled up to MOST_PAUSE: mail must flow again soon.
FIRST_PAUSE: Final = 0.2
MOST_PAUSE: Final = 5.0
PROBE_SECONDS: Final = 10.0  # after which a probe without an answer has failed


class Availability:
    """The state of one other side. name: of it, for log lines. probe: raises while it is down; must
    be cheap. on_up: called when it is up again.
    """

    def __init__(
        self,
        name: str,
        probe: Callable[[], Awaitable[object]],
        on_up: Callable[[], object] = lambda: None,
    ) -> None:
        self._name = name
        self._probe = probe
        self._on_up = on_up
        self._breaker = Breaker(FIRST_PAUSE, MOST_PAUSE)
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_down(self) -> bool:
        """Whether no mail should be given to it."""
        return self._breaker.is_open

    @property
    def reason(self) -> str:
        """Why it is down, "" if it is not."""
        return self._breaker.reason

    def refusal(self) -> SMTPError | None:
        """Return the reply to MAIL while it is down, else None."""
        return Unavailable(self.reason).reply if self.is_down else None

    def answered(self) -> None:
        """It has taken a message, or refused it."""
        if self._breaker.succeed():
            self._stop_probing()
            self._tell_up()

    def failed(self, error: DeliveryError) -> None:
        """It has given no answer to a message. Called on the loop."""
        if self._breaker.fail(reason_of(error), time.monotonic()):
            logger.error("%s is down: %s", self._name, self.reason)
            self._probing = asyncio.get_running_loop().create_task(self._probe_until_up())

    async def close(self) -> None:
        """Stop probing, and forget what was found."""
        probing = self._stop_probing()
        if probing is not None:
            await asyncio.wait([probing], timeout=PROBE_SECONDS)
        self._breaker.succeed()

    def _stop_probing(self) -> asyncio.Task[None] | None:
        probing, self._probing = self._probing, None
        if probing is not None:
            probing.cancel()
        return probing

    async def _probe_until_up(self) -> None:
        while True:
            await asyncio.sleep(max(0.0, self._breaker.until - time.monotonic()))
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    await self._probe()
            except Exception as error:  # foreign code, and a library's exceptions
                self._breaker.fail(reason_of(error), time.monotonic())
                logger.debug("%s is still down: %s", self._name, self.reason)
            else:
                break
        self._probing = None
        self._breaker.trust()
        self._tell_up()

    def _tell_up(self) -> None:
        logger.warning("%s is up again", self._name)
        self._on_up()
