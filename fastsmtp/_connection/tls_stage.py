"""The stages of TLS: the handshake in its turns, then the dialogue inside, to the end.

Octets go through one pump: in here what was read, in `Output` what is written. The transport is
never swapped. RFC 3207 §4, RFC 8314 §3.
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
    """What the handshake asks of its connection."""

    def secured(self, inside: Talking, facts: TLSSocket) -> None:
        """It is done. inside: the stage that takes the octets from here on."""


class Handshake(Stage):
    """From here on nothing is plaintext. contexts: those of this moment, whatever is reloaded.

    context: that of the connection, for the queue of handshakes.
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
            self.handshake_step()  # that is its end, and nobody has to keep the octets for it
            return
        self._queued = not self._handshakes.request(self, self._loop)
        if self._queued and self._output.is_reading:
            self._output.set_reading(False)  # one read is what waits, no more

    def handshake_step(self) -> None:
        """Do one step, with what the client has sent so far."""
        self._queued = False
        flight, self._flight = self._flight, b""
        client = self._client
        if client is None:
            return
        pump, output = self._pump, self._output
        plaintext = pump.shake(flight)
        if plaintext is not None and pump.error is None:
            self._established(client, plaintext)
            output.write_raw(pump.take_output())  # a ticket, unless it has gone with the greeting
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
        client.secured(inside, facts)
        inside.pass_on(client, plaintext)
        if inside.holds_input():
            inside.wait_for_turn(client)

    def eof(self, client: Client) -> None:
        """A client that has said nothing only looks whether the port is open: that is no error."""
        if self._pump.taken or not self._protocol.opening:
            self._protocol.report(ConnectionError("the client left the handshake"), "tls")
        client.cut()

    def expired(self, client: Client, now: float) -> None:
        """It has taken too long."""
        self._protocol.report(TimeoutError("the handshake took too long"), "tls")
        client.cut()

    def server_closing(self, client: Client) -> None:
        """Nothing can be said."""
        client.cut()

    def may_read(self) -> bool:
        """What was read waits for its turn first."""
        return not self._queued

    def leave(self) -> None:
        """It is done, or given up."""
        self._client = None


class SecureTalking(Talking):
    """The dialogue inside TLS."""

    def __init__(self, protocol: SMTPProtocol, output: Output, pump: Pump) -> None:
        self._protocol = protocol
        self._output = output
        self._pump = pump
        self._has_more = False  # the pump goes on with what it has in the next turn

    def octets(self, client: Client, data: bytes) -> None:
        """Octets of a read. One of another loop, which may be larger, goes by pieces: plaintext of
        that size, beside it, is so much memory that the allocator would give it back to the system,
        and fault it in again, each time.
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
                return  # what follows is dropped, as that of later reads is

    def eof(self, client: Client) -> None:
        """FIN or close_notify: what was there before is still answered."""
        if not self.holds_input():
            client.receive_eof()

    def holds_input(self) -> bool:
        """Whether some of what was read is still to be decrypted."""
        return self._pump.more and not self._pump.ended and not self._protocol.is_closing()

    def wait_for_turn(self, client: Client) -> None:
        """The pump has left octets of a read to a later turn; till then nothing more is read."""
        if self._output.is_reading:
            self._output.set_reading(False)
        if not self._has_more:
            self._has_more = True
            client.go_on_later()

    def go_on(self, client: Client) -> None:
        """The turn has come, if one was waited for."""
        if not self._has_more:
            return
        self._has_more = False
        if not self.holds_input() or not self._protocol.wants_input:
            return  # `Connection.set_reading` comes back when input is wanted
        client.reads += 1  # for a deadline it is as if it had just been read
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
            self._output.set_reading(False)  # it asks for new keys and takes no answer
        if self.holds_input():
            self.wait_for_turn(client)

    def pass_on(self, client: Client, plaintext: bytes) -> None:
        """Give plaintext to the dialogue, then see whether there is more to come."""
        if plaintext and not self._protocol.is_closing():
            client.receive(plaintext)
        if self._protocol.is_closing():
            return
        if self._pump.error is not None:
            _fail(client, self._protocol, self._pump)
        elif self._pump.ended:
            client.input_ended()


def _fail(client: Client, protocol: SMTPProtocol, pump: Pump) -> None:
    """There is no TLS, or no more: nothing is said but the alert that has gone out."""
    error = pump.error
    assert error is not None
    pump.let_go()
    protocol.tls_failed(error)
    client.close()
