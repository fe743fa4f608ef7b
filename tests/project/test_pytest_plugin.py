"""The fixtures of `fastsmtp.pytest_plugin`, in sessions of pytest as users run them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

import pytest

pytest_plugins = ["pytester"]

Session: TypeAlias = Callable[..., pytest.RunResult]

ROOT = Path(__file__).parents[2]

SEND = """
import smtplib

def send(server, to="bob@example.org"):
    with smtplib.SMTP(server.host, server.port, timeout=60) as client:
        client.sendmail("anne@x.example", [to], "Subject: hello\\r\\n\\r\\nworld\\r\\n")

"""
ASYNC = """
import asyncio, pytest
{mark}
async def test_async(smtp_server, smtp_server_factory):
    other = smtp_server_factory(lmtp=True)
    assert other.port != smtp_server.port
    await asyncio.to_thread(send, smtp_server)
    (message,) = await smtp_server.wait_async(1)
    assert message.message["subject"] == "hello"
"""


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Session:
    """Run a file of tests with the fixtures and the plugins that are named, and with no others."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)

    def run(text: str, *plugins: str, arguments: str = "") -> pytest.RunResult:
        pytester.makepyfile(SEND + text)
        loaded = [f"-p{name}" for name in ("fastsmtp.pytest_plugin", *plugins)]
        strict = ("-W", "error", "-p", "no:cacheprovider", *arguments.split())
        return pytester.runpytest_subprocess(*loaded, *strict, timeout=120)

    return run


def passed(result: pytest.RunResult) -> int:
    """How many tests have passed; none has failed."""
    assert result.ret == 0
    return result.parseoutcomes()["passed"]


def test_tests_get_a_server_of_their_own(session: Session) -> None:
    text = """
def test_first(smtp_server):
    send(smtp_server)
    assert [message.rcpt_to for message in smtp_server.messages] == [["bob@example.org"]]

def test_second(smtp_server, smtp_server_factory):
    assert smtp_server.messages == []
    refusing = smtp_server_factory()
    refusing.refuse("rcpt_to")
    send(smtp_server)
    try:
        send(refusing)
    except smtplib.SMTPRecipientsRefused:
        pass
    assert (len(smtp_server.messages), len(refusing.messages)) == (1, 0)
"""
    assert passed(session(text)) == 2


def test_a_test_that_waits_in_vain_shows_what_has_arrived(session: Session) -> None:
    result = session("def test(smtp_server): send(smtp_server); smtp_server.wait(2, 0)\n")
    result.stdout.fnmatch_lines(
        ["E*AssertionError: 1 of 2 messages*", "E*message from anne@x.example*"]
    )
    assert result.ret == 1


@pytest.mark.parametrize(
    ("mode", "mark"), [("auto", ""), ("strict", "@pytest.mark.asyncio")], ids=["auto", "strict"]
)
def test_pytest_asyncio(session: Session, mode: str, mark: str) -> None:
    options = f"--asyncio-mode={mode} -o asyncio_default_fixture_loop_scope=function"
    result = session(ASYNC.format(mark=mark), "pytest_asyncio.plugin", arguments=options)
    assert passed(result) == 1


def test_anyio(session: Session) -> None:
    text = ASYNC.format(mark="@pytest.mark.anyio")
    backend = "\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'\n"
    assert passed(session(text + backend, "anyio.pytest_plugin")) == 1


def test_xdist(session: Session) -> None:
    text = """
import pytest

@pytest.mark.parametrize("number", range(12))
def test(smtp_server_factory, number):
    servers = [smtp_server_factory(tls="starttls"), smtp_server_factory()]
    for server in servers:
        send(server)
    assert [len(server.messages) for server in servers] == [1, 1]
"""
    assert passed(session(text, "xdist", arguments="-n 3")) == 12


def test_the_entry_point_names_the_module() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (name,) = project["entry-points"]["pytest11"].values()
    assert import_module(name).__all__ == ["smtp_server", "smtp_server_factory"]


def test_the_module_can_be_imported_without_pytest_and_loads_no_library_of_an_extra() -> None:
    program = """
import sys
sys.modules["pytest"] = None
import fastsmtp.pytest_plugin as plugin
assert callable(plugin.smtp_server)
heavy = {"cryptography", "email.message", "tempfile", "unittest", "click", "msgspec"}
print(sorted(heavy & sys.modules.keys()))
"""
    command = [sys.executable, "-c", program]
    assert subprocess.check_output(command, text=True, timeout=60) == "[]\n"
