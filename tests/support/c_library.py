"""Libraries of C that a test puts before the system's by LD_PRELOAD; their sources lie here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["build_library", "preload"]


def build_library(name: str, directory: Path) -> Path:
    """Compile `name`.c into `directory`; the test is skipped only where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    target = directory / f"{name}.so"
    source = Path(__file__).with_name(f"{name}.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(target), str(source), "-ldl"]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return target


def preload(library: Path) -> str:
    """The LD_PRELOAD of a child with `library`; that of AddressSanitizer has to be the first."""
    return f"{os.environ.get('LD_PRELOAD', '')} {library}".strip()
