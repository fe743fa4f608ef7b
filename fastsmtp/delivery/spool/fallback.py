"""`Fallback`: mail goes to a sink on another machine; while that is down, into a spool.

The spool drains into the same sink when it is up again. A message that the sink has not taken by
its deadline goes into the spool with the same id, so that its client gets its 250 nevertheless: if
the sink has stored it without an answer, the id shows that the second copy is one.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from fastsmtp.delivery.errors import DeliveryError, Full, Unavailable, Unclear, delivery_error
from fastsmtp.delivery.log import logger
from fastsmtp.delivery.promise import Promise
from fastsmtp.delivery.record import Record
from fastsmtp.delivery.sink import BodyWriter, Receipt, Sink
from fastsmtp.delivery.spool.directory import SpoolDirectory
from fastsmtp.delivery.spool.patient import Patient
from fastsmtp.delivery.spool.sink import QUOTA, RESERVE, Spool
from fastsmtp.errors import SMTPError
from fastsmtp.metrics import Tally

__all__ = ["Fallback"]

# The spool takes these over; all else is the sink's answer to this message.
_TAKEN_OVER: Final = (Unavailable, Unclear, Full)
_MARK: Final = "spool:"  # begins the receipts of the spool


class _Direct:
    """A message that the sink has. answer: of the fallback."""

    __slots__ = ("answer", "record")

    def __init__(self, record: Record, answer: asyncio.Future[Receipt]) -> None:
        self.record = record
        self.answer = answer


class Fallback(Sink):
    """Puts messages into `sink`, or into a spool while `sink` is down.

    name: of the sink, for log lines. path, quota, reserve: of the spool, as those of `Spool`. The
    promise is the strongest that both give: DISK for a sink that is down at the start. A sink that
    turns out to promise less later is reached by way of the spool only. Bodies larger than the
    sink's `max_record` go through the spool too.
    """

    done = "accepted"

    def __init__(
        self,
        sink: Sink,
        path: str | SpoolDirectory,
        *,
        name: str,
        quota: int = QUOTA,
        reserve: int = RESERVE,
    ) -> None:
        self._sink = sink
        self._patient = Patient(sink, name)
        self._spool = Spool(path, drain_into=self._patient, quota=quota, reserve=reserve)
        self._name = name
        self._direct: set[_Direct] = set()
        self._is_weaker = False  # the sink promises less, and that was logged
        self.max_record = sink.max_record
        self.passes_replies = sink.passes_replies

    # What both share.

    @property
    def coming(self) -> int:
        """How many messages will be put soon."""
        return self._sink.coming

    @coming.setter
    def coming(self, count: int) -> None:
        self._sink.coming = self._spool.coming = count

    @property
    def tally(self) -> Tally | None:
        """Where both count."""
        return self._spool.tally

    @tally.setter
    def tally(self, tally: Tally | None) -> None:
        self._sink.tally = self._spool.tally = tally

    @property
    def max_body(self) -> int | None:
        """Return the limit of the sink, which gets everything in the end."""
        return self._sink.max_body

    def measure_in(self, tally: Tally) -> None:
        """Measure both."""
        self._sink.measure_in(tally)
        self._spool.measure_in(tally)

    # The interface of a sink.

    async def start(self) -> Promise:
        """Start both; the sink later, if it is down. Raises SpoolError, and ValueError for what an
        operator has to change in the sink.
        """
        promise = await self._spool.start()
        self.remarks = self._spool.remarks
        self.max_record = self._sink.max_record
        found = self._sink.promise
        self.promise = promise if found is None else found.weaker(promise)
        return self.promise

    def put(self, record: Record) -> asyncio.Future[Receipt]:
        """Take one message; its receipt is that of the sink, or `spool:` and its number there."""
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        body = record.body
        if isinstance(body, bytes) and len(body) <= self._sink.max_record and self._is_direct():
            direct = _Direct(record, answer)
            self._direct.add(direct)
            self._sink.put(record).add_done_callback(partial(self._answered, direct))
        else:
            self._put_into_spool(record, answer)
        return answer

    def begin(self, record: Record) -> BodyWriter:
        """Begin a large body, in the spool."""
        return self._spool.begin(record)

    def refusal(self) -> SMTPError | None:
        """Return the refusal of the spool while the sink is down, else None."""
        return None if self._is_direct() else self._spool.refusal()

    def undo(self, record: Record, receipt: Receipt) -> None:
        """Remove a message from where it is, if that is possible."""
        if isinstance(receipt, str) and receipt.startswith(_MARK):
            self._spool.undo(record, receipt.removeprefix(_MARK))
        else:
            self._sink.undo(record, receipt)

    async def close(self, patience: float) -> None:
        """End. What the sink has not answered in time is put into the spool."""
        if self.promise is None:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        if self._direct:
            await asyncio.wait([each.answer for each in self._direct], timeout=patience / 2)
        for direct in [*self._direct]:
            self._take_over(direct, Unclear("the sink is closing"))
        await self._spool.close(max(0.0, deadline - loop.time()))
        self.promise = None

    # Which way.

    def _is_direct(self) -> bool:
        """Whether the sink takes mail now, and promises enough."""
        found, needed = self._sink.promise, self.promise
        if found is None or needed is None or self._sink.refusal() is not None:
            return False
        if not found.covers(needed) and not self._is_weaker:
            self._is_weaker = True
            logger.error(
                "%s promises %s, and %s was promised: all mail goes through the spool",
                *(self._name, found.value, needed.value),
            )
        return found.covers(needed)

    def _answered(self, direct: _Direct, future: asyncio.Future[Receipt]) -> None:
        if direct not in self._direct:
            return  # it was taken over
        error = Unclear("cancelled") if future.cancelled() else future.exception()
        if isinstance(error, _TAKEN_OVER):
            self._take_over(direct, error)
            return
        self._direct.discard(direct)
        if direct.answer.done():
            return
        if error is None:
            direct.answer.set_result(future.result())
        else:
            direct.answer.set_exception(error)

    def _take_over(self, direct: _Direct, error: DeliveryError) -> None:
        self._direct.discard(direct)
        self._put_into_spool(direct.record, direct.answer, error)

    def _put_into_spool(
        self,
        record: Record,
        answer: asyncio.Future[Receipt],
        before: DeliveryError | None = None,
    ) -> None:
        """Have the spool answer. before: why the sink has not taken the message."""

        def stored(future: asyncio.Future[Receipt]) -> None:
            error = Unclear("cancelled") if future.cancelled() else future.exception()
            if answer.done():
                return
            if error is None:
                answer.set_result(f"{_MARK}{future.result()}")
            elif isinstance(before, Unclear):
                answer.set_exception(before)  # it may be stored all the same
            else:
                answer.set_exception(delivery_error(error))

        self._spool.put(record).add_done_callback(stored)
