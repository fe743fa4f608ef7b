"""A large message on its way through: sent to the next hop as it arrives, stored nowhere."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, BinaryIO, Final, TypeAlias

from fastsmtp.delivery.errors import DeliveryError, Unavailable
from fastsmtp.delivery.record import StoredBody
from fastsmtp.delivery.relay.transaction import Transaction
from fastsmtp.delivery.sink import BodyWriter

__all__ = ["Opened", "SentBody", "StreamedBody"]

DISCARDED: Final = "the message was discarded"

# The transaction of a message, and for each recipient None or why it is refused.
Opened: TypeAlias = tuple[Transaction, list[DeliveryError | None]]


class SentBody:
    """A body whose octets the next hop has, except for the final dot."""

    path = sha256 = ""

    def __init__(self, writer: StreamedBody, size: int) -> None:
        self.writer = writer
        self.size = size

    def open(self) -> BinaryIO:
        """Raises OSError: the octets are gone."""
        raise io.UnsupportedOperation("the body was sent on, and not stored")


class StreamedBody(BodyWriter):
    """Sends a body on. open: begins the transaction, up to the reply to DATA. drop: takes a
    transaction that is not completed. spawn: runs a coroutine that the end of the sink waits for.
    headers: ours, before the body.
    """

    def __init__(
        self,
        open: Callable[[], Awaitable[Opened]],
        drop: Callable[[Transaction], object],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        headers: bytes,
    ) -> None:
        self._open = open
        self._drop = drop
        self._spawn = spawn
        self._headers = headers
        self._opening: asyncio.Task[None] | None = None
        self._size = 0
        self._is_over = False
        self.opened: Opened | None = None

    def write(self, octets: bytes) -> asyncio.Future[None] | None:
        """Send octets; the first ones wait for the transaction."""
        self._size += len(octets)
        if self._opening is None:
            self._opening = self._spawn(self._begin(octets))
            return self._opening
        if self.opened is None:
            raise Unavailable(DISCARDED)
        return self.opened[0].write(octets)

    async def _begin(self, octets: bytes) -> None:
        opened = await self._open()
        if self._is_over:
            self._drop(opened[0])
            raise Unavailable(DISCARDED)
        self.opened = opened
        room = opened[0].write(self._headers + octets)
        if room is not None:
            await room

    def finish(self) -> asyncio.Future[StoredBody]:
        """All octets were sent; the final dot follows when the record is put."""
        done: asyncio.Future[StoredBody] = asyncio.get_running_loop().create_future()
        done.set_result(SentBody(self, self._size))
        return done

    def discard(self) -> None:
        """End the transaction without the message."""
        if not self._is_over:
            self._is_over = True
            opened, self.opened = self.opened, None
            if opened is not None:
                self._drop(opened[0])

    def take(self) -> Opened | None:
        """Return the transaction, for the final dot; it is the caller's then. None: nothing was
        written.
        """
        self._is_over = True
        opened, self.opened = self.opened, None
        return opened
