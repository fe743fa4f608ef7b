"""An environment for each revision: a venv with the package compiled by its own rules.

They lie in build/check, under the digest of what they were built from, and are used again. Both get
the same versions of other people's packages as far as their own requirements allow it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from check.revisions import Revision, built_from, export
from load.measuring import CannotRun

KEPT = 6  # environments, the last used ones: each has some 80 MB
BUILD_LIMIT = 1800.0  # seconds
# Would make another build, or another Python, of what is measured.
OURS = ("FASTSMTP_", "PYTHON", "PYTEST_", "COV_")
COMPILING = ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED")


class Environment(NamedTuple):
    """A revision that can be run."""

    folder: Path
    identity: dict[str, str]  # what its figures depend on beside our sources
    packages: dict[str, str]  # versions of what is installed beside it

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"


def clean() -> dict[str, str]:
    """The variables of our process, without those that change what a child is or does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    kept.pop("VIRTUAL_ENV", None)
    return kept | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def compiler() -> str:
    """The first line of the compiler's version, the command of CC or else that of Python."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True)
    except (FileNotFoundError, PermissionError):
        raise CannotRun(f"needs a C compiler: there is no {command[0]}") from None
    return (done.stdout.splitlines() or [command[0]])[0]


def machine() -> str:
    """The architecture, and the vectors by which scanners and the C library choose their code."""
    features = Path("/proc/cpuinfo")
    known = features.read_text().split() if features.exists() else []
    return platform.machine() + (" with AVX2" if "avx2" in known else "")


def toolchain() -> dict[str, str]:
    """What compiles, and what the compiled modules run in."""
    optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "python_build": f"{platform.python_compiler()}{', optimized' if optimized else ''}",
        "compiler": compiler(),
        "libc": " ".join(platform.libc_ver()).strip(),
        "machine": machine(),
    }


@contextmanager
def shelf(repository: Path) -> Iterator[Path]:
    """The folder of the environments, for one check at a time: two would disturb each other. All
    but the last used environments are removed at the end.
    """
    import fcntl  # not on Windows, where the tests of the rest run

    folder = repository / "build" / "check"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder
        found = [path for path in folder.iterdir() if path.is_dir()]
        for path in sorted(found, key=lambda path: path.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(path, ignore_errors=True)


def built(
    repository: Path, revision: Revision, folder: Path, role: str, like: Environment | None = None
) -> Environment:
    """Return the environment of a revision, made now unless it is there.

    role: "base" or "work". Each has a build of its own even of the same sources, under a path of
    the same length. like: whose versions of other people's packages it gets.
    """
    tools = toolchain()
    flags = {name: os.environ.get(name, "") for name in COMPILING}
    depends = json.dumps([tools, flags, sys.prefix, like.packages if like else {}], sort_keys=True)
    digest = hashlib.sha256(depends.encode()).hexdigest()[:8]
    target = folder / f"{role}-{built_from(repository, revision)}-{digest}"
    facts = target / "facts.json"
    if not facts.exists():
        shutil.rmtree(target, ignore_errors=True)
        _build(repository, revision, target, like)
        packages = _packages(target)
        identity = tools | {"cython": packages["cython"]}
        facts.write_text(json.dumps({"identity": identity, "packages": packages}, indent=1))
    target.touch()
    found = json.loads(facts.read_text())
    return Environment(target, found["identity"], found["packages"])


def differences(one: Environment, other: Environment) -> list[str]:
    """Return what the two have of other people's packages in different versions, for the report."""
    names = sorted(one.packages.keys() | other.packages.keys())
    pairs = [(name, one.packages.get(name, "-"), other.packages.get(name, "-")) for name in names]
    return [f"{name} {first}, {second}" for name, first, second in pairs if first != second]


def _build(repository: Path, revision: Revision, target: Path, like: Environment | None) -> None:
    source = target / "source"
    export(repository, revision, source)
    project = tomllib.loads((source / "pyproject.toml").read_text())
    extra = project["project"].get("optional-dependencies", {}).get("bench", [])
    tools = [name for name in extra if name.startswith("pytest")] or ["pytest", "pytest-benchmark"]
    _run([sys.executable, "-m", "venv", str(target)], target)
    install = [str(target / "bin" / "python"), "-m", "pip", "install", "-q"]
    pins = source / ".ci" / "constraints.txt"
    pinned = ["-c", str(pins)] if pins.exists() else []
    _run([*install, *pinned, *project["build-system"]["requires"]], target)
    same = target / "same.txt"
    same.write_text("".join(f"{name}=={of}\n" for name, of in _wanted(like)))
    package = ["--no-build-isolation", str(source)]
    try:
        _run([*install, "-c", str(same), *tools, *package], target)
    except CannotRun:
        if like is None:
            raise
        _run([*install, *tools, *package], target)  # it needs others, which the report then names
    shutil.rmtree(source)


def _wanted(like: Environment | None) -> list[tuple[str, str]]:
    """Build tools are left out: each revision pins its own."""
    packages = like.packages if like else {}
    return [item for item in packages.items() if item[0] not in ("cython", "setuptools", "pip")]


def _packages(target: Path) -> dict[str, str]:
    command = [str(target / "bin" / "python"), "-m", "pip", "list", "--format=json"]
    done = subprocess.run(command, capture_output=True, text=True, env=clean(), cwd=target)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    names = {line["name"].lower(): line["version"] for line in found}
    return {name: of for name, of in sorted(names.items()) if not name.startswith("fastsmtp")}


def _run(command: list[str], folder: Path) -> None:
    """Run a step of a build. Raises CannotRun with the end of what it said."""
    done = subprocess.run(
        command, capture_output=True, text=True, env=clean(), cwd=folder, timeout=BUILD_LIMIT
    )
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise CannotRun(f"{' '.join(command[1:4])} failed:\n{said}")
