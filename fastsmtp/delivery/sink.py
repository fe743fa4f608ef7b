"""`Sink`: where accepted messages go. A destination of your own is a subclass.

A sink belongs to one event loop. `put` is called there and must not block; the promise of `start`
holds when the future of `put` is done.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self, TypeAlias

from fastsmtp.delivery.errors import DeliveryError
from fastsmtp.delivery.promise import Promise
from fastsmtp.delivery.record import Record, StoredBody
from fastsmtp.errors import SMTPError
from fastsmtp.metrics import Tally, cell

__all__ = ["CLOSE_PATIENCE", "BodyWriter", "Fate", "Receipt", "Sink"]

# The result for one recipient: a name for the log, or why it has not got the message.
Fate: TypeAlias = str | DeliveryError
# One fate for all recipients, or one for each, in their order.
Receipt: TypeAlias = str | Sequence[Fate]

_BATCH: Final = cell("delivery_batch_messages")

CLOSE_PATIENCE: Final = 30.0  # seconds, by default


class BodyWriter(abc.ABC):
    """Takes a body that is too large for a record, piece by piece, before the record is put."""

    @abc.abstractmethod
    def write(self, octets: bytes) -> asyncio.Future[None] | None:
        """Take octets. None: continue; a future: wait for it before the next piece. The future
        raises `DeliveryError` when the body cannot be stored; then nothing of it remains.
        """

    @abc.abstractmethod
    def finish(self) -> asyncio.Future[StoredBody]:
        """Called once after the last octet: done when the body is as safe as the sink promises."""

    @abc.abstractmethod
    def discard(self) -> None:
        """Remove the body, now or after the current job; may be called at any time, repeatedly, and
        after `finish` until the record was put.
        """


class Sink(abc.ABC):
    """A destination. `async with sink:` starts it, and closes it at the end.

    max_record: octets of a body up to which `put` takes it inside of the record; a larger one goes
    through `begin`. promise: the result of `start`, None before it and after `close`. done: the
    word of replies and log for a message that was put. receipt_key: the log's name of its receipt.
    passes_replies: whether its receipts are replies of another server, which the client gets as
    they are. coming: messages whose bodies are arriving, which will be put soon; `deliver` counts
    them. gives_fates: whether those who put need the fate of each recipient even of a message whose
    client gets one reply; a spool that drains into the sink sets it. remarks: for the operator,
    about what `start` has found. tally: where the sink counts, None: nowhere; `deliver` sets it.
    """

    max_record: int = 1024 * 1024
    promise: Promise | None = None
    done: str = "delivered"
    receipt_key: str = "receipt"
    coming: int = 0
    remarks: tuple[str, ...] = ()
    gives_fates: bool = False
    passes_replies: bool = False
    tally: Tally | None = None

    @abc.abstractmethod
    async def start(self) -> Promise:
        """Prepare for `put`; set and return `promise`, which holds when a future of `put` is done.

        Raises OSError, ValueError or `DeliveryError` that states what to change; RuntimeError when
        it was started before and not closed. A sink can be started again after `close`.
        """

    @property
    def max_body(self) -> int | None:
        """Octets of the largest body that the sink ever takes, None if it has no limit. Known after
        `start`; a larger message is refused, 552 5.3.4.
        """
        return None

    @abc.abstractmethod
    def put(self, record: Record) -> asyncio.Future[Receipt]:
        """Take one message. The future is done when the promise holds, and raises `DeliveryError`
        when it does not; then nothing of the message remains, nor its stored body, unless the error
        is `Unclear`. Raises RuntimeError when the sink was not started.
        """

    @abc.abstractmethod
    async def close(self, patience: float) -> None:
        """End. Wait for records that were put for at most `patience` seconds; the rest gets
        `Unavailable` if it was not begun, else `Unclear`. A second call does nothing.
        """

    def begin(self, record: Record) -> BodyWriter:
        """Begin the body of `record`, which is complete except for it. The record is then put with
        the result of `finish`, into this same sink.
        """
        raise NotImplementedError

    def refusal(self) -> SMTPError | None:
        """Return the refusal if no message can be accepted now, else None. Called for every
        message, so it must not do I/O.
        """
        return None

    def early_hooks(self, refusal: Callable[[], SMTPError | None]) -> Mapping[str, Any]:
        """Return hooks `on_mail_from`, `on_rcpt_to` and `on_close` of a sink that answers before it
        has the message. refusal: to be asked first, at MAIL.
        """
        return {}

    def count_batch(self, messages: int) -> None:
        """Count messages that were stored together."""
        if self.tally is not None:
            self.tally.observe_size(_BATCH, messages)

    def measure(self) -> None:
        """Set the gauges in `tally`: called before somebody looks at it."""
        if self.tally is not None:
            self.measure_in(self.tally)

    def measure_in(self, tally: Tally) -> None:  # noqa: B027 - most sinks have nothing to measure
        """Set the gauges of this sink, and of those that it puts into. Must not block."""

    def undo(self, record: Record, receipt: Receipt) -> None:  # noqa: B027 - not every sink can
        """The message was put, but its client got no 250: it was lost or got 451, and will send the
        message again. Remove the message if possible; otherwise it is stored twice. Must not block.
        """

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close(CLOSE_PATIENCE)
