"""One connection to the next hop: commands out, replies in, back-pressure, deadlines.

In: octets to send, and how long to wait. Out: replies in their order. Raised: `HopLost`, when the
connection has ended, the next hop was silent for too long, or it sent something that is not a
reply. What comes without a command before it ends the connection: 421 at the end of an idle
connection, or a reply that could be taken for that of the next command.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from fastsmtp.delivery.relay.commands import Offers
from fastsmtp.delivery.relay.replies import HopLost, HopReply
from fastsmtp.reply_reader import BadReply, ReplyReader

__all__ = ["HopConnection", "Origin"]

# Octets of a message that may wait for the next hop before reading from the client stops.
HIGH_WATER: Final = 64 * 1024
CLOSED: Final = "it has closed the connection"


class Origin(NamedTuple):
    """The client whose mail a connection carries, where the next hop is told: the fields of XCLIENT
    or of a PROXY header. "" and 0: not known.
    """

    address: str
    port: int
    local_address: str
    local_port: int
    name: str
    helo: str
    protocol: str
    user: str


class HopConnection(asyncio.Protocol):
    """place: of the next hop, for reasons. offers: what it has announced. origin: the client it was
    told of, None for none. uses: transactions so far. lost: why it is of no use, "" while it is.
    on_lost: called once then.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.offers = Offers()
        self.origin: Origin | None = None
        self.uses = 0
        self.lost = ""
        self.idle_since = 0.0
        self.on_lost: Callable[[HopConnection], object] = _nothing
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = ReplyReader()
        self._expected = 1  # replies that must come; the first is the greeting
        self._replies: deque[HopReply] = deque()
        self._waiter: asyncio.Future[HopReply] | None = None
        self._room: asyncio.Future[None] | None = None  # while the next hop reads too slowly
        self._due = 0.0  # when the wait ends, of the loop's clock; 0: nobody waits
        self._waits_for = ""
        self._timer: asyncio.TimerHandle | None = None

    # For the conversation.

    def send(self, octets: bytes, replies: int = 1) -> None:
        """Send octets, to which so many replies will come. Raises HopLost."""
        if self.lost:
            raise HopLost(self.lost)
        assert self._transport is not None
        self._expected += replies
        self._transport.write(octets)

    def expect_fewer(self, replies: int) -> None:
        """So many replies will not come: the command that was to cause them was refused."""
        self._expected -= replies

    async def reply(self, patience: float, what: str) -> HopReply:
        """Return the next reply; raises HopLost, after `patience` seconds too.

        what: the command it belongs to, for the reason. If the caller is cancelled, nobody knows
        which reply comes next: the connection is lost.
        """
        if self._replies:
            return self._replies.popleft()
        if self.lost:
            raise HopLost(self.lost)
        assert self._waiter is None, "two wait for replies"
        self._waiter = self._loop.create_future()
        self._wait(patience, f"no reply to {what}")
        try:
            return await self._waiter
        except asyncio.CancelledError:
            self.fail("the wait for a reply was cancelled")
            raise
        finally:
            self._waiter = None

    async def command(self, line: bytes, patience: float, what: str) -> HopReply:
        """Send one command and return its reply; raises HopLost."""
        self.send(line)
        return await self.reply(patience, what)

    def room(self, patience: float) -> asyncio.Future[None] | None:
        """Return a future that is done when more may be sent, None if it may be now. It raises
        HopLost.
        """
        if self._room is not None and not self._due:
            self._wait(patience, "it does not read the message")
        return self._room

    def early_reply(self) -> HopReply | None:
        """Return a reply that has come before anybody waits for it, None if there is none."""
        return self._replies.popleft() if self._replies else None

    # For its owner.

    @property
    def is_settled(self) -> bool:
        """Whether every command has its reply, and every reply was read."""
        return not (self.lost or self._expected or self._replies)

    async def start_tls(self, context: ssl.SSLContext, server_name: str) -> None:
        """Begin TLS. Raises HopLost for octets before it (RFC 3207 §6), ssl.SSLError, OSError."""
        if self.lost:
            raise HopLost(self.lost)
        if not self._reader.is_empty:
            raise HopLost(f"{self.place}: octets after the reply to STARTTLS")
        assert self._transport is not None
        transport: asyncio.Transport = await self._loop.start_tls(  # type: ignore[assignment]
            *(self._transport, self, context), server_hostname=server_name
        )
        if self.lost:  # it has ended meanwhile
            raise HopLost(self.lost)
        self._take(transport)

    def quit(self) -> None:
        """Say QUIT and close, without waiting for the answer."""
        if not self.lost:
            assert self._transport is not None
            self._transport.write(b"QUIT\r\n")
            transport, self._transport = self._transport, None
            self._end("it was closed")
            transport.close()

    def fail(self, reason: str) -> None:
        """End the connection at once; a caller that waits gets HopLost."""
        if not self.lost:
            transport, self._transport = self._transport, None
            self._end(reason)
            if transport is not None:
                transport.abort()

    # From the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._take(transport)  # type: ignore[arg-type]  # a Transport, which uvloop's is in all but name

    def _take(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(HIGH_WATER)

    def data_received(self, octets: bytes) -> None:
        """Take replies."""
        if self.lost:
            return
        reader = self._reader
        try:
            reader.feed(octets)
            while code := reader.next_code():
                if not self._take_reply(HopReply(code, reader.lines)):
                    return
        except BadReply as error:
            self.fail(str(error))
            return
        if not self._expected and not reader.is_empty:
            self.fail("octets that belong to no command")

    def _take_reply(self, reply: HopReply) -> bool:
        if not self._expected:
            self.fail(f"a reply to no command: {reply}")
            return False
        self._expected -= 1
        if self._waiter is not None and not self._waiter.done():
            self._due = 0.0
            self._waiter.set_result(reply)
        else:
            self._replies.append(reply)
            if self._room is not None and not self._room.done():
                self._room.set_result(None)  # the reply may be why it does not read
        return True

    def pause_writing(self) -> None:
        """The next hop reads more slowly than its messages arrive."""
        if self._room is None:
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """It has read them."""
        room, self._room = self._room, None
        if room is not None:
            if self._waiter is None:
                self._due = 0.0
            if not room.done():
                room.set_result(None)

    def eof_received(self) -> bool:
        """The next hop has ended; the transport closes."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended."""
        self._transport = None
        self._end(CLOSED if error is None else f"the connection has broken: {error}")

    # Deadlines: one timer for many waits, since most end long before it.

    def _wait(self, patience: float, waits_for: str) -> None:
        self._due = self._loop.time() + patience
        self._waits_for = f"{waits_for} within {patience:g} seconds"
        if self._timer is None or self._timer.when() > self._due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(patience, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._due:
            left = self._due - self._loop.time()
            if left > 0:
                self._timer = self._loop.call_later(left, self._look)
            else:
                self.fail(self._waits_for)

    def _end(self, reason: str) -> None:
        if self.lost:
            return
        self.lost = f"{self.place}: {reason}"
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        room, self._room = self._room, None
        for future in (self._waiter, room):
            if future is not None and not future.done():
                future.set_exception(HopLost(self.lost))
                future.exception()  # retrieved, in case nobody waits
        on_lost, self.on_lost = self.on_lost, _nothing
        on_lost(self)


def _nothing(connection: HopConnection) -> None:
    pass
