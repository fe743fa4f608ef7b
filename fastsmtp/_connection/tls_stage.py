"""The connection's TLS: the handshake in its turns, then octets through the pump, to the end.

What was read goes to `_entry`, which stands here for as long as the dialogue may not have the
octets as they are; what is written goes through `_write`, which knows one compare more. The
transport is never swapped. RFC 3207 §4, RFC 8314 §3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fastsmtp._connection.output import Link
from fastsmtp._connection.server_interface import Server
from fastsmtp._net.turns import Turns
from fastsmtp._tls.contexts import Contexts, ListenerTLS
from fastsmtp._tls.facts import TLSSocket
from fastsmtp._tls.pump import Pump

__all__ = ["SecureLink"]

# Octets of ciphertext at a time; a read of `_net.epoll_transport` is never larger.
PIECE: Final = 64 * 1024


class SecureLink(Link):
    """A link that can do TLS. `_connection.connection.Connection` is made on it."""

    _server: Server
    _entry: Callable[[bytes], None] | None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
        turns: Turns,
        tls: ListenerTLS,
    ) -> None:
        Link.__init__(self, loop, now, turns)
        self._tls = tls
        self._contexts: Contexts | None = None  # those that this handshake began with
        self._flight = b""  # octets that wait for their turn
        self._queued = False
        self._tls_due = False  # the pump goes on with what it has in the next turn
        self._input_over = False  # close_notify or FIN: what was there before is still answered

    # What the connection does.

    def _receive(self, data: bytes) -> None:
        """Give octets to the dialogue."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """The client is in; all that is left before its greeting begins."""
        raise NotImplementedError

    def _end_input(self) -> None:
        """No octet of the client will be read any more."""
        raise NotImplementedError

    def go_on(self) -> None:
        """Our turn has come, in which we do what was left."""
        if self._lost:
            return
        if self._protocol.wants_turn() or self._woken:
            self._advance()
        if self._tls_due:
            self._go_on_with_tls()
        if self._overdue:
            self._look_at_deadline()

    # The handshake.

    def _begin_tls(self) -> None:
        """From here on nothing is plaintext."""
        now = self._now()
        self._contexts = self._tls.contexts
        assert self._contexts is not None
        self._pump = Pump(self._contexts.choose)
        self._entry = self._take_flight
        protocol = self._protocol
        if not protocol.securing:  # implicit TLS: no command has asked for it
            protocol.begin_handshake(now)
            self._arm(protocol.deadline())

    def _take_flight(self, data: bytes) -> None:
        """Octets of the handshake. They wait if this turn of the loop has borne enough."""
        self._flight += data
        pump = self._pump
        if self._queued:
            return
        if pump is not None and pump.overflows(len(self._flight)):
            self.handshake_step()  # that is its end, and nobody has to keep the octets for it
            return
        self._queued = not self._server.handshakes.request(self, self._loop)
        if self._queued and self._reading:
            self._set_reading(False)  # one read is what waits, no more

    def handshake_step(self) -> None:
        """Do one step, with what the client has sent so far."""
        self._queued = False
        flight, self._flight = self._flight, b""
        pump = self._pump
        if self._lost or pump is None or not self._protocol.securing:
            return
        plaintext = pump.shake(flight)
        if plaintext is not None and pump.error is None:
            self._established(pump, plaintext)
            self._write_raw(pump.take_output())  # a ticket, unless it has gone with the greeting
        else:
            self._write_raw(pump.take_output())
            if pump.error is not None:
                self._fail_tls(pump.error)
            elif pump.more:
                self._queued = True
                self._server.handshakes.go_on(self)
                if self._reading:
                    self._set_reading(False)
                return
        if not self._reading and not self._lost and self._protocol.wants_input:
            self._set_reading(True)

    def _established(self, pump: Pump, plaintext: bytes) -> None:
        assert pump.tls is not None
        assert self._contexts is not None
        leaf = self._contexts.leaf(pump.context)
        facts = TLSSocket(pump.tls, pump.servername, leaf, pump.trusted)
        self._contexts = None
        self._entry = self._take_ciphertext
        implicit = self._protocol.opening
        now = self._now()
        self._protocol.secured(facts, now)
        if implicit:
            self._prepare()
        else:
            self._after(now)
        self._pass_on(pump, plaintext)
        if pump.more:
            self._wait_for_turn()

    # Octets.

    def _take_ciphertext(self, data: bytes) -> None:
        """Octets of a read. One of another loop, which may be larger, goes by pieces: plaintext of
        that size, beside it, is so much memory that the allocator would give it back to the system,
        and fault it in again, each time.
        """
        pump = self._pump
        if pump is None:
            return
        if len(data) <= PIECE:
            self._answer_tls(pump, data)
            return
        for start in range(0, len(data), PIECE):
            if pump.more:
                pump.keep(data[start:])
                return
            self._answer_tls(pump, data[start : start + PIECE])
            if self._protocol.closing or self._entry is None:
                return  # what comes behind is dropped, as that of later reads is

    def _wait_for_turn(self) -> None:
        """The pump has left octets of a read to a later turn; till then nothing more is read."""
        if self._reading:
            self._set_reading(False)
        if not self._tls_due:
            self._tls_due = True
            self._flow.go_on_later()

    def _go_on_with_tls(self) -> None:
        self._tls_due = False
        pump = self._pump
        if self._lost or pump is None or not self._holds_input():
            return
        if not self._protocol.wants_input:
            return  # `_set_reading` comes back when it does
        self._reads += 1  # for a deadline it is as if it had just been read
        self._answer_tls(pump, b"")
        if self._lost or self._holds_input():
            return
        if self._eof:
            self._end_input()
        elif not self._reading and self._protocol.wants_input:
            self._set_reading(True)

    def _answer_tls(self, pump: Pump, data: bytes) -> None:
        plaintext = pump.receive(data)
        output = pump.take_output()
        self._write_raw(output)
        self._pass_on(pump, plaintext)
        if output and self._reading and not self._protocol.wants_input:
            self._set_reading(False)  # it asks for new keys and takes no answer
        if pump.more:
            self._wait_for_turn()

    def _pass_on(self, pump: Pump, plaintext: bytes) -> None:
        """Give plaintext to the dialogue, then see whether there is more to come."""
        if plaintext and not self._protocol.closing:
            self._receive(plaintext)
        if pump.error is not None and not self._protocol.closing:
            self._fail_tls(pump.error)
        elif pump.ended:
            self._entry = _drop
            self._input_over = True
            self._end_input()

    def _write_raw(self, octets: bytes) -> None:
        """Write what TLS says of its own."""
        if not octets or self._lost or self._transport.is_closing():
            return
        watch = self._watch
        watch.write(octets, self._now())
        if watch.check_at < self._timer_at:
            self._arm(watch.check_at)

    # The end.

    def _fail_tls(self, error: BaseException) -> None:
        """There is no TLS, or no more: nothing is said but the alert that has gone out."""
        self._entry = _drop
        if self._pump is not None:
            self._pump.let_go()
        self._protocol.tls_failed(error)
        self._close()

    def _why_cut(self) -> BaseException | None:
        """What is said of a client that leaves a handshake; of one that said nothing, nothing:
        so look those who only see whether the port is open.
        """
        pump = self._pump
        silent = pump is None or (self._protocol.opening and not pump.taken)
        return None if silent else ConnectionError("the client left the handshake")

    def _expired(self, now: float) -> None:
        if self._protocol.securing:
            self._cut_handshake(TimeoutError("the handshake took too long"))
        else:
            super()._expired(now)

    def _cut_handshake(self, error: BaseException | None) -> None:
        """The handshake is given up; error: why, None when it is nobody's fault."""
        self._entry = _drop
        if error is not None:
            self._protocol.report(error, "tls")
        self._transport.abort()


def _drop(data: bytes) -> None:
    """Nobody listens any more."""
