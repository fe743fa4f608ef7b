"""A Maildir as a destination: one file for each message, synced before its 250."""

import os

try:
    from fastsmtp.delivery.maildir.sink import Maildir
except ModuleNotFoundError:
    if os.name == "posix":
        raise
    raise ImportError("fastsmtp.delivery.maildir needs Linux or macOS") from None

__all__ = ["Maildir"]
