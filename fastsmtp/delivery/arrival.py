"""One message on its way from the stream into the sink, by callables alone: no Task.

A body of at most `max_record` octets is gathered and put. A larger one, one that MAIL has announced
as larger (SIZE=, RFC 1870 §6.1), or one that comes when too much is in flight, goes through the
sink's `begin` while it arrives, and reading from its client pauses during each write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from fastsmtp import Address
from fastsmtp.delivery.errors import (
    DeliveryError,
    Full,
    Refused,
    TooLarge,
    Unclear,
    delivery_error,
)
from fastsmtp.delivery.log import Entry, entry_of, logger
from fastsmtp.delivery.record import Client, Recipient, Record
from fastsmtp.delivery.sink import BodyWriter, Fate, Receipt, Sink
from fastsmtp.delivery.trace import trace_headers
from fastsmtp.errors import MessageAborted
from fastsmtp.log_text import text_of
from fastsmtp.metrics import Tally, cell
from fastsmtp.repeats import INTERVAL, Repeats, cause_of
from fastsmtp.session import Session
from fastsmtp.stream import DataStream

if TYPE_CHECKING:
    from fastsmtp.hook_types import DataCallback

__all__ = ["Arrival", "Traffic", "announced_size", "record_of"]

_new: Final = tuple.__new__  # the constructor of a named tuple is a function of Python
OVERHEAD: Final = 4096  # octets that a message takes besides its body, in Python objects
_DELIVERED: int = cell("delivery_messages_total", "delivered")
_OVER_SIZE: int = cell("delivery_messages_total", "over_size")
_ABORTED: int = cell("delivery_messages_total", "aborted")
_LATE: int = cell("delivery_messages_total", "late")
_UNAVAILABLE: int = cell("delivery_messages_total", "unavailable")
_REFUSALS: Final = {
    Full: cell("delivery_messages_total", "full"),
    TooLarge: cell("delivery_messages_total", "too_large"),
    Refused: cell("delivery_messages_total", "refused"),
    Unclear: cell("delivery_messages_total", "unclear"),
}
_SECONDS: int = cell("delivery_seconds")

OVER_SIZE: Final = "larger than size"
TOO_LATE: Final = "the answer came too late"


class Traffic:
    """The state that all messages of one hook share: sink, log, octets in flight, counts.

    in_flight: octets of bodies in memory, gathered or waiting for the sink. open: how many messages
    they are. tally: where all is counted. delivered, refused,
    aborted: messages so far; late: those of `aborted` whose client got no 250 although the sink has
    taken them.
    """

    def __init__(
        self,
        sink: Sink,
        max_in_flight: int,
        log: Callable[[Entry], object],
        *,
        headers: bool,
        tally: Tally,
    ) -> None:
        self.sink = sink
        self.tally = tally
        self.log = log
        self.headers = headers
        self.max_in_flight = max_in_flight
        self.in_flight = self.open = 0
        self.delivered = self.refused = self.aborted = self.late = 0
        self._failures = Repeats()

    def tell_failure(self, message: str, what: str, error: BaseException) -> None:
        """Log a failure of foreign code, of many with one cause only the first and their number.
        message: the id.
        """
        cause = cause_of(what, error)
        if not self._failures.is_told(cause):
            logger.error("id=%s: %s", message, what, exc_info=error)
            self._failures.add(cause, partial(_tell_more, what))


def announced_size(session: Session) -> int:
    """Return the size that MAIL has announced for the message, in octets; 0 if it has not."""
    sender = session.envelope.mail_from
    value = None if sender is None else sender.args.get("SIZE")
    return int(value) if isinstance(value, str) else 0


def record_of(session: Session, node: str, received: float) -> Record:
    """Return the record of the current transaction, without headers and body."""
    envelope = session.envelope
    sender = envelope.mail_from
    protocol = session.transmission_type
    tls = session.tls_options if session.secure else None
    user = session.user
    dsn = envelope.dsn if sender is not None and sender.args else None
    return Record(
        f"{session.id}-{session.transaction}",
        "" if sender is None else sender.address,
        tuple([_recipient_of(each) for each in envelope.rcpt_to]),
        client=_new(
            Client,
            (
                session.remote_address,
                "" if session.client_hostname.startswith("[") else session.client_hostname,
                session.host_name_appears_as,
                protocol,
                f"{tls['version']} {tls['standard_name']}" if tls else "",
                "" if user is None else text_of(user),
            ),
        ),
        smtp_utf8=envelope.smtp_utf8,
        body_type=envelope.body_type,
        ret=None if dsn is None else dsn.ret,
        envid=None if dsn is None else dsn.envid,
        lmtp="LMTP" in protocol,
        received=received,
        node=node,
    )


def _recipient_of(address: Address) -> Recipient:
    if address.args:
        return Recipient(address.address, tuple(address.dsn.notify), address.dsn.orcpt)
    return _new(Recipient, (address.address, (), None))


class Arrival:
    """One message. Call `begin` once; all other methods are callbacks."""

    __slots__ = (
        "_announced",
        "_callback",
        "_ended_at",
        "_held",
        "_is_coming",
        "_is_over",
        "_notes",
        "_pieces",
        "_record",
        "_stream",
        "_traffic",
        "_writer",
    )

    def __init__(
        self,
        traffic: Traffic,
        stream: DataStream,
        record: Record,
        announced: int,
        callback: DataCallback,
        notes: dict[str, str],
    ) -> None:
        self._traffic = traffic
        self._notes = notes
        self._stream = stream
        self._record = record
        self._announced = announced  # octets, by SIZE= of MAIL; 0: unknown
        self._callback = callback
        self._pieces: list[bytes] = []
        self._held = OVERHEAD  # of this message in `in_flight`
        self._writer: BodyWriter | None = None
        self._is_over = False  # the callback was called
        self._is_coming = False  # counted by the sink
        self._ended_at = 0.0  # when the last octet had come
        traffic.in_flight += OVERHEAD
        traffic.open += 1

    def begin(self) -> None:
        """Take the message from the stream."""
        self._is_coming = True
        self._traffic.sink.coming += 1
        self._stream.consume(self._on_chunk, self._on_end)

    def fail(self, error: BaseException) -> None:
        """Refuse the message; nothing of it remains."""
        if not isinstance(error, (DeliveryError, OSError)):
            self._traffic.tell_failure(self._record.id, "the sink has failed", error)
        reason = delivery_error(error)
        self._end()
        self._traffic.refused += 1
        self._traffic.tally.add(_outcome(reason))
        self._notes["reason"] = str(reason)
        self._log("refused", "reason", str(reason))
        self._callback(reason.reply)

    # From the stream.

    def _on_chunk(self, piece: bytes) -> None:
        if self._writer is not None:
            self._write(piece)
            return
        traffic, size = self._traffic, len(piece)
        self._pieces.append(piece)
        self._held += size
        traffic.in_flight += size
        if self._is_large() or traffic.in_flight > traffic.max_in_flight:
            self._begin_body()

    def _is_large(self) -> bool:
        return max(self._stream.byte_length, self._announced) > self._traffic.sink.max_record

    def _on_end(self, error: MessageAborted | None) -> None:
        self._has_come()
        if self._is_over:
            return
        self._ended_at = time.monotonic()
        if error is not None:
            self._end()
            self._traffic.aborted += 1
            self._traffic.tally.add(_ABORTED)
            self._log("aborted", "reason", error.reason)
            self._callback(error)
        elif self._stream.size_exceeded:
            self._end()
            self._traffic.refused += 1
            self._traffic.tally.add(_OVER_SIZE)
            self._log("refused", "reason", OVER_SIZE)
            self._callback()  # the engine answers 552 5.3.4
        elif self._writer is None:
            pieces = self._pieces
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._pieces = []
            self._add_headers(body)
            self._record.set_body(body)
            self._put()
        else:
            self._finish_body()

    def _has_come(self) -> None:
        if self._is_coming:
            self._is_coming = False
            self._traffic.sink.coming -= 1

    # Into the sink.

    def _add_headers(self, first: bytes) -> None:
        if self._traffic.headers:
            self._record.headers = trace_headers(self._record, first)

    def _begin_body(self) -> None:
        """Pass the body to the sink's writer from now on, instead of gathering it."""
        traffic = self._traffic
        self._add_headers(self._pieces[0])
        try:
            self._writer = traffic.sink.begin(self._record)
        except NotImplementedError:
            kind = TooLarge if self._is_large() else Full
            self.fail(kind("the sink takes no body beyond its record"))
            return
        except Exception as error:  # foreign code
            self.fail(error)
            return
        octets = b"".join(self._pieces)
        self._pieces = []
        traffic.in_flight -= self._held - OVERHEAD
        self._held = OVERHEAD
        self._write(octets)

    def _write(self, octets: bytes) -> None:
        assert self._writer is not None
        limit = self._traffic.sink.max_body
        if limit is not None and self._stream.byte_length > limit:
            self.fail(TooLarge(f"the sink takes no more than {limit} octets"))
            return
        try:
            waiting = self._writer.write(octets)
        except Exception as error:
            self.fail(error)
            return
        if waiting is not None:
            self._stream.pause()
            waiting.add_done_callback(self._written)

    def _written(self, future: asyncio.Future[None]) -> None:
        error = _failure_of(future)
        if self._is_over:
            return
        if error is not None:
            self.fail(error)
        else:
            self._stream.resume()

    def _finish_body(self) -> None:
        assert self._writer is not None
        try:
            future = self._writer.finish()
        except Exception as error:
            self.fail(error)
            return
        future.add_done_callback(self._finished)

    def _finished(self, future: asyncio.Future[Any]) -> None:
        error = _failure_of(future)
        if error is not None:
            self.fail(error)
            return
        self._record.set_body(future.result())
        self._put()

    def _put(self) -> None:
        try:
            future = self._traffic.sink.put(self._record)
        except Exception as error:
            self.fail(error)
            return
        self._writer = None  # the body is the sink's
        future.add_done_callback(self._stored)

    def _stored(self, future: asyncio.Future[Receipt]) -> None:
        error = _failure_of(future)
        self._traffic.tally.observe(_SECONDS, time.monotonic() - self._ended_at)
        if error is None:
            receipt = future.result()
            if isinstance(receipt, str):
                self._answer(receipt, [receipt] * len(self._record.rcpt_to))
                return
            fates = list(receipt)
            if self._record.lmtp:
                self._answer(receipt, fates)
                return
            # There is one reply: it must not be 250 if a recipient got nothing.
            error = _first_error(fates)
            if error is None:
                self._answer(receipt, fates)
                return
        self.fail(error)

    def _answer(self, receipt: Receipt, fates: list[Fate]) -> None:
        traffic, record = self._traffic, self._record
        text = f"OK: message {traffic.sink.done}, id {record.id}"
        answer: Any = text
        if record.lmtp:
            answer = [fate.reply if isinstance(fate, DeliveryError) else text for fate in fates]
        if traffic.sink.passes_replies:
            answer = _passed_on(fates, text, record.lmtp)
        self._end()
        self._notes["done"] = traffic.sink.done
        for fate in fates:
            if isinstance(fate, str):
                self._notes[traffic.sink.receipt_key] = fate
                break
        if not self._callback(None, answer):
            # `hook_timeout`, or the end of the server: the client got 451, or no reply.
            traffic.aborted += 1
            traffic.late += 1
            traffic.tally.add(_LATE)
            self._log("aborted", "reason", TOO_LATE)
            traffic.sink.undo(record, receipt)
            return
        self._log_fates(fates)

    def _log_fates(self, fates: list[Fate]) -> None:
        traffic = self._traffic
        kept = [fate for fate in fates if isinstance(fate, str)]
        if kept:
            traffic.delivered += 1
            traffic.tally.add(_DELIVERED)
            self._log(traffic.sink.done, traffic.sink.receipt_key, kept[0])
        if len(kept) < len(fates):
            for recipient, fate in zip(self._record.rcpt_to, fates, strict=False):
                if isinstance(fate, DeliveryError):
                    traffic.tally.add(_outcome(fate))
                    self._log("refused", "reason", f"{recipient.address}: {fate}")

    def _end(self) -> None:
        """The message is answered, or will be at once: release its memory."""
        self._is_over = True
        self._has_come()
        self._traffic.in_flight -= self._held
        if self._held:
            self._traffic.open -= 1
        self._held = 0
        self._pieces = []
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.discard()
            except Exception as error:  # foreign code; the client still gets its answer
                self._traffic.tell_failure(self._record.id, "a body stays behind", error)

    def _log(self, what: str, key: str, value: str) -> None:
        entry = entry_of(what, self._record, self._stream.byte_length, key, value)
        try:
            self._traffic.log(entry)
        except Exception as error:  # as above
            logger.error("the log has failed: %s", entry, exc_info=error)


def _tell_more(what: str, count: int) -> None:
    logger.error("%s: %d more times in %d seconds", what, count, INTERVAL)


def _outcome(error: DeliveryError) -> int:
    """Return the cell of a message that the sink has not accepted."""
    for kind, number in _REFUSALS.items():
        if isinstance(error, kind):
            return number
    return _UNAVAILABLE


def _passed_on(fates: list[Fate], text: str, lmtp: bool) -> Any:
    """Return an answer with the replies of another server; `text` where one is not a 250."""
    answers = [
        fate.reply if isinstance(fate, DeliveryError) else fate if fate[:4] == "250 " else text
        for fate in fates
    ]
    return answers if lmtp else answers[0]


def _first_error(fates: list[Fate]) -> DeliveryError | None:
    for fate in fates:
        if isinstance(fate, DeliveryError):
            return fate
    return None


def _failure_of(future: asyncio.Future[Any]) -> BaseException | None:
    """Return why a future has no result, None if it has one."""
    if future.cancelled():
        return Unclear("cancelled")
    return future.exception()
