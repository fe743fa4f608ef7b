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
import operator
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from fastsmtp.delivery import TOO_LATE, Entry
from fastsmtp.gateway.log_lines import MAX_LINE, of_outcome, of_record, of_text
from fastsmtp.log_text import escaped
from fastsmtp.metrics import Tally, cell
from fastsmtp.transactions import Outcome

__all__ = ["LogWriter", "complain", "logger", "open_log", "open_standard_files"]

logger = logging.getLogger("fastsmtp.gateway")

MAX_WAITING: Final = 4096  # lines that wait for a slow reader, about 1 MB; more are dropped
MAX_TOGETHER: Final = 512  # lines in one write
# Seconds between two writes. A single line is written at once; with many lines, the thread would
# otherwise wake up, and take the GIL, for each of them.
PAUSE: Final = 0.02
FLUSH_SECONDS: Final = 2.0  # at the end, because the reader may be gone

_LINES: Final = cell("log_lines_total")
_DROPPED: Final = cell("log_lines_dropped_total")

_STDOUT: Final = 1
_STDERR: Final = 2

# Descriptor, and lines or the parts of them: the time, and what became of a message.
_Item: TypeAlias = "tuple[int, str | tuple[float, Entry | Outcome]]"

_PLAIN: Final = " \\"  # allowed in our own lines, escaped in texts of peers


class LogWriter(logging.Handler):
    """Writes lines in a thread of its own. Lines that were lost are counted in `dropped`, and in a
    line of the same stream as soon as it can be written again.

    worker: the number of this worker, which every line tells; 0 in a process without a parent.
    form: one of FORMS. path: of a file for all lines, "" for stdout and stderr. Raises OSError.
    tally: where lines are counted, may be set later.
    """

    def __init__(self, worker: int = 0, form: str = "text", path: str = "") -> None:
        super().__init__()
        self.tally = Tally()
        self._form = form
        self._path = path
        self._file = open_log(path) if path else None
        self.dropped = 0
        self._untold = {_STDOUT: 0, _STDERR: 0}  # lost, and not yet in a line
        self._counting = threading.Lock()
        self._name = f"fastsmtp[{worker}]" if worker else "fastsmtp"
        # A pipe takes so many octets whole, also when other workers write to it.
        self._longest = select.PIPE_BUF if worker else 0
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        # A daemon: if it hangs in a write to a stopped reader, the process must still end.
        self._thread = threading.Thread(target=self._run, name="fastsmtp-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record; never raises, never waits."""
        descriptor = _STDERR if record.levelno >= logging.WARNING else _STDOUT
        try:
            text = of_record(record, self._name, self._form)
        except Exception:  # foreign code: the arguments may not fit the format
            self._count(descriptor, 1)
            return
        self._put(descriptor, text)

    def add(self, entry: Entry) -> None:
        """Queue the line about a message; never raises, never waits."""
        self._put(_STDOUT, (time.time(), entry))

    def add_late(self, entry: Entry) -> None:
        """As `add`, if the entry says more than the outcome of its message: the answer came when
        the client had another one.
        """
        if entry.value == TOO_LATE:
            self.add(entry)

    def tell(self, outcome: Outcome) -> None:
        """Queue the lines about a message or a refusal; never raises, never waits."""
        self._put(_STDOUT, (time.time(), outcome))

    def say(self, text: str) -> None:
        """Write one plain line on stdout: messages at start and end."""
        if self._form == "text":
            self._put(_STDOUT, f"{self._name}: {text}\n")
        else:
            self._put(_STDOUT, of_text(time.time(), text, self._name, self._form))

    def reopen(self) -> None:
        """Open the file again, which may have been renamed. Raises OSError; then it goes on as it
        was.
        """
        if self._file is not None:
            fresh = open_log(self._path)
            os.dup2(fresh, self._file, inheritable=False)
            os.close(fresh)

    def finish(self) -> None:
        """Write the waiting lines, for at most FLUSH_SECONDS, and end the thread."""
        self._ending.set()
        self._items.put(None)
        self._thread.join(FLUSH_SECONDS)

    def _put(self, descriptor: int, text: str | tuple[float, Entry | Outcome]) -> None:
        if self._items.qsize() < MAX_WAITING:
            self._items.put((descriptor, text))
        else:
            self._count(descriptor, 1)

    def _count(self, descriptor: int, lines: int) -> None:
        with self._counting:  # several threads log
            self.dropped += lines
            self.tally.add(_DROPPED, lines)
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
        for descriptor, group in itertools.groupby(items, operator.itemgetter(0)):
            self._write_lines(descriptor, list(self._lines(descriptor, group)))

    def _lines(self, descriptor: int, items: Iterable[_Item]) -> Iterator[str]:
        for _, text in items:
            try:
                yield self._line(text)
            except Exception:  # foreign code may be in it, and this thread must not end
                self._count(descriptor, 1)

    def _write_lines(self, descriptor: int, lines: list[str]) -> None:
        untold = self._untold[descriptor]
        if untold:
            told = f"{untold} log lines were dropped"
            lines = [of_text(time.time(), told, self._name, self._form, "warning"), *lines]
        octets = "".join(lines).encode("utf-8", "backslashreplace")
        try:
            for piece in _pieces(octets, self._longest):
                _write_all(descriptor if self._file is None else self._file, piece)
        except OSError:  # disk full or pipe closed, which must not stop the mail
            self._count(descriptor, len(lines) - bool(untold))
        else:
            self.tally.add(_LINES, len(lines))
            with self._counting:
                self._untold[descriptor] -= untold

    def _line(self, text: str | tuple[float, Entry | Outcome]) -> str:
        if isinstance(text, str):
            return text
        moment, found = text
        if isinstance(found, Outcome):
            return of_outcome(moment, found, self._name, self._form)
        return of_text(moment, str(found), self._name, self._form)


def open_log(path: str) -> int:
    """Open a file for lines at its end, and return its descriptor. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    # Without O_NONBLOCK, a named pipe that nobody reads would block the start, or the event loop.
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o640)
    os.set_blocking(descriptor, True)
    return descriptor


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
    """Open the descriptors 0, 1 and 2 on /dev/null if they are closed, and Python's files for them.

    Otherwise the first file or socket that we open would get one of these numbers, and output of a
    library to stderr would end up in a message or at a client.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
