"""A real `fastsmtp serve`: started, spoken to, stopped. For tests; nothing here sleeps.

`Gateway` starts the process and returns when it listens. The output of a `Program` is read by
threads, so that no pipe is ever full, and a test can wait for a line.
"""

from __future__ import annotations

import mailbox
import os
import queue
import re
import signal
import smtplib
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import fastsmtp

# What anything here may take before the test has failed; nothing waits so long unless it hangs.
PATIENCE = 60.0

AS_ROOT = "fastsmtp: running as root: "  # one more line of a start

RECEIVED = re.compile(rb"\nReceived: from [^\n]*\n\tby [^\n]*(?:\n\tfor [^\n]*)?\n")


def environment(**more: str) -> dict[str, str]:
    """The environment of a child that imports the fastsmtp that this process has imported, and that
    is configured by its arguments alone.
    """
    package = Path(fastsmtp.__file__).parent.parent
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FASTSMTP_")}
    kept["FASTSMTP_CONFIG"] = os.devnull
    return kept | {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"} | more


def environment_of_others() -> dict[str, str]:
    """The environment of a program that is not ours: a sanitizer that is loaded before the system's
    libraries reports nothing about it, and may stop it.
    """
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def errors_in(lines: Iterable[str]) -> list[str]:
    """Return lines of stderr without the warnings that a machine which stands still causes."""
    return [line for line in lines if "held the event loop" not in line]


class Lines:
    """What a stream of a process says: `all` so far, and `wait` for a line still to come."""

    def __init__(self, stream: IO[str]) -> None:
        self.all: list[str] = []
        self._stream = stream
        self._new: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            for line in self._stream:
                self.all.append(line.rstrip("\n"))
                self._new.put(line.rstrip("\n"))
        self._new.put(None)

    def wait(self, pattern: str) -> re.Match[str]:
        """Return the match of the next line that has `pattern`; fail when there is none."""
        while (line := self._new.get(timeout=PATIENCE)) is not None:
            found = re.search(pattern, line)
            if found is not None:
                return found
        raise AssertionError(f"no line with {pattern!r} in {self.all}")

    def finish(self) -> list[str]:
        """Return all lines, when the process has ended."""
        self._thread.join(PATIENCE)
        return self.all


class Program:
    """A process of the environment for tests whose output is read; it is killed at the end of the
    block.
    """

    def __init__(self, line: Sequence[str], **options: Any) -> None:
        options = {"env": environment(), "stdin": subprocess.DEVNULL} | options
        self.process: subprocess.Popen[str] = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out = Lines(self.process.stdout)
        self.err = Lines(self.process.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.kill()

    def errors(self) -> list[str]:
        """Return the errors that were reported so far."""
        return errors_in(self.err.all)

    def stop(self, *signals: signal.Signals) -> int:
        """Send the signals (default: SIGTERM), wait, and return the exit status."""
        for number in signals or (signal.SIGTERM,):
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the process to end by itself and return its exit status."""
        status = self.process.wait(PATIENCE)
        self.out.finish()
        self.err.finish()
        return status

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.wait()


class Gateway(Program):
    """One run of `fastsmtp serve` on a free port of 127.0.0.1, unless `listen` says otherwise.

    maildir: where it delivers to; None: `arguments` say it, or name an application. program: what
    runs it, in Python. is_up: the line by which it serves.
    """

    def __init__(
        self,
        maildir: Path | None,
        *arguments: str,
        listen: Sequence[str] = ("127.0.0.1:0",),
        program: Sequence[str] = ("-m", "fastsmtp"),
        env: Mapping[str, str] | None = None,
        is_up: str = "delivering to ",
        **options: Any,
    ) -> None:
        where = [f"--listen={each}" for each in listen]
        if maildir is not None:
            self.maildir = maildir
            where.append(f"--maildir={maildir}")
        line = [sys.executable, *program, "serve", *where, *arguments]
        super().__init__(line, env=environment(**(env or {})), **options)
        try:
            self.out.wait(is_up)
        except AssertionError:
            self.kill()
            raise AssertionError(f"it did not start: {self.err.finish()}") from None
        found = [re.search(r"listening on [^ ]*:(\d+)$", line) for line in self.out.all]
        self.ports = [int(match[1]) for match in found if match is not None]

    def said_at_start(self) -> list[str]:
        """Return the lines of the start, without the one that only root gets."""
        return [line for line in self.out.all if not line.startswith(AS_ROOT)]

    def client(self, *, at: int = 0) -> smtplib.SMTP:
        """Return a connection that has greeted, to the listener with number `at`."""
        client = smtplib.SMTP("127.0.0.1", self.ports[at], "c.example", timeout=PATIENCE)
        client.ehlo()
        return client

    def send(self, message: bytes, *recipients: str, sender: str = "a@x.example") -> None:
        """Send one message; raises what smtplib raises."""
        with self.client() as client:
            client.sendmail(sender, recipients or ("b@y.example",), message)


@contextmanager
def terminal() -> Iterator[str]:
    """The path of a terminal without input."""
    ends = os.openpty()
    try:
        yield os.ttyname(ends[1])
    finally:
        for end in ends:
            os.close(end)


def command(*arguments: str, name: str = "serve") -> list[str]:
    """The command line of `fastsmtp serve`, or of another command."""
    return [sys.executable, "-m", "fastsmtp", name, *arguments]


def run_to_end(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `fastsmtp serve` where it is expected not to start."""
    options.setdefault("env", environment())
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=PATIENCE, **options
    )


def messages(maildir: Path) -> list[bytes]:
    """Return the messages as Python's mailbox reads them, in the order of their names."""
    box = mailbox.Maildir(str(maildir), create=False)
    return [box.get_bytes(key) for key in sorted(box.keys())]


def body_of(message: bytes) -> bytes:
    """Return what was sent, with the line ends of the wire: what stands after our own headers."""
    assert message.startswith(b"Return-Path: <")
    received = RECEIVED.search(message)
    assert received is not None, message[:1000]
    return message[received.end() :].replace(b"\n", b"\r\n")


def bodies(maildir: Path) -> list[bytes]:
    """Return what was sent of all messages."""
    return [body_of(message) for message in messages(maildir)]


def leftovers(maildir: Path) -> list[str]:
    """Return what lies in tmp/."""
    return sorted(os.listdir(maildir / "tmp"))
