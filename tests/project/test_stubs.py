"""The types that we publish are true: stubs against the compiled modules, the public API in use.

Both checks run mypy in a process of its own, against the package that the tests import.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastsmtp

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed"),
]

ROOT = Path(__file__).parents[2]


def run_python(*arguments: str, cwd: Path) -> None:
    """Run Python so that mypy finds the very package that this process imported."""
    environment = {name: value for name, value in os.environ.items() if name != "MYPYPATH"}
    home = Path(fastsmtp.__file__).resolve().parents[1]
    if home == ROOT:  # of an installed package mypy finds the types by itself
        environment["MYPYPATH"] = str(ROOT)
        environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_stubs_agree_with_the_compiled_modules(tmp_path: Path) -> None:
    modules = ["_parser", "_grammar", "_proxy", "_sockets", "_native", "_coroutines"]
    modules += ["_tls_records", "_turns"]
    allowed = ROOT / "tests" / "typing" / "stubtest_allowlist.txt"
    options = ["--ignore-unused-allowlist", "--allowlist", str(allowed)]
    run_python(
        "-m", "mypy.stubtest", *options, *[f"fastsmtp.{name}" for name in modules], cwd=tmp_path
    )


def test_public_api_has_the_types_that_its_users_rely_on(tmp_path: Path) -> None:
    program = ROOT / "tests" / "typing" / "public_api.py"
    run_python("-m", "mypy", "--strict", "--config-file=", str(program), cwd=tmp_path)
