"""Units for systemd, the Dockerfile and the manual page say what is true of the program."""

from __future__ import annotations

import configparser
import importlib.util
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from serving import environment_of_others

from fastsmtp.gateway.activation import KINDS
from fastsmtp.gateway.commands import fastsmtp as program
from fastsmtp.gateway.config import parse_listener

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy/systemd").iterdir())
SERVICE = ROOT / "deploy/systemd/fastsmtp.service"
SOCKETS = [path for path in UNITS if path.suffix == ".socket"]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")


def flags_of(command: str) -> set[str]:
    """All flags of a command, as they are typed."""
    found = program.commands[command]
    return {text for each in found.params if isinstance(each, click.Option) for text in each.opts}


def check_command(words: list[str]) -> None:
    """The command exists, and so do its flags."""
    command, *arguments = words
    given = {word.partition("=")[0] for word in arguments if word.startswith("-")}
    assert given <= flags_of(command)


def settings(path: Path) -> Iterator[tuple[str, str]]:
    """The settings of a unit, in order; a key may come several times."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            yield name, value


# --- systemd ---


def test_the_service_starts_a_command_whose_flags_exist() -> None:
    (start,) = [value for name, value in settings(SERVICE) if name == "ExecStart"]
    path, *words = shlex.split(start)
    assert path == "/opt/fastsmtp/bin/fastsmtp"
    check_command(words)


def test_the_service_has_the_sandbox_that_the_page_names() -> None:
    found = dict(settings(SERVICE))
    assert found["User"] == "fastsmtp"
    assert found["CapabilityBoundingSet"] == ""
    assert found["Type"] == "notify"
    assert found["ProtectSystem"] == "strict"
    assert found["NoNewPrivileges"] == "yes"
    assert int(found["TimeoutStopSec"]) >= 35 + 1  # messages and disk, docs/serve.md
    on = {name for name, value in found.items() if value == "yes"}
    assert {"ProtectHome", "PrivateTmp", "PrivateDevices", "RestrictNamespaces"} <= on


@pytest.mark.parametrize("path", SOCKETS, ids=lambda path: path.name)
def test_a_socket_unit_names_a_protocol_and_addresses_of_it(path: Path) -> None:
    pairs = list(settings(path))
    name = dict(pairs)["FileDescriptorName"]
    assert path.name == f"fastsmtp-{name}.socket"
    assert dict(pairs)["Service"] == SERVICE.name
    kind = KINDS[name]
    addresses = [value for key, value in pairs if key == "ListenStream"]
    assert addresses
    for address in addresses:
        assert parse_listener(f"{kind.value}{address}").kind is kind
    assert f"Sockets={path.name}" in SERVICE.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_is_well_formed(path: Path) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read(path, encoding="utf-8")
    assert "Unit" in parser.sections()
    assert "Install" in parser.sections()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_no_mistake_in_the_units(tmp_path: Path) -> None:
    for path in UNITS:
        text = path.read_text(encoding="utf-8").replace("/opt/fastsmtp/bin/fastsmtp", "/bin/true")
        # The page is not installed here.
        text = re.sub("^Documentation=.*\n", "", text, flags=re.MULTILINE)
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", *sorted(map(str, tmp_path.iterdir()))],
        env=environment_of_others(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- Docker ---


def instructions() -> list[list[str]]:
    """The instructions of the Dockerfile, as words, without comments."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line]


def test_the_dockerfile_copies_files_that_exist() -> None:
    copied = [words[1:-1] for words in instructions() if words[0] == "COPY"]
    names = [name for words in copied for name in words if not words[0].startswith("--from")]
    assert "pyproject.toml" in names
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_container_is_no_root_and_starts_a_command_whose_flags_exist() -> None:
    order = [words[0] for words in instructions()]
    assert order.count("FROM") == 2
    assert ["USER", "fastsmtp"] in instructions()
    assert order.index("USER") < order.index("ENTRYPOINT")
    (line,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    check_command(re.findall(r'"([^"]*)"', line))
    assert "HEALTHCHECK" in order


# --- the manual page, and the page of all commands ---


def script(name: str) -> ModuleType:
    path = ROOT / f"docs/{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_manual_page_is_that_of_the_commands() -> None:
    page = (ROOT / "docs/fastsmtp.1").read_text(encoding="utf-8")
    assert page == script("make_man").render(), "run: make docs"


def test_the_page_of_all_commands_is_that_of_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert page == script("make_cli").render(), "run: make docs"
    assert "## fastsmtp serve\n" in page


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_manual_page_is_formatted_without_a_warning() -> None:
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-z", str(ROOT / "docs/fastsmtp.1")],
        env=environment_of_others(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
