"""`RemoteSink`: what all sinks on other machines share. A sink of your own has four coroutines.

A message waits for the other side until its deadline, and is sent again; when the other side is
down, new mail is refused until a probe finds it up again.
"""

from __future__ import annotations

import abc
import asyncio
import time
from collections.abc import Sequence
from typing import Final

from fastsmtp.delivery.bodies.store import BodyStore
from fastsmtp.delivery.ending import to_the_end
from fastsmtp.delivery.errors import DeliveryError, Unavailable, reason_of
from fastsmtp.delivery.gathering import MAX_ITEMS, MAX_OCTETS
from fastsmtp.delivery.handoff.availability import Availability
from fastsmtp.delivery.handoff.dispatcher import DEADLINE, Dispatcher
from fastsmtp.delivery.log import logger
from fastsmtp.delivery.promise import Promise
from fastsmtp.delivery.record import Record
from fastsmtp.delivery.sink import BodyWriter, Receipt, Sink
from fastsmtp.errors import SMTPError

__all__ = ["RemoteSink"]

CONNECTING: Final = 15.0  # seconds for `connect`; a worker has 60 for its whole start
DISCONNECTING: Final = 2.0
_OF_A_START: Final = (OSError, ValueError, DeliveryError)  # what a start may raise


class RemoteSink(Sink):
    """Base of sinks on other machines.

    where: what log lines call the other side, without secrets, such as "nats://10.0.0.1 stream
    MAIL". deadline: seconds in which a message is tried again. parallel: batches at a time;
    max_items, max_octets: of each. bodies: keeps what is larger than `max_record`, started and
    closed by the sink; None: that is refused. `connect` may set `remarks` and `max_record`.
    reads_bodies: `send` takes bodies of any store, and reads them itself.

    `undo` does nothing: a consumer may have the message already. It knows the copy that the sender
    sends again by its fingerprint.
    """

    reads_bodies = False

    def __init__(
        self,
        where: str,
        *,
        deadline: float = DEADLINE,
        parallel: int = 1,
        max_items: int = MAX_ITEMS,
        max_octets: int = MAX_OCTETS,
        bodies: BodyStore | None = None,
    ) -> None:
        if not deadline > 0:
            raise ValueError(f"deadline takes a number of seconds above 0, got {deadline}")
        self.where = where
        self.bodies = bodies
        self.availability = Availability(where, self.probe, lambda: self._dispatcher.look())
        self._dispatcher = Dispatcher(
            self.send,
            self.availability,
            name=where,
            parallel=parallel,
            max_items=max_items,
            max_octets=max_octets,
            deadline=deadline,
            coming=lambda: self.coming,
            on_batch=self.count_batch,
        )

    # For the subclass.

    @abc.abstractmethod
    async def connect(self) -> Promise:
        """Connect, check the other side, and return what its answer promises.

        Raises ValueError with the name of the setting for what an operator has to change,
        credentials included; `Unavailable` or OSError if the other side does not answer.
        """

    @abc.abstractmethod
    async def send(self, records: list[Record]) -> Sequence[Receipt | BaseException]:
        """Hand records over; return a receipt or an exception for each: see `Dispatcher`."""

    @abc.abstractmethod
    async def probe(self) -> None:
        """Raise while the other side does not answer; connect again if that is needed. Cheap, and
        without a message.
        """

    @abc.abstractmethod
    async def disconnect(self) -> None:
        """Close all connections: after `close`, and after a `connect` that has failed."""

    def octets_of(self, record: Record) -> int:
        """Return what a record takes in a batch."""
        return len(record.headers) + (len(record.body) if isinstance(record.body, bytes) else 0)

    # The interface of a sink.

    @property
    def max_body(self) -> int | None:
        """Return `max_record`, unless there is a store for larger bodies."""
        return self.max_record if self.bodies is None else None

    async def start(self) -> Promise:
        """Connect and check; see `Sink.start`. Raises `Unavailable` without an answer in time."""
        if self.promise is not None:
            raise RuntimeError(f"{self.where} was started before")
        try:
            async with asyncio.timeout(CONNECTING):
                if self.bodies is not None:
                    await self.bodies.start()
                promise = await self.connect()
            self._dispatcher.start()
        except BaseException as error:
            await self._disconnect()
            if isinstance(error, TimeoutError):
                raise Unavailable(f"no answer within {CONNECTING:g} seconds") from error
            if isinstance(error, Exception) and not isinstance(error, _OF_A_START):
                logger.debug("%s: the start has failed", self.where, exc_info=error)
                raise Unavailable(f"{type(error).__name__}: {reason_of(error)}") from error
            raise
        if self.bodies is not None and self.bodies.promise is not None:
            promise = promise.weaker(self.bodies.promise)
        self.promise = promise
        return promise

    def put(self, record: Record) -> asyncio.Future[Receipt]:
        """Take one message; see `Sink.put`."""
        if self.bodies is None and not self.reads_bodies and not isinstance(record.body, bytes):
            # Its record would name a body that nobody can find.
            refused: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
            refused.set_exception(Unavailable("there is no store for bodies beside the record"))
            return refused
        answer = self._dispatcher.add(record, self.octets_of(record))
        return answer if self.bodies is None else self.bodies.follow(record, answer)

    def begin(self, record: Record) -> BodyWriter:
        """Begin a large body in the store for them; see `Sink.begin`."""
        return super().begin(record) if self.bodies is None else self.bodies.begin(record)

    def refusal(self) -> SMTPError | None:
        """Return 451 while the other side is down, else None."""
        return self.availability.refusal()

    async def close(self, patience: float) -> None:
        """End; see `Sink.close`."""
        if self.promise is None:
            return
        self.promise = None
        await to_the_end(self._end(patience))

    async def _end(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        await self._dispatcher.close(patience)
        await self.availability.close()
        await self._disconnect(deadline - time.monotonic())

    async def _disconnect(self, patience: float = 0.0) -> None:
        if self.bodies is not None:
            await self.bodies.close(max(0.0, patience))
        try:
            async with asyncio.timeout(DISCONNECTING):
                await self.disconnect()
        except Exception as error:  # foreign code; all messages have their answers
            logger.warning("%s: the connection was not closed: %s", self.where, reason_of(error))
