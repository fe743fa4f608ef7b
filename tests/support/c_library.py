"""Libraries of C that a test puts before the system's by LD_PRELOAD; their sources lie here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from memory import SANITIZED

__all__ = ["build_library"]


def build_library(name: str, directory: Path) -> Path:
    """Compile `name`.c into `directory`; the test is skipped only where there is no compiler, and
    under AddressSanitizer, whose library has to be the first.
    """
    if SANITIZED:
        pytest.skip("AddressSanitizer's library has to be the first")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    target = directory / f"{name}.so"
    source = Path(__file__).with_name(f"{name}.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(target), str(source), "-ldl"]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return target
