"""The connection towards its transport: output, pauses, the end in three steps, and time.

It keeps one timer, armed lazily: deadlines move with every command, the timer only looks at them
when it fires.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from math import inf
from typing import Final, cast

from fastsmtp._hooks.tasks import HookTasks
from fastsmtp._log import logger
from fastsmtp._native import forks, monotonic
from fastsmtp._net.epoll_transport import SocketTransport
from fastsmtp._net.timer_wheel import COARSE, Timers
from fastsmtp._net.turns import Continuation, Flow, Receiver, Turns
from fastsmtp._net.write_progress import WriteWatch
from fastsmtp._smtp.protocol import SMTPProtocol
from fastsmtp._tls.pump import Pump
from fastsmtp.session import Session

__all__ = ["Link"]

LINGER: Final = 5.0  # seconds from our last reply to the client's FIN
LAST_READS: Final = 16  # of a connection that is closed
LAST_READ: Final = 64 * 1024  # octets of one
ENTERED: Final = 1  # what `Turns.enter` returns when `leave` is due
GRACE_TURNS: Final = 8  # loop turns that a deadline waits while there is still input to read

_INFINITY: float = inf
_COARSE: float = COARSE


class Link(Receiver):
    """Base of `Connection`, which decides what happens; this carries it out."""

    session: Session
    _protocol: SMTPProtocol
    _transport: asyncio.Transport
    _watch: WriteWatch
    _tasks: HookTasks | None
    _flow: Flow  # what waits for its turn

    def __init__(
        self, loop: asyncio.AbstractEventLoop, now: Callable[[], float], turns: Turns
    ) -> None:
        self._loop = loop
        self._turns = turns
        self._is_direct = False  # the transport visits us in its turn; one of a loop, when it reads
        self._forks = forks()
        self._woken = False  # a hook or the client's window has waked us outside of a turn
        self._overdue = False  # the deadline has passed outside of a turn
        self._other_clock = None if now is time.monotonic else now
        self._reading = True
        self._reads = 0
        self._eof = False
        self._lost = False
        self._ended = False
        self._close_at = inf
        self._cancel_at = inf
        self._pump: Pump | None = None  # from the start of TLS on
        self.context: Context | None = None  # that hooks are called in; None: the loop sees to it
        self._timers: Timers | None = None  # None: a timer of the loop each
        self._timer: asyncio.TimerHandle | None = None
        self._slot = 0  # of `_net.timer_wheel`; 0: in none
        self._timer_at = inf
        self._grace = 0

    def _use(
        self, transport: asyncio.BaseTransport | SocketTransport, timers: Timers | None
    ) -> None:
        """Take what the connection goes over. timers: those of the server."""
        self._transport = cast("asyncio.Transport", transport)
        if isinstance(transport, SocketTransport):
            self.context = transport.context
            self._timers = timers
            self._flow = transport
            self._is_direct = True
        else:
            self._flow = Continuation(self._turns, self)

    def _now(self) -> float:
        """Seconds; on the real clock without a call of Python."""
        return monotonic() if self._other_clock is None else self._other_clock()

    # What the connection does.

    def _after(self, began: float) -> None:
        """Look at what the dialogue wants now. began: when it was entered."""
        raise NotImplementedError

    def _end_if_done(self) -> None:
        """The connection is out when the client and all hooks are."""
        raise NotImplementedError

    def _stop_preparing(self) -> None:
        """Nobody will be greeted any more."""
        raise NotImplementedError

    def _wait_for_turn(self) -> None:
        """Go on with the input that is held in the next turn of the loop."""
        raise NotImplementedError

    # Turns.

    def _receive_in_turn(self, data: bytes) -> None:
        """The same from a transport of the loop, which reads for all connections that have
        something: what comes when the turn is over is kept, and the next read waits.
        """
        protocol = self._protocol
        now = self._now()
        entered = self._turns.enter(self._flow)
        try:
            if entered:
                protocol.receive(data, now, self._watch.unsent())
            else:
                protocol.keep(data, now)
        finally:
            self._after(now)
            if entered == ENTERED:
                self._turns.leave(self._flow)

    def wake(self) -> None:
        """Something has changed outside of a read."""
        if self._loop.is_closed():
            raise RuntimeError("the event loop of this connection is closed")
        if forks() != self._forks:
            return  # a hook that ends in a child of our process: the client is not its own
        entered = 0 if self._lost else self._turns.enter(self._flow)
        if not entered and not self._lost:
            self._woken = True
            self._flow.go_on_later()
            return
        try:
            self._advance()
        finally:
            if entered == ENTERED:
                self._turns.leave(self._flow)

    def _advance(self) -> None:
        now = self._now()
        self._woken = False
        try:
            self._protocol.advance(now, 0 if self._lost else self._watch.unsent())
        finally:
            self._after(now)

    def _go_on_later(self) -> None:
        self._flow.go_on_later()

    # Output and the end.

    def _holds_input(self) -> bool:
        """Some of what was read is still to be decrypted."""
        pump = self._pump
        return pump is not None and pump.more and not self._protocol.closing

    def _set_reading(self, reading: bool) -> None:
        if reading and self._holds_input():
            self._wait_for_turn()  # it comes before the next read
            return
        self._reading = reading
        if self._transport.is_closing():
            return
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _write(self, octets: bytes, now: float) -> None:
        if self._pump is not None:
            octets = self._pump.send(octets)
        watch = self._watch
        watch.write(octets, now)
        if watch.check_at < self._timer_at:
            self._arm(watch.check_at)

    def _close(self) -> None:
        """Reply flushed, then FIN, then up to LINGER for the client's FIN, then abort.

        Closing at once with input unread would have the kernel send a reset, and the client lose
        our last reply.
        """
        transport = self._transport
        if self._close_at == inf:
            self._close_at = self._now() + LINGER
            self._stop_preparing()
            self._protocol.stop_clock()
            if not self._reading:
                self._set_reading(True)
            if self._pump is not None and not transport.is_closing():
                self._watch.write(self._pump.close(), self._now())  # close_notify, RFC 8446 §6.1
            if not self._eof and not transport.is_closing():
                try:
                    transport.write_eof()
                except (OSError, RuntimeError, NotImplementedError):
                    pass  # the client has gone already
            due = min(self._close_at, self._watch.check_at)
            if due < self._timer_at:
                self._arm(due)
        if self._eof:
            transport.close()

    def _drop_unread(self) -> None:
        """Called before the socket is closed while the client may still send: with input unread the
        kernel would send a reset. Our own transports do it themselves.
        """
        transport: object = self._transport  # asyncio's by its type
        if isinstance(transport, SocketTransport):
            return
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):  # there is nothing, or it is no file here
                for _ in range(LAST_READS):
                    if not os.read(sock.fileno(), LAST_READ):
                        return

    # The timer.

    def _arm(self, deadline: float) -> None:
        if deadline == _INFINITY or self._ended:
            return
        self._disarm()
        self._timer_at = deadline
        wait = deadline - self._now()
        if wait > _COARSE and self._timers is not None:
            self._slot = self._timers.add(self, deadline)
        else:
            self._timer = self._loop.call_later(max(0.0, wait), self.on_deadline)

    def _disarm(self) -> None:
        if self._slot:
            self._timers.remove(self, self._slot)  # type: ignore[union-attr]  # it has the slot
            self._slot = 0
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __str__(self) -> str:
        """Session and client, with which a line of the log begins."""
        return str(self._protocol)

    def __repr__(self) -> str:
        return f"<Connection {self}>"  # a loop shows it when a call of the protocol has raised

    def on_deadline(self) -> None:
        """The timer has fired: see what is due, if anything is."""
        self._timer = None
        self._slot = 0
        self._timer_at = _INFINITY
        now = self._now()
        if self._tasks is not None and now >= self._tasks.abandon_at:
            names = ", ".join(self._tasks.abandon_overdue())
            logger.error("%s: cancelled, but does not end, and is left behind: %s", self, names)
            self._end_if_done()
        if self._tasks is not None:
            self._tasks.cancel_orphans(now)
            if now >= self._cancel_at:
                self._cancel_at = inf
                self._tasks.cancel_all()
        if self._watch.is_stalled(now):
            logger.debug("%s: the client takes no output", self)
            self._transport.abort()
        if now >= self._close_at and not self._lost:
            if self._transport.get_write_buffer_size() == 0:
                self._drop_unread()
                self._transport.abort()
            else:  # the five seconds run from the last octet taken; the watch looks at the rest
                self._close_at = now + LINGER
        if now >= self._protocol.deadline():
            self._grace = 0
            self._yield_to_sockets()
        self._rearm()

    def _rearm(self) -> None:
        self._arm(
            min(
                self._protocol.deadline() if not self._grace else inf,
                self._watch.check_at,
                self._close_at,
                self._cancel_at,
                inf if self._tasks is None else self._tasks.deadline,
            )
        )

    def _yield_to_sockets(self) -> None:
        """A process that was stopped, or a loop that was held, must not cost clients who sent in
        time.

        Two turns: the first callback may come before the sockets of its turn are read, the second
        comes after.
        """
        self._grace += 1
        self._loop.call_soon(lambda: self._loop.call_soon(self._expire, self._reads))

    def _expire(self, reads: int) -> None:
        now = self._now()
        if self._ended or now < self._protocol.deadline():
            self._grace = 0
            self._rearm()
        elif reads != self._reads and self._grace < GRACE_TURNS:
            self._yield_to_sockets()
        else:
            self._expire_in_turn(now)

    def _expire_in_turn(self, now: float) -> None:
        """Very many clients may be late at the same time, and what this one has sent may be waiting
        for its turn.
        """
        entered = ENTERED + 1 if self._lost else self._turns.enter(self._flow)
        if not entered:
            self._overdue = True
            self._flow.go_on_later()
            return
        self._grace = 0
        try:
            self._expired(now)
        finally:
            if entered == ENTERED:
                self._turns.leave(self._flow)

    def _look_at_deadline(self) -> None:
        """Its turn has come, in which a deadline was due that has waited for that."""
        self._overdue = False
        self._expire(self._reads)

    def _expired(self, now: float) -> None:
        """The deadline has passed, and nothing came in."""
        try:
            self._protocol.expire(now)
        finally:
            self._after(now)
            self._rearm()
