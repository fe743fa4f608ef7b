"""The output of a connection: octets, pauses of reading, the end in three steps.

In: octets and the time. Out: the same octets, through TLS if there is any, and whether the client
reads them: while some wait, this is checked a few times per `write_timeout`.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from math import inf
from typing import Final, cast

from fastsmtp._connection.deadline_timer import DeadlineTimer
from fastsmtp._counts.families import cell
from fastsmtp._counts.tally import Tally
from fastsmtp._net.epoll_transport import SocketTransport
from fastsmtp._tls.pump import Pump

__all__ = ["Output"]

HIGH_WATER: Final = 64 * 1024  # octets that the client has not read before the pump stops
LOW_WATER: Final = 16 * 1024
CHECKS: Final = 8  # per `write_timeout`
LINGER: Final = 5.0  # seconds from our last reply to the client's FIN
LAST_READS: Final = 16  # of a connection that is closed
LAST_READ: Final = 64 * 1024  # octets of one

_INFINITY: float = inf
_SENT: int = cell("sent_bytes_total")


class Output:
    """The output of one connection. timer: fires at `check_at` and `close_at`. tally: where octets
    are counted.

    pump: TLS from the start of its handshake on. check_at: when to check whether the client reads,
    infinity while nothing is unread. close_at: when to abort a connection that lingers after our
    FIN, infinity before. at_eof: the client has sent FIN.
    """

    def __init__(
        self,
        transport: asyncio.BaseTransport | SocketTransport,
        timer: DeadlineTimer,
        timeout: float,
        tally: Tally,
    ) -> None:
        self.transport = cast("asyncio.Transport", transport)
        # Our own transport, with its C type: it sends at once as much as it can.
        self._direct = transport if isinstance(transport, SocketTransport) else None
        if self._direct is None:  # the other has these marks
            self.transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        self._timer = timer
        self._timeout = timeout
        self._tally = tally
        self.pump: Pump | None = None
        self._written = 0
        self._taken = 0
        self._taken_at = 0.0
        self.check_at = inf
        self.close_at = inf
        self.is_reading = True
        self.at_eof = False

    # Octets.

    def write(self, octets: bytes, now: float) -> None:
        """Write octets of the dialogue."""
        if self.pump is not None:
            octets = self.pump.send(octets)
        self._send(octets, now)

    def write_raw(self, octets: bytes) -> None:
        """Write octets of TLS itself."""
        if octets and not self.transport.is_closing():
            self._send(octets, self._timer.now())

    def _send(self, octets: bytes, now: float) -> None:
        self._tally.add(_SENT, len(octets))
        if self.check_at == _INFINITY and self._direct is not None:
            before = self._direct.get_write_buffer_size()
            self._written += len(octets)
            self._direct.write(octets)
            if before or self._direct.get_write_buffer_size():
                self._watch(now, len(octets) + before)
            return
        if self.check_at == _INFINITY:
            self._watch(now, self.transport.get_write_buffer_size())
        self._written += len(octets)
        self.transport.write(octets)

    def unsent(self) -> int:
        """Octets that the client has not read."""
        if self._direct is not None:
            return self._direct.get_write_buffer_size()
        return self.transport.get_write_buffer_size()

    def set_reading(self, reading: bool) -> None:
        """Have the transport read, or pause it."""
        self.is_reading = reading
        if self.transport.is_closing():
            return
        if reading:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    # Whether the client reads.

    def _watch(self, now: float, waiting: int) -> None:
        """Check from time to time from now on. waiting: octets that the client has not read yet."""
        self._taken = self._written - waiting
        self._taken_at = now
        self.check_at = now + self._timeout / CHECKS
        self._timer.need(self.check_at)

    def is_stalled(self, now: float) -> bool:
        """Check: True when the client has read nothing for the whole timeout."""
        if now < self.check_at:
            return False
        waiting = self.transport.get_write_buffer_size()
        if waiting == 0:
            self.check_at = inf
            return False
        taken = self._written - waiting
        if taken != self._taken:
            self._taken = taken
            self._taken_at = now
        elif now - self._taken_at >= self._timeout:
            return True
        self.check_at = now + self._timeout / CHECKS
        return False

    # The end.

    def finish(self, now: float, parted: bool) -> None:
        """Reply flushed, then FIN, then up to LINGER for the client's FIN, then abort.

        Closing at once with unread input would make the kernel send a reset, and the client lose
        our last reply. parted: the client sends nothing more and waits only for that reply. Once
        the kernel has all of it, it does the rest, unless a close_notify is still expected.
        """
        transport = self.transport
        if parted and self.pump is None and not self.unsent():
            self.drop_unread()
            transport.close()
            return
        if self.close_at == _INFINITY:
            self.close_at = now + LINGER
            if not self.is_reading:
                self.set_reading(True)
            if self.pump is not None:
                self.write_raw(self.pump.close())  # close_notify, RFC 8446 §6.1
            if not self.at_eof and not transport.is_closing():
                try:
                    transport.write_eof()
                except (OSError, RuntimeError, NotImplementedError):
                    pass  # the client is gone already
            self._timer.need(self.close_at)
        if self.at_eof:
            transport.close()

    def end_linger(self, now: float) -> None:
        """Abort if LINGER is over. It runs from the last octet that the client has read."""
        if now < self.close_at:
            return
        if self.transport.get_write_buffer_size() == 0:
            self.drop_unread()
            self.transport.abort()
        else:  # `is_stalled` checks the rest
            self.close_at = now + LINGER

    def lost(self) -> None:
        """The transport is gone: stop all waiting."""
        self.check_at = self.close_at = inf

    def drop_unread(self) -> None:
        """Called before the socket is closed while the client may still send: with unread input the
        kernel would send a reset. Our own transports do this themselves.
        """
        if self._direct is not None:
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):  # nothing to read, or not a file on this system
                for _ in range(LAST_READS):
                    if not os.read(sock.fileno(), LAST_READ):
                        return
