"""The log of the gateway: escaped text, written without ever blocking the loop.

`LogWriter` is a logging handler with a queue and a thread of its own: a full disk, a closed pipe or
a reader that has stopped reading costs log lines, never mail. What waits is written at once, in one
call; the lines about messages are formatted there too.

Lines up to INFO go to stdout, WARNING and above to stderr.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import re
import select
import threading
import time
import traceback
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, TypeAlias

from fastsmtp.delivery import Entry
from fastsmtp.log_text import escaped

__all__ = ["LogWriter", "complain", "line_of", "logger", "open_standard_files"]

logger = logging.getLogger("fastsmtp.gateway")

MAX_LINE: Final = 2048  # characters of a whole line: a few texts of peers and their names
MAX_TRACEBACK: Final = 16384  # characters
MAX_WAITING: Final = 4096  # lines that wait for a slow reader, about 1 MB; more are dropped
MAX_TOGETHER: Final = 512  # lines in one write
# Seconds between two writes. A single line is written at once; with many lines, the thread would
# otherwise wake up, and take the GIL, for each of them.
PAUSE: Final = 0.02
FLUSH_SECONDS: Final = 2.0  # at the end, because the reader may be gone

_STDOUT: Final = 1
_STDERR: Final = 2

# Descriptor, and a line or the parts of one: the time and the message.
_Item: TypeAlias = "tuple[int, str | tuple[float, Entry]]"

_PLAIN: Final = " \\"  # allowed in our own lines, escaped in texts of peers
_BREAKS: Final = re.compile(r"[\r\n]+")


class _LineFormatter(logging.Formatter):
    """One record, one line; only a traceback adds more lines, which are indented."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        # Our own lines are escaped already; this is for lines of other code.
        text = escaped(record.getMessage(), MAX_LINE, plain=_PLAIN)
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        lines = [f"{_time(record.created)} {self._name}: {level}{text}"]
        if record.exc_info and record.exc_info[1] is not None:
            # Only the end, which has the reason: a RecursionError has a thousand frames.
            trace = "".join(traceback.format_exception(record.exc_info[1]))[-MAX_TRACEBACK:]
            lines += ["    " + escaped(line, MAX_LINE, plain=_PLAIN) for line in _lines_of(trace)]
        return "\n".join(lines)


def _time(moment: float) -> str:
    return f"{_second(int(moment))},{int(moment % 1 * 1000):03}"


@lru_cache(2)
def _second(moment: int) -> str:
    # Digits only: no names of days or months that a locale could change.
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _lines_of(text: str) -> list[str]:
    return [line for line in _BREAKS.split(text) if line]


class LogWriter(logging.Handler):
    """Writes lines in a thread of its own. Lines that were lost are counted in `dropped`, and in a
    line of the same stream as soon as it can be written again.

    worker: the number of this worker, which every line tells; 0 in a process without a parent.
    """

    def __init__(self, worker: int = 0) -> None:
        super().__init__()
        self.dropped = 0
        self._untold = {_STDOUT: 0, _STDERR: 0}  # lost, and not yet in a line
        self._counting = threading.Lock()
        self._name = f"fastsmtp[{worker}]" if worker else "fastsmtp"
        # A pipe takes so many octets whole, also when other workers write to it.
        self._longest = select.PIPE_BUF if worker else 0
        self.setFormatter(_LineFormatter(self._name))
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        # A daemon: if it hangs in a write to a stopped reader, the process must still end.
        self._thread = threading.Thread(target=self._run, name="fastsmtp-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record; never raises, never waits."""
        descriptor = _STDERR if record.levelno >= logging.WARNING else _STDOUT
        try:
            text = self.format(record)
        except Exception:  # foreign code: the arguments may not fit the format
            self._count(descriptor, 1)
            return
        self._put(descriptor, text)

    def add(self, entry: Entry) -> None:
        """Queue the line about a message; never raises, never waits."""
        self._put(_STDOUT, (time.time(), entry))

    def say(self, text: str) -> None:
        """Write one plain line on stdout: messages at start and end."""
        self._put(_STDOUT, f"{self._name}: {text}")

    def finish(self) -> None:
        """Write the waiting lines, for at most FLUSH_SECONDS, and end the thread."""
        self._ending.set()
        self._items.put(None)
        self._thread.join(FLUSH_SECONDS)

    def _put(self, descriptor: int, text: str | tuple[float, Entry]) -> None:
        if self._items.qsize() < MAX_WAITING:
            self._items.put((descriptor, text))
        else:
            self._count(descriptor, 1)

    def _count(self, descriptor: int, lines: int) -> None:
        with self._counting:  # several threads log
            self.dropped += lines
            self._untold[descriptor] += lines

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            items = [self._items.get()]
            with contextlib.suppress(queue.Empty):
                while len(items) < MAX_TOGETHER and items[-1] is not None:
                    items.append(self._items.get_nowait())
            if items[-1] is None:
                goes_on = False
                del items[-1]
            self._write([item for item in items if item is not None])
            self._ending.wait(PAUSE)
        for descriptor in self._untold:
            self._write_lines(descriptor, [])

    def _write(self, items: list[_Item]) -> None:
        """Write lines in their order, those that follow each other on one stream together."""
        for descriptor, group in itertools.groupby(items, lambda item: item[0]):
            self._write_lines(descriptor, [self._line(text) for _, text in group])

    def _write_lines(self, descriptor: int, lines: list[str]) -> None:
        untold = self._untold[descriptor]
        if untold:
            told = f"warning: {untold} log lines were dropped"
            lines = [line_of(time.time(), told, self._name), *lines]
        octets = "".join(lines).encode("utf-8", "backslashreplace")
        try:
            for piece in _pieces(octets, self._longest):
                _write_all(descriptor, piece)
        except OSError:  # disk full or pipe closed, which must not stop the mail
            self._count(descriptor, len(lines) - bool(untold))
        else:
            with self._counting:
                self._untold[descriptor] -= untold

    def _line(self, text: str | tuple[float, Entry]) -> str:
        if isinstance(text, str):
            return f"{text}\n"
        moment, entry = text
        return line_of(moment, str(entry), self._name)


def line_of(moment: float, text: str, name: str = "fastsmtp") -> str:
    """Return a line of the log, with its end. moment: Unix time. name: of the process."""
    return f"{_time(moment)} {name}: {escaped(text, MAX_LINE, plain=_PLAIN)}\n"


def _pieces(octets: bytes, longest: int) -> Iterator[bytes]:
    """Yield whole lines, as many as `longest` octets have room for; 0: all."""
    while longest and len(octets) > longest:
        end = octets.rfind(b"\n", 0, longest) + 1 or longest
        yield octets[:end]
        octets = octets[end:]
    yield octets


def complain(message: str) -> None:
    """Write one line about an error that ends the program; stderr may be closed or full."""
    line = f"fastsmtp: error: {escaped(message, MAX_LINE, plain=_PLAIN)}\n"
    with contextlib.suppress(OSError):
        _write_all(_STDERR, line.encode("utf-8", "backslashreplace"))


def _write_all(descriptor: int, octets: bytes) -> None:
    view = memoryview(octets)
    while view:
        view = view[os.write(descriptor, view) :]


def open_standard_files() -> None:
    """Open the descriptors 0, 1 and 2 on /dev/null if they are closed.

    Otherwise the first file or socket that we open would get one of these numbers, and output of a
    library to stderr would end up in a message or at a client.
    """
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > _STDERR:
            os.close(descriptor)
            return
        os.set_inheritable(descriptor, True)
