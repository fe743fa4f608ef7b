"""The compiled modules run on an x86-64 without AVX, of which QEMU's user mode emulates one."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from engine_alone import taking

import fastsmtp

QEMU = shutil.which("qemu-x86_64") or ""

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="for x86-64"),
    pytest.mark.skipif(sys.platform != "linux", reason="user mode is of Linux"),
    pytest.mark.skipif(not QEMU, reason="qemu-x86_64 of Debian's package qemu-user is not here"),
]

# The scanners of content that the processor has, after a message.
DELIVER = (
    taking("Subject: hello\r\n\r\n" + "..dots and words\r\n" * 500)
    + """
from fastsmtp._parser import scanners
print(*scanners())
"""
)


def scanners_on(processor: str, folder: Path) -> list[str]:
    """Take one message on that processor, and return the scanners that it can use."""
    done = subprocess.run(
        [QEMU, "-cpu", processor, sys.executable, "-c", DELIVER],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(fastsmtp.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"ended with {done.returncode}:\n{done.stderr}"
    return done.stdout.split()


@pytest.mark.parametrize("processor", ["qemu64", "Nehalem"])
def test_a_processor_without_avx_takes_mail_by_what_it_has(processor: str, tmp_path: Path) -> None:
    assert scanners_on(processor, tmp_path) == ["sse2", "portable"]


def test_a_processor_with_avx2_is_noticed_when_the_program_runs(tmp_path: Path) -> None:
    assert scanners_on("max", tmp_path)[0] == "avx2"
