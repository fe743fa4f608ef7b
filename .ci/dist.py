"""Makes the sdist and a wheel for each Python named, and tests each wheel where nothing else is.

    python .ci/dist.py dist 3.11 3.12 3.13

The wheels are built from the sdist and repaired; each is installed into an empty environment and
tested there as [tool.cibuildwheel] of pyproject.toml says for every system. The tests lie in an
unpacked sdist, where nothing is compiled: one that imported the source instead of the wheel would
fail.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
CIBUILDWHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["cibuildwheel"]
HIDDEN = ("PYTHON", "PYTEST_", "FASTSMTP_", "VIRTUAL_ENV")


def environment() -> dict[str, str]:
    """The environment without what shows the checkout, and with what lies beside this Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN)}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
    return kept | {"PATH": path, "PIP_CONSTRAINT": str(ROOT / ".ci/constraints.txt")}


def run(*command: str | Path, cwd: Path, log: Path) -> bool:
    """Run a command to its end, append what it prints to `log`, and return whether it succeeded."""
    line = " ".join(map(str, command))
    print(f"$ {line}", flush=True)
    with log.open("a", encoding="utf-8") as out:
        out.write(f"$ {line}\n")
        out.flush()
        done = subprocess.run(
            command, cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    return done.returncode == 0


def must(*command: str | Path, cwd: Path, log: Path) -> None:
    """Run a command that nothing can go on without."""
    if not run(*command, cwd=cwd, log=log):
        sys.exit(f"dist: failed; its output is at the end of {log}")


def python_of(version: str) -> Path:
    """Return the interpreter of `version`, such as "3.12": of pyenv, or else on the path."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = [str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/python3"))]
    for python in [*reversed(found), shutil.which(f"python{version}")]:
        if python and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
            return Path(python)
    sys.exit(f"dist: no Python {version} here; name those that there are: make dist PYTHONS='…'")


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpack the sdist into `folder` and return its only folder."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return source


def make_wheel(python: Path, source: Path, dist: Path, work: Path, log: Path) -> Path:
    """Build the wheel of `source` for `python`, repair it, and put it into `dist`."""
    builder = work / "builder"
    must(python, "-m", "venv", builder, cwd=work, log=log)
    must(builder / "bin/pip", "install", "-q", "build", cwd=work, log=log)
    command = (builder / "bin/python", "-m", "build", "--wheel", "--outdir", work / "raw")
    must(*command, source, cwd=work, log=log)
    (raw,) = (work / "raw").iterdir()
    repair = (sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", work / "repaired")
    must(*repair, raw, cwd=work, log=log)
    (repaired,) = (work / "repaired").iterdir()
    return Path(shutil.copy(repaired, dist))


def passes(python: Path, wheel: Path, source: Path, work: Path, log: Path) -> bool:
    """Say whether the wheel, installed into an empty environment of `python`, passes the tests."""
    installed = work / "installed" / "bin"
    must(python, "-m", "venv", installed.parent, cwd=work, log=log)
    extras = ",".join(CIBUILDWHEEL["test-extras"])
    must(installed / "pip", "install", "-q", f"{wheel}[{extras}]", cwd=work, log=log)
    empty = work / "empty"
    empty.mkdir()
    test = CIBUILDWHEEL["test-command"].replace("{package}", str(source))
    return run("sh", "-c", f'PATH="{installed}:$PATH" && {test}', cwd=empty, log=log)


def last_line(log: Path) -> str:
    """What pytest has said at the end."""
    lines = log.read_text("utf-8", errors="replace").splitlines()
    return next((line.strip("= ") for line in reversed(lines) if re.search(r" in \d", line)), "")


def main(dist: Path, versions: list[str]) -> int:
    """Make all, try all, print a summary; 1 if anything failed."""
    needed = ("build", "twine", *(["auditwheel"] if sys.platform == "linux" else []))
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"dist: no module {missing[0]}; run: pip install -e '.[dist]'")
    pythons = {version: python_of(version) for version in versions}
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir()
    logs = ROOT / "build/dist"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    main_log, failed, summary = logs / "sdist.log", False, []
    must(sys.executable, "-m", "build", "--sdist", "--outdir", dist, ROOT, cwd=dist, log=main_log)
    (sdist,) = dist.iterdir()
    with tempfile.TemporaryDirectory(prefix="dist-") as temporary:
        work = Path(temporary)
        source, tested = unpack(sdist, work / "source"), unpack(sdist, work / "tested")
        for version, python in pythons.items():
            log, folder = logs / f"{version}.log", work / version
            folder.mkdir()
            wheel = make_wheel(python, source, dist, folder, log)
            passed = passes(python, wheel, tested, folder, log)
            failed |= not passed
            said = "ok" if passed else f"FAILED, see {log}"
            summary.append(f"{wheel.name}: {said}: {last_line(log)}")
    files = sorted(dist.iterdir())
    must(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=dist, log=main_log)
    print(f"\n{sdist.name}: {sdist.stat().st_size:,} octets; twine check: ok", *summary, sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
