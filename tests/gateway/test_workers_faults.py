"""What goes wrong in a worker, or around the parent, ends neither the parent nor its clients."""

from __future__ import annotations

import os
import re
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from serving import PATIENCE, Gateway, Lines, command, environment
from worker_kit import Parent

from fastsmtp.gateway.admin.pages import Pages
from fastsmtp.gateway.workers.changes import MAX_LEAVING, Changes
from fastsmtp.gateway.workers.child import start
from fastsmtp.gateway.workers.parent import Slot
from fastsmtp.gateway.workers.reactor import Reactor

pytest_plugins = ["gateway_fixtures"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SO_REUSEPORT with BPF, /proc")

PARENT = os.getpid()
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"


def gone(tmp_path: Path) -> Path:
    directory = tmp_path / "release"
    directory.mkdir()
    return directory


def test_a_reload_changes_nothing_when_the_working_directory_is_gone(
    tmp_path: Path, maildir: Path
) -> None:
    directory = gone(tmp_path)
    relative = os.path.relpath(maildir, directory)
    with Parent(None, f"--maildir={relative}", workers=2, cwd=directory) as parent:
        before = parent.workers()
        directory.rmdir()
        for _ in range(2):
            parent.process.send_signal(signal.SIGHUP)
            parent.err.wait("SIGHUP: everything stays as it was: the working directory cannot be")
        assert parent.workers() == before
        parent.send(MESSAGE)
        assert parent.stop() == 0
        assert len(parent.errors()) == 2


def test_a_reload_without_workers_changes_nothing_either(
    tmp_path: Path, maildir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = gone(tmp_path)
    monkeypatch.chdir(directory)
    with Gateway(Path(os.path.relpath(maildir))) as gateway:
        monkeypatch.undo()
        directory.rmdir()
        for _ in range(2):
            gateway.process.send_signal(signal.SIGHUP)
            gateway.err.wait("the configuration stays as it was: the working directory cannot be")
        gateway.send(MESSAGE)
        assert gateway.stop() == 0


def test_a_start_in_a_directory_that_is_gone_is_one_line(tmp_path: Path) -> None:
    directory = gone(tmp_path)
    done = subprocess.run(
        command("--listen=127.0.0.1:0"), env=environment(), text=True, timeout=PATIENCE,
        capture_output=True, cwd=directory, preexec_fn=directory.rmdir,
    )  # fmt: skip
    assert done.returncode == 2
    assert re.fullmatch(r"fastsmtp: error: the working directory .*\n", done.stderr)


@pytest.mark.parametrize("letter", ["x", "\u4e2d", "\U0001f4e7"])
def test_a_long_reason_of_a_worker_is_told_in_one_line(tmp_path: Path, letter: str) -> None:
    (tmp_path / "app.py").write_text(f"raise RuntimeError({letter * 5000!r})")
    done = subprocess.run(
        command("app", "--workers=2", "--listen=127.0.0.1:0"),
        cwd=tmp_path, env=environment(), capture_output=True, encoding="utf-8", timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"RuntimeError: {letter * 100}" in done.stderr
    assert done.stderr.count("\n") == 1


SLOW = """
import os

if os.path.exists("fifo"):
    with open("fifo") as fifo:  # until the test closes its end
        fifo.read()
    raise RuntimeError("told to fail")

async def on_data(stream, session):
    await stream.read()
    return "OK"
"""


def more_by_signal(parent: Parent) -> str:
    parent.process.send_signal(signal.SIGTTIN)
    return "SIGTTIN: there is no worker 2: "


def more_by_reload(parent: Parent) -> str:
    config = Path(f"/proc/{parent.process.pid}/cwd/f.toml").resolve()
    config.write_text(config.read_text().replace("workers = 1", "workers = 2"))
    parent.process.send_signal(signal.SIGHUP)
    return "SIGHUP: everything stays as it was: "


@pytest.mark.parametrize("ask", [more_by_signal, more_by_reload])
def test_no_client_waits_for_a_second_worker_that_has_not_started(
    tmp_path: Path, ask: Callable[[Parent], str]
) -> None:
    (tmp_path / "app.py").write_text(SLOW)
    config = tmp_path / "f.toml"
    config.write_text("listen = ['127.0.0.1:0']\nworkers = 1\n")
    with Parent(None, "app", "--config=f.toml", workers=None, listen=(), cwd=tmp_path) as parent:
        os.mkfifo(tmp_path / "fifo")
        line = ask(parent)
        with (tmp_path / "fifo").open("w"):  # opened by the new worker too
            for host in range(1, 33):
                where = ("127.0.0.1", parent.ports[0])
                with socket.create_connection(where, 5, (f"127.0.0.{host}", 0)) as client:
                    assert client.recv(4) == b"220 "
        parent.err.wait(line + ".*told to fail")
        assert parent.stop() == 0


EXITS = """
import contextlib, sys

@contextlib.asynccontextmanager
async def lifespan(server):
    sys.exit(3)
    yield

async def on_data(stream, session):
    pass
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_program_that_exits_at_its_start_is_told_in_one_line(
    tmp_path: Path, workers: str
) -> None:
    (tmp_path / "app.py").write_text(EXITS)
    done = subprocess.run(
        command("app", f"--workers={workers}", "--listen=127.0.0.1:0"),
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the start of the application has failed: SystemExit: 3" in done.stderr
    assert done.stderr.count("\n") == 1


BLOCKS = """
import time

async def on_data(stream, session):
    await stream.read()
    print("blocks", flush=True)
    time.sleep(1000)
"""
IMPATIENT = """
import sys
from fastsmtp.gateway.cli import main
from fastsmtp.gateway.workers import child
child.LEAVE_SECONDS = child.HURRY_SECONDS = 0.1
sys.exit(main(sys.argv[1:]))
"""


def test_a_worker_that_hangs_is_killed_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(BLOCKS)
    arguments = ("serve", "app", "--workers=1", "--listen=127.0.0.1:0")
    process = subprocess.Popen(
        [sys.executable, "-c", IMPATIENT, *arguments],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = Lines(process.stdout), Lines(process.stderr)
    try:
        port = int(out.wait(r"listening on \S*:(\d+)$")[1])
        out.wait("1 worker is ready")
        client = smtplib.SMTP("127.0.0.1", port, "c.example", PATIENCE)
        client.ehlo()
        client.mail("a@x.example")
        client.rcpt("b@y.example")
        client.docmd("DATA")
        client.send(MESSAGE + b".\r\n")
        out.wait("blocks")
        process.terminate()
        err.wait("worker 1, process .* was killed by SIGKILL")
        client.close()
        assert process.wait(PATIENCE) == 1
    finally:
        process.kill()
        process.wait()
        out.finish()
        err.finish()


def test_a_reload_that_waits_for_old_workers_is_forgotten_when_the_parent_ends() -> None:
    """Otherwise it would open the sockets again, and start workers that nobody ends."""
    later: list[Callable[[], object]] = []
    reactor = SimpleNamespace(call_later=lambda seconds, call: later.append(call))
    parent: Any = SimpleNamespace(is_stopping=False, slots=[Slot(1)], reactor=reactor)
    parent.sockets = SimpleNamespace(slots=1)
    changes = Changes(parent, cast(Any, None), lambda: None)
    changes._leaving |= {cast(Any, number) for number in range(MAX_LEAVING + 1)}
    changes._reload()
    changes._leaving.clear()
    parent.is_stopping = True
    (again,) = later
    again()  # which would need the plans
    assert len(later) == 1


class EndingEarly(Reactor):
    """In a worker, SIGTERM comes before the worker has looked at its signals."""

    @property
    def signals(self) -> list[int]:
        if os.getpid() != PARENT:
            os.kill(os.getpid(), signal.SIGTERM)
        return [signal.SIGTERM, signal.SIGHUP]


def test_a_worker_that_is_told_to_end_while_it_begins_ends() -> None:
    reactor = EndingEarly()
    page = Pages(1).take()
    child = start(1, 1, {}, page, reactor, lambda worker: 7, lambda: None)
    _, status = os.waitpid(child.pid, 0)
    child.ended(os.waitstatus_to_exitcode(status))
    reactor.close()
    assert child.reason() == "it was killed by SIGTERM"
