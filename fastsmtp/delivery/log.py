"""Log entries of deliveries: one for each message, formatted when it is written.

An entry is made for every message on the event loop, so it only keeps its values; the writer makes
the text, in a thread of its own if it has one.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from fastsmtp.delivery.record import Client, Record
from fastsmtp.log_text import clean, client_word

__all__ = ["Entry", "entry_of", "log_entry", "logger"]

logger = logging.getLogger("fastsmtp.delivery")


class Entry(NamedTuple):
    """The fate of one message; `str(entry)` is its line.

    what: "delivered", "queued", "refused" or "aborted". recipient: the first of `recipients`. size:
    octets of the body that arrived. key, value: the last field of the line, such as "file" or
    "reason".
    """

    what: str
    id: str
    mail_from: str
    recipient: str
    recipients: int
    client: Client
    size: int
    key: str
    value: str

    def __str__(self) -> str:
        # Every word of the client is escaped; the others are ours.
        client = self.client
        tls = f" tls={clean(client.tls.replace(' ', '/'))}" if client.tls else ""
        user = f" user={clean(client.user)}" if client.user else ""
        return (
            f"{self.what} id={self.id} from=<{clean(self.mail_from)}> to=<{clean(self.recipient)}> "
            f"recipients={self.recipients} client={client_word(client.name, client.address)} "
            f"helo={clean(client.helo)} with={client.protocol}{tls}{user} "
            f"size={self.size} {self.key}={clean(self.value)}"
        )


def entry_of(what: str, record: Record, size: int, key: str, value: str) -> Entry:
    """Return the entry of a message; it does not keep the body in memory."""
    recipients = record.rcpt_to
    first = recipients[0].address if recipients else ""
    sender, client = record.mail_from, record.client
    # The constructor of a named tuple is a function of Python, and this one is not.
    return tuple.__new__(
        Entry, (what, record.id, sender, first, len(recipients), client, size, key, value)
    )


def log_entry(entry: Entry) -> None:
    """Log to the logger `fastsmtp.delivery`, at INFO."""
    logger.info("%s", entry)
