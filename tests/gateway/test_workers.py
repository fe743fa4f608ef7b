"""`fastsmtp serve --workers`: several processes, one set of addresses, and nothing lost."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving import (
    PATIENCE,
    Gateway,
    Program,
    bodies,
    command,
    environment,
    leftovers,
    run_to_end,
)
from worker_kit import Parent

pytest_plugins = ["gateway_fixtures"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SO_REUSEPORT with BPF, /proc")

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"


def test_every_worker_takes_mail_into_one_maildir(maildir: Path) -> None:
    with Parent(maildir, workers=2) as parent:
        for host in range(1, 31):
            parent.send_from(f"127.0.0.{host}", MESSAGE)
        assert parent.stop() == 0
        delivered = {line.split()[2] for line in parent.out.all if " delivered " in line}
        assert delivered == {"fastsmtp[1]:", "fastsmtp[2]:"}
        assert parent.errors() == []
    assert bodies(maildir) == [MESSAGE] * 30
    assert leftovers(maildir) == []


def test_a_killed_worker_is_replaced_and_its_queue_is_served(maildir: Path) -> None:
    with Parent(maildir, workers=1) as parent:
        (worker,) = parent.workers()
        os.kill(worker, signal.SIGSTOP)
        clients = [socket.create_connection(("127.0.0.1", parent.ports[0])) for _ in range(50)]
        os.kill(worker, signal.SIGKILL)
        for client in clients:
            with client, client.makefile("rb") as file:
                assert file.readline().startswith(b"220 ")
        parent.err.wait("worker 1, process .* killed by SIGKILL; another one starts now")
        assert parent.workers() != [worker]
        parent.send(MESSAGE)
        assert parent.stop() == 0
    assert bodies(maildir) == [MESSAGE]


def test_a_worker_that_is_killed_again_and_again_is_started_after_a_pause(maildir: Path) -> None:
    with Parent(maildir, workers=1) as parent:
        for when in ("now", r"in 0\.25 seconds", r"in 0\.5 seconds"):
            os.kill(parent.workers()[0], signal.SIGKILL)
            parent.err.wait(f"another one starts {when}$")
            parent.out.wait("worker 1 is process")
        assert parent.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_all_workers_finish_their_messages(
    maildir: Path, number: signal.Signals
) -> None:
    with Parent(maildir, workers=2) as parent:
        clients = [parent.client_from(f"127.0.0.{host}") for host in range(1, 9)]
        for client in clients:
            client.mail("a@x.example")
            client.rcpt("b@y.example")
            client.docmd("DATA")
        parent.process.send_signal(number)
        parent.out.wait(f"{number.name}: no new clients")
        for client in clients:
            client.send(MESSAGE + b".\r\n")
            assert client.getreply()[0] == 250
            assert client.getreply()[0] == 421
            client.close()
        assert parent.wait() == 0
        assert parent.out.all[-1] == "fastsmtp: ended"
    assert bodies(maildir) == [MESSAGE] * 8


def test_a_second_signal_ends_all_workers_at_once(maildir: Path) -> None:
    with Parent(maildir, workers=2) as parent:
        client = parent.client()
        client.mail("a@x.example")
        client.rcpt("b@y.example")
        client.docmd("DATA")
        workers = parent.workers()
        parent.process.send_signal(signal.SIGTERM)
        parent.out.wait(": no new clients")
        parent.process.send_signal(signal.SIGTERM)
        assert parent.wait() == 1
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
        client.close()
    assert bodies(maildir) == []


def test_workers_end_cleanly_when_their_parent_is_killed(maildir: Path) -> None:
    with Parent(maildir, workers=2) as parent:
        client = parent.client()
        client.mail("a@x.example")
        client.rcpt("b@y.example")
        client.docmd("DATA")
        workers = parent.workers()
        parent.process.kill()
        client.send(MESSAGE + b".\r\n")
        assert client.getreply()[0] == 250
        assert client.getreply()[0] == 421
        client.close()
        parent.wait()  # for the end of their output too: they have the same
        assert not any(Path(f"/proc/{worker}/exe").exists() for worker in workers)
    assert bodies(maildir) == [MESSAGE]


def test_a_worker_that_cannot_start_ends_the_parent_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "mail").write_text("a file\n")
    done = run_to_end("--workers=2", "--listen=127.0.0.1:0", f"--maildir={tmp_path / 'mail'}")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"fastsmtp: error: cannot deliver into {tmp_path / 'mail'}" in done.stderr


def test_a_port_of_another_parent_is_refused(maildir: Path) -> None:
    with Parent(maildir, workers=2) as parent:
        place = f"127.0.0.1:{parent.ports[0]}"
        for workers in ("0", "2"):
            done = run_to_end(f"--workers={workers}", f"--listen={place}", f"--maildir={maildir}")
            assert done.returncode == 1
            assert f"cannot listen on {place}: Address already in use" in done.stderr
            assert done.stderr.count("\n") == 1
        assert parent.stop() == 0


def test_a_parent_is_refused_on_the_port_of_a_server_without_workers(maildir: Path) -> None:
    with Gateway(maildir) as gateway:
        place = f"127.0.0.1:{gateway.ports[0]}"
        done = run_to_end("--workers=2", f"--listen={place}", f"--maildir={maildir}")
        assert f"cannot listen on {place}: Address already in use" in done.stderr
        assert gateway.stop() == 0


@pytest.mark.parametrize("text", ["-1", "x", "1025", ""])
def test_a_wrong_number_of_workers_is_wrong_usage(maildir: Path, text: str) -> None:
    done = run_to_end(f"--workers={text}", f"--maildir={maildir}")
    assert done.returncode == 2
    assert "--workers" in done.stderr
    assert done.stderr.count("\n") == 1


def test_auto_is_one_worker_for_each_cpu_of_the_process(maildir: Path) -> None:
    with Parent(maildir, workers="auto") as parent:
        assert len(parent.workers()) == len(os.sched_getaffinity(parent.process.pid))
        assert parent.stop() == 0


def test_clients_on_a_unix_socket_are_served_by_any_worker(tmp_path: Path, maildir: Path) -> None:
    path = tmp_path / "lmtp.sock"
    listen = ("127.0.0.1:0", f"lmtp:{path}")
    with Parent(maildir, workers=2, listen=listen) as parent:
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                assert client.recv(4) == b"220 "
        assert parent.stop() == 0
    assert not path.exists()


APPLICATION = """
import os

async def on_data(stream, session):
    await stream.read()
    return f"OK: {os.getpid()}"
"""


def test_an_application_is_imported_by_each_worker(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APPLICATION)
    with Parent(None, "app", workers=2, cwd=tmp_path) as parent:
        served = set()
        for host in range(1, 31):
            with parent.client_from(f"127.0.0.{host}") as client:
                client.mail("a@x.example")
                client.rcpt("b@y.example")
                served.add(client.data(MESSAGE)[1].split()[-1])
        assert served == {b"%d" % worker for worker in parent.workers()}
        assert parent.stop() == 0


BAD_APPLICATIONS = {
    "raises": ("raise RuntimeError('no luck')", "app", 1, "RuntimeError: no luck"),
    "has no attribute": ("x = 1", "app:server", 2, "app has no attribute server"),
}


@pytest.mark.parametrize("kind", BAD_APPLICATIONS)
def test_an_application_that_does_not_load_ends_the_parent(tmp_path: Path, kind: str) -> None:
    text, name, status, reason = BAD_APPLICATIONS[kind]
    (tmp_path / "app.py").write_text(text)
    done = subprocess.run(
        command(name, "--workers=2", "--listen=127.0.0.1:0"),
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == status
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_reload_of_files_and_workers_together_are_refused(tmp_path: Path) -> None:
    done = run_to_end("app", "--reload", "--workers=2", cwd=tmp_path)
    assert done.returncode == 2
    assert "--reload: it is for development, with one process: no --workers" in done.stderr


# The log.


@pytest.mark.parametrize("form", ["json", "logfmt"])
def test_the_lines_of_a_parent_have_the_form_of_those_of_its_workers(
    maildir: Path, form: str
) -> None:
    with Parent(maildir, f"--log-format={form}", "--stay-root", workers=1) as parent:
        os.kill(parent.workers()[0], signal.SIGKILL)
        parent.out.wait("worker 1 is process")
        assert parent.stop() == 0
    lines = [*parent.out.all, *parent.err.all]
    if form == "json":
        found = [json.loads(line) for line in lines]
        assert {each["process"] for each in found} == {"fastsmtp", "fastsmtp[1]"}
        assert [each["level"] for each in found].count("error") == 1
    else:
        start = re.compile(r"time=[\d.]+ process=fastsmtp(\[1\])? level=\w+ message=")
        assert [line for line in lines if not start.match(line)] == []


def test_a_log_file_has_the_lines_of_the_parent_and_of_a_reload(tmp_path: Path) -> None:
    path = tmp_path / "log"
    arguments = [f"--maildir={tmp_path / 'mail'}", "--workers=1", f"--log-file={path}"]
    with Program(command("--listen=127.0.0.1:0", *arguments)) as program:
        wait_for_text(path, "1 worker is ready")
        path.rename(tmp_path / "log.1")
        program.process.send_signal(signal.SIGHUP)
        wait_for_text(path, "SIGHUP: 1 new worker is ready")
        assert program.stop() == 0
        assert (program.out.all, program.errors()) == ([], [])
    assert path.read_text().endswith("fastsmtp: ended\n")


def wait_for_text(path: Path, text: str) -> None:
    end = time.monotonic() + PATIENCE
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
