"""Transactions with the next hop, each on a connection of the pool; and whether it is up.

A connection that was used before may be dead without our knowing: then MAIL is tried once more on a
new one. Nothing of a message was sent by then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from fastsmtp.delivery.errors import DeliveryError, Full, Refused, Unavailable, Unclear
from fastsmtp.delivery.handoff import Availability
from fastsmtp.delivery.record import Recipient
from fastsmtp.delivery.relay.commands import Sender
from fastsmtp.delivery.relay.connection import Origin
from fastsmtp.delivery.relay.next_hop import NextHop, Patience
from fastsmtp.delivery.relay.opening import Opening
from fastsmtp.delivery.relay.pool import Pool
from fastsmtp.delivery.relay.replies import OpeningFailed
from fastsmtp.delivery.relay.transaction import Transaction
from fastsmtp.errors import SMTPError

__all__ = ["Conversations"]

T = TypeVar("T")

CROWD: Final = 4  # transactions that may wait for each connection before MAIL gets 452
CUTTING: Final = 1.0  # seconds for what was cut to end


class Conversations:
    """All transactions with one next hop."""

    def __init__(
        self,
        hop: NextHop,
        patience: Patience,
        *,
        max_connections: int,
        idle_timeout: float,
        max_hops: int,
    ) -> None:
        self.place = str(hop)
        self.patience = patience
        self._lmtp = hop.lmtp
        self._max_hops = max_hops
        self._max = max_connections
        self._availability = Availability(f"the next hop {hop}", self._probe)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.pool = Pool(
            Opening(hop, patience).open,
            max_connections=max_connections,
            idle_timeout=idle_timeout,
        )

    async def start(self) -> None:
        """Make the first connection; raises OpeningFailed, and ValueError for what an operator has
        to change.
        """
        self.pool.start()
        try:
            await self._probe()
        except OpeningFailed as error:
            if error.setting:
                raise ValueError(str(error)) from error
            raise

    def refusal(self) -> SMTPError | None:
        """Return the refusal if no transaction can begin now, else None."""
        if self.pool.waiting >= CROWD * self._max:
            return Full("too many messages wait for the next hop").reply
        return self._availability.refusal()

    async def begin(
        self,
        origin: Origin | None,
        sender: Sender,
        recipients: Sequence[Recipient] = (),
        wait: float = 0.0,
    ) -> tuple[Transaction, list[DeliveryError | None]]:
        """Begin a transaction; return it, and for each recipient None or why it is refused.

        wait: seconds for a free connection, 0: as long as for a new one. Raises DeliveryError.
        """
        may_retry = True
        while True:
            transaction = await self._on_connection(origin, wait or self.patience.connect)
            was_used = transaction.connection.uses > 1
            try:
                refusals = await transaction.begin(sender, recipients)
            except BaseException as error:
                is_dead = bool(transaction.connection.lost) or transaction.closes
                self.put_back(transaction)
                if isinstance(error, Exception) and is_dead and was_used and may_retry:
                    may_retry = False
                    self.pool.drop_idle()
                    continue
                self.tell(error)
                raise
            return transaction, refusals

    async def _on_connection(self, origin: Origin | None, wait: float) -> Transaction:
        try:
            connection = await self.pool.acquire(origin, wait)
        except Unavailable as error:
            self.tell(error)
            raise
        connection.uses += 1
        return Transaction(connection, self.patience, lmtp=self._lmtp, max_hops=self._max_hops)

    def put_back(self, transaction: Transaction) -> None:
        """Give the connection of a transaction back, which may still be open."""
        if transaction.is_in_message or transaction.closes:
            transaction.connection.fail("the message was not completed")
        if transaction.is_open and transaction.connection.is_settled:
            self.spawn(self._reset(transaction))
        else:
            self.pool.release(transaction.connection)

    async def _reset(self, transaction: Transaction) -> None:
        is_good = False
        try:
            with contextlib.suppress(Unavailable):
                is_good = await transaction.reset()
        finally:
            if is_good:
                self.pool.release(transaction.connection)
            else:
                self.pool.discard(transaction.connection)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine that the end of the sink waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Whether the next hop is up.

    def tell(self, error: BaseException | None) -> None:
        """Count a failure of the next hop, or that it has answered."""
        if isinstance(error, (Unavailable, Unclear)):
            self._availability.failed(error)
        elif error is None or isinstance(error, Refused):
            self._availability.answered()

    async def _probe(self) -> None:
        """Connect, and keep the connection for the next message."""
        self.pool.release(await self.pool.acquire(None, self.patience.connect))

    async def close(self, patience: float) -> None:
        """End: wait for what is under way for at most `patience` seconds, then cut it."""
        await self._wait(patience)
        await self._availability.close()
        self.pool.fail_used()
        self.pool.close()
        await self._wait(CUTTING)
        for task in self._tasks:
            task.cancel()
        await self._wait(CUTTING)

    async def _wait(self, patience: float) -> None:
        if self._tasks:
            await asyncio.wait([*self._tasks], timeout=patience)
