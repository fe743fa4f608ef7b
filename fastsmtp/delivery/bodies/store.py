"""`BodyStore`: keeps bodies for sinks whose records have room for small ones only.

A body is stored before its record, so a failure in between leaves a body without a record, an
orphan. When the sink has stored the record, the store *keeps* the body: a marker, `NAME.kept`,
stands beside it before the client gets 250. Only a body without a marker is an orphan, and it is
removed when it is older than `orphan_age`. So no message that was acknowledged loses its body, no
matter how long its record waits for a consumer, who removes both.
"""

from __future__ import annotations

import abc
import asyncio
import functools
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

from fastsmtp.blocking import call_in_thread
from fastsmtp.delivery.batcher import Batcher
from fastsmtp.delivery.body_writer import Job
from fastsmtp.delivery.errors import DeliveryError, Unclear, delivery_error
from fastsmtp.delivery.log import logger
from fastsmtp.delivery.promise import Promise
from fastsmtp.delivery.record import Record, StoredBody
from fastsmtp.delivery.sink import BodyWriter, Receipt

__all__ = ["KEPT", "ORPHAN_AGE", "BodyStore", "unpaired"]

KEPT: Final = ".kept"  # ends the name of a marker
ORPHAN_AGE: Final = 24 * 3600.0  # seconds
# Far more than a sink takes for a record, even if the clocks of two machines disagree.
MIN_ORPHAN_AGE: Final = 3600.0
SWEEP: Final = 3600.0  # seconds from one search for orphans to the next


class BodyStore(abc.ABC):
    """Bodies outside of their records. Belongs to one event loop, and to the sink that starts it.

    threads: run the blocking methods. orphan_age: seconds after which a body without a record is
    removed, at least an hour. promise: the result of `start`, None before it and after `close`.
    `stored`, `remove` and the bodies' `open` are for consumers too, and need no `start`.
    """

    promise: Promise | None = None

    def __init__(self, threads: Batcher[Job, Any], *, orphan_age: float = ORPHAN_AGE) -> None:
        if not orphan_age >= MIN_ORPHAN_AGE:
            raise ValueError(f"orphan_age takes seconds, {MIN_ORPHAN_AGE:.0f} or more")
        self.orphan_age = orphan_age
        self._threads = threads
        self._next_sweep: asyncio.TimerHandle | None = None

    async def start(self) -> Promise:
        """Check that bodies can be stored, set and return `promise`, and look for orphans.

        Raises ValueError for what an operator has to change, `Unavailable` if the store does not
        answer; RuntimeError when it was started before.
        """
        if self.promise is not None:
            raise RuntimeError(f"{self!r} was started before")
        loop = asyncio.get_running_loop()
        outcome = await call_in_thread(loop, self.check, "fastsmtp-bodies-check")
        if isinstance(outcome, BaseException):
            raise outcome
        self._threads.start()
        self.promise = outcome
        self._sweep()
        return outcome

    async def close(self, patience: float) -> None:
        """End; waits for at most `patience` seconds. Close the sink's records before."""
        self.promise = None
        if self._next_sweep is not None:
            self._next_sweep.cancel()
            self._next_sweep = None
        await self._threads.close(patience)

    def follow(self, record: Record, future: asyncio.Future[Receipt]) -> asyncio.Future[Receipt]:
        """Return the future for `Sink.put` to return; `future` is done when the record is stored.

        It is done when the body is kept as well. A body whose record was certainly not stored is
        removed. For a record with its body inside it is `future` itself.
        """
        if isinstance(record.body, bytes):
            return future
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        name = name_of(record.body)
        future.add_done_callback(functools.partial(self._record_done, name, answer))
        return answer

    def discard(self, body: StoredBody) -> None:
        """Have a thread remove a body whose record was certainly not stored."""
        self._remove_later(name_of(body))

    def _remove_later(self, name: str) -> None:
        self._threads.add(functools.partial(self.remove, name), 0)

    def _record_done(
        self, name: str, answer: asyncio.Future[Receipt], future: asyncio.Future[Receipt]
    ) -> None:
        error = Unclear("cancelled") if future.cancelled() else future.exception()
        if error is not None:
            if not isinstance(delivery_error(error), Unclear):
                self._remove_later(name)
            _settle(answer, error)
            return
        receipt = future.result()
        if not isinstance(receipt, str) and all(isinstance(x, DeliveryError) for x in receipt):
            self._remove_later(name)
            _settle(answer, receipt)
            return
        kept = self._threads.add(functools.partial(self.keep, name), 0)
        kept.add_done_callback(functools.partial(_body_kept, answer, receipt))

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._next_sweep = loop.call_later(SWEEP, self._sweep)
        sweeping = functools.partial(self.remove_orphans, time.time() - self.orphan_age)
        self._threads.add(sweeping, 0).add_done_callback(self._swept)

    def _swept(self, sweeping: asyncio.Future[int]) -> None:
        error = sweeping.exception()
        if self.promise is None:  # closed meanwhile
            return
        if error is not None:
            logger.warning("cannot look for bodies without a record: %s", error)
        elif removed := sweeping.result():
            logger.info("removed %d bodies without a record", removed)

    # For sinks and consumers.

    @abc.abstractmethod
    def begin(self, record: Record) -> BodyWriter:
        """Begin the body of `record`: the result of `Sink.begin`."""

    @abc.abstractmethod
    def stored(self, name: str, size: int, sha256: str) -> StoredBody:
        """Return the body that a record names: an argument for `parse_record`. Does no I/O.

        Raises ValueError for a name that is not that of a body.
        """

    # Blocking: called in threads.

    @abc.abstractmethod
    def check(self) -> Promise:
        """Check that bodies can be stored; return the promise of one that is. Raises as `start`."""

    @abc.abstractmethod
    def keep(self, name: str) -> None:
        """Mark a body as one with a record. Raises `DeliveryError` or OSError, also when the body
        is gone.
        """

    @abc.abstractmethod
    def remove(self, name: str) -> None:
        """Remove a body and its marker, if they are there: the last step of a consumer. A failure
        is logged. Raises ValueError for a name that is not that of a body.
        """

    @abc.abstractmethod
    def remove_orphans(self, before: float) -> int:
        """Remove bodies that are not kept, and markers without a body, last written before a Unix
        time; return how many bodies there were. Raises `DeliveryError` or OSError.
        """


def unpaired(names: Iterable[str]) -> Iterator[str]:
    """Of the names in a store, find bodies without a marker, and markers without a body."""
    there = set(names)
    for name in there:
        partner = name.removesuffix(KEPT) if name.endswith(KEPT) else name + KEPT
        if partner not in there:
            yield name


def name_of(body: StoredBody) -> str:
    """Return the name by which a record refers to a body."""
    return body.path.rpartition("/")[2]


def _body_kept(
    answer: asyncio.Future[Receipt], receipt: Receipt, kept: asyncio.Future[None]
) -> None:
    error = kept.exception()
    if error is None:
        _settle(answer, receipt)
    else:
        _settle(answer, Unclear(f"the record is stored, but its body is not kept: {error}"))


def _settle(answer: asyncio.Future[Receipt], result: Receipt | BaseException) -> None:
    if answer.done():
        return
    if isinstance(result, BaseException):
        answer.set_exception(result)
    else:
        answer.set_result(result)
