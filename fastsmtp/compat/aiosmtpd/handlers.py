"""The ready handlers: print, drop, pass on, parse, and store in a Maildir."""

from __future__ import annotations

import asyncio
import mailbox
import os
import smtplib
import sys
import threading
from abc import ABCMeta, abstractmethod
from argparse import ArgumentParser
from email.message import Message as EmailMessage
from email.parser import BytesParser, Parser
from typing import Any, Self, TextIO, TypeAlias

from fastsmtp import SMTPError
from fastsmtp.compat.aiosmtpd.checks import SwallowsMail
from fastsmtp.compat.aiosmtpd.session import Envelope, Session
from fastsmtp.compat.aiosmtpd.smtp import SMTP

__all__ = ["AsyncMessage", "Debugging", "Mailbox", "Message", "Proxy", "Sink"]

AnyMessage: TypeAlias = "EmailMessage[str, str]"


class Sink(SwallowsMail):
    """Acknowledges every message and drops it."""

    @classmethod
    def from_cli(cls, parser: ArgumentParser, *args: str) -> Self:
        """Return a handler for arguments of a command line: there are none."""
        if args:
            parser.error("Sink handler does not accept arguments")
        return cls()


class Debugging:
    """Prints every message. stream: where to, standard output by default."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream: TextIO = sys.stdout if stream is None else stream

    @classmethod
    def from_cli(cls, parser: ArgumentParser, *args: str) -> Self:
        """Return a handler for `stdout`, `stderr` or nothing."""
        streams = {(): None, ("stdout",): sys.stdout, ("stderr",): sys.stderr}
        if args not in streams:
            parser.error("Debugging usage: [stdout|stderr]")
        return cls(streams.get(args))

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Print options, headers, the client and the body."""
        assert envelope.content is not None
        lines = ["---------- MESSAGE FOLLOWS ----------"]
        told = {"mail options": envelope.mail_options, "rcpt options": envelope.rcpt_options}
        options = [f"{name}: {words}" for name, words in told.items() if words]
        lines += [*options, ""] if options else []
        content = envelope.content
        text = content if isinstance(content, str) else content.decode("utf-8", "replace")
        body = text.splitlines()
        if "" in body:
            body.insert(body.index(""), f"X-Peer: {session.peer!r}")
        lines += [*body, "------------ END MESSAGE ------------", ""]
        self.stream.write("\n".join(lines))
        return "250 OK"


class Proxy:
    """Passes every message on to another server, and its refusals back to the client.

    A recipient that the other server refuses refuses the message, before its body is sent there:
    the client keeps it, and nobody gets it twice.
    """

    def __init__(self, remote_hostname: str, remote_port: int) -> None:
        self._hostname = remote_hostname
        self._port = remote_port

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Send the message on in a thread; raises SMTPError with what the other server says."""
        content = envelope.original_content or b""
        head, ending, body = content.partition(b"\r\n\r\n")
        peer = session.peer[0] if isinstance(session.peer, tuple) else "localhost"
        data = b"%b\r\nX-Peer: %b%b%b" % (head, peer.encode(), ending or b"\r\n\r\n", body)
        sender = "" if envelope.mail_from in (None, "<>") else str(envelope.mail_from)
        utf8 = envelope.smtp_utf8
        await asyncio.to_thread(self._send, sender, list(envelope.rcpt_tos), data, utf8=utf8)
        return "250 OK"

    def _send(self, sender: str, recipients: list[str], data: bytes, *, utf8: bool) -> None:
        options = ["SMTPUTF8"] if utf8 else []
        try:
            with smtplib.SMTP(self._hostname, self._port, timeout=60) as client:
                client.ehlo_or_helo_if_needed()
                if utf8:
                    client.command_encoding = "utf-8"
                _check(*client.mail(sender, options))
                for recipient in recipients:
                    _check(*client.rcpt(recipient))
                _check(*client.data(data))
        except smtplib.SMTPResponseException as error:
            _check(error.smtp_code, error.smtp_error)
            raise
        except (OSError, smtplib.SMTPException) as error:
            raise SMTPError("4.4.1 the next server cannot be reached", 451) from error


def _check(code: int, text: bytes | str) -> None:
    if not 200 <= code < 300:
        told = text if isinstance(text, str) else text.decode("utf-8", "replace")
        raise SMTPError(told, code if 400 <= code < 600 else 451)


class MessageBase(metaclass=ABCMeta):
    """Parses every message. message_class: of the result, `email.message.Message` by default."""

    def __init__(self, message_class: type[AnyMessage] | None = None) -> None:
        self.message_class = message_class

    def prepare_message(self, session: Session, envelope: Envelope) -> AnyMessage:
        """Return the message with headers X-Peer, X-MailFrom and X-RcptTo.

        Raises TypeError for a content that is neither octets nor text.
        """
        data: object = envelope.content
        made: Any = self.message_class or EmailMessage
        if isinstance(data, (bytes, bytearray)):
            message: AnyMessage = BytesParser(made).parsebytes(bytes(data))
        elif isinstance(data, str):
            message = Parser(made).parsestr(data)
        else:
            raise TypeError(f"Expected str or bytes, got {type(data)}")
        message["X-Peer"] = str(session.peer)
        message["X-MailFrom"] = str(envelope.mail_from)
        message["X-RcptTo"] = ", ".join(envelope.rcpt_tos)
        return message

    @abstractmethod
    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Handle the message."""


class Message(MessageBase, metaclass=ABCMeta):
    """Gives every message to `handle_message`, which runs on the loop and must not block."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Call `handle_message`; what it raises refuses the message."""
        self.handle_message(self.prepare_message(session, envelope))
        return "250 OK"

    @abstractmethod
    def handle_message(self, message: AnyMessage) -> None:
        """Keep the message; to return is to have kept it."""


class AsyncMessage(MessageBase, metaclass=ABCMeta):
    """Gives every message to the coroutine `handle_message`."""

    def __init__(
        self,
        message_class: type[AnyMessage] | None = None,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(message_class)
        self.loop = loop

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Await `handle_message`; what it raises refuses the message."""
        await self.handle_message(self.prepare_message(session, envelope))
        return "250 OK"

    @abstractmethod
    async def handle_message(self, message: AnyMessage) -> None:
        """Keep the message; to return is to have kept it."""


class Mailbox(Message):
    """Stores every message in a Maildir, synced to the disk before it is acknowledged."""

    def __init__(
        self, mail_dir: str | os.PathLike[str], message_class: type[AnyMessage] | None = None
    ) -> None:
        self.mailbox = mailbox.Maildir(mail_dir)
        self.mail_dir = mail_dir
        self._lock = threading.Lock()
        super().__init__(message_class)

    @classmethod
    def from_cli(cls, parser: ArgumentParser, *args: str) -> Self:
        """Return a handler for the directory that is the only argument."""
        if not args:
            parser.error("The directory for the maildir is required")
        if len(args) > 1:
            parser.error("Too many arguments for Mailbox handler")
        return cls(args[0])

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Store the message in a thread, for a disk may block."""
        await asyncio.to_thread(self.handle_message, self.prepare_message(session, envelope))
        return "250 OK"

    def handle_message(self, message: AnyMessage) -> None:
        """Add the message; `mailbox` syncs the file, this the directory."""
        with self._lock:
            self.mailbox.add(mailbox.MaildirMessage(message))
            directory = os.open(os.path.join(self.mail_dir, "new"), os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def reset(self) -> None:
        """Remove every message."""
        with self._lock:
            self.mailbox.clear()
