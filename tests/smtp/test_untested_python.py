"""On a Python that the engine has never been tested on, Tasks run the coroutines of hooks.

The tests with such hooks are run once more in a process that takes its Python for one: Tasks that
begin at once from 3.12 on, plain ones before. Those of sockets, which take minutes, only at night.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# A hook that is a coroutine, written down or made by a kit.
COROUTINE = re.compile(r"async def on_|each_way|STYLES|\"coroutine\"")
CHOSEN = "(coroutine or not callback) and not on_helo and not on_vrfy"


def files(folder: str) -> list[str]:
    """The test files with hooks that are coroutines."""
    return [
        str(path)
        for path in sorted((TESTS / folder).glob("test_*.py"))
        if path != Path(__file__) and COROUTINE.search(path.read_text(encoding="utf-8"))
    ]


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with `arguments` as one that the engine has not been tested on."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS / "support")}
    return subprocess.run(
        [sys.executable, "-P", *arguments],  # the folder may have the source beside the tests
        env={name: environment[name] for name in environment if "PYTEST" not in name},
        cwd=TESTS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_an_untested_python_has_no_private_name_touched() -> None:
    script = (
        "import untested_python\n"
        "from fastsmtp._hooks import coroutine_driver as driver\n"
        "own = {name for name in vars(driver._HookTask) if not name.startswith('__')}\n"
        "assert own == {'driver'}, own\n"
    )
    done = in_a_process("-W", "error", "-c", script)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["smtp", pytest.param("net", marks=pytest.mark.nightly)])
def test_an_untested_python_passes_all_tests_of_coroutines(folder: str) -> None:
    assert len(files(folder)) > 10
    done = in_a_process(
        *("-m", "pytest", "-q", "-n0", "-p", "untested_python", "-p", "no:cacheprovider"),
        # Hooks in callback style run in no Task; on_helo and on_vrfy are called as others are.
        *("-m", "not nightly and not slow", "-k", CHOSEN, *files(folder)),
    )
    assert done.returncode == 0, done.stdout[-20_000:]
