"""The console sessions of the pages run, and print what is shown.

In a block `console` of docs/*.md, `$ ` begins a command and the lines after it are its output, in
which … stands for anything, also for lines. A command that ends with & stays in the background,
and its lines must come in their order. All blocks of a page run in one shell, in an empty
directory. Commands that install something are left out, and 2525 is another port.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from free_ports import free_port

DOCS = Path(__file__).parents[2] / "docs"
FENCE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATIENCE = 60.0  # seconds
PORT = "2525"
INSTALLS = re.compile(r"\b(pip install|-m venv)\b")


def sessions() -> dict[str, list[tuple[str, str]]]:
    """The pages with sessions: each command with the output that is shown."""
    found: dict[str, list[tuple[str, str]]] = {}
    for page in sorted(DOCS.glob("*.md")):
        for fence in FENCE.finditer(page.read_text(encoding="utf-8")):
            for part in re.split(r"^\$ ", fence[1], flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                found.setdefault(page.name, []).append((command, output))
    return found


def as_pattern(shown: str) -> re.Pattern[str]:
    pieces = [re.escape(piece) for piece in shown.rstrip("\n").split("…")]
    return re.compile(".*".join(pieces), re.DOTALL)


class Shell:
    """Runs the commands of one page."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = str(free_port())
        self._background: list[subprocess.Popen[bytes]] = []
        bin_folder = Path(sys.executable).parent
        self._environment = {
            **{name: value for name, value in os.environ.items() if "FASTSMTP" not in name},
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "FASTSMTP_LISTEN": f"127.0.0.1:{self._port}",
        }

    def run(self, command: str, shown: str) -> None:
        command, shown = (text.replace(PORT, self._port) for text in (command, shown))
        if command.endswith("&"):
            self._begin(command.removesuffix("&"), shown)
            return
        done = subprocess.run(
            command,
            shell=True,
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        # A Maildir has CRLF, as the message has.
        assert as_pattern(shown).fullmatch(done.stdout.replace("\r\n", "\n").rstrip("\n"))

    def _begin(self, command: str, shown: str) -> None:
        output = self._folder / f".output-{len(self._background)}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                f"exec {command}",
                shell=True,
                cwd=self._folder,
                env=self._environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._background.append(process)
        pattern, deadline = as_pattern(shown), time.monotonic() + PATIENCE
        while not pattern.match(output.read_text(encoding="utf-8")):
            assert process.poll() is None, output.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, output.read_text(encoding="utf-8")
            time.sleep(0.02)

    def end(self) -> None:
        for process in self._background:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.skipif(sys.platform == "win32", reason="the sessions are of a POSIX shell")
@pytest.mark.parametrize("page", sessions())
def test_the_sessions_of_a_page_print_what_is_shown(page: str, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    try:
        for command, shown in sessions()[page]:
            if not INSTALLS.search(command):
                shell.run(command, shown)
    finally:
        shell.end()


def test_there_is_a_session_to_begin_with() -> None:
    commands = [command for command, _ in sessions()["quickstart.md"]]
    assert any(command.startswith("fastsmtp serve") for command in commands)
