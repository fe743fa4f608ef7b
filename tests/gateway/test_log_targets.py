"""A log that blocks, fills or vanishes costs lines, which are counted; mail goes on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import smtplib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import PATIENCE, command, environment, messages, run_to_end

pytest_plugins = ["gateway_fixtures"]
pytestmark = pytest.mark.one_python
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"


class Client(smtplib.LMTP):
    """SMTP on a UNIX socket."""

    ehlo_msg = "ehlo"


class Served:
    """A gateway on UNIX sockets, whose log is the file `log`; nothing else says that it listens."""

    def __init__(self, place: Path, log: str) -> None:
        self.maildir, self._mail, self._admin = place / "mail", place / "s", place / "a"
        arguments = [f"--listen=smtp:{self._mail}", f"--admin=unix:{self._admin}"]
        arguments += [f"--maildir={self.maildir}", f"--log-file={log}"]
        self.process = subprocess.Popen(
            command(*arguments), stdout=subprocess.DEVNULL, env=environment()
        )
        until(lambda: self.metric("ready") == 1)

    def send(self, count: int) -> None:
        with Client(str(self._mail)) as client:
            for _ in range(count):
                client.sendmail("a@x.example", "b@y.example", MESSAGE)

    def metric(self, name: str) -> float:
        with contextlib.suppress(OSError, IndexError), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self._admin))
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            with client.makefile("rb") as answer:
                return float(answer.read().partition(f"\nfastsmtp_{name} ".encode())[2].split()[0])
        return 0.0

    def dropped(self) -> float:
        return self.metric("log_lines_dropped_total")


@contextlib.contextmanager
def served(place: Path, log: str) -> Iterator[Served]:
    found = Served(place, log)
    try:
        yield found
        found.process.send_signal(signal.SIGTERM)
        assert found.process.wait(PATIENCE) == 0
    finally:
        found.process.kill()
        found.process.wait()


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_mail_goes_on_while_the_disk_of_the_log_is_full(tmp_path: Path) -> None:
    with served(tmp_path, "/dev/full") as it:
        it.send(3)
        until(lambda: it.dropped() >= 3)
        assert it.metric("log_lines_total") == 0
        assert len(messages(it.maildir)) == 3


def test_mail_goes_on_while_nobody_reads_the_log(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    with served(tmp_path, str(pipe)) as it:
        it.send(40)  # more than the pipe takes: the writer waits, and nobody else
        assert len(messages(it.maildir)) == 40
        os.close(reader)  # now each write fails
        it.send(3)
        until(lambda: it.dropped() >= 3)
        it.process.send_signal(signal.SIGHUP)  # cannot be opened again, which must not wait
        it.send(3)
        assert len(messages(it.maildir)) == 46


def test_mail_goes_on_when_the_log_has_vanished_and_a_reload_makes_it_again(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = folder / "mail.log"
    with served(tmp_path, str(log)) as it:
        shutil.rmtree(folder)
        it.process.send_signal(signal.SIGHUP)  # there is no folder
        it.send(1)
        folder.mkdir()
        it.process.send_signal(signal.SIGHUP)
        until(log.exists)
        it.send(1)
        until(lambda: " delivered id=" in log.read_text())
        assert it.dropped() == 0
        assert len(messages(it.maildir)) == 2


def test_a_pipe_that_nobody_reads_is_an_error_at_the_start(tmp_path: Path, maildir: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    found = run_to_end(
        "--listen=127.0.0.1:0", f"--maildir={maildir}", f"--log-file={tmp_path / 'pipe'}"
    )
    assert found.returncode == 1
    assert found.stderr.startswith("fastsmtp: error: --log-file: cannot open ")
    assert found.stderr.count("\n") == 1
