"""Signals that come while a server starts take effect when it serves."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest
from serving import Program, command

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")

APPLICATION = """
async def on_data(stream, session):
    await stream.read()
"""


def wait_for_its_first_lines(program: Program) -> None:
    """Wait until the command has begun; before that, signals are the interpreter's."""
    status = Path(f"/proc/{program.process.pid}/status")
    held = 1 << (signal.SIGHUP - 1)
    while not int(re.findall(r"^SigBlk:\s*(\w+)", status.read_text(), re.M)[0], 16) & held:
        assert program.process.poll() is None


def test_a_hangup_before_a_gateway_serves_reloads_it_afterwards(tmp_path: Path) -> None:
    with Program(command("--listen=127.0.0.1:0", f"--maildir={tmp_path / 'mail'}")) as program:
        wait_for_its_first_lines(program)
        program.process.send_signal(signal.SIGHUP)
        program.out.wait("delivering to ")
        program.out.wait("SIGHUP: there is nothing to reload")
        assert program.stop() == 0


@pytest.mark.parametrize("shows_metrics", [False, True])
def test_signals_before_workers_serve_take_effect_afterwards(
    tmp_path: Path, shows_metrics: bool
) -> None:
    """The process of the metrics is started before the workers."""
    arguments = ["--workers=1", "--listen=127.0.0.1:0", f"--maildir={tmp_path / 'mail'}"]
    arguments += [f"--admin=unix:{tmp_path / 'admin'}"] * shows_metrics
    with Program(command(*arguments)) as program:
        wait_for_its_first_lines(program)
        for number in (signal.SIGHUP, signal.SIGTTIN):
            program.process.send_signal(number)
        program.out.wait("1 worker is ready")
        seen = {program.out.wait(r"(SIGHUP|SIGTTIN): \d (new )?workers?")[1] for _ in range(2)}
        assert seen == {"SIGHUP", "SIGTTIN"}
        assert program.stop() == 0


def test_a_hangup_before_an_application_serves_does_not_end_it(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APPLICATION)
    with Program(command("app", "--listen=127.0.0.1:0"), cwd=tmp_path) as program:
        wait_for_its_first_lines(program)
        program.process.send_signal(signal.SIGHUP)
        program.out.wait("listening on ")
        assert program.stop() == 0
        assert program.errors() == []


@pytest.mark.parametrize("has_application", [False, True])
def test_signals_for_workers_neither_end_nor_stop_a_server_without_them(
    tmp_path: Path, has_application: bool
) -> None:
    (tmp_path / "app.py").write_text(APPLICATION)
    served = "app" if has_application else f"--maildir={tmp_path / 'mail'}"
    with Program(command(served, "--listen=127.0.0.1:0"), cwd=tmp_path) as program:
        program.out.wait("listening on ")
        for name in ("SIGUSR2", "SIGTTIN", "SIGTTOU"):
            program.process.send_signal(getattr(signal, name))
            program.err.wait(f"{name} changes nothing: this server has no --workers")
        assert program.stop() == 0
