"""Sockets that were open before: from systemd's socket activation, or from another parent."""

from __future__ import annotations

import asyncio
import os
import signal
import smtplib
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest
from service_manager_kit import activated
from serving import PATIENCE, Gateway, Program, bodies, command, messages
from worker_kit import Parent, Steady, ids_in

pytest_plugins = ["gateway_fixtures"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LISTEN_FDS")

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"


def hand_over(parent: Parent) -> int:
    """Return the number of the process that has taken over."""
    parent.process.send_signal(signal.SIGUSR2)
    return int(parent.out.wait(r"SIGUSR2: process (\d+) has taken over")[1])


def end(parent: Parent, successor: int) -> None:
    """End the process that has taken over; the first one has ended."""
    assert parent.process.wait(PATIENCE) == 0
    os.kill(successor, signal.SIGTERM)
    parent.out.finish()
    parent.err.finish()


def test_a_hand_over_under_load_loses_refuses_and_resets_nothing(maildir: Path) -> None:
    async def load(parent: Parent) -> tuple[Steady, int]:
        steady = Steady(parent.ports[0], clients=12)
        await steady.wait_for(50)
        successor = await asyncio.to_thread(hand_over, parent)
        await steady.wait_for(50)
        await asyncio.to_thread(parent.process.wait, PATIENCE)
        await steady.wait_for(50)
        await steady.stop()
        return steady, successor

    with Parent(maildir, workers=2) as parent:
        steady, successor = asyncio.run(load(parent))
        end(parent, successor)
        assert parent.errors() == []
    assert (steady.refused, steady.cut) == ([], [])
    assert Counter(ids_in(messages(maildir))) == Counter(steady.acknowledged)


def test_a_parent_that_has_taken_over_is_like_the_first_one(tmp_path: Path, maildir: Path) -> None:
    path = tmp_path / "l.sock"
    with Parent(maildir, workers=2, listen=("127.0.0.1:0", f"lmtp:{path}")) as parent:
        successor = hand_over(parent)
        assert parent.process.wait(PATIENCE) == 0
        parent.send(MESSAGE)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            assert client.recv(4) == b"220 "
        os.kill(successor, signal.SIGHUP)
        parent.out.wait("SIGHUP: 2 new workers are ready")
        os.kill(successor, signal.SIGUSR2)
        third = int(parent.out.wait(r"SIGUSR2: process (\d+) has taken over")[1])
        parent.send(MESSAGE)
        end(parent, third)
    assert not path.exists()
    assert bodies(maildir) == [MESSAGE] * 2


def test_a_program_that_cannot_take_over_leaves_everything_as_it_was(tmp_path: Path) -> None:
    config, maildir = tmp_path / "f.toml", tmp_path / "mail"
    good = f"listen = ['127.0.0.1:0']\nmaildir = '{maildir}'\nworkers = 2\n"
    config.write_text(good)
    with Parent(None, f"--config={config}", workers=None, listen=()) as parent:
        before = parent.workers()
        for bad, reason in (
            ("workers = -1", "is to take over"),
            (good + "cert = 'missing.pem'", "missing.pem"),
            (f"listen = ['127.0.0.2:0']\nmaildir = '{maildir}'\nworkers = 2\n", "LISTEN_FDS"),
        ):
            config.write_text(bad)
            parent.process.send_signal(signal.SIGUSR2)
            parent.err.wait("SIGUSR2: process .* has not taken over.*: this one goes on")
            assert any(reason in line for line in parent.err.all + parent.out.all)
            parent.send(MESSAGE)
            assert parent.workers() == before
        config.write_text(good)
        end(parent, hand_over(parent))


def test_fewer_workers_than_before_empty_the_queues_of_all(tmp_path: Path) -> None:
    config, maildir = tmp_path / "f.toml", tmp_path / "mail"
    text = f"listen = ['127.0.0.1:0']\nmaildir = '{maildir}'\nworkers = %d\n"
    config.write_text(text % 3)
    with Parent(None, f"--config={config}", workers=None, listen=()) as parent:
        config.write_text(text % 1)
        successor = hand_over(parent)
        parent.out.wait("SIGTTOU: 1 worker")
        for host in range(1, 21):
            parent.send_from(f"127.0.0.{host}", MESSAGE)
        end(parent, successor)
    assert len(bodies(maildir)) == 20


# Sockets of systemd, by its protocol.


def listening(*options: int) -> socket.socket:
    sock = socket.socket()
    for option in options:
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def given(sock: socket.socket, *arguments: str) -> Program:
    """`fastsmtp serve`, started with this socket."""
    line = activated(command(*arguments), [sock.fileno()])
    return Program(line, pass_fds=[sock.fileno()])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [(), (socket.SO_REUSEPORT,)], ids=["plain", "reuseport"])
def test_a_socket_of_systemd_is_served(
    maildir: Path, workers: int, options: tuple[int, ...]
) -> None:
    with listening(*options) as sock:
        port = sock.getsockname()[1]
        arguments = [f"--listen=127.0.0.1:{port}", f"--maildir={maildir}", f"--workers={workers}"]
        with given(sock, *arguments) as program:
            for host in range(1, 21):
                with smtplib.SMTP(
                    "127.0.0.1", port, "c.example", PATIENCE, (f"127.0.0.{host}", 0)
                ) as client:
                    client.sendmail("a@x.example", ["b@y.example"], MESSAGE)
            assert program.stop() == 0
    out = program.out.all
    assert program.errors() == []
    assert f"fastsmtp: listening on 127.0.0.1:{port}" in out
    assert bodies(maildir) == [MESSAGE] * 20
    served = {line.split()[2] for line in out if " delivered " in line}
    if workers and options:
        assert len(served) == 2
    is_shared = "has one socket for all workers: limits per client hold for each worker alone"
    assert any(is_shared in line for line in out) == bool(workers and not options)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_socket_of_systemd_that_no_listener_names_is_an_error(
    maildir: Path, workers: int
) -> None:
    with listening() as sock:
        port = sock.getsockname()[1]
        arguments = ["--listen=127.0.0.2:0", f"--maildir={maildir}", f"--workers={workers}"]
        with given(sock, *arguments) as program:
            assert program.wait() == 1
    place = f"127.0.0.1:{port}"
    (line,) = program.errors()
    assert f"there is an open socket for {place} (LISTEN_FDS), which no --listen names" in line


@pytest.mark.parametrize("workers", [0, 2])
def test_a_datagram_socket_is_not_listened_on(maildir: Path, workers: int) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        arguments = [f"--maildir={maildir}", f"--workers={workers}"]
        with given(sock, *arguments) as program:
            assert program.wait() == 1
    (line,) = program.errors()
    assert "LISTEN_FDS: descriptor 3 is not a listening stream socket" in line


def test_variables_for_another_process_are_ignored(maildir: Path) -> None:
    env = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    with Gateway(maildir, env=env) as gateway:
        gateway.send(MESSAGE)
        assert gateway.stop() == 0


def test_programs_that_a_server_starts_do_not_get_its_sockets(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import os, subprocess\n"
        "async def on_data(stream, session):\n"
        "    await stream.read()\n"
        "    code = 'import os; print(sorted(os.listdir(\"/proc/self/fd\")))'\n"
        "    found = subprocess.run(['python3', '-c', code], capture_output=True, text=True)\n"
        "    return 'OK: ' + found.stdout.strip() + str('LISTEN_FDS' in os.environ)\n"
    )
    with Parent(None, "app", workers=2, cwd=tmp_path) as parent:
        successor = hand_over(parent)
        assert parent.process.wait(PATIENCE) == 0
        with parent.client() as client:
            client.mail("a@x.example")
            client.rcpt("b@y.example")
            answer = client.data(MESSAGE)[1].decode()
        end(parent, successor)
    assert answer.endswith("OK: ['0', '1', '2', '3']False")  # 3 is the directory it reads
