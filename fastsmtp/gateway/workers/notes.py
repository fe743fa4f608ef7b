"""The log of the parent: short lines, written at once, without a thread and without waiting.

A line that a stopped reader has no room for is lost. Lines up to a notice go to stdout, errors to
stderr, as in `log`.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import Final

from fastsmtp.gateway.log import line_of

__all__ = ["Notes"]

_STDOUT: Final = 1
_STDERR: Final = 2


class Notes:
    """Writes the lines of the parent."""

    def say(self, text: str) -> None:
        """Write a plain line on stdout: messages at start and end."""
        _write(_STDOUT, f"fastsmtp: {text}\n")

    def tell(self, text: str) -> None:
        """Write a line with the time on stdout."""
        _write(_STDOUT, line_of(time.time(), text))

    def warn(self, text: str) -> None:
        """Write a line with the time on stderr."""
        _write(_STDERR, line_of(time.time(), f"warning: {text}"))

    def complain(self, text: str) -> None:
        """Write a line about an error with the time on stderr."""
        _write(_STDERR, line_of(time.time(), f"error: {text}"))


def _write(descriptor: int, line: str) -> None:
    # A pipe that can be written to has room for PIPE_BUF octets, and takes them whole.
    octets = line.encode("utf-8", "backslashreplace")
    if len(octets) > select.PIPE_BUF:
        octets = octets[: select.PIPE_BUF - 1] + b"\n"
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    with contextlib.suppress(OSError):
        if any(events & select.POLLOUT for _, events in poll.poll(0)):
            os.write(descriptor, octets)
