"""`deliver(sink)`: the hook `on_data` that puts messages into a sink."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from fastsmtp import Address
from fastsmtp.delivery.arrival import Arrival, Traffic, announced_size, record_of
from fastsmtp.delivery.errors import Full, Refused, TooLarge, Unavailable
from fastsmtp.delivery.log import Entry, log_entry, logger
from fastsmtp.delivery.promise import Promise
from fastsmtp.delivery.sink import CLOSE_PATIENCE, Sink
from fastsmtp.errors import SMTPError
from fastsmtp.metrics import Tally, cell
from fastsmtp.session import Session
from fastsmtp.stream import DataStream

if TYPE_CHECKING:
    from fastsmtp.hook_types import Callback, DataCallback

__all__ = ["Delivery", "deliver"]

# Octets of messages in memory, gathered or waiting for the sink.
MAX_IN_FLIGHT: Final = 64 * 1024 * 1024

_MESSAGES: Final = cell("delivery_in_flight_messages")
_OCTETS: Final = cell("delivery_in_flight_bytes")
_UP: Final = cell("delivery_up")
_PROMISES: Final = {each: cell("delivery_promise", each.value) for each in Promise}


def deliver(
    sink: Sink,
    *,
    name: str | None = None,
    headers: bool = True,
    require: Promise = Promise.MEMORY,
    max_in_flight: int = MAX_IN_FLIGHT,
    log: Callable[[Entry], object] = log_entry,
) -> Delivery:
    """Return the hook `on_data` that puts each message into `sink`.

    name: of this server, in Received; None: that of the host. headers: put Return-Path,
    Delivered-To and Received on top (RFC 5321 §4.4). require: a sink that promises less is not
    used: the start raises ValueError. max_in_flight: octets of bodies in memory;
    beyond it bodies go through the sink's files, and `on_mail_from` refuses. log: called for each
    message; must not block.

    The server starts the sink when it begins to listen, and closes it at the end of `close`, unless
    the program has started it itself (`async with sink:`). Raises TypeError for an object that is
    not a sink or a promise, and ValueError for a `max_in_flight` below 1.
    """
    if not isinstance(sink, Sink):
        raise TypeError(f"deliver takes a Sink, such as Maildir('./mail'), got {sink!r:.80}")
    if not isinstance(require, Promise):
        raise TypeError(f"require takes a Promise, such as Promise.DISK, got {require!r:.80}")
    if max_in_flight <= 0:
        raise ValueError(f"max_in_flight takes a number of octets, got {max_in_flight}")
    traffic = Traffic(sink, max_in_flight, log, headers=headers, tally=Tally())
    return Delivery(traffic, name or socket.gethostname(), require)


class Delivery:
    """The hooks of one sink: the object itself is `on_data`. For one event loop.

    `on_mail_from` and `on_connect` refuse early if delivery is impossible. traffic: octets in
    flight, and counts. As a context manager, which servers enter, it starts and closes the sink.
    """

    def __init__(self, traffic: Traffic, name: str, require: Promise) -> None:
        self.sink = traffic.sink
        self.tally = self.sink.tally = traffic.tally
        self.traffic = traffic
        self._name = name
        self._required = require
        self._early: list[Arrival] = []  # messages that wait for the start of the sink
        self._starting: asyncio.Task[Promise] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._entered = 0  # servers that have this hook
        self._owns_sink = False

    async def __aenter__(self) -> Delivery:
        """Start the sink, unless it was started; raises what its `start` raises, and ValueError if
        it promises less than is required.
        """
        self._entered += 1
        try:
            if self.sink.promise is None:
                await asyncio.shield(self._start())
            else:
                self.check(self.sink.promise)
        except BaseException:
            self._entered -= 1
            self._close_if_unused()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Close the sink when the last server has closed, if it was started here."""
        self._entered -= 1
        if not self._entered and self._owns_sink:
            await self._close()

    def __call__(self, stream: DataStream, session: Session, callback: DataCallback) -> None:
        """Take one message: `on_data`."""
        record = record_of(session, self._name, time.time())
        size, notes = announced_size(session), session.notes
        arrival = Arrival(self.traffic, stream, record, size, callback, notes)
        if self.sink.promise is None:
            self._start_for(arrival)
            return
        refusal = self.sink.refusal()
        if refusal is not None:
            arrival.fail(Refused(refusal))
        else:
            arrival.begin()

    def count_in(self, tally: Tally) -> None:
        """Count in `tally` from now on. `SMTPServer.count_in` calls it."""
        self.tally = self.sink.tally = self.traffic.tally = tally

    def measure(self) -> None:
        """Set the gauges of the delivery, and of its sink, in `tally`."""
        promise = self.sink.promise
        self.tally.set(_MESSAGES, self.traffic.open)
        self.tally.set(_OCTETS, self.traffic.in_flight)
        self.tally.set(_UP, promise is not None and self.sink.refusal() is None)
        for each, number in _PROMISES.items():
            self.tally.set(number, promise is each)
        self.sink.measure()

    def refusal(self) -> SMTPError | None:
        """Return the refusal if no message can be accepted now, else None. No I/O."""
        limit, in_flight = self.traffic.max_in_flight, self.traffic.in_flight
        if in_flight > limit // 2 and in_flight > limit - self._needed(limit):
            return Full().reply
        return self.sink.refusal()

    def _needed(self, limit: int) -> int:
        """Return the octets that must be free for one more message."""
        if self.sink.max_body is None:
            return 0  # it goes into a file
        return min(self.sink.max_record, limit // 2)

    def on_mail_from(self, address: Address, session: Session, callback: Callback) -> None:
        """Refuse a transaction if its message cannot be delivered now."""
        refusal = self.refusal()
        if refusal is None and address.args:
            limit = self.sink.max_body
            if limit is not None and int(address.args.get("SIZE", 0)) > limit:
                refusal = TooLarge().reply
        callback(refusal)

    def on_connect(self, session: Session, callback: Callback) -> None:
        """Refuse a client with 421 while the sink accepts nothing."""
        if self.sink.refusal() is None:
            callback(None)
        else:
            callback(SMTPError("Service not available, try again later", 421, "4.3.2"))

    def _start(self) -> asyncio.Task[Promise]:
        """Start the sink, or join its start."""
        if self._starting is None:
            self._owns_sink = True
            self._starting = asyncio.get_running_loop().create_task(self._begin_sink())
            self._starting.add_done_callback(self._started)
        return self._starting

    async def _begin_sink(self) -> Promise:
        promise = await self.sink.start()
        try:
            self.check(promise)
        except ValueError:
            await self.sink.close(CLOSE_PATIENCE)
            raise
        return promise

    def check(self, promise: Promise) -> None:
        """Raise ValueError if `promise`, of the sink, is less than is required."""
        if not promise.covers(self._required):
            why = "".join(f"; {remark}" for remark in self.sink.remarks)
            raise ValueError(
                f"a 250 would mean {promise.value}, and require is {self._required.value}{why}"
            )

    def _close_if_unused(self) -> None:
        """Close the sink after a start whose waiters were all cancelled."""
        if not self._entered and self._owns_sink and self.sink.promise is not None:
            self._ending = asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        self._owns_sink = False
        await self.sink.close(CLOSE_PATIENCE)

    def _start_for(self, arrival: Arrival) -> None:
        """Start the sink for a message: the hook was set on a server that listened already."""
        self._early.append(arrival)
        self._start()

    def _started(self, starting: asyncio.Task[Promise]) -> None:
        self._starting = None
        early, self._early = self._early, []
        error = asyncio.CancelledError() if starting.cancelled() else starting.exception()
        if error is None:
            for arrival in early:
                arrival.begin()
            if not early:
                self._close_if_unused()
            return
        self._owns_sink = False
        if early:
            logger.error("the sink cannot be started: %s", error or type(error).__name__)
        for arrival in early:
            arrival.fail(Unavailable(f"the sink cannot be started: {error}"))
