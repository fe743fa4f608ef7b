"""The rights of root are given up once the ports are bound, and nothing needs them later."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import smtplib
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from clients import until
from rights_kit import NOBODY, children, facts, low_port, readable, why_no_root
from serving import PATIENCE, Program, command, messages, run_to_end
from tls_kit import pair

pytestmark = [
    pytest.mark.skipif(bool(why_no_root()), reason=why_no_root()),
    pytest.mark.row("OPS-13"),
]

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
LARGE = b"Subject: x\r\n\r\n" + (b"x" * 70 + b"\r\n") * 40_000


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory of nobody, which everybody can enter."""
    path = Path(tempfile.mkdtemp(prefix="fastsmtp-"))
    path.chmod(0o755)
    os.chown(path, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


@contextmanager
def started(line: list[str], **options: Any) -> Iterator[Program]:
    """A program, readable by all users, that is ended at the end."""
    with readable(line) as whole, Program(whole, **options) as program:
        yield program
        program.stop()


def serve(folder: Path, *arguments: str) -> list[str]:
    return command(f"--maildir={folder / 'mail'}", "--user=nobody", *arguments)


def send(port: int, message: bytes = MESSAGE) -> None:
    with smtplib.SMTP("127.0.0.1", port, "c.example", timeout=PATIENCE) as client:
        client.sendmail("a@x.example", ["b@y.example"], message)


def wait_for(mail: Path, count: int) -> None:
    """Wait until the Maildir has so many messages."""
    asyncio.run(until(lambda: len(messages(mail)) == count))


def check_rights(pid: int) -> None:
    """All threads are those of nobody, without a way back."""
    threads = facts(pid)
    assert threads
    for thread in threads:
        assert thread["Uid"].split() == [str(NOBODY)] * 4
        assert thread["Gid"].split() == [str(NOBODY)] * 4
        assert thread["Groups"].split() in ([], [str(NOBODY)])
        for name in ("CapPrm", "CapEff", "CapAmb"):
            assert int(thread[name], 16) == 0
    assert any(thread["NoNewPrivs"].strip() == "1" for thread in threads)


# --- who it is ---


@pytest.mark.parametrize("spool", [False, True])
def test_a_gateway_on_a_port_of_root_serves_as_the_user(folder: Path, spool: bool) -> None:
    port, path = low_port(), folder / "lmtp.sock"
    more = [f"--spool={folder / 'spool'}"] if spool else []
    listen = (f"--listen=127.0.0.1:{port}", f"--listen=lmtp:{path}")
    with started(serve(folder, *listen, "--umask=007", *more)) as program:
        program.out.wait("delivering")
        check_rights(program.process.pid)
        assert stat.S_IMODE(path.stat().st_mode) == 0o770
        assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, NOBODY)
        for message in (MESSAGE, LARGE):
            send(port, message)
        mail = folder / "mail"
        wait_for(mail, 2)
        assert (mail.stat().st_uid, stat.S_IMODE(mail.stat().st_mode)) == (NOBODY, 0o700)
        assert program.stop() == 0
        program.err.finish()
        assert program.errors() == []
    assert not path.exists()
    assert {file.stat().st_uid for file in folder.rglob("*")} == {NOBODY}


def test_workers_and_their_parent_are_the_user(folder: Path) -> None:
    port = low_port()
    line = serve(folder, f"--listen=127.0.0.1:{port}", "--workers=2")
    with started(line) as program:
        program.out.wait("2 workers are ready")
        workers = children(program.process.pid)
        assert len(workers) == 2
        for pid in [program.process.pid, *workers]:
            check_rights(pid)
        send(port)
        os.kill(program.process.pid, signal.SIGHUP)
        program.out.wait("2 new workers are ready")
        send(port)
    assert len(messages(folder / "mail")) == 2


def test_an_application_is_imported_as_the_user(folder: Path) -> None:
    port = low_port()
    (folder / "app.py").write_text(
        "import os\nprint('imported by', os.getuid(), flush=True)\n"
        "async def on_data(stream, session):\n    await stream.read()\n"
    )
    line = command("app", f"--listen=127.0.0.1:{port}", f"--user={NOBODY}")
    with started(line, cwd=folder) as program:
        program.out.wait(f"imported by {NOBODY}")
        program.out.wait("listening on")
        check_rights(program.process.pid)
        send(port)


def test_a_group_is_the_one_that_is_given(folder: Path) -> None:
    line = serve(folder, "--listen=127.0.0.1:0", "--group=12345")
    with started(line) as program:
        program.out.wait("delivering")
        assert facts(program.process.pid)[0]["Gid"].split() == ["12345"] * 4


def test_what_a_hook_starts_gains_nothing_from_a_set_user_id_program(folder: Path) -> None:
    tool = folder / "id"
    shutil.copy("/usr/bin/id", tool)
    tool.chmod(0o4755)
    (folder / "app.py").write_text(
        "import subprocess\n"
        "async def on_data(stream, session):\n"
        "    await stream.read()\n"
        f"    print('started as', subprocess.getoutput('{tool} -u'), flush=True)\n"
    )
    line = command("app", "--listen=127.0.0.1:0", "--user=nobody")
    with started(line, cwd=folder) as program:
        send(int(program.out.wait(r"listening on \S*:(\d+)$")[1]))
        assert program.out.wait(r"started as (\d+)")[1] == str(NOBODY)


# --- certificates ---


def test_a_key_that_only_root_can_read_serves_until_the_next_start(folder: Path) -> None:
    own = pair("mx.example")
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(own.cert)
    key.write_bytes(own.key)
    os.chown(key, 0, NOBODY)
    key.chmod(0o600)
    line = serve(folder, "--listen=127.0.0.1:0", f"--cert={cert}", f"--key={key}")
    with started(line) as program:
        port = int(program.out.wait(r"listening on \S*:(\d+)$")[1])
        program.out.wait("delivering")
        program.process.send_signal(signal.SIGHUP)
        program.err.wait(f"SIGHUP: the certificate stays as it was: .*{key}.*Permission denied")
        with smtplib.SMTP("127.0.0.1", port, "c.example", timeout=PATIENCE) as client:
            assert client.starttls()[0] == 220
        key.chmod(0o640)
        program.process.send_signal(signal.SIGHUP)
        program.out.wait("SIGHUP: certificate from ")


# --- root that stays root ---


def test_root_for_all_to_reach_is_refused(tmp_path: Path) -> None:
    for place in ("0.0.0.0:0", "[::]:0", f"127.0.0.1:{low_port()}"):
        for more in ((), ("--workers=1",)):
            done = run_to_end(f"--listen={place}", f"--maildir={tmp_path / 'mail'}", *more)
            assert done.returncode == 1
            assert "give --user NAME" in done.stderr
            assert "or --stay-root" in done.stderr
            assert done.stderr.count("\n") == 1
    assert not (tmp_path / "mail").exists()


@pytest.mark.parametrize("more", [(), ("--workers=1",)])
def test_root_stays_root_when_that_is_said(tmp_path: Path, more: tuple[str, ...]) -> None:
    line = command("--listen=0.0.0.0:0", f"--maildir={tmp_path / 'mail'}", "--stay-root", *more)
    with started(line) as program:
        program.out.wait("delivering")
        assert not [text for text in program.out.all if "as root" in text]


@pytest.mark.parametrize("more", [(), ("--workers=1",)])
def test_root_may_serve_this_host_alone_and_says_so(tmp_path: Path, more: tuple[str, ...]) -> None:
    places = ("--listen=127.0.0.1:0", "--listen=[::1]:0", f"--listen=lmtp:{tmp_path / 's'}")
    with started(command(*places, f"--maildir={tmp_path / 'mail'}", *more)) as program:
        program.out.wait("fastsmtp: running as root: give --user NAME for anything but development")
        program.out.wait("delivering")


# --- mistakes ---


@pytest.mark.parametrize(
    "arguments, status, text",
    [
        (["--user=no-such-user"], 1, "there is no user no-such-user: useradd --system"),
        (["--user=nobody", "--group=no-such-group"], 1, "there is no group no-such-group"),
        (["--user=4242424"], 1, "4242424 has no entry in /etc/passwd: give its --group"),
        (["--user=99999999999"], 1, "there is no user 99999999999"),
        (["--user=root"], 1, "--stay-root"),
        (["--user=0", "--group=0"], 1, "--stay-root"),
        (["--group=nogroup"], 2, "needs user"),
        (["--user=nobody", "--stay-root"], 2, "leave one of them out"),
        (["--umask=9"], 2, "octal"),
    ],
)
def test_a_wrong_user_is_an_error_of_one_line(
    tmp_path: Path, arguments: list[str], status: int, text: str
) -> None:
    done = run_to_end("--listen=127.0.0.1:0", f"--maildir={tmp_path / 'mail'}", *arguments)
    assert done.returncode == status
    assert text in done.stderr
    assert done.stderr.startswith("fastsmtp: error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("user, starts", [("daemon", False), ("root", False), ("nobody", True)])
def test_who_is_not_root_can_become_nobody_else(folder: Path, user: str, starts: bool) -> None:
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    line = command("--listen=127.0.0.1:0", f"--maildir={folder / 'mail'}", f"--user={user}")
    with started([*as_nobody, *line]) as program:
        if starts:
            program.out.wait("delivering")
            assert not [text for text in program.out.all if "as root" in text]
        else:
            assert program.process.wait(PATIENCE) == 1
            (line_of_error,) = program.err.finish()
            assert line_of_error.startswith("fastsmtp: error: --user: ")


@pytest.mark.skipif(Path(sys.base_prefix).parts[1] != "root", reason="others can read this Python")
def test_a_user_who_cannot_read_python_is_an_error_of_one_line(tmp_path: Path) -> None:
    done = run_to_end("--listen=127.0.0.1:0", f"--maildir={tmp_path}", "--user=nobody")
    assert done.returncode == 1
    assert "cannot become nobody: that user cannot read /root/" in done.stderr
    assert done.stderr.count("\n") == 1
