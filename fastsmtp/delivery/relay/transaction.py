"""One mail transaction on a connection to the next hop: MAIL, RCPT, DATA, the message, the fates.

Raised: `DeliveryError`. Whatever raises leaves the transaction open or the connection lost: its
owner then resets or discards it. After the final dot a lost connection is `Unclear`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastsmtp.delivery.errors import DeliveryError, Unclear
from fastsmtp.delivery.record import Recipient
from fastsmtp.delivery.relay.commands import Sender, mail_command, rcpt_command
from fastsmtp.delivery.relay.connection import HopConnection
from fastsmtp.delivery.relay.content import Content
from fastsmtp.delivery.relay.next_hop import Patience
from fastsmtp.delivery.relay.replies import HopLost, HopReply, refusal_of
from fastsmtp.delivery.sink import Fate

__all__ = ["Transaction"]

_DATA_REPLY = 354


class Transaction:
    """recipients: those that the next hop has accepted. is_open: whether MAIL was accepted and the
    message has no answer yet. closes: the next hop has sent 421, or something without sense.
    """

    __slots__ = (
        *("closes", "connection", "is_in_message", "is_open", "recipients"),
        *("_content", "_lmtp", "_patience", "_smtp_utf8"),
    )

    def __init__(
        self, connection: HopConnection, patience: Patience, *, lmtp: bool, max_hops: int
    ) -> None:
        self.connection = connection
        self.recipients: list[Recipient] = []
        self.is_open = False
        self.is_in_message = False
        self.closes = False
        self._patience = patience
        self._lmtp = lmtp
        self._smtp_utf8 = False
        self._content = Content(max_hops=max_hops, takes_8bit=connection.offers.has_8bit)

    @property
    def is_usable(self) -> bool:
        """Whether another command can be sent."""
        return self.connection.is_settled and not self.closes

    async def begin(
        self, sender: Sender, recipients: Sequence[Recipient]
    ) -> list[DeliveryError | None]:
        """MAIL, and RCPT for each recipient, in one go where the next hop takes that (RFC 2920).

        Return for each recipient None, or why it is refused; raise why the sender is.
        """
        connection = self.connection
        mail = mail_command(connection.offers, sender)
        self._smtp_utf8 = sender.smtp_utf8
        lines = [self._rcpt_line(recipient) for recipient in recipients]
        ready = [line for line in lines if isinstance(line, bytes)]
        if connection.offers.has_pipelining:
            connection.send(b"".join([mail, *ready]), 1 + len(ready))
        else:
            connection.send(mail)
        refusal = self._refusal(await self._reply("MAIL"))
        self.is_open = refusal is None
        found: list[DeliveryError | None] = []
        for recipient, line in zip(recipients, lines, strict=True):
            if isinstance(line, bytes):
                if not connection.offers.has_pipelining:
                    if refusal is not None:
                        break
                    connection.send(line)
                found.append(self._accept(recipient, await self._reply("RCPT")))
            else:
                found.append(line)
        if refusal is not None:
            raise refusal
        return found

    async def rcpt(self, recipient: Recipient) -> DeliveryError | None:
        """One more recipient: return None, or why it is refused."""
        line = self._rcpt_line(recipient)
        if not isinstance(line, bytes):
            return line
        self.connection.send(line)
        return self._accept(recipient, await self._reply("RCPT"))

    async def message(self, octets: bytes) -> list[Fate]:
        """Send a whole message; return the fate of each recipient."""
        # Before DATA, after which only a lost connection could keep the message back.
        encoded = self._content.encode(octets) + self._content.end()
        await self.data()
        return await self._end(encoded)

    async def data(self) -> None:
        """Begin the message; raises Refused."""
        # After the 354 a reply may come at any time, though it should wait for the end.
        finals = len(self.recipients) if self._lmtp else 1
        self.connection.send(b"DATA\r\n", 1 + finals)
        reply = await self._reply("DATA")
        if reply.code != _DATA_REPLY:
            self.connection.expect_fewer(finals)
            self.closes = reply.closes or reply.code < 400
            raise refusal_of(reply, self.connection.place)
        self.is_in_message = True

    def write(self, octets: bytes) -> asyncio.Future[None] | None:
        """Send a piece of the message. If a future is returned, wait for it before the next one."""
        self._check_no_reply()
        self.connection.send(self._content.encode(octets), 0)
        return self.connection.room(self._patience.block)

    async def end(self) -> list[Fate]:
        """Send the final dot after the last piece; return the fate of each recipient."""
        return await self._end(self._content.end())

    async def _end(self, last: bytes) -> list[Fate]:
        self._check_no_reply()
        self.connection.send(last, 0)
        self.is_open = self.is_in_message = False
        count = len(self.recipients)
        if not self._lmtp:
            return [await self._fate()] * count
        return [await self._fate() for _ in range(count)]

    async def reset(self) -> bool:
        """End the transaction without a message; return whether the connection can be used."""
        reply = await self.connection.command(b"RSET\r\n", self._patience.command, "RSET")
        self.is_open = False
        return reply.is_positive

    def _rcpt_line(self, recipient: Recipient) -> bytes | DeliveryError:
        try:
            return rcpt_command(self.connection.offers, recipient, self._smtp_utf8)
        except DeliveryError as error:
            return error

    async def _reply(self, what: str) -> HopReply:
        return await self.connection.reply(self._patience.command, what)

    def _accept(self, recipient: Recipient, reply: HopReply) -> DeliveryError | None:
        refusal = self._refusal(reply)
        if refusal is None:
            self.recipients.append(recipient)
        return refusal

    def _refusal(self, reply: HopReply) -> DeliveryError | None:
        if reply.is_positive:
            return None
        error = refusal_of(reply, self.connection.place)
        if reply.closes or reply.code < 400:
            # There will be no other replies, or none that can be relied on.
            self.closes = True
            raise error
        return error

    def _check_no_reply(self) -> None:
        """Raise the reply that has come before the end of the message."""
        early = self.connection.early_reply()
        if early is not None:
            self.closes = True
            raise refusal_of(early, self.connection.place)

    async def _fate(self) -> Fate:
        try:
            reply = await self.connection.reply(self._patience.final, "the message")
        except HopLost as error:
            return Unclear(str(error))
        except asyncio.CancelledError:
            raise Unclear("it was cancelled before the reply to the message") from None
        if reply.is_positive:
            return str(reply)
        self.closes = self.closes or reply.closes
        if reply.code < 400:
            self.closes = True
            return Unclear(f"{self.connection.place}: unexpected reply {reply}")
        return refusal_of(reply, self.connection.place)
