"""`Sink`: where accepted messages go. A destination of your own is a subclass.

A sink belongs to one event loop. `put` is called there and must not block; the promise of `start`
holds when the future of `put` is done.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Sequence
from typing import Final, Self, TypeAlias

from fastsmtp.delivery.errors import DeliveryError
from fastsmtp.delivery.promise import Promise
from fastsmtp.delivery.record import Record, StoredBody
from fastsmtp.errors import SMTPError

__all__ = ["CLOSE_PATIENCE", "BodyWriter", "Fate", "Receipt", "Sink"]

# What has become of one recipient: a name for the log, or why it has not got the message.
Fate: TypeAlias = str | DeliveryError
# One fate for all recipients, or one for each, in their order.
Receipt: TypeAlias = str | Sequence[Fate]

CLOSE_PATIENCE: Final = 30.0  # seconds, where nobody says how many


class BodyWriter(abc.ABC):
    """Takes a body that is too large for a record, piece by piece, before the record is put."""

    @abc.abstractmethod
    def write(self, octets: bytes) -> asyncio.Future[None] | None:
        """Take octets. None: go on; a future: wait for it before the next piece. The future raises
        `DeliveryError` when the body cannot be kept; nothing of it is left then.
        """

    @abc.abstractmethod
    def finish(self) -> asyncio.Future[StoredBody]:
        """Called once after the last octet: done when the body is as safe as the sink promises."""

    @abc.abstractmethod
    def discard(self) -> None:
        """Leave nothing of the body, now or as soon as what is under way has ended; at any time,
        twice too, and after `finish` as long as its body was not put.
        """


class Sink(abc.ABC):
    """A destination. `async with sink:` starts it, and closes it at the end.

    max_record: octets of a body up to which `put` takes it inside of the record; a larger one goes
    through `begin`. promise: what `start` has returned, None before it and after `close`. done:
    what replies and the log say of a message that was put. receipt_key: what the log calls its
    receipt.
    """

    max_record: int = 1024 * 1024
    promise: Promise | None = None
    done: str = "delivered"
    receipt_key: str = "receipt"

    @abc.abstractmethod
    async def start(self) -> Promise:
        """Make ready for `put`; set and return `promise`, which holds when its future is done.

        Raises OSError, ValueError or `DeliveryError` with what to change; RuntimeError when it was
        started before and not closed. A sink can be started again after `close`.
        """

    @abc.abstractmethod
    def put(self, record: Record) -> asyncio.Future[Receipt]:
        """Take one message. The future is done when the promise holds, and raises `DeliveryError`
        when it does not; then nothing of the message is left, its stored body neither, unless the
        error is `Unclear`. Raises RuntimeError when the sink was not started.
        """

    @abc.abstractmethod
    async def close(self, patience: float) -> None:
        """End. What was put is awaited for at most `patience` seconds; the rest is `Unavailable` if
        it was not begun, `Unclear` if it was. A second call does nothing.
        """

    def begin(self, record: Record) -> BodyWriter:
        """Begin the body of `record`, which has all but that. The record is put with what `finish`
        gives, to this very sink.
        """
        raise NotImplementedError

    def refusal(self) -> SMTPError | None:
        """Return why no message can be taken now, None if one can. Is asked for every message: no
        I/O here.
        """
        return None

    def undo(self, record: Record, receipt: Receipt) -> None:  # noqa: B027 - not every sink can
        """The message was put, and its client got no 250: it has gone, or was told 451, and will
        come again. Remove the message if that is possible; it is there twice otherwise. Does not
        block.
        """

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close(CLOSE_PATIENCE)
