"""What cannot run says so in one line: an unsupported Python, and a use without its extra."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_python

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# Of those who work on the project, or made of other extras.
NOT_OF_USERS = {"test", "types", "lint", "fuzz", "bench", "dist", "docs", "examples"}

# As if a package were not installed: sys.argv[1] names it.
WITHOUT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""
CLI = "from fastsmtp.gateway.cli import main; sys.exit(main({arguments!r}))"
METRICS = "from fastsmtp.metrics import Collector; next(Collector(dict).collect())"
LISTEN = ("serve", "--listen=127.0.0.1:0")

# The extra, what it brings as it is imported, and the use that needs it: arguments, or a program.
USES = [
    ("server", "click", [*LISTEN]),
    ("server", "msgspec", [*LISTEN]),
    ("server", "argon2", ["passwd", "--stdin", "users", "ann"]),
    ("reload", "watchfiles", ["serve", "readme:server", "--reload"]),
    ("load", "rich", ["bench", "127.0.0.1:1"]),
    ("load", "click", ["bench", "127.0.0.1:1"]),
    ("tls", "cryptography", ["serve", "--listen=smtps://127.0.0.1:0"]),
    ("tls", "cryptography", "from fastsmtp.testing.authority import authority; authority()"),
    ("dns", "aiodns", "import fastsmtp; fastsmtp.SMTPServer(resolver='aiodns')"),
    ("metrics", "prometheus_client", METRICS),
    ("admin", "aiohttp", [*LISTEN, "--admin=127.0.0.1:0"]),
    ("s3", "obstore", "from fastsmtp.delivery.bodies import S3Bodies; S3Bodies('s3://mail/')"),
    ("nats", "nats", [*LISTEN, "--deliver=nats://127.0.0.1:1", "--nats=stream=MAIL"]),
    ("postgres", "asyncpg", [*LISTEN, "--deliver=postgresql://u@127.0.0.1:1/mail"]),
    ("http", "aiohttp", [*LISTEN, "--deliver=http://127.0.0.1:1/"]),
]  # fmt: skip


def last_line(*command: str, cwd: Path) -> str:
    """The last line that a command which fails has printed to stderr."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        input="a password\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0, done.stdout
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("extra, package, use", USES, ids=lambda value: str(value)[:24])
def test_a_use_without_its_package_names_the_extra(
    extra: str, package: str, use: str | list[str], tmp_path: Path
) -> None:
    program = use if isinstance(use, str) else CLI.format(arguments=use)
    line = last_line("-c", WITHOUT + program, package, cwd=tmp_path)
    # The command itself needs two packages, which two extras bring.
    extras = {extra, "server"} if package == "click" else {extra}
    assert any(f"pip install 'fastsmtp-engine[{name}]'" in line for name in extras), line


def test_every_extra_of_users_has_its_use() -> None:
    assert {extra for extra, _, _ in USES} == PROJECT["optional-dependencies"].keys() - NOT_OF_USERS


@pytest.mark.parametrize(
    "pretend, named",
    [
        ("sys.version_info = (3, 10, 13, 'final', 0)", "cpython 3.10"),
        ("sys.implementation.name = 'pypy'", f"pypy 3.{sys.version_info[1]}"),
    ],
)
def test_setup_on_what_is_not_supported_says_what_is(
    pretend: str, named: str, tmp_path: Path
) -> None:
    program = f"import runpy, sys; {pretend}; runpy.run_path({str(ROOT / 'setup.py')!r})"
    line = last_line("-c", program, cwd=tmp_path)
    assert line.startswith(f"fastsmtp-engine needs CPython 3.11 or newer, and this is {named}: ")
