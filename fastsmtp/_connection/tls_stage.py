"""The stages of TLS: the handshake in its turns, then the dialogue inside, to the end.

Octets go through one pump: input here, output in `Output`. The transport is never replaced. RFC
3207 §4, RFC 8314 §3.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from fastsmtp._connection.output import Output
from fastsmtp._connection.stages import Client, Stage, Talking
from fastsmtp._smtp.protocol import SMTPProtocol
from fastsmtp._tls.contexts import Contexts
from fastsmtp._tls.facts import TLSSocket
from fastsmtp._tls.handshake_queue import Handshakes
from fastsmtp._tls.pump import Pump

__all__ = ["Handshake", "SecureClient", "SecureTalking"]

# Octets of ciphertext at a time; a read of `_net.epoll_transport` is never larger.
PIECE: Final = 64 * 1024


class SecureClient(Client, Protocol):
    """The interface of a connection for the handshake."""

    def secured(self, inside: Talking, facts: TLSSocket) -> None:
        """The handshake is done. inside: the stage that gets the octets from now on."""


class Handshake(Stage):
    """After its start nothing is plaintext. contexts: the current ones; a reload does not matter.

    context: contextvars of the connection, for the queue of handshakes.
    """

    def __init__(
        self,
        client: SecureClient,
        protocol: SMTPProtocol,
        output: Output,
        contexts: Contexts,
        handshakes: Handshakes,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.context = client.context
        self._client: SecureClient | None = client
        self._protocol = protocol
        self._output = output
        self._contexts = contexts
        self._pump = output.pump = Pump(contexts.choose)
        self._flight = b""  # octets that wait for their turn
        self._queued = False
        self._handshakes = handshakes
        self._loop = loop

    def octets(self, client: Client, data: bytes) -> None:
        """Octets of the handshake. They wait if this turn's handshake budget is used up."""
        self._flight += data
        if self._queued:
            return
        if self._pump.overflows(len(self._flight)):
            self.handshake_step()  # too much, which ends it: the octets need not be kept
            return
        self._queued = not self._handshakes.request(self, self._loop)
        if self._queued and self._output.is_reading:
            self._output.set_reading(False)  # no more than one read may wait

    def handshake_step(self) -> None:
        """Do one step, with the client's octets so far."""
        self._queued = False
        flight, self._flight = self._flight, b""
        client = self._client
        if client is None:
            return
        pump, output = self._pump, self._output
        plaintext = pump.shake(flight)
        if plaintext is not None and pump.error is None:
            self._established(client, plaintext)
            output.write_raw(pump.take_output())  # a ticket, unless it was sent with the greeting
        else:
            output.write_raw(pump.take_output())
            if pump.error is not None:
                _fail(client, self._protocol, pump)
            elif pump.more:
                self._queued = True
                self._handshakes.go_on(self)
                if output.is_reading:
                    output.set_reading(False)
                return
        if not output.is_reading and self._protocol.wants_input:
            client.set_reading(True)

    def _established(self, client: SecureClient, plaintext: bytes) -> None:
        pump = self._pump
        assert pump.tls is not None
        leaf = self._contexts.leaf(pump.context)
        facts = TLSSocket(pump.tls, pump.servername, leaf, pump.trusted)
        inside = SecureTalking(self._protocol, self._output, pump)
        self._handshakes.succeeded(pump.tls.version() or "")
        client.secured(inside, facts)
        inside.pass_on(client, plaintext)
        if inside.holds_input():
            inside.wait_for_turn(client)

    def eof(self, client: Client) -> None:
        """A client that leaves without an octet only checks that the port is open: not an error."""
        if self._pump.taken or not self._protocol.opening:
            self._protocol.report(ConnectionError("the client left the handshake"), "tls")
        client.cut()

    def expired(self, client: Client, now: float) -> None:
        """It has taken too long."""
        self._protocol.report(TimeoutError("the handshake took too long"), "tls")
        client.cut()

    def server_closing(self, client: Client) -> None:
        """Close: no reply is possible."""
        client.cut()

    def may_read(self) -> bool:
        """Whether no read waits for its turn."""
        return not self._queued

    def leave(self) -> None:
        """The handshake is done or has failed."""
        self._client = None


class SecureTalking(Talking):
    """The dialogue inside TLS."""

    def __init__(self, protocol: SMTPProtocol, output: Output, pump: Pump) -> None:
        self._protocol = protocol
        self._output = output
        self._pump = pump
        self._has_more = False  # the pump continues with its octets in the next turn

    def octets(self, client: Client, data: bytes) -> None:
        """Octets of a read. A larger one, of a loop's transport, is decrypted in pieces: plaintext
        of its full size would be so much memory that the allocator returned it to the system, and
        faulted it in again, each time.
        """
        pump = self._pump
        if pump.ended:
            return
        if len(data) <= PIECE:
            self._answer(client, data)
            return
        for start in range(0, len(data), PIECE):
            if pump.more:
                pump.keep(data[start:])
                return
            self._answer(client, data[start : start + PIECE])
            if self._protocol.is_closing() or pump.ended:
                return  # the rest is dropped, like later reads

    def eof(self, client: Client) -> None:
        """FIN or close_notify: earlier commands are still answered."""
        if not self.holds_input():
            client.receive_eof()

    def holds_input(self) -> bool:
        """Whether some input is not decrypted yet."""
        return self._pump.more and not self._pump.ended and not self._protocol.is_closing()

    def wait_for_turn(self, client: Client) -> None:
        """The pump has left octets of a read for a later turn; until then nothing more is read."""
        if self._output.is_reading:
            self._output.set_reading(False)
        if not self._has_more:
            self._has_more = True
            client.go_on_later()

    def go_on(self, client: Client) -> None:
        """The turn has come, if one was needed."""
        if not self._has_more:
            return
        self._has_more = False
        if not self.holds_input() or not self._protocol.wants_input:
            return  # `Connection.set_reading` calls again when input is wanted
        client.reads += 1  # for a deadline this counts as a read
        self._answer(client, b"")
        if self.holds_input():
            return
        if self._output.at_eof:
            client.input_ended()
        elif not self._output.is_reading and self._protocol.wants_input:
            client.set_reading(True)

    def _answer(self, client: Client, data: bytes) -> None:
        plaintext = self._pump.receive(data)
        output = self._pump.take_output()
        self._output.write_raw(output)
        self.pass_on(client, plaintext)
        if output and self._output.is_reading and not self._protocol.wants_input:
            self._output.set_reading(False)  # it requests key updates without reading the answers
        if self.holds_input():
            self.wait_for_turn(client)

    def pass_on(self, client: Client, plaintext: bytes) -> None:
        """Give plaintext to the dialogue, then check for the end and for failures."""
        if plaintext and not self._protocol.is_closing():
            client.receive(plaintext)
        if self._protocol.is_closing():
            return
        if self._pump.error is not None:
            _fail(client, self._protocol, self._pump)
        elif self._pump.ended:
            client.input_ended()


def _fail(client: Client, protocol: SMTPProtocol, pump: Pump) -> None:
    """TLS has failed: close with only TLS's own alert."""
    error = pump.error
    assert error is not None
    pump.let_go()
    protocol.tls_failed(error)
    client.close()
