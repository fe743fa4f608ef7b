"""The log of the parent: short lines, written at once, without a thread and without waiting.

A line that a stopped reader has no room for is lost. Lines up to a notice go to stdout, errors to
stderr, or all of them to a file, in the form that the workers' lines have, as in `log`.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import Final

from fastsmtp.gateway.log import open_log
from fastsmtp.gateway.log_lines import of_text

__all__ = ["Notes"]

_STDOUT: Final = 1
_STDERR: Final = 2
_NAME: Final = "fastsmtp"
# Characters of a text in a form that must be whole: JSON may take six octets for each, and a pipe
# takes PIPE_BUF octets.
_LONGEST: Final = 600


class Notes:
    """Writes the lines of the parent. form: as in `log`."""

    def __init__(self, form: str = "text") -> None:
        self.form = form
        self._path = ""
        self._file = -1

    def say(self, text: str) -> None:
        """Write a plain line on stdout: messages at start and end."""
        if self.form == "text":
            self._write(_STDOUT, f"{_NAME}: {text}\n")
        else:
            self.tell(text)

    def tell(self, text: str) -> None:
        """Write a line with the time on stdout."""
        self._write(_STDOUT, self._line(text, "info"))

    def warn(self, text: str) -> None:
        """Write a line with the time on stderr."""
        self._write(_STDERR, self._line(text, "warning"))

    def complain(self, text: str) -> None:
        """Write a line about an error with the time on stderr."""
        self._write(_STDERR, self._line(text, "error"))

    def _line(self, text: str, level: str) -> str:
        if self.form != "text":
            text = text[:_LONGEST]
        return of_text(time.time(), text, _NAME, self.form, level)

    def write_to(self, path: str) -> None:
        """Write to this file from now on, opened again if it was open; "": to stdout and stderr.
        Raises OSError; then it goes on as it was.
        """
        fresh = open_log(path) if path else -1
        self.close()
        self._path, self._file = path, fresh

    def reopen(self) -> None:
        """Open the file again, which may have been renamed."""
        try:
            self.write_to(self._path)
        except OSError as error:
            self.complain(f"SIGHUP: the log goes on in the file that was renamed: {error.strerror}")

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, descriptor: int, line: str) -> None:
        # A pipe that can be written to has room for PIPE_BUF octets, and takes them whole.
        octets = line.encode("utf-8", "backslashreplace")
        if len(octets) > select.PIPE_BUF:
            octets = octets[: select.PIPE_BUF - 1] + b"\n"
        if self._file >= 0:
            descriptor = self._file
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        with contextlib.suppress(OSError):
            if any(events & select.POLLOUT for _, events in poll.poll(0)):
                os.write(descriptor, octets)
