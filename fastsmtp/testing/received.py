"""One message, as a server for tests keeps it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from fastsmtp import Envelope, Session

if TYPE_CHECKING:
    from email.message import EmailMessage

__all__ = ["ReceivedMessage"]


class ReceivedMessage:
    """A message that was accepted, with its envelope.

    mail_from: the sender, "" for the null reverse-path. rcpt_to: the recipients, in LMTP those for
    which it was accepted. content: its octets. envelope: all parameters of MAIL and RCPT. user: who
    had authenticated, None without AUTH. secure: whether it came over TLS.
    """

    def __init__(self, session: Session, content: bytes, rcpt_to: list[str]) -> None:
        self.envelope: Envelope = session.envelope
        sender = self.envelope.mail_from
        assert sender is not None
        self.mail_from: str = sender.address
        self.rcpt_to = rcpt_to
        self.content = content
        self.user: object = session.user
        self.secure: bool = session.secure

    @cached_property
    def message(self) -> EmailMessage:
        """The message, parsed with `email.policy.SMTP`."""
        from email import message_from_bytes
        from email.policy import SMTP

        return message_from_bytes(self.content, policy=SMTP)

    def __repr__(self) -> str:
        to = ", ".join(self.rcpt_to)
        subject = self.message["subject"]
        return (
            f"<message from {self.mail_from or '<>'} to {to}, {len(self.content)} octets,"
            f" subject {None if subject is None else str(subject)!r:.80}>"
        )
