"""`fastsmtp --version`, and what a shell needs to complete commands."""

from __future__ import annotations

import os
import platform
import ssl
import subprocess
import sys

import pytest
from serving import PATIENCE, environment

import fastsmtp


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastsmtp", *arguments],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_version_names_what_a_report_needs_in_one_line() -> None:
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"fastsmtp {fastsmtp.__version__} (")
    for part in (platform.python_version(), ssl.OPENSSL_VERSION, "uvloop"):
        assert part in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_text_for_a_shell_asks_the_program(shell: str) -> None:
    done = run("completion", shell)
    assert done.returncode == 0
    assert f"_FASTSMTP_COMPLETE={shell}_complete" in done.stdout


def test_a_shell_is_told_commands_and_options() -> None:
    words = {"_FASTSMTP_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    assert "plain,--spool-quota" in run(COMP_WORDS="fastsmtp serve --sp", **words).stdout
    words["COMP_CWORD"] = "1"
    assert run(COMP_WORDS="fastsmtp se", **words).stdout.split(os.linesep)[0] == "plain,serve"


def test_an_unknown_shell_is_an_error_of_one_line() -> None:
    done = run("completion", "ksh")
    assert done.returncode == 2
    assert done.stderr.startswith("fastsmtp: error: ")
    assert done.stderr.count("\n") == 1
