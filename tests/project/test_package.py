"""What is inside the sdist and the wheel, and that each does its work where nothing else is.

The package is built from a copy of the source, so that the checkout stays as it is. With
FASTSMTP_DIST=folder the sdist and the wheel in that folder are looked at instead.
"""

from __future__ import annotations

import email
import email.message
import os
import re
import shutil
import smtplib
import subprocess
import sys
import tarfile
import threading
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from compiled import MODULES
from engine_alone import taking

import fastsmtp

pytestmark = pytest.mark.one_python

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# As files and folders are called (PEP 625, PEP 427).
NAME = f"{PROJECT['name'].replace('-', '_')}-{fastsmtp.__version__}"
CLI = "fastsmtp.gateway.cli"

# What a checkout holds beside its source.
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv*", ".*_cache", ".hypothesis", ".benchmarks", ".coverage*", "__pycache__",
    "build", "dist", "wheelhouse", "*.egg-info", "*.so", "*.pyd", "mail", "results", "work",
)  # fmt: skip
# Endings of the files of the package, compiled modules and their sources in Cython aside.
SHIPPED = (".py", ".pyi", ".pxd", ".h", "py.typed", ".css", ".js", "/status/index.html")
# In git, and of no use in the sdist.
NOT_SHIPPED = re.compile(r"^bench/results/")
GENERATED = {"PKG-INFO", "setup.cfg"}

# A package index that cannot be reached is not a fault of the package.
NO_INDEX = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError|MaxRetryError"
)


def clean_environment() -> dict[str, str]:
    """The environment without what would let a child see the checkout or our switches."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "FASTSMTP_", "PYTEST_", "COV_")) and name != "VIRTUAL_ENV"
    }


def output_of(*command: str | Path, cwd: Path) -> str:
    """Run a command to its end and return what it printed; skip when it found no package index."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    if done.returncode and NO_INDEX.search(done.stdout):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}"
    return done.stdout


def new_environment(folder: Path) -> Path:
    """Make an empty virtual environment and return its Python."""
    venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def built(pattern: str) -> Path | None:
    """What was built already and is to be looked at, if that was asked for."""
    folder = os.environ.get("FASTSMTP_DIST")
    if not folder:
        return None
    (found,) = (ROOT / folder).glob(pattern)
    return found


def not_source(folder: str, names: list[str]) -> set[str]:
    """What is not to be copied: also sockets that a server has left."""
    others = {name for name in names if Path(folder, name).is_socket()}
    return {*NOT_SOURCE(folder, names), *others}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of a copy of the source in which an earlier build has left its products."""
    if (found := built("*.tar.gz")) is not None:
        return found
    pytest.importorskip("build", reason="needs the extra `test`")
    folder = tmp_path_factory.mktemp("sdist")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=not_source)
    for module in MODULES:
        for ending in (".c", ".html", ".cpython-311-x86_64-linux-gnu.so"):
            leftover = source / "fastsmtp" / f"{module}{ending}"
            leftover.write_text("left by a build\n", encoding="utf-8")
    # The extra `test` has what builds; that build-system.requires has it too is shown below.
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder]
    output_of(*command, source, cwd=folder)
    return folder / f"{NAME}.tar.gz"


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the unpacked sdist."""
    folder = tmp_path_factory.mktemp("unpacked")
    output_of("tar", "-xzf", sdist, cwd=folder)
    return folder / NAME


@pytest.fixture(scope="module")
def set_up_by_readme(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist after README's first command, but for its last part, which serves.

    pip compiles there, in an environment that has what build-system.requires names. That takes
    half a minute of one core, and is done once for all tests.
    """
    *set_up, _serve = readme_commands()[0].split(" && ")
    programs = tmp_path_factory.mktemp("bin")
    (programs / "python3").symlink_to(sys.executable)
    output_of("sh", "-c", " && ".join([f"PATH={programs}:$PATH", *set_up]), cwd=unpacked)
    return unpacked


@pytest.fixture(scope="module")
def empty_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds pip and nothing else."""
    return new_environment(tmp_path_factory.mktemp("empty") / "venv")


@pytest.fixture(scope="module")
def wheel(set_up_by_readme: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the unpacked sdist, in which a build in place has left its products."""
    if (found := built(f"*-cp{sys.version_info[0]}{sys.version_info[1]}-*.whl")) is not None:
        return found
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder]
    output_of(*command, set_up_by_readme, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def sdist_names(sdist: Path) -> set[str]:
    """The files of the sdist, without the folder that all of them stand in."""
    with tarfile.open(sdist) as archive:
        return {
            member.name.removeprefix(f"{NAME}/")
            for member in archive.getmembers()
            if member.isfile()
        }


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> set[str]:
    """The files of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    """The wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f"{NAME}.dist-info/METADATA"))


def source_files(*suffixes: str) -> set[str]:
    """The files of the package in the checkout that end so."""
    files = (path.relative_to(ROOT).as_posix() for path in (ROOT / "fastsmtp").rglob("*"))
    return {name for name in files if name.endswith(suffixes)}


@pytest.mark.slow
def test_sdist_holds_the_sources_and_nothing_that_was_compiled(sdist_names: set[str]) -> None:
    package = {name for name in sdist_names if name.startswith("fastsmtp/")}
    assert package == source_files(".pyx", *SHIPPED)
    compiled = re.compile(
        r"^fastsmtp/(?!gateway/status/).*\.(c|html)$|^build/|\.(so|pyd|o|pyc)$|__pycache__"
    )
    assert not {name for name in sdist_names if compiled.search(name)}


@pytest.mark.slow
def test_sdist_holds_what_its_own_tests_need(sdist_names: set[str]) -> None:
    tests = (path for path in (ROOT / "tests").rglob("*.py") if "__pycache__" not in path.parts)
    assert {path.relative_to(ROOT).as_posix() for path in tests} <= sdist_names
    assert {
        ".ci/run",
        ".ci/constraints.txt",
        ".github/workflows/wheels.yml",
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "pyproject.toml",
        "setup.py",
        "wheels.yml",
    } <= sdist_names


@pytest.mark.slow
def test_sdist_holds_what_git_holds_and_nothing_else(sdist_names: set[str]) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    if listed.returncode:
        pytest.skip(f"git does not say what it holds: {listed.stderr.strip()}")
    known = {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}
    assert not {name for name in known if not NOT_SHIPPED.match(name)} - sdist_names
    foreign = sdist_names - known - GENERATED
    assert not {name for name in foreign if not name.startswith("fastsmtp_engine.egg-info/")}


@pytest.mark.slow
def test_wheel_holds_the_package_its_types_and_the_compiled_modules(wheel_names: set[str]) -> None:
    assert f"{NAME}.data/data/share/man/man1/fastsmtp.1" in wheel_names
    assert f"{NAME}.dist-info/licenses/LICENSE" in wheel_names
    package = {name for name in wheel_names if not re.search(r"\.(dist-info|data)/", name)}
    compiled = {name for name in package if re.search(r"\.(so|pyd)$", name)}
    assert package - compiled == source_files(*SHIPPED)
    assert sorted(name.split(".")[0] for name in compiled) == sorted(
        f"fastsmtp/{module}" for module in MODULES
    )


@pytest.mark.slow
def test_wheel_metadata_has_requirements_extras_and_addresses(
    metadata: email.message.Message,
) -> None:
    assert metadata["Name"] == PROJECT["name"]
    assert metadata["Version"] == fastsmtp.__version__
    requirements = metadata.get_all("Requires-Dist", [])
    (engine,) = [line for line in requirements if "extra ==" not in line]
    assert re.fullmatch(r"uvloop>=[\d.]+; sys_platform != .win32.", engine)
    extras = set(metadata.get_all("Provides-Extra", []))
    assert extras == PROJECT["optional-dependencies"].keys()
    assert metadata["License-Expression"] == "MIT"
    addresses = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    assert addresses == PROJECT["urls"]
    assert metadata["Requires-Python"] == ">=3.11"


@pytest.mark.slow
def test_wheel_declares_the_command_and_the_plugin_of_pytest(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        declared = archive.read(f"{NAME}.dist-info/entry_points.txt").decode()
    assert "[console_scripts]\nfastsmtp = fastsmtp.gateway.cli:main\n" in declared
    assert "[pytest11]\nfastsmtp = fastsmtp.pytest_plugin\n" in declared


MODULE_NAMES = sorted(module.replace("/", ".") for module in MODULES)

# No extra is installed.
DELIVER = (
    taking("Subject: hello\r\n\r\n.\r\nworld\r\n")
    + """
import importlib, sys
print("delivered by", sys.modules["fastsmtp"].__file__)
for name in {modules!r}:
    module = importlib.import_module("fastsmtp." + name)
    assert not module.__file__.endswith(".py"), name
"""
)


@pytest.mark.slow
def test_wheel_takes_mail_in_an_empty_environment(
    wheel: Path, empty_python: Path, tmp_path: Path
) -> None:
    output_of(empty_python, "-m", "pip", "install", wheel, cwd=tmp_path)
    script = DELIVER.replace("{modules!r}", repr(MODULE_NAMES))
    printed = output_of(empty_python, "-W", "error", "-c", script, cwd=tmp_path)
    assert f"delivered by {empty_python.parents[1]}" in printed
    installed = output_of(empty_python, "-m", "pip", "list", "--format=freeze", cwd=tmp_path)
    names = {line.split("==")[0].lower() for line in installed.split()}
    assert names <= {"fastsmtp-engine", "uvloop", "pip", "setuptools", "wheel"}


@pytest.mark.slow
def test_command_without_its_extra_says_how_to_get_it(
    wheel: Path, empty_python: Path, tmp_path: Path
) -> None:
    output_of(empty_python, "-m", "pip", "install", wheel, cwd=tmp_path)
    script = f"import sys; from {CLI} import main; assert main(['serve']) == 1"
    printed = output_of(empty_python, "-c", script, cwd=tmp_path)
    assert "pip install 'fastsmtp-engine[server]'" in printed


def send(port: int) -> None:
    """Send one message to a server on this machine."""
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.sendmail("a@x.example", ["b@y.example"], "Subject: hello\r\n\r\nworld\r\n")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="README's commands are for a POSIX shell")
def test_first_command_of_readme_makes_a_server_that_takes_mail(
    set_up_by_readme: Path, tmp_path: Path
) -> None:
    serve = readme_commands()[0].split(" && ")[-1]
    with subprocess.Popen(
        [set_up_by_readme / serve.split()[0], *serve.split()[1:], "--listen", "127.0.0.1:0"],
        cwd=tmp_path,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ) as server:
        assert server.stdout is not None
        watchdog = threading.Timer(120, server.kill)
        watchdog.start()
        try:
            printed = server.stdout.readline()
            started = re.search(r"listening on 127\.0\.0\.1:(\d+)$", printed, re.MULTILINE)
            assert started, printed + server.stdout.read()
            send(int(started[1]))
            server.terminate()
            printed += server.stdout.read()
        finally:
            server.kill()
            watchdog.cancel()
    assert server.returncode == 0, printed
    (message,) = (tmp_path / "mail" / "new").iterdir()
    assert message.read_bytes().endswith(b"\nworld\n")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="README's commands are for a POSIX shell")
def test_after_the_first_command_of_readme_python_finds_a_built_package_in_the_checkout(
    set_up_by_readme: Path,
) -> None:
    command = [set_up_by_readme / ".venv/bin/python", "-m", "fastsmtp", "serve", "--help"]
    assert "--maildir" in output_of(*command, cwd=set_up_by_readme)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="README's commands are for a POSIX shell")
def test_after_the_first_command_of_readme_type_checkers_find_the_package_by_its_path(
    set_up_by_readme: Path, tmp_path: Path
) -> None:
    python = set_up_by_readme / ".venv/bin/python"
    printed = output_of(python, "-c", r"import sys; print(*sys.path, sep='\n')", cwd=tmp_path)
    assert str(set_up_by_readme) in printed.splitlines()


def readme_commands() -> list[str]:
    """The indented lines of README that set up an environment: to run, and to test."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("python3 -m venv")]


def test_readme_sets_up_in_one_line_each_for_running_and_for_testing() -> None:
    run, test = readme_commands()
    assert run.endswith(".venv/bin/fastsmtp serve")
    assert re.search(r"\.venv/bin/(python -m )?pytest$", test)


def test_ci_runs_the_test_command_of_readme_and_ends_with_it() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    places = [script.find(f"step {part}") for part in readme_commands()[1].split(" && ")]
    assert -1 not in places
    assert places == sorted(places)
    after = script[places[-1] :].splitlines()[1:]
    assert not [line for line in after if re.match(r"\s*(step|make|echo|printf)\b", line)]


def test_ci_finds_another_python_and_runs_the_suite_there_before_that() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert script.index("\nother=$(other_python)") < script.index("step on_python")
    assert script.index("step on_python") < script.index("step .venv/bin/python -m pytest")


def test_the_two_copies_of_the_wheel_workflow_are_the_same_bytes() -> None:
    copy = ROOT / ".github/workflows/wheels.yml"
    assert (ROOT / "wheels.yml").read_bytes() == copy.read_bytes()


def test_actions_are_pinned_by_the_hash_of_their_commit() -> None:
    workflows = sorted((ROOT / ".github/workflows").glob("*.yml"))
    text = "".join(path.read_text(encoding="utf-8") for path in workflows)
    uses = re.findall(r"uses:\s*(\S+)(.*)", text)
    assert uses
    for action, comment in uses:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", action), action
        assert re.search(r"# v\d+\.\d+\.\d+$", comment), f"{action} does not say its version"


def test_wheels_are_built_by_a_cython_that_the_project_allows() -> None:
    constraints = (ROOT / ".ci/constraints.txt").read_text(encoding="utf-8")
    (pinned,) = re.findall(r"^Cython==(\d+)\.(\d+)\.(\d+)$", constraints, re.MULTILINE)
    version = tuple(map(int, pinned))
    assert (3, 2, 1) <= version < (4,)
    assert version != (3, 3, 0)


def test_the_distribution_is_fastsmtp_engine_and_the_import_and_the_command_are_fastsmtp() -> None:
    assert PROJECT["name"] == "fastsmtp-engine"
    assert PROJECT["scripts"] == {"fastsmtp": f"{CLI}:main"}


def test_every_hint_to_install_the_package_names_this_distribution_and_an_extra_of_it() -> None:
    hint = re.compile(r"pip install (?:-\S+ )*['\"]?(fastsmtp[\w.-]*)(?:\[([\w,]+)\])?")
    files = [*(ROOT / "fastsmtp").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    found = [
        (path.name, *match.groups())
        for path in [*files, *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
        for match in hint.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found
    assert not [where for where, name, _ in found if name != PROJECT["name"]]
    extras = {extra for _, _, names in found for extra in (names or "").split(",") if extra}
    assert extras <= set(PROJECT["optional-dependencies"])


def test_the_extra_test_takes_the_other_extras_from_this_distribution() -> None:
    (own,) = [each for each in PROJECT["optional-dependencies"]["test"] if "fastsmtp" in each]
    assert own.startswith(f"{PROJECT['name']}[")


def test_engine_depends_on_uvloop_alone() -> None:
    (dependency,) = PROJECT["dependencies"]
    assert dependency.startswith("uvloop>=")
    assert 'sys_platform != "win32"' in dependency
