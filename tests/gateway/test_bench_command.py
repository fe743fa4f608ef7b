"""`fastsmtp bench` as a process, against a real `fastsmtp serve`: its figures, and its status."""

from __future__ import annotations

import email
import json
import os
import pty
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from serving import PATIENCE, Gateway, command, environment, messages

from fastsmtp.gateway.bench.plan import PROFILES
from fastsmtp.gateway.bench_command import bench

pytest_plugins = ["gateway_fixtures"]

PAGE = (Path(__file__).parents[2] / "docs" / "load.md").read_text(encoding="utf-8")


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    options.setdefault("env", environment())
    return subprocess.run(
        command(*arguments, name="bench"),
        **{"capture_output": True, "text": True, "timeout": PATIENCE, **options},
    )


def at(gateway: Gateway) -> str:
    return f"127.0.0.1:{gateway.ports[0]}"


def test_what_was_accepted_is_in_the_maildir_once_each(gateway: Gateway, maildir: Path) -> None:
    done = run(at(gateway), "--messages=50", "--connections=5", "--size=3k", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout)
    assert figures["messages"] == {"accepted": 50, "refused": 0, "failed": 0}
    assert figures["octets"] == 50 * 3 * 1024
    found = [email.message_from_bytes(each) for each in messages(maildir)]
    assert len(found) == len({each["Message-ID"] for each in found}) == 50
    assert {each["Return-Path"] for each in found} == {"<sender@client.example>"}


def test_figures_are_printed_as_text(gateway: Gateway) -> None:
    done = run(at(gateway), "--messages=20", "--profile=pipe", "--starttls", "--recipients=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^messages +20 accepted, 0 refused, 0 failed$", done.stdout, re.MULTILINE)
    assert re.search(
        r"^from the last dot to the reply( +[\d.]+){4} +20$", done.stdout, re.MULTILINE
    )
    assert re.search(r"^ +rcpt +250: 40$", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout
    assert "█" in done.stdout


def test_text_for_a_terminal_without_unicode_is_ascii(gateway: Gateway) -> None:
    env = environment(PYTHONIOENCODING="ascii")
    done = run(at(gateway), "--messages=20", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "###" in done.stdout


def test_a_refusal_is_status_1_and_told_with_its_text(maildir: Path) -> None:
    with Gateway(maildir, "--domain=server.example") as gateway:
        done = run(at(gateway), "--messages=4", "--to=a@other.example")
        expected = run(at(gateway), "--messages=4", "--to=a@other.example", "--expect=550")
    assert (done.returncode, expected.returncode) == (1, 0)
    assert re.search(r"^ +rcpt +4 +550 5\.1\.1 .*relay denied$", done.stdout, re.MULTILINE)
    assert "relay denied (expected)" in expected.stdout
    assert messages(maildir) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_with_the_figures_so_far(maildir: Path, number: signal.Signals) -> None:
    with Gateway(maildir) as gateway:
        process = subprocess.Popen(
            command(at(gateway), "--duration=3600", "--rate=50", "--json", name="bench"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for _ in range(3):
            gateway.out.wait("sender@client.example")
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    figures = json.loads(out)
    assert figures["ended_early"] == "interrupted"
    assert figures["messages"]["accepted"] == len(messages(maildir)) >= 3


def test_an_interrupt_before_the_first_message_is_status_130() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        process = subprocess.Popen(
            command(str(mute.getsockname()[1]), name="bench"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        client, _ = mute.accept()
        with client:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (130, "", "")


def test_progress_is_shown_on_a_terminal_and_leaves_the_figures_alone(gateway: Gateway) -> None:
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                shown.append(os.read(ours, 4096))
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    env = environment(TERM="xterm", COLUMNS="100")
    arguments = (at(gateway), "--messages=200", "--rate=200")
    done = run(*arguments, capture_output=False, stdout=subprocess.PIPE, stderr=theirs, env=env)
    os.close(theirs)
    reader.join(PATIENCE)
    os.close(ours)
    assert done.returncode == 0
    assert re.search(rb"\d+ accepted", b"".join(shown))
    assert "200 accepted" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_reader_that_is_gone_costs_no_traceback(gateway: Gateway) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = run(
        *(at(gateway), "--messages=5"),
        capture_output=False,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    assert done.stderr == ""
    assert done.returncode == 0


LINES = {
    "a public address": (["192.0.2.1:25"], 1, "--anywhere"),
    "no server": (["localhost:1"], 1, "connection refused"),
    "no port": (["localhost"], 2, "host:port"),
    "a wrong number": (["2525", "--messages=0"], 2, "--messages"),
    "an unknown profile": (["2525", "--profile=fast"], 2, "keep"),
    "a recipient that would be a command": (["2525", "--to=a@b\r\nRSET"], 2, "--to"),
}


@pytest.mark.parametrize("name", LINES)
def test_an_error_is_one_line(name: str) -> None:
    arguments, status, text = LINES[name]
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("fastsmtp: error: ")
    assert done.stderr.count("\n") == 1
    assert text in done.stderr


def test_without_rich_the_extra_is_named_and_json_still_works(
    gateway: Gateway, tmp_path: Path
) -> None:
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'rich'\", name='rich')\n"
    )
    env = environment()
    env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{env['PYTHONPATH']}"
    done = run(at(gateway), "--messages=5", env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'fastsmtp-engine[load]'" in done.stderr
    assert done.stderr.count("\n") == 1
    done = run(at(gateway), "--messages=5", "--json", env=env)
    assert (done.returncode, json.loads(done.stdout)["messages"]["accepted"]) == (0, 5)


# The page.


def rows(section: str) -> list[list[str]]:
    text = re.split(r"^## ", PAGE.partition(f"## {section}\n")[2], flags=re.MULTILINE)[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_has_every_option_with_its_default() -> None:
    told = {}
    for option, default, _ in rows("Options"):
        told[option.strip("`").split()[0]] = default.strip("`")
    options = [each for each in bench.params if each.opts[0].startswith("--")]
    assert told.keys() == {each.opts[0] for each in options}
    for each in options:
        default = each.default[0] if isinstance(each.default, tuple) else each.default
        if isinstance(default, float):
            assert float(told[each.opts[0]]) == default
        elif isinstance(default, str):
            assert told[each.opts[0]] == default


def test_the_page_has_every_profile_with_its_numbers() -> None:
    told = {name.strip("`"): cells for name, *cells in rows("Profiles")}
    assert told.keys() == PROFILES.keys()
    for name, profile in PROFILES.items():
        size, connections, count, *_ = told[name]
        number, unit = size.split()
        assert int(number) * {"KiB": 1024, "MiB": 1024**2}[unit] == profile.octets
        assert int(connections) == profile.connections
        assert int(count.replace(",", "")) == profile.messages


def test_the_page_has_every_field_of_the_json(gateway: Gateway) -> None:
    done = run(at(gateway), "--messages=3", "--to=a@b", "--starttls", "--json")
    told = {name.strip("`") for name, *_ in rows("JSON")}

    def names(value: Any, path: str = "") -> set[str]:
        if not isinstance(value, dict):
            return {path}
        found = {path} if path in ("times", "replies", "errors") else set()
        if not found:
            for key, each in value.items():
                found |= names(each, f"{path}.{key}" if path else key)
        return found

    assert names(json.loads(done.stdout)) == told
