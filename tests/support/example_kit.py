"""A program of examples/ at work: started, spoken to, and ended by SIGTERM."""

from __future__ import annotations

import os
import signal
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clients import PATIENCE
from serving import errors_in

EXAMPLES = Path(__file__).parents[2] / "examples"
IS_POSSIBLE = [
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="examples/ is not in this package"),
    pytest.mark.skipif(sys.platform == "win32", reason="ended by a signal of POSIX"),
]
BODY = b"Subject: Hi there\r\n\r\n.text\r\n"


class Example:
    """One program at work. place: what it has printed after "listening on ". said: all that it has
    printed later, complete once it has ended.
    """

    def __init__(self, command: list[str], **variables: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, env=os.environ | variables
        )
        assert self.process.stdout is not None
        self.place = self.process.stdout.readline().removeprefix("listening on ").rstrip()
        self.said: list[str] = []

    @contextmanager
    def until_its_end(self, *, status: int = 0) -> Iterator[Example]:
        """End it after the body, with this status and nothing on its stderr."""
        try:
            yield self
            self.process.send_signal(signal.SIGTERM)
            out, err = self.process.communicate(timeout=PATIENCE)
            assert (self.process.returncode, errors_in(err.splitlines())) == (status, [])
            self.said += out.splitlines()
        finally:
            self.process.kill()
            self.process.communicate()


@contextmanager
def example(name: str, *arguments: str, **variables: str) -> Iterator[Example]:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    with Example(command, **variables).until_its_end() as running:
        yield running


def smtp(running: Example) -> smtplib.SMTP:
    port = running.place.partition(",")[0]
    return smtplib.SMTP("127.0.0.1", int(port), timeout=PATIENCE)
