"""A checkout whose modules are not compiled, for this Python or at all, says what to do."""

from __future__ import annotations

import importlib.machinery
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastsmtp

ROOT = Path(__file__).parents[2]
COMPILED = importlib.machinery.EXTENSION_SUFFIXES[0]
# Runs a script that lies elsewhere in the current directory's packages.
RUN = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
NEXT = f"{sys.version_info[1] + 1}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the source, with a space in its name, in which nothing is compiled."""
    folder = tmp_path / "a checkout"
    unwanted = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(ROOT / "fastsmtp", folder / "fastsmtp", ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def errors_of(checkout: Path, *arguments: str) -> str:
    """What Python writes to stderr there before it ends with status 1."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=checkout, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def install(checkout: Path) -> str:
    return shlex.join([sys.executable, "-m", "pip", "install", "-e", str(checkout)])


@pytest.mark.parametrize("module", ["fastsmtp", "fastsmtp.testing", "fastsmtp.options"])
def test_importing_what_is_not_compiled_names_the_command_to_run(
    checkout: Path, module: str
) -> None:
    told = errors_of(checkout, "-c", f"import {module}").splitlines()
    package = checkout / "fastsmtp"
    assert told[-1] == (
        f"ImportError: fastsmtp in {package} is not compiled; run: {install(checkout)}"
    )
    assert sum("Error" in line for line in told) == 1


@pytest.mark.parametrize("arguments", [["fastsmtp", "serve"], ["fastsmtp.gateway.cli"]])
def test_running_what_is_not_compiled_is_one_line_without_a_traceback(
    checkout: Path, arguments: list[str]
) -> None:
    (told,) = errors_of(checkout, "-m", *arguments).splitlines()
    assert f"is not compiled; run: {install(checkout)}" in told


def test_the_command_of_what_is_not_compiled_is_one_line_without_a_traceback(
    checkout: Path,
) -> None:
    script = checkout / "fastsmtp-bin" / "fastsmtp"
    script.parent.mkdir()
    script.write_text(  # as pip makes it
        "import sys\nfrom fastsmtp.gateway.cli import main\n"
        "if __name__ == '__main__':\n    sys.exit(main())\n"
    )
    (told,) = errors_of(checkout, "-c", RUN, str(script)).splitlines()
    package = checkout / "fastsmtp"
    assert told == (
        f"fastsmtp: error: fastsmtp in {package} is not compiled; run: {install(checkout)}"
    )


def test_a_build_for_another_python_is_named(checkout: Path) -> None:
    other = COMPILED.replace(str(sys.version_info[1]), NEXT, 1)
    installed = Path(fastsmtp.__file__).parents[1]
    for built in (installed / "fastsmtp").rglob(f"*{COMPILED}"):
        name = built.name.replace(COMPILED, other)
        (checkout / built.parent.relative_to(installed) / name).touch()
    (told,) = errors_of(checkout, "-m", "fastsmtp").splitlines()
    this, that = COMPILED.split(".")[1], other.split(".")[1]
    assert this != that
    assert f"is not compiled for this Python ({this}), only for {that}; run: " in told


def test_an_unbuilt_package_without_its_project_says_to_install_it_again(checkout: Path) -> None:
    (checkout / "pyproject.toml").unlink()
    (told,) = errors_of(checkout, "-m", "fastsmtp").splitlines()
    assert "pip install --force-reinstall fastsmtp-engine" in told


def test_another_missing_module_is_no_missing_build(checkout: Path) -> None:
    (checkout / "fastsmtp" / "_sasl" / "scram.py").unlink()
    (checkout / "fastsmtp" / "_sasl" / "exchange.py").write_text("Auth = AuthResponse = None\n")
    told = errors_of(checkout, "-c", "import fastsmtp")
    assert told.splitlines()[-1] == "ModuleNotFoundError: No module named 'fastsmtp._sasl.scram'"
