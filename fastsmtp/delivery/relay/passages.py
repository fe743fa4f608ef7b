"""Transactions that are open at the next hop while the client still speaks to us: its RCPT gets the
next hop's own answer, and its message goes where MAIL and RCPT went.

The client decides how long it takes. A passage whose client has begun anew or is idle is given up
when another needs its connection; it begins again when its client goes on. Then, and when its
connection was lost, all its recipients are named to the next hop again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from fastsmtp import Address
from fastsmtp.delivery.errors import DeliveryError, Unavailable
from fastsmtp.delivery.log import logger
from fastsmtp.delivery.record import Recipient, Record
from fastsmtp.delivery.relay.commands import Sender, recipient_of, sender_of_session
from fastsmtp.delivery.relay.connection import Origin
from fastsmtp.delivery.relay.conversations import Conversations
from fastsmtp.delivery.relay.transaction import Transaction
from fastsmtp.errors import SMTPError
from fastsmtp.session import Session

if TYPE_CHECKING:
    from fastsmtp.hook_types import Callback

__all__ = ["PassageHooks", "Passages"]

IDLE: Final = 5.0  # seconds after which a client may lose its connection to one that waits
SWEEP: Final = 10.0  # seconds between two looks for clients that have begun anew


class _Passage:
    """The transaction of one client. has_work: a command is on its way."""

    __slots__ = ("envelope", "has_work", "origin", "recipients", "sender", "session", "since", "tx")

    def __init__(self, session: Session, sender: Sender, origin: Origin | None) -> None:
        self.session = session
        self.envelope = session.envelope
        self.sender = sender
        self.origin = origin
        self.recipients: list[Recipient] = []
        self.tx: Transaction | None = None
        self.has_work = False
        self.since = 0.0  # when its last command was answered, of the loop's clock


class Passages:
    """All of one relay. origin_of: returns the client that the next hop is told of."""

    def __init__(
        self, conversations: Conversations, origin_of: Callable[[Session], Origin | None]
    ) -> None:
        self._conversations = conversations
        self._origin_of = origin_of
        self._open: dict[str, _Passage] = {}  # by the id of the session
        self._sweeping: asyncio.TimerHandle | None = None

    async def mail(self, address: Address, session: Session) -> None:
        """Begin the transaction of a client; raises DeliveryError."""
        self.end(session)
        sender = sender_of_session(address.address, address.args, session)
        passage = _Passage(session, sender, self._origin_of(session))
        self._open[session.id] = passage
        try:
            await self._work(passage, self._begin(passage))
        except DeliveryError:
            self.end(session)
            raise
        self._watch()

    async def rcpt(self, address: Address, session: Session) -> None:
        """Name a recipient to the next hop; raises DeliveryError."""
        passage = self._open.get(session.id)
        if passage is None:
            raise Unavailable("there is no transaction for this recipient")
        recipient = recipient_of(address)
        await self._work(passage, self._name(passage, recipient))
        passage.recipients.append(recipient)

    def take(self, record: Record) -> tuple[Transaction | None, Sender | None]:
        """Return the open transaction of this message, which is the caller's then, and the facts of
        its MAIL. None: there is none, or it does not have the same recipients.
        """
        passage = self._open.pop(record.id.rpartition("-")[0], None)
        if passage is None:
            return None, None
        tx = passage.tx
        if tx is None or (tx.is_usable and tuple(passage.recipients) == record.rcpt_to):
            return tx, passage.sender
        self._conversations.put_back(tx)
        return None, passage.sender

    def end(self, session: Session) -> None:
        """The client has begun anew, or has gone."""
        passage = self._open.pop(session.id, None)
        if passage is not None:
            self._give_up(passage)

    def sweep(self) -> None:
        """Give up what no client needs, and, while others wait, what clients leave idle."""
        limit = asyncio.get_running_loop().time() - IDLE
        for key, passage in [*self._open.items()]:
            if passage.has_work:
                continue
            if passage.session.envelope is not passage.envelope:
                del self._open[key]
                self._give_up(passage)
            elif passage.since <= limit and self._conversations.pool.waiting:
                self._give_up(passage)
        self._watch()

    def _give_up(self, passage: _Passage) -> None:
        tx, passage.tx = passage.tx, None
        if tx is not None:
            if passage.has_work:
                tx.connection.fail("its client has gone")
            self._conversations.put_back(tx)

    async def _work(self, passage: _Passage, work: Coroutine[Any, Any, None]) -> None:
        passage.has_work = True
        try:
            await work
        finally:
            passage.has_work = False
            passage.since = asyncio.get_running_loop().time()

    async def _begin(self, passage: _Passage) -> None:
        tx, refusals = await self._conversations.begin(
            passage.origin, passage.sender, passage.recipients
        )
        error = next(filter(None, refusals), None)
        if error is not None or self._open.get(passage.session.id) is not passage:
            self._conversations.put_back(tx)
            raise error or Unavailable("its client has gone")
        passage.tx = tx

    async def _name(self, passage: _Passage, recipient: Recipient) -> None:
        if passage.tx is None or not passage.tx.is_usable:
            self._give_up(passage)
            await self._begin(passage)
        assert passage.tx is not None
        error = await passage.tx.rcpt(recipient)
        if error is not None:
            raise error

    def _watch(self) -> None:
        """Look again later, and sooner if others wait."""
        if self._open:
            loop = asyncio.get_running_loop()
            pause = IDLE if self._conversations.pool.waiting else SWEEP
            if self._sweeping is not None:
                if self._sweeping.when() <= loop.time() + pause:
                    return
                self._sweeping.cancel()
            self._sweeping = loop.call_later(pause, self._look)

    def _look(self) -> None:
        self._sweeping = None
        self.sweep()

    def close(self) -> None:
        """Give up all of them."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        passages, self._open = self._open, {}
        for passage in passages.values():
            self._give_up(passage)


class PassageHooks:
    """The hooks `on_mail_from`, `on_rcpt_to` and `on_close` that ask the next hop.

    refusal: asked first.
    """

    def __init__(
        self,
        passages: Passages,
        conversations: Conversations,
        refusal: Callable[[], SMTPError | None],
    ) -> None:
        self._passages = passages
        self._conversations = conversations
        self._refusal = refusal

    def on_mail_from(self, address: Address, session: Session, callback: Callback) -> None:
        """Begin the transaction at the next hop; its refusal is ours."""
        if (refusal := self._refusal()) is not None:
            callback(refusal)
        else:
            self._answer(self._passages.mail(address, session), callback)

    def on_rcpt_to(self, address: Address, session: Session, callback: Callback) -> None:
        """Answer as the next hop does."""
        self._answer(self._passages.rcpt(address, session), callback)

    def on_close(self, session: Session) -> None:
        """The client has gone: so has its transaction."""
        self._passages.end(session)

    def _answer(self, work: Coroutine[Any, Any, None], callback: Callback) -> None:
        self._conversations.spawn(_answered(work, callback))


async def _answered(work: Coroutine[Any, Any, None], callback: Callback) -> None:
    try:
        await work
    except DeliveryError as error:
        callback(error.reply)
    except Exception as error:  # a fault of ours must not leave the client without an answer
        logger.error("the relay has failed", exc_info=error)
        callback(Unavailable("the relay has failed").reply)
    else:
        callback(None)
