"""`Spool`: a sink whose 250 means "synced on disk here", and which drains into another sink."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from fastsmtp.delivery.ending import to_the_end
from fastsmtp.delivery.log import logger
from fastsmtp.delivery.promise import Promise
from fastsmtp.delivery.record import Record
from fastsmtp.delivery.sink import BodyWriter, Receipt, Sink
from fastsmtp.delivery.spool.control import ControlServer
from fastsmtp.delivery.spool.directory import SpoolDirectory
from fastsmtp.delivery.spool.drainer import Counts, Drainer
from fastsmtp.delivery.spool.gauges import Gauges
from fastsmtp.delivery.spool.operations import Operations
from fastsmtp.delivery.spool.shelf import Shelf
from fastsmtp.errors import SMTPError
from fastsmtp.metrics import Tally

__all__ = ["Spool"]

# Measured: a smaller record costs less CPU time in the database than as a file with two syncs.
MAX_RECORD: Final = 128 * 1024
QUOTA: Final = 8 * 1024**3
# Space that log and database may need to note deliveries.
RESERVE: Final = 64 * 1024 * 1024
PARALLEL: Final = 64
NOTING: Final = 2.0  # seconds at the end for the store, even if `patience` is shorter


class Spool(Sink):
    """Keeps messages in a directory until `drain_into` has them.

    path: the directory, made if it does not exist; one process uses it at a time. Or a directory
    that is locked already. drain_into: the
    sink for the messages, started and closed by the spool; None: they stay, for `fastsmtp spool` or
    a later run. quota: octets that they may have on disk; beyond it `Full`. reserve: octets of the
    disk that they must leave free. parallel: how many `drain_into` has at a time.
    """

    max_record = MAX_RECORD
    done = "queued"
    receipt_key = "spool"

    def __init__(
        self,
        path: str | SpoolDirectory,
        *,
        drain_into: Sink | None = None,
        quota: int = QUOTA,
        reserve: int = RESERVE,
        parallel: int = PARALLEL,
    ) -> None:
        directory = SpoolDirectory(path) if isinstance(path, str) else path
        self.path = directory.path
        self._shelf = Shelf(
            directory,
            quota=quota,
            reserve=reserve,
            coming=lambda: self.coming,
            on_batch=self.count_batch,
        )
        self._quota = quota
        self._gauges = Gauges()
        self._inner = drain_into
        if drain_into is not None:
            drain_into.gives_fates = True
        self._parallel = parallel
        self._drainer: Drainer | None = None
        self._control: ControlServer | None = None

    @property
    def max_body(self) -> int | None:
        """Return the limit of the sink that gets the messages."""
        return None if self._inner is None else self._inner.max_body

    @property
    def count(self) -> int:
        """How many messages are in the spool."""
        return self._shelf.count

    @property
    def used(self) -> int:
        """How many octets they have on disk."""
        return self._shelf.used

    @property
    def counts(self) -> Counts:
        """The results of draining since the start."""
        return Counts() if self._drainer is None else self._drainer.counts

    async def start(self) -> Promise:
        """Lock, open and check the spool, and begin to drain it.

        Raises SpoolError, and what `drain_into` raises.
        """
        if self.promise is not None:
            raise RuntimeError(f"the spool {self.path} was started before")
        await self._shelf.start(serves=True)
        try:
            if self._inner is not None:
                await self._inner.start()
                self.remarks = self._inner.remarks
                self._drainer = Drainer(self._shelf, self._inner, parallel=self._parallel)
            self._control = ControlServer(
                self._shelf.directory.control, Operations(self._shelf, self._drainer)
            )
            await self._control.start()
        except BaseException:
            if self._drainer is not None and self._inner is not None:
                await self._inner.close(NOTING)
            await self._shelf.close(NOTING)
            self._drainer = self._control = None
            raise
        if self._drainer is not None:
            self._tell_what_is_there()
            self._drainer.start()
        self.promise = Promise.DISK
        return self.promise

    def _tell_what_is_there(self) -> None:
        if self.count:
            again = (
                "; the last run did not end cleanly, so some of them may be delivered twice"
                if self._shelf.was_cut
                else ""
            )
            logger.info("the spool %s has %d messages to drain%s", self.path, self.count, again)

    def measure_in(self, tally: Tally) -> None:
        """Count what was drained since the last call, and set the gauges of the spool."""
        if self.promise is not None:
            self._gauges.set(tally, self._shelf, self._quota, self.counts)
        if self._inner is not None:
            self._inner.measure_in(tally)

    def refusal(self) -> SMTPError | None:
        """Return the refusal if no message can be accepted now, else None."""
        error = self._shelf.refusal()
        return None if error is None else error.reply

    def put(self, record: Record) -> asyncio.Future[Receipt]:
        """Take one message; the receipt is its number in the spool."""
        return self._shelf.put(record)

    def begin(self, record: Record) -> BodyWriter:
        """Begin a body of more than `max_record` octets, in a file of its own."""
        return self._shelf.begin()

    def undo(self, record: Record, receipt: Receipt) -> None:
        """Remove a message again, unless it is being drained already."""
        assert isinstance(receipt, str)
        number = int(receipt)
        if self._drainer is None or not self._drainer.is_begun(number):
            self._shelf.undo(number)

    async def close(self, patience: float) -> None:
        """End; messages that are not drained stay for the next start."""
        if self.promise is None:
            return
        self.promise = None
        await to_the_end(self._end(patience))

    async def _end(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        assert self._control is not None
        await self._control.close()
        is_clean = self._drainer is None or await self._drainer.close(patience)
        await self._shelf.close(max(NOTING, deadline - time.monotonic()), is_clean=is_clean)
        if self._inner is not None:
            await self._inner.close(max(0.0, deadline - time.monotonic()))
