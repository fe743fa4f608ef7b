"""`Patient`: a sink whose other side may be down when it is started; it is started later then.

For what stands behind a spool: mail is safe there meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import Final

from fastsmtp.delivery.errors import Unavailable, reason_of
from fastsmtp.delivery.log import logger
from fastsmtp.delivery.promise import Promise
from fastsmtp.delivery.record import Record
from fastsmtp.delivery.sink import BodyWriter, Receipt, Sink
from fastsmtp.errors import SMTPError
from fastsmtp.metrics import Tally

__all__ = ["Patient"]

FIRST_PAUSE: Final = 0.5  # seconds until the next start, doubled up to MOST_PAUSE
MOST_PAUSE: Final = 5.0


class Patient(Sink):
    """Starts `inner` as soon as that is possible. name: of it, for log lines.

    Its own promise is MEMORY until `inner` was started.
    """

    def __init__(self, inner: Sink, name: str) -> None:
        self.inner = inner
        self.max_record = inner.max_record
        self.done = inner.done
        self.receipt_key = inner.receipt_key
        self._name = name
        self._reason = ""  # why it has not started yet
        self._starting: asyncio.Task[None] | None = None

    @property
    def gives_fates(self) -> bool:
        """Whether those who put need the fate of each recipient."""
        return self.inner.gives_fates

    @gives_fates.setter
    def gives_fates(self, value: bool) -> None:
        self.inner.gives_fates = value

    @property
    def max_body(self) -> int | None:
        """Return the limit of `inner`."""
        return self.inner.max_body

    async def start(self) -> Promise:
        """Start `inner`, now or later. Raises ValueError for what an operator has to change."""
        try:
            self._take_over(await self.inner.start())
        except (Unavailable, OSError) as error:
            self._reason = reason_of(error)
            logger.error("%s is down, and is tried again: %s", self._name, self._reason)
            self.promise = Promise.MEMORY
            self._starting = asyncio.get_running_loop().create_task(self._start_later())
        assert self.promise is not None
        return self.promise

    def _take_over(self, promise: Promise) -> None:
        self.promise = promise
        self.remarks = self.inner.remarks
        self.max_record = self.inner.max_record

    async def _start_later(self) -> None:
        pause = FIRST_PAUSE
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, MOST_PAUSE)
            try:
                self._take_over(await self.inner.start())
                break
            except Exception as error:  # what an operator has to change, too: the spool has mail
                reason, before = reason_of(error), self._reason
                self._reason = reason
                if not isinstance(error, (Unavailable, OSError)) and reason != before:
                    logger.error("%s cannot be used: %s", self._name, reason)
        logger.warning("%s is up", self._name)

    def put(self, record: Record) -> asyncio.Future[Receipt]:
        """Give one message to `inner`; `Unavailable` at once while it takes none."""
        if self._has_started and self.inner.refusal() is None:
            return self.inner.put(record)
        failed: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        failed.set_exception(Unavailable(self._reason or f"{self._name} is down"))
        return failed

    @property
    def _has_started(self) -> bool:
        return self.inner.promise is not None

    def begin(self, record: Record) -> BodyWriter:
        """Begin a body in `inner`. Raises Unavailable while it takes none."""
        if not self._has_started or self.inner.refusal() is not None:
            raise Unavailable(self._reason or f"{self._name} is down")
        return self.inner.begin(record)

    def refusal(self) -> SMTPError | None:
        """Return the refusal of `inner`, 451 before it was started."""
        return self.inner.refusal() if self._has_started else Unavailable(self._reason).reply

    def measure_in(self, tally: Tally) -> None:
        """Measure `inner`."""
        self.inner.measure_in(tally)

    def undo(self, record: Record, receipt: Receipt) -> None:
        """Remove a message from `inner`."""
        self.inner.undo(record, receipt)

    async def close(self, patience: float) -> None:
        """End; see `Sink.close`."""
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
            await asyncio.wait([starting])
        if self._has_started:
            await self.inner.close(patience)
        self.promise = None
