"""The hooks of the gateway: which recipients it takes, and what becomes of a message.

A message goes to disk as it comes: the event loop collects WRITE_OCTETS of it, a thread of `Disk`
writes them. Never is the whole of it in memory, and never does the loop wait for the disk.

There is one file per message, whatever the number of its recipients, for there is one mailbox for
all of them; in LMTP they all get its fate.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

from fastsmtp import Address
from fastsmtp.blocking import call_in_thread
from fastsmtp.delivery.arrival import record_of
from fastsmtp.delivery.trace import trace_headers
from fastsmtp.errors import MessageAborted, SMTPError
from fastsmtp.gateway.config import domain_key
from fastsmtp.gateway.delivery.maildir import Delivery, Maildir, UnixLines
from fastsmtp.gateway.log import logger
from fastsmtp.log_text import clean, client_word
from fastsmtp.session import Session
from fastsmtp.stream import DataStream

__all__ = ["Disk", "Receiver"]

P = ParamSpec("P")
T = TypeVar("T")

DISK_THREADS: Final = 16  # fsyncs that wait together share one commit of the file system's journal
WRITE_OCTETS: Final = 64 * 1024  # the credit of a DataStream: more would only wait longer


class Disk:
    """A bounded number of threads for calls that block.

    Each connection has at most one call waiting here, so what waits is bounded by the number of
    clients.
    """

    def __init__(self, threads: int = DISK_THREADS) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="fastsmtp-disk")

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `job(...)` returns, or raise what it raises; once asked for, it is done."""
        loop = asyncio.get_running_loop()
        # The error comes back as a value: one that nobody waits for any more must not be reported
        # as lost.
        result, error = await asyncio.shield(
            loop.run_in_executor(self._threads, lambda: _outcome(lambda: job(*args, **kwargs)))
        )
        if error is not None:
            raise error
        assert result is not None
        return result[0]

    def start(self, job: Callable[[], object]) -> None:
        """Have `job` run, and do not wait for it."""
        self._threads.submit(job)

    def close(self) -> None:
        """Wait for the jobs that were begun."""
        self._threads.shutdown(wait=True)

    async def close_within(self, patience: float) -> bool:
        """The same, but for `patience` seconds at most; False: some have not ended, and they would
        be waited for when the interpreter ends.
        """
        closing = call_in_thread(asyncio.get_running_loop(), self.close, "fastsmtp-disk-close")
        done, _ = await asyncio.wait([closing], timeout=patience)
        return bool(done)


def _outcome(job: Callable[[], T]) -> tuple[tuple[T] | None, BaseException | None]:
    try:
        return (job(),), None
    except BaseException as error:
        return None, error


class Receiver:
    """The hooks for one kind of listener.

    domains: the `domain_key`s that mail is taken for; empty: every domain. lmtp: answer for each
    recipient.
    """

    def __init__(
        self, maildir: Maildir, disk: Disk, *, name: str, domains: frozenset[str], lmtp: bool
    ) -> None:
        self._maildir = maildir
        self._disk = disk
        self._name = name
        self._domains = domains
        self._lmtp = lmtp

    def on_rcpt_to(
        self, address: Address, session: Session, callback: Callable[[Exception | None], Any]
    ) -> None:
        """Take recipients of our domains, and Postmaster without a domain (RFC 5321 §4.5.1)."""
        domain = address.domain
        if not self._domains or not domain or domain_key(domain) in self._domains:
            callback(None)
            return
        callback(SMTPError("No such recipient here, relay denied", 550, "5.1.1"))

    async def on_data(self, stream: DataStream, session: Session) -> str | list[str] | None:
        """Store one message; its answer comes only when it is on disk."""
        facts = _facts(session)
        identity = f"{session.id}-{session.transaction}"
        recipients = len(session.envelope.rcpt_to)
        headers = trace_headers(record_of(session, self._name, time.time()), b"")
        delivery = self._maildir.deliver()
        try:
            name = await self._store(stream, delivery, headers)
        except SMTPError as refused:
            _log("refused", facts, stream, reason=_system_reason(refused.__cause__))
            raise
        except MessageAborted as aborted:
            await self._disk.run(delivery.discard)
            _log("aborted", facts, stream, reason=aborted.reason)
            raise
        except BaseException as error:
            # Cancelled: the client was, or will be, told 451 or nothing at all. No waiting here.
            self._disk.start(delivery.discard)
            _log("aborted", facts, stream, reason=type(error).__name__)
            raise
        if not name:
            _log("refused", facts, stream, reason="larger than --size")
            return None  # the engine answers 552 5.3.4
        _log("delivered", facts, stream, file=name)
        answer = f"OK: message delivered, id {identity}"
        return [answer] * recipients if self._lmtp else answer

    async def _store(self, stream: DataStream, delivery: Delivery, headers: bytes) -> str:
        """Bring the message to disk, return its name; "" when it was too large: nothing is kept."""
        lines = UnixLines()
        waiting = bytearray()
        begun = False
        async for piece in stream:
            if not begun:
                begun = True
                waiting += headers + _separator(piece)
            waiting += piece
            if len(waiting) >= WRITE_OCTETS:
                await self._disk.run(delivery.write, lines.convert(waiting))
                waiting = bytearray()
        if stream.size_exceeded:
            await self._disk.run(delivery.discard)
            return ""
        if not begun:
            waiting += headers
        return await self._disk.run(delivery.commit, lines.convert(waiting) + lines.end())


def _separator(first: bytes) -> bytes:
    """Return what must stand between our headers and the message.

    One that begins with a space would go on with our last header field, as if we had written it; it
    has no header of its own (RFC 5322 §2.2.3), so an empty line makes it what it is, a body.
    """
    return b"\r\n" if first[:1] in (b" ", b"\t") else b""


def _facts(session: Session) -> str:
    """Return what a log line says of the transaction, every word of the client's cleaned."""
    envelope = session.envelope
    sender = "" if envelope.mail_from is None else envelope.mail_from.address
    first = envelope.rcpt_to[0].address if envelope.rcpt_to else ""
    client = client_word(session.client_hostname, session.remote_address)
    return (
        f"id={session.id}-{session.transaction} from=<{clean(sender)}> to=<{clean(first)}> "
        f"recipients={len(envelope.rcpt_to)} client={client} "
        f"helo={clean(session.host_name_appears_as)} with={session.transmission_type}"
        f"{_security(session)}"
    )


def _security(session: Session) -> str:
    """Return what TLS and AUTH have brought about, "" in plaintext and without a login."""
    tls = session.tls_options if session.secure else None
    told = f" tls={tls['version']}/{tls['standard_name']}" if tls else ""
    return told if session.user is None else f"{told} user={clean(session.user)}"


def _log(what: str, facts: str, stream: DataStream, **more: str) -> None:
    words = " ".join(f"{key}={clean(value)}" for key, value in more.items())
    logger.info("%s %s size=%d %s", what, facts, stream.byte_length, words)


def _system_reason(cause: BaseException | None) -> str:
    if isinstance(cause, OSError) and cause.errno is not None:
        return f"{errno.errorcode.get(cause.errno, cause.errno)}:{os.strerror(cause.errno)}"
    return "unknown"
