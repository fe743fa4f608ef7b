"""What the gateway writes for people: cleaned text, and a way out that never holds up the loop.

`LogWriter` is a logging handler with a queue and a thread of its own: a full disk, a closed pipe or
a reader that has stopped reading costs log lines, never mail.

Lines up to INFO go to stdout, WARNING and above to stderr.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import threading
import traceback
from typing import Final

from fastsmtp.log_text import escaped

__all__ = ["LogWriter", "complain", "logger", "open_standard_files"]

logger = logging.getLogger("fastsmtp.gateway")

MAX_LINE: Final = 2048  # characters of a whole message: a few such texts and their names
MAX_TRACEBACK: Final = 16384  # characters
MAX_WAITING: Final = 4096  # lines that wait for a slow reader, about 1 MB of them; more are dropped
FLUSH_SECONDS: Final = 2.0  # at the end, for a reader that may have gone

_STDOUT: Final = 1
_STDERR: Final = 2

_PLAIN: Final = " \\"  # what a line of ours may have and a word of a peer may not
_BREAKS: Final = re.compile(r"[\r\n]+")


class _LineFormatter(logging.Formatter):
    """One record, one line; only a traceback makes more of them, and those are indented."""

    def format(self, record: logging.LogRecord) -> str:
        # Our own lines are clean word by word; this is for those of others.
        text = escaped(record.getMessage(), MAX_LINE, plain=_PLAIN)
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        # formatTime writes digits only: no names of days or months that a locale could change.
        lines = [f"{self.formatTime(record)} fastsmtp: {level}{text}"]
        if record.exc_info and record.exc_info[1] is not None:
            # From its end, where the reason stands: a RecursionError has a thousand frames.
            trace = "".join(traceback.format_exception(record.exc_info[1]))[-MAX_TRACEBACK:]
            lines += ["    " + escaped(line, MAX_LINE, plain=_PLAIN) for line in _lines_of(trace)]
        return "\n".join(lines)


def _lines_of(text: str) -> list[str]:
    return [line for line in _BREAKS.split(text) if line]


class LogWriter(logging.Handler):
    """Writes lines from a thread of its own; `dropped` counts those that could not be."""

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0
        self.setFormatter(_LineFormatter())
        self._lines: queue.Queue[tuple[int, str] | None] = queue.Queue(MAX_WAITING)
        # A daemon: one that hangs in a write to a stopped reader must not keep the process.
        self._thread = threading.Thread(target=self._run, name="fastsmtp-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record; never raises, never waits."""
        try:
            text = self.format(record)
        except Exception:  # a record of foreign code whose arguments do not fit its format
            self.dropped += 1
            return
        self._put(_STDERR if record.levelno >= logging.WARNING else _STDOUT, text)

    def say(self, text: str) -> None:
        """Write one plain line on stdout: what the program tells at start and end."""
        self._put(_STDOUT, f"fastsmtp: {text}")

    def finish(self) -> None:
        """Write what waits, for at most FLUSH_SECONDS, and end the thread."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=FLUSH_SECONDS)
            self._thread.join(FLUSH_SECONDS)

    def _put(self, descriptor: int, text: str) -> None:
        try:
            self._lines.put_nowait((descriptor, text))
        except queue.Full:
            self.dropped += 1

    def _run(self) -> None:
        while (item := self._lines.get()) is not None:
            descriptor, text = item
            try:
                _write_all(descriptor, (text + "\n").encode("utf-8", "backslashreplace"))
            except OSError:  # disk full, pipe closed: the mail goes on
                self.dropped += 1


def complain(message: str) -> None:
    """Write the one line about an error that ends the program; stderr may be closed or full."""
    line = f"fastsmtp: error: {escaped(message, MAX_LINE, plain=_PLAIN)}\n"
    with contextlib.suppress(OSError):
        _write_all(_STDERR, line.encode("utf-8", "backslashreplace"))


def _write_all(descriptor: int, octets: bytes) -> None:
    view = memoryview(octets)
    while view:
        view = view[os.write(descriptor, view) :]


def open_standard_files() -> None:
    """Give the descriptors 0, 1 and 2 to /dev/null where they are closed.

    Else the first file or socket we open would get one of these numbers, and a stray line of a
    library would be written into a message or to a client.
    """
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > _STDERR:
            os.close(descriptor)
            return
        os.set_inheritable(descriptor, True)
