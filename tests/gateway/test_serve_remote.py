"""`fastsmtp serve --deliver` with another machine: what the start says, and what clients hear while
that machine is down.
"""

from __future__ import annotations

import asyncio
import os
import re
import smtplib
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import remote_gateway
from clients import until
from remote_kit import Threaded, in_a_thread
from serving import PATIENCE, Gateway, environment

from fastsmtp.delivery import parse_record
from fastsmtp.gateway.checking import findings
from fastsmtp.gateway.commands import run
from fastsmtp.gateway.config import ConfigError, load, shown_values
from fastsmtp.gateway.config.sinks import SCHEMES
from fastsmtp.gateway.destinations.table import MAKERS

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
PROGRAM = (remote_gateway.__file__,)
DOWN = (421, b"Service not available, try again later")


@pytest.fixture
def remote() -> Iterator[Threaded]:
    with in_a_thread() as remote:
        yield remote


def environ() -> dict[str, str]:
    """Support modules are found, as in this process."""
    return {"PYTHONPATH": ":".join(sys.path)}


def serving(remote: Threaded, *arguments: str, query: str = "") -> Gateway:
    deliver = f"--deliver=remote://127.0.0.1:{remote.port}{query}"
    return Gateway(None, deliver, *arguments, program=PROGRAM, env=environ())


def wait_until(check: Callable[[], bool]) -> None:
    asyncio.run(until(check))


def failed(*arguments: str, name: str = "serve") -> str:
    """The one line of a start that fails."""
    done = subprocess.run(
        [sys.executable, *PROGRAM, name, *arguments],
        env=environment(**environ()),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "running as root" not in line]
    assert len(lines) == 1, lines
    return lines[0].removeprefix("fastsmtp: error: ")


def greeting(gateway: Gateway) -> tuple[int, bytes]:
    client = smtplib.SMTP(timeout=PATIENCE)
    try:
        return client.connect("127.0.0.1", gateway.ports[0])
    finally:
        client.close()


# --- the way of a message ---


def test_a_message_is_on_the_other_machine_before_its_250(remote: Threaded) -> None:
    with serving(remote) as gateway:
        assert gateway.out.all[-1] == (
            f"fastsmtp: delivering to remote://127.0.0.1:{remote.port};"
            " 250 means: on the disks of several machines (quorum_disk)"
        )
        assert "fastsmtp: the remote is a script" in gateway.out.all
        assert "fastsmtp: messages of more than 1048576 octets are refused" in gateway.out.all
        gateway.send(MESSAGE)
        ((octets,),) = remote.server.stored.values()
        assert parse_record(octets).body == MESSAGE
        assert gateway.stop() == 0
    assert gateway.errors() == []


def test_a_message_larger_than_the_other_machine_takes_is_552_at_mail_and_at_data(
    remote: Threaded,
) -> None:
    large = MESSAGE + (b"x" * 78 + b"\r\n") * 20_000
    with serving(remote) as gateway:
        with gateway.client() as client:
            code, _ = client.mail("a@x.example", [f"SIZE={len(large)}"])
            assert code == 552
            client.mail("a@x.example")
            client.rcpt("b@y.example")
            code, text = client.data(large)
            assert (code, text) == (552, b"5.3.4 Message is too large for its destination")
        assert gateway.stop() == 0
    assert not remote.server.stored


# --- the other machine is down ---


def test_while_it_is_down_clients_hear_421_and_451_and_then_mail_flows_again(
    remote: Threaded,
) -> None:
    with serving(remote, "--handoff-deadline=2", "--admin=127.0.0.1:0") as gateway:
        port = re.search(r"metrics and state on .*:(\d+)", "\n".join(gateway.out.all))
        assert port is not None
        with gateway.client() as client:
            client.mail("a@x.example")
            client.rcpt("b@y.example")
            remote.stop()
            assert client.data(MESSAGE) == (
                451,
                b"4.3.0 Message could not be stored, try again later",
            )
            assert client.mail("a@x.example")[0] == 451
            assert greeting(gateway) == DOWN
            wait_until(lambda: readiness(int(port[1])) == 503)
            remote.start()
            # Without any mail: a probe finds that it is up.
            wait_until(lambda: client.mail("a@x.example")[0] == 250)
            client.rcpt("b@y.example")
            assert client.data(MESSAGE)[0] == 250
            wait_until(lambda: readiness(int(port[1])) == 200)
        assert greeting(gateway)[0] == 220
        assert gateway.stop() == 0
    assert len(remote.server.stored) == 1
    said = "\n".join([*gateway.out.all, *gateway.err.all])
    assert len(re.findall(rf"remote:{remote.port} is down: Connection refused", said)) == 1
    assert len(re.findall(rf"remote:{remote.port} is up again", said)) == 1
    assert "Traceback" not in said


def readiness(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE) as found:
            return int(found.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_a_spool_beside_it_takes_mail_while_it_is_down_also_at_the_start(
    remote: Threaded, tmp_path: Path
) -> None:
    remote.stop()
    spool = f"--spool={tmp_path}/spool"
    with serving(
        remote, "--on-unavailable=spool", "--handoff-deadline=0.3", spool, "--admin=127.0.0.1:0"
    ) as gateway:
        assert gateway.out.all[-1] == (
            f"fastsmtp: delivering to remote://127.0.0.1:{remote.port}, or into the spool"
            f" {tmp_path}/spool; 250 means: on this disk (disk)"
        )
        gateway.send(MESSAGE)
        gateway.out.wait(r"accepted id=.* receipt=spool:\d+ ")
        port = re.search(r"metrics and state on .*:(\d+)", "\n".join(gateway.out.all))
        assert port is not None
        wait_until(lambda: readiness(int(port[1])) == 200)
        remote.start()
        wait_until(lambda: len(remote.server.stored) == 1)
        gateway.send(MESSAGE)
        gateway.out.wait(r"accepted id=.* receipt=ok ")
        assert len(remote.server.stored) == 2
        assert gateway.stop() == 0


def test_a_spool_in_front_of_it_takes_all_mail_and_drains_when_it_is_up(
    remote: Threaded, tmp_path: Path
) -> None:
    remote.stop()
    with serving(remote, f"--spool={tmp_path}/spool") as gateway:
        assert gateway.out.all[-1].endswith("250 means: on this disk (disk)")
        gateway.send(MESSAGE)
        remote.start()
        wait_until(lambda: len(remote.server.stored) == 1)
        assert gateway.stop() == 0


# --- what is wrong at the start ---

SETTINGS = [
    (
        ("--deliver=nats//host",),
        "--deliver: it takes a URL such as maildir:/var/mail",
    ),
    (("--deliver=remoet://x",), "--deliver: there is no scheme remoet: did you mean remote:?"),
    (
        ("--deliver=remote://user:secret@127.0.0.1:9",),
        "--deliver: every user of this machine can read the flags of a process: set a secret in"
        " the file, or as FASTSMTP_DELIVER",
    ),
    (
        ("--deliver=remote://127.0.0.1:9", "--maildir=x"),
        "--deliver: maildir is given too, leave one of them out",
    ),
    (
        ("--deliver=remote://127.0.0.1:9", "--on-unavailable=spool"),
        "--on-unavailable: it needs spool, a directory",
    ),
    (
        ("--maildir=x", "--spool=y", "--on-unavailable=spool"),
        "--on-unavailable: mail goes into a Maildir of this machine: leave it out",
    ),
    (
        ("--deliver=remote://127.0.0.1:9", "--handoff-deadline=300"),
        "--handoff-deadline: it must be below data_hook_timeout, which is 240 seconds",
    ),
    (("--handoff-deadline=0",), "--handoff-deadline: it takes seconds above 0, not 0.0"),
    (("--require=two disks",), "--require: it takes memory, quorum, disk, quorum_disk,"),
    (("--on-unavailable=drop",), "--on-unavailable: it takes refuse or spool, not 'drop'"),
]


@pytest.mark.parametrize("arguments, line", SETTINGS)
def test_a_wrong_setting_of_the_delivery_is_one_line_that_names_it(
    arguments: tuple[str, ...],
    line: str,
    registered: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(["serve", "--config=/dev/null", "--listen=127.0.0.1:0", *arguments]) != 0
    (told,) = capfd.readouterr().err.splitlines()
    assert told.startswith(f"fastsmtp: error: {line}")


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The destination of the tests, in this process."""
    monkeypatch.setitem(SCHEMES, "remote", "remote")
    monkeypatch.setitem(MAKERS, "remote", remote_gateway.made)


def test_a_url_that_makes_no_sink_and_a_missing_package_are_one_line() -> None:
    assert failed("--deliver=remote://host") == "deliver remote://host: it needs a port"
    place = "remote://nobody@127.0.0.1:9"
    line = f"deliver {place}: the sink needs a package: pip install it"
    assert failed("--listen=127.0.0.1:0", f"--deliver={place}") == line


def test_nobody_listens_at_the_start_is_one_line_and_nothing_is_accepted(remote: Threaded) -> None:
    remote.stop()
    place = f"remote://127.0.0.1:{remote.port}"
    line = f"deliver {place}: Connection refused"
    assert failed("--listen=127.0.0.1:0", f"--deliver={place}") == line


def test_a_promise_below_the_required_one_is_an_error_that_names_it(remote: Threaded) -> None:
    place = f"remote://127.0.0.1:{remote.port}?promise=quorum"
    line = f"deliver {place}: a 250 would mean quorum, and require is disk; the remote is a script"
    assert failed("--listen=127.0.0.1:0", f"--deliver={place}") == line
    with serving(remote, "--require=quorum", query="?promise=quorum") as gateway:
        assert gateway.out.all[-1].endswith("in the memory of several machines (quorum)")
        assert gateway.stop() == 0


def test_check_names_the_promise_and_what_the_service_would_not_start_with(
    remote: Threaded, registered: None
) -> None:
    def checked(*flags: str) -> list[tuple[bool, str]]:
        given = dict(zip(("deliver", "spool", "on_unavailable"), flags, strict=False))
        config = load({"listen": ("0",), **given}, {}, os.devnull).config
        return [tuple(each) for each in findings(config)]

    place = f"remote://127.0.0.1:{remote.port}"
    assert checked(place)[-2:] == [
        (
            True,
            f"delivering to {place}; 250 means: on the disks of several machines (quorum_disk)",
        ),
        (True, "the remote is a script"),
    ]
    weak = f"{place}?promise=quorum"
    assert checked(weak)[-1] == (
        False,
        f"deliver {weak}: a 250 would mean quorum, and require is disk; the remote is a script",
    )
    remote.stop()
    assert checked(place)[-1] == (False, f"deliver {place}: Connection refused")
    assert checked(place, "/tmp/spool", "spool")[-2:] == [
        (
            True,
            f"delivering to {place}, or into the spool /tmp/spool; 250 means: on this disk (disk)",
        ),
        (True, f"warning: deliver {place}: Connection refused"),
    ]
    assert not remote.server.stored


def test_a_url_is_shown_without_its_password(registered: None) -> None:
    url = "remote://user:p@ss/w@h:9/x?token=abc&promise=disk"
    found = load({}, {"FASTSMTP_DELIVER": url}, os.devnull)
    shown = "remote://user:********@h:9/x?token=********&promise=disk"
    assert str(found.config.deliver) == shown
    assert f'deliver = "{shown}"  # environment FASTSMTP_DELIVER' in list(shown_values(found))
    for text in (repr(found), repr(found.config), repr(found.config.deliver)):
        assert "p@ss" not in text
        assert "abc" not in text


def test_a_file_with_the_password_of_a_url_that_every_user_can_read_is_refused(
    registered: None, tmp_path: Path
) -> None:
    file = tmp_path / "f.toml"
    file.write_text('deliver = "remote://user:secret@h:9"\n')
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="has deliver, and every user can read it") as error:
        load({}, {}, str(file))
    assert "secret" not in str(error.value)
    file.chmod(0o600)
    assert load({}, {}, str(file)).config.deliver.sink == "remote"
