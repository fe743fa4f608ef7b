"""`fastsmtp serve` begins with a clear word or one clear line of error, and ends without loss.

Faults OPS-02 and OPS-12.
"""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import subprocess
from pathlib import Path

import pytest
from serving import (
    PATIENCE,
    Gateway,
    bodies,
    command,
    environment,
    leftovers,
    messages,
    run_to_end,
)

from fastsmtp.gateway import commands

pytest_plugins = ["gateway_fixtures"]

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"


# The end: OPS-02.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ops_02_a_signal_ends_the_gateway_cleanly(maildir: Path, number: signal.Signals) -> None:
    with Gateway(maildir) as gateway:
        gateway.send(MESSAGE)
        assert gateway.stop(number) == 0
        assert gateway.out.all[-1] == "fastsmtp: ended"
        assert gateway.errors() == []
    assert bodies(maildir) == [MESSAGE]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ops_02_an_idle_client_gets_421_at_once(maildir: Path, number: signal.Signals) -> None:
    with Gateway(maildir) as gateway:
        clients = [gateway.client(), gateway.client()]
        clients[1].mail("a@x.example")
        gateway.process.send_signal(number)
        for client in clients:
            code, text = client.getreply()
            assert (code, text[:5]) == (421, b"4.3.2")
            client.close()
        assert gateway.wait() == 0


def wait_for_refusal(port: int) -> None:
    """Return when the socket no longer listens: that is a moment after the line that says so."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionResetError:
            continue  # it was in the queue of a socket that closes
        except ConnectionRefusedError:
            return


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ops_02_a_message_in_flight_gets_its_real_reply(
    maildir: Path, number: signal.Signals
) -> None:
    with Gateway(maildir) as gateway:
        client = gateway.client()
        client.mail("a@x.example")
        client.rcpt("b@y.example")
        client.docmd("DATA")
        client.send(MESSAGE)
        gateway.process.send_signal(number)
        gateway.out.wait(f"{number.name}: no new clients")
        wait_for_refusal(gateway.ports[0])
        client.send(b".\r\n")
        assert client.getreply()[0] == 250
        assert client.getreply()[0] == 421
        client.close()
        assert gateway.wait() == 0
    assert bodies(maildir) == [MESSAGE]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ops_02_a_second_signal_ends_the_gateway_at_once(
    maildir: Path, number: signal.Signals
) -> None:
    with Gateway(maildir) as gateway:
        client = gateway.client()
        client.mail("a@x.example")
        client.rcpt("b@y.example")
        client.docmd("DATA")
        client.send(MESSAGE + (b"x" * 78 + b"\r\n") * 2000)
        gateway.process.send_signal(number)
        gateway.out.wait(": no new clients")
        gateway.process.send_signal(number)
        assert gateway.wait() == 1
        client.close()
    assert messages(maildir) == []
    with Gateway(maildir) as gateway:
        assert gateway.stop() == 0
    assert leftovers(maildir) == []


def test_a_leftover_of_a_killed_run_is_removed_at_the_next_start(maildir: Path) -> None:
    with Gateway(maildir) as gateway:
        client = gateway.client()
        client.mail("a@x.example")
        client.rcpt("b@y.example")
        client.docmd("DATA")
        client.send(MESSAGE + (b"x" * 78 + b"\r\n") * 20_000)
        # More than the gateway gathers: its first part is handed to the disk.
        while not (maildir / "tmp").exists() or not leftovers(maildir):
            assert gateway.process.poll() is None
        gateway.kill()
        client.close()
    assert len(leftovers(maildir)) == 1
    with Gateway(maildir) as gateway:
        assert "removed 1 unfinished" in gateway.out.all[0]
        assert leftovers(maildir) == []
        assert gateway.stop() == 0


# Bad input: one clear line, no traceback.


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    assert done.stdout == ""
    assert done.stderr.startswith("fastsmtp: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("scheme", ["", "lmtp:"])
def test_a_port_in_use_is_an_error_of_one_line(maildir: Path, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        done = run_to_end(f"--listen={place}", f"--maildir={maildir}")
    assert done.returncode == 1
    assert f"cannot listen on {place}: Address already in use" in complaint(done)


def test_a_port_in_use_after_a_free_one_is_an_error_of_one_line(maildir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_to_end("--listen=0", f"--listen={place}", f"--maildir={maildir}")
    assert done.returncode == 1
    assert f"cannot listen on {place}: Address already in use" in complaint(done)


def test_a_second_gateway_on_the_same_port_is_an_error_of_one_line(
    gateway: Gateway, maildir: Path
) -> None:
    place = f"127.0.0.1:{gateway.ports[0]}"
    done = run_to_end(f"--listen={place}", f"--maildir={maildir}")
    assert done.returncode == 1
    assert f"cannot listen on {place}: Address already in use" in complaint(done)


def test_a_socket_in_use_is_an_error_of_one_line(maildir: Path, tmp_path: Path) -> None:
    place = f"lmtp:{tmp_path / 'lmtp.sock'}"
    with Gateway(maildir, listen=(place,)) as gateway:
        done = run_to_end(f"--listen={place}", f"--maildir={maildir}")
        with smtplib.LMTP(str(tmp_path / "lmtp.sock"), local_hostname="c.example") as client:
            assert client.noop()[0] == 250
        assert gateway.stop() == 0
    assert done.returncode == 1
    assert f"cannot listen on {place}: Address already in use" in complaint(done)


def test_a_file_in_place_of_a_socket_stays_and_is_an_error_of_one_line(
    maildir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "lmtp.sock"
    path.write_text("precious")
    done = run_to_end(f"--listen=lmtp:{path}", f"--maildir={maildir}")
    assert done.returncode == 1
    assert f"cannot listen on lmtp:{path}: " in complaint(done)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("more", [(), ("--workers=2",)])
@pytest.mark.parametrize(
    "wrong",
    ["--client-ca=/nowhere", "--cert=/nowhere", "--users=/nowhere", "--deliver=nats://[::1]:1"],
)
def test_a_start_that_fails_removes_the_sockets_that_it_has_bound(
    maildir: Path, tmp_path: Path, wrong: str, more: tuple[str, ...]
) -> None:
    path = tmp_path / "lmtp.sock"
    place = () if wrong.startswith("--deliver") else (f"--maildir={maildir}",)
    done = run_to_end(f"--listen=lmtp:{path}", *place, wrong, *more)
    assert done.returncode == 1
    assert "fastsmtp: error: " in done.stderr
    assert not path.exists()


def test_an_application_that_cannot_start_leaves_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    (tmp_path / "broken.py").write_text("raise RuntimeError('broken')\n")
    done = run_to_end(f"--listen=lmtp:{path}", "broken", cwd=tmp_path)
    assert "broken" in complaint(done)
    assert not path.exists()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 100 + ".invalid", "999.1.1.1"])
def test_a_host_that_does_not_exist_is_an_error_of_one_line(maildir: Path, host: str) -> None:
    done = run_to_end(f"--listen={host}:2525", f"--maildir={maildir}")
    assert done.returncode == 1
    assert f"cannot listen on {host}:2525: " in complaint(done)


def test_an_address_of_another_host_is_an_error_of_one_line(maildir: Path) -> None:
    done = run_to_end("--listen=192.0.2.1:2525", f"--maildir={maildir}")
    assert done.returncode == 1
    assert "cannot listen on 192.0.2.1:2525: Cannot assign requested address" in complaint(done)


def test_a_file_in_place_of_the_maildir_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "mail").write_text("a file")
    done = run_to_end("--listen=0", f"--maildir={tmp_path / 'mail'}")
    assert done.returncode == 1
    assert f"cannot deliver into {tmp_path / 'mail'}: Not a directory" in complaint(done)


def test_a_maildir_that_cannot_be_made_is_an_error_of_one_line() -> None:
    done = run_to_end("--listen=0", "--maildir=/proc/mail")
    assert done.returncode == 1
    assert "cannot deliver into /proc/mail: " in complaint(done)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_maildir_without_write_permission_is_an_error_of_one_line(maildir: Path) -> None:
    maildir.mkdir(mode=0o500)
    done = run_to_end("--listen=0", f"--maildir={maildir}")
    assert done.returncode == 1
    assert f"cannot deliver into {maildir}: Permission denied" in complaint(done)


def test_a_missing_extra_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'click'\", name='click')\n"
    )
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    done = run_to_end("--listen=0", f"--maildir={tmp_path}", env=environment(PYTHONPATH=path))
    assert done.returncode == 1
    assert "pip install 'fastsmtp-engine[server]'" in complaint(done)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--listen=nonsense"], "--listen: 'nonsense' is not an address to listen on"),
        (["--listen=lmtp:25"], "RFC 2033"),
        (
            ["--size=big"],
            "--size: it takes octets such as 500000, or '500k', '25M', '1G', not 'big'",
        ),
        (["--domain=-"], "--domain: '-' is not a domain"),
        (["--maildir="], "--maildir: a directory is needed"),
        (["--nonsense"], "No such option"),
        (["app:server", "argument"], "unexpected extra argument"),
        (["--size"], "requires an argument"),
    ],
)
def test_a_wrong_command_line_is_an_error_of_one_line(arguments: list[str], told: str) -> None:
    done = run_to_end(*arguments)
    assert done.returncode == 2
    assert told in complaint(done)


def test_a_missing_command_is_an_error_of_one_line() -> None:
    done = subprocess.run(command()[:-1], capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    assert "a command is needed: fastsmtp serve" in complaint(done)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["spool"], "a command is needed: fastsmtp spool --help shows them"),
        (["postgres"], "a command is needed: fastsmtp postgres --help shows them"),
        (["completion"], "Choose from: bash, zsh, fish"),
    ],
)
def test_an_error_of_many_lines_is_told_in_one(
    arguments: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert commands.run(arguments) == 2
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    assert "\\x0a" not in line
    assert told in line


def test_help_names_every_option() -> None:
    done = run_to_end("--help")
    assert done.returncode == 0
    for option in ("--listen", "--maildir", "--size", "--domain", "--verbose"):
        assert option in done.stdout


# Output that is not read: OPS-12.


def test_ops_12_mail_is_taken_although_the_log_is_no_longer_read(maildir: Path) -> None:
    process = subprocess.Popen(
        command("--listen=127.0.0.1:0", f"--maildir={maildir}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
        text=True,
    )
    with process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        process.stdout.close()
        for _ in range(3):
            with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
                client.sendmail("a@x.example", ["b@y.example"], MESSAGE)
        process.terminate()
        assert process.wait(PATIENCE) == 0
    assert bodies(maildir) == [MESSAGE] * 3


def close_output() -> None:
    os.close(1)
    os.close(2)


@pytest.mark.parametrize("output", ["closed", "/dev/full"])
def test_ops_12_mail_is_taken_where_there_is_no_output(
    maildir: Path, tmp_path: Path, output: str
) -> None:
    path = tmp_path / "lmtp.sock"
    with open("/dev/full" if output == "/dev/full" else os.devnull, "w") as target:
        process = subprocess.Popen(
            command(f"--listen=lmtp:{path}", f"--maildir={maildir}"),
            stdout=target,
            stderr=target,
            env=environment(),
            preexec_fn=close_output if output == "closed" else None,
        )
    with process:
        client = connected(path, process)
        client.sendmail("a@x.example", ["b@y.example"], MESSAGE)
        client.sendmail("a@x.example", ["b@y.example"], MESSAGE)
        client.quit()
        process.terminate()
        assert process.wait(PATIENCE) == 0
    assert bodies(maildir) == [MESSAGE] * 2
    assert all(b"fastsmtp: " not in message for message in messages(maildir))


def connected(path: Path, process: subprocess.Popen[bytes]) -> smtplib.LMTP:
    """Connect as soon as the process listens; it has no way to say so."""
    while True:
        try:
            return smtplib.LMTP(str(path), local_hostname="c.example")
        except (FileNotFoundError, ConnectionRefusedError):
            assert process.poll() is None
