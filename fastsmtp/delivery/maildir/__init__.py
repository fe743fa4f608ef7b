"""A Maildir as a destination: one file for each message, synced before its 250."""

from fastsmtp.delivery.maildir.sink import Maildir

__all__ = ["Maildir"]
