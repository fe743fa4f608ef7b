"""`Relay`: a sink whose 250 is that of the next mail server.

Why there is a client of our own here: aiosmtplib 5 takes a message as one object and rewrites its
line ends, waits for one reply after the final dot (LMTP has one for each recipient), cannot send
two commands at once (RFC 2920), and drops what a server says between commands, so that the 421 of a
dying connection is lost. None of that can be set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Unpack

from fastsmtp.delivery.ending import to_the_end
from fastsmtp.delivery.errors import DeliveryError, Unavailable
from fastsmtp.delivery.hook import MAX_IN_FLIGHT, deliver
from fastsmtp.delivery.log import Entry, log_entry
from fastsmtp.delivery.promise import Promise
from fastsmtp.delivery.record import Record
from fastsmtp.delivery.relay.commands import Sender, sender_of
from fastsmtp.delivery.relay.connection import Origin
from fastsmtp.delivery.relay.conversations import Conversations
from fastsmtp.delivery.relay.gauges import Gauges
from fastsmtp.delivery.relay.next_hop import NextHopOptions, Patience, next_hop
from fastsmtp.delivery.relay.passages import PassageHooks, Passages
from fastsmtp.delivery.relay.pool import CLOSING
from fastsmtp.delivery.relay.stream import Opened, SentBody, StreamedBody
from fastsmtp.delivery.sink import BodyWriter, Fate, Receipt, Sink
from fastsmtp.errors import SMTPError
from fastsmtp.log_text import text_of
from fastsmtp.metrics import Tally
from fastsmtp.session import Session

__all__ = ["Relay"]

# Octets; a larger message is passed on while it arrives. As much as a stream may hold back anyway.
MAX_RECORD: Final = 64 * 1024
MAX_CONNECTIONS: Final = 50  # the limit of Postfix for one client
IDLE_TIMEOUT: Final = 30.0  # seconds; servers wait for minutes, but less under load
MAX_HOPS: Final = 100  # RFC 5321 §6.3
WAIT: Final = 60.0  # seconds of a whole message for a free connection
_RECEIVED: Final = b"\r\nReceived: "


class Relay(Sink):
    """Passes each message on to the next mail server, by SMTP or LMTP, before its 250.

    host, port: of the next hop; a `host` that begins with "/" is the path of a UNIX socket. port:
    None for 25, 465 with implicit TLS, 24 in LMTP. lmtp: speak LMTP (RFC 2033). tls: "starttls",
    "implicit" or "off"; None: "off" to this machine, else "starttls". ca: file with the authorities
    to trust, "" for those of the system. verify: False accepts any certificate. server_name: to
    which the certificate must belong, "" for `host`. cert, key: files of our own certificate. user,
    password: for AUTH, by SCRAM-SHA-256, PLAIN or LOGIN. name: ours, for EHLO. forward: "xclient"
    or "proxy" tells the next hop of the client, "" does not. max_connections, idle_timeout
    (seconds): of the pool. patience: how long to wait. max_hops: fields Received beyond which a
    message is refused.

    The attribute next_hop has the place and the ways of talking to it.

    Raises ValueError that names the argument.
    """

    max_record = MAX_RECORD
    done = "relayed"
    receipt_key = "next_hop"
    passes_replies = True

    def __init__(
        self,
        host: str,
        port: int | None = None,
        *,
        max_connections: int = MAX_CONNECTIONS,
        idle_timeout: float = IDLE_TIMEOUT,
        patience: Patience = Patience(),  # noqa: B008 - it cannot be changed
        max_hops: int = MAX_HOPS,
        **options: Unpack[NextHopOptions],
    ) -> None:
        self.next_hop = next_hop(host, port, **options)
        if max_connections < 1:
            raise ValueError(f"max_connections: takes a number from 1 on, got {max_connections}")
        if min(idle_timeout, *patience) <= 0:
            raise ValueError("idle_timeout and patience: take seconds, more than 0")
        self._conversations = Conversations(
            *(self.next_hop, patience),
            max_connections=max_connections,
            idle_timeout=idle_timeout,
            max_hops=max_hops,
        )
        self._gauges = Gauges()
        self._passages = Passages(self._conversations, self._origin_of_session)
        self._conversations.pool.on_wait = self._passages.sweep

    def __str__(self) -> str:
        return str(self.next_hop)

    async def start(self) -> Promise:
        """Connect, and see that the next hop takes our TLS, login and XCLIENT.

        Raises ValueError that names what to change, and Unavailable without an answer.
        """
        if self.promise is not None:
            raise RuntimeError(f"the relay to {self} was started before")
        await self._conversations.start()
        self.promise = Promise.NEXT_HOP
        return self.promise

    async def close(self, patience: float) -> None:
        """End; what the next hop has not answered after `patience` seconds gets an error."""
        self.promise = None
        self._passages.close()
        await to_the_end(self._conversations.close(patience))

    def refusal(self) -> SMTPError | None:
        """Return the refusal while the next hop is down, or too many messages wait for it."""
        return self._conversations.refusal()

    def hooks(
        self,
        *,
        name: str | None = None,
        headers: bool = True,
        max_in_flight: int = MAX_IN_FLIGHT,
        log: Callable[[Entry], object] = log_entry,
    ) -> Mapping[str, Any]:
        """Return hooks for `SMTPServer(**relay.hooks())` that ask the next hop at once: each MAIL
        and each RCPT gets its answer. The arguments are those of `deliver`.
        """
        delivery = deliver(self, name=name, headers=headers, max_in_flight=max_in_flight, log=log)
        early = self.early_hooks(delivery.refusal)
        return {"on_connect": delivery.on_connect, "on_data": delivery, **early}

    def early_hooks(self, refusal: Callable[[], SMTPError | None]) -> Mapping[str, Any]:
        """Return the hooks that ask the next hop before the message has come."""
        asking = PassageHooks(self._passages, self._conversations, refusal)
        return {
            "on_mail_from": asking.on_mail_from,
            "on_rcpt_to": asking.on_rcpt_to,
            "on_close": asking.on_close,
        }

    def measure_in(self, tally: Tally) -> None:
        """Set the gauges of the connections."""
        self._gauges.set(tally, self._conversations.pool)

    def put(self, record: Record) -> asyncio.Future[Receipt]:
        """Pass one message on. The receipt has the next hop's replies."""
        if self.promise is None:
            raise RuntimeError("the relay was not started: `await sink.start()` comes first")
        return self._conversations.spawn(self._relay(record))

    def begin(self, record: Record) -> BodyWriter:
        """Begin a message that is passed on while it arrives."""
        return StreamedBody(
            lambda: self._begun(record),
            self._conversations.put_back,
            self._conversations.spawn,
            _trace(record.headers),
        )

    async def _relay(self, record: Record) -> Receipt:
        body = record.body
        opened = body.writer.take() if isinstance(body, SentBody) else None
        try:
            if opened is not None:
                return await self._ended(record, opened, None)
            if not isinstance(body, bytes):
                if not isinstance(body, SentBody) or body.size:
                    raise Unavailable("a relay takes bodies that it has begun itself")
                body = b""  # nothing was written
            headers = _trace(record.headers)
            sender = sender_of(record, len(headers) + len(body))
            return await self._ended(record, await self._opened(record, sender), headers + body)
        except asyncio.CancelledError:  # at the end of the sink, before the message was sent
            raise Unavailable(CLOSING) from None

    async def _begun(self, record: Record) -> Opened:
        """Begin the transaction of a message that is streamed, up to its content."""
        opened = transaction, refusals = await self._opened(record, sender_of(record, 0))
        try:
            if not transaction.recipients:
                raise _gravest(refusals)
            await transaction.data()
        except BaseException:
            self._conversations.put_back(transaction)
            raise
        return opened

    async def _opened(self, record: Record, sender: Sender) -> Opened:
        """Return a transaction for a record, the open one of its client if there is one."""
        transaction, known = self._passages.take(record)
        if transaction is not None:
            return transaction, [None] * len(record.rcpt_to)
        opened = await self._conversations.begin(
            self._origin_of(record), known or sender, record.rcpt_to, WAIT
        )
        if any(opened[1]) and not (record.lmtp or self.gives_fates):
            # Its client gets one reply, which would be wrong for those that are accepted.
            self._conversations.put_back(opened[0])
            raise _gravest(opened[1])
        return opened

    async def _ended(self, record: Record, opened: Opened, message: bytes | None) -> Receipt:
        """Send the message, or the end of one that was streamed; return the fates."""
        transaction, refusals = opened
        try:
            if not transaction.recipients:
                found = []
            elif message is None:
                found = await transaction.end()
            else:
                found = await transaction.message(message)
        except DeliveryError as error:
            self._conversations.tell(error)
            raise
        finally:
            self._conversations.put_back(transaction)
        for fate in found:
            self._conversations.tell(fate if isinstance(fate, DeliveryError) else None)
        rest = iter(found)
        fates: list[Fate] = [next(rest) if error is None else error for error in refusals]
        if all(fate is fates[0] for fate in fates):
            if isinstance(fates[0], DeliveryError):
                raise fates[0]
            return fates[0]
        return fates

    def _origin_of(self, record: Record) -> Origin | None:
        client = record.client
        if not self.next_hop.forward:
            return None
        return Origin(
            *(client.address, 0, "", 0),
            *(client.name, client.helo, client.protocol, client.user),
        )

    def _origin_of_session(self, session: Session) -> Origin | None:
        if not self.next_hop.forward:
            return None
        name, user = session.client_hostname, session.user
        return Origin(
            *(session.remote_address, session.remote_port),
            *(session.local_address, session.local_port),
            *("" if name.startswith("[") else name, session.host_name_appears_as),
            *(session.transmission_type, "" if user is None else text_of(user)),
        )


def _trace(headers: bytes) -> bytes:
    """Return our Received alone: Return-Path and Delivered-To are for the final delivery (RFC 5321
    §4.4), and Delivered-To would show each recipient to all others.
    """
    found = headers.find(_RECEIVED)
    return headers if found < 0 else headers[found + 2 :]


def _gravest(refusals: list[DeliveryError | None]) -> DeliveryError:
    """Return a temporary refusal if there is one: after it, the client sends the message again."""
    found = [error for error in refusals if error is not None]
    return min(found, key=lambda error: error.reply.response_code or 0)
