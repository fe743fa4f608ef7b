"""The tests of aiosmtpd that speak to its public surface pass on our counterpart.

aiosmtpd_suite.txt names them. The source of that version comes from the index at the first run,
into build/; without an index the test is skipped. docs/aiosmtpd.md says what the others are about.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = "1.4.6"
SOURCE = ROOT / "build" / f"aiosmtpd-{VERSION}"
SELECTED = Path(__file__).with_name("aiosmtpd_suite.txt").read_text(encoding="utf-8").split("\n")


def fetched() -> Path:
    """The unpacked source, never half of it; skips without an index."""
    if SOURCE.is_dir():
        return SOURCE
    SOURCE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SOURCE.parent) as scratch:
        ask = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary=:all:"]
        package = [f"aiosmtpd=={VERSION}", "-d", scratch]
        try:
            done = subprocess.run([*ask, *package], capture_output=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"the index does not send the source of aiosmtpd {VERSION}")
        archives = list(Path(scratch).glob("*.tar.gz"))
        if done.returncode or not archives:
            pytest.skip(f"the index has no source of aiosmtpd {VERSION} for us")
        with tarfile.open(archives[0]) as archive:
            archive.extractall(scratch, filter="data")
        try:
            Path(scratch, SOURCE.name).rename(SOURCE)
        except OSError:  # another process was faster
            assert SOURCE.is_dir()
    return SOURCE


def environment_of(source: Path) -> dict[str, str]:
    """For a process in which the name aiosmtpd is our package."""
    path = os.pathsep.join([str(ROOT / "tests" / "support"), str(ROOT)])
    inherited = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
    return {**inherited, "AIOSMTPD_SOURCE": str(source), "PYTHONPATH": path}


@pytest.mark.one_python
@pytest.mark.slow
def test_the_selected_tests_of_aiosmtpd_pass_here() -> None:
    source = fetched()
    selected = [f"aiosmtpd/tests/{name}" for name in SELECTED if name]
    options = ["-p", "aiosmtpd_alias", "-p", "no:cacheprovider", "-p", "no:xdist", "-q"]
    options += ["-c", os.devnull, f"--rootdir={source}", "--tb=short"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *selected],
        cwd=source,
        env=environment_of(source),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) == len(selected)


@pytest.mark.one_python
@pytest.mark.slow
@pytest.mark.parametrize("page, failing", [("handlers.rst", []), ("controller.rst", ["line"])])
def test_the_examples_of_its_documentation_run_here(
    tmp_path: Path, page: str, failing: list[str]
) -> None:
    # The one that fails prints the extensions of EHLO, of which there are more here.
    done = subprocess.run(
        [sys.executable, "-m", "aiosmtpd_examples", page],
        cwd=tmp_path,
        env=environment_of(fetched()),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == len(failing), done.stdout[-5000:] + done.stderr[-2000:]
    assert re.findall(r"Failed example:\n    for (\w+) in lines", done.stdout) == failing
