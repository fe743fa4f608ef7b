"""What the gateway and applications tell a service manager (sd_notify), and what they do not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import smtplib
import socket
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from service_manager_kit import VARIABLES, Hearer
from serving import PATIENCE, Gateway, Program, command, environment, messages
from worker_kit import Parent

from fastsmtp.gateway.service_manager import MAX_UNSENT, ServiceManager

pytest_plugins = ["gateway_fixtures"]

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
OFTEN = "100000"  # microseconds: a look at the status each twentieth of a second

type_run = Callable[[Coroutine[Any, Any, Any]], Any]

APPLICATION = """
import os, subprocess

async def on_data(stream, session):
    await stream.read()
    print(subprocess.run(["env"], capture_output=True, text=True).stdout, flush=True)
"""


@pytest.fixture
def hearer(tmp_path: Path) -> Iterator[Hearer]:
    with Hearer(tmp_path / "notify") as hearer:
        yield hearer


# --- a gateway ---


def test_a_gateway_is_ready_when_it_serves(maildir: Path, hearer: Hearer) -> None:
    with Gateway(maildir, env={"NOTIFY_SOCKET": hearer.address}) as gateway:
        ready = hearer.wait("READY")
        assert ready["READY"] == "1"
        gateway.send(MESSAGE)
        assert gateway.stop() == 0
    assert ready["STATUS"] == (
        f"127.0.0.1:{gateway.ports[0]}; delivering to {maildir};"
        " 250 means: on this disk (disk); clients: 0"
    )


def test_a_gateway_that_cannot_start_is_never_ready(tmp_path: Path, hearer: Hearer) -> None:
    (tmp_path / "mail").write_text("a file")
    ended = subprocess.run(
        command("--listen=0", f"--maildir={tmp_path / 'mail'}"),
        env=environment(NOTIFY_SOCKET=hearer.address),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 1
    said = hearer.waiting()
    assert said
    assert not [fields for fields in said if "READY" in fields]


def test_a_reload_is_reported_with_its_time_and_its_end(maildir: Path, hearer: Hearer) -> None:
    with Gateway(maildir, env={"NOTIFY_SOCKET": hearer.address}) as gateway:
        hearer.wait("READY")
        before = time.monotonic_ns() // 1000
        gateway.process.send_signal(signal.SIGHUP)
        reloading = hearer.next()
        assert reloading["RELOADING"] == "1"
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert hearer.next()["READY"] == "1"
        assert gateway.stop() == 0


def test_the_end_is_reported_when_it_begins(maildir: Path, hearer: Hearer) -> None:
    with Gateway(maildir, env={"NOTIFY_SOCKET": hearer.address}) as gateway:
        hearer.wait("READY")
        client = gateway.client()
        client.mail("a@x.example")
        client.rcpt("b@y.example")
        client.docmd("DATA")
        gateway.process.send_signal(signal.SIGTERM)
        stopping = hearer.wait("STOPPING")
        assert gateway.process.poll() is None
        client.send(MESSAGE + b".\r\n")
        assert client.getreply()[0] == 250
        client.close()
        assert gateway.wait() == 0
    assert stopping["STOPPING"] == "1"
    assert stopping["STATUS"].startswith("ending; clients: 1")


def test_the_status_has_the_number_of_clients(maildir: Path, hearer: Hearer) -> None:
    variables = {"NOTIFY_SOCKET": hearer.address, "WATCHDOG_USEC": OFTEN}
    with Gateway(maildir, env=variables) as gateway:
        clients = [gateway.client(), gateway.client()]
        hearer.wait("STATUS", "; clients: 2")
        for client in clients:
            client.close()
        hearer.wait("STATUS", "; clients: 0")
        assert gateway.stop() == 0


def test_a_watchdog_gets_signs_of_life(maildir: Path, hearer: Hearer) -> None:
    variables = {"NOTIFY_SOCKET": hearer.address, "WATCHDOG_USEC": OFTEN}
    with Gateway(maildir, env=variables) as gateway:
        for _ in range(3):
            assert hearer.wait("WATCHDOG")["WATCHDOG"] == "1"
        assert gateway.stop() == 0


def test_a_name_in_the_abstract_namespace_is_a_place_to_notify(maildir: Path) -> None:
    with (
        Hearer(f"@fastsmtp-{os.getpid()}") as hearer,
        Gateway(maildir, env={"NOTIFY_SOCKET": hearer.address}) as gateway,
    ):
        assert hearer.wait("READY")["READY"] == "1"
        assert gateway.stop() == 0


@pytest.mark.parametrize(
    "address",
    ["/none/notify", "notify", "vsock:2:1234", "@", "/" + "x" * 200, "/dev/null", "@" + "x" * 200],
)
def test_a_place_that_cannot_be_notified_costs_one_line_and_no_mail(
    maildir: Path, address: str
) -> None:
    variables = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": OFTEN}
    with Gateway(maildir, env=variables) as gateway:
        gateway.send(MESSAGE)
        gateway.process.send_signal(signal.SIGHUP)
        gateway.out.wait("nothing to reload")
        gateway.send(MESSAGE)
        assert gateway.stop() == 0
    assert len(messages(maildir)) == 2
    (line,) = gateway.errors()
    assert f"fastsmtp: warning: cannot notify {address[:100]}" in line


def test_a_service_manager_that_hears_nothing_costs_no_mail(
    maildir: Path, tmp_path: Path, hearer: Hearer
) -> None:
    variables = {"NOTIFY_SOCKET": hearer.address, "WATCHDOG_USEC": OFTEN}
    with full_queue(tmp_path / "notify"), Gateway(maildir, env=variables) as gateway:
        gateway.send(MESSAGE)
        assert gateway.stop() == 0
        assert gateway.errors() == []
    assert len(messages(maildir)) == 1


@contextmanager
def full_queue(address: Path) -> Iterator[None]:
    """Fill the queue of a socket that is not read."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.setblocking(False)
        try:
            while True:
                filler.sendto(b"FILLER=1", str(address))
        except BlockingIOError:
            yield


# --- a parent of workers ---


def test_a_parent_reports_its_start_a_reload_and_its_end(maildir: Path, hearer: Hearer) -> None:
    with Parent(maildir, workers=2, env={"NOTIFY_SOCKET": hearer.address}) as parent:
        assert hearer.wait("READY")["STATUS"] == (
            f"127.0.0.1:{parent.ports[0]}; delivering to {maildir};"
            " 250 means: on this disk (disk); workers: 2; clients: 0"
        )
        parent.process.send_signal(signal.SIGHUP)
        assert hearer.wait("RELOADING")["MONOTONIC_USEC"].isdigit()
        parent.out.wait("2 new workers are ready")
        assert hearer.wait("READY")["READY"] == "1"
        parent.process.send_signal(signal.SIGTERM)
        assert hearer.wait("STOPPING")["STATUS"].startswith("ending")
        assert parent.wait() == 0


def test_the_status_of_a_parent_has_the_clients_of_all_workers(
    maildir: Path, hearer: Hearer
) -> None:
    variables = {"NOTIFY_SOCKET": hearer.address, "WATCHDOG_USEC": OFTEN}
    with Parent(maildir, workers=2, env=variables) as parent:
        clients = [parent.client_from(f"127.0.0.{host}") for host in range(1, 9)]
        hearer.wait("STATUS", "; workers: 2; clients: 8")
        for client in clients:
            client.close()
        hearer.wait("STATUS", "; clients: 0")


def test_a_reload_that_fails_ends_for_the_service_manager_too(
    tmp_path: Path, maildir: Path, hearer: Hearer
) -> None:
    config = tmp_path / "f.toml"
    config.write_text(f"maildir = '{maildir}'\nlisten = ['127.0.0.1:0']\n")
    variables = {"NOTIFY_SOCKET": hearer.address}
    with Parent(None, f"--config={config}", workers=1, listen=(), env=variables) as parent:
        hearer.wait("READY")
        config.write_text("nonsense")
        parent.process.send_signal(signal.SIGHUP)
        hearer.wait("RELOADING")
        assert hearer.wait("READY")["READY"] == "1"
        parent.send(MESSAGE)


def test_a_parent_gives_signs_of_life_and_its_workers_do_not(maildir: Path, hearer: Hearer) -> None:
    variables = {"NOTIFY_SOCKET": hearer.address, "WATCHDOG_USEC": OFTEN}
    with Parent(maildir, workers=1, env=variables) as parent:
        for _ in range(3):
            hearer.wait("WATCHDOG")
        parent.process.kill()
        parent.process.wait(PATIENCE)
        hearer.waiting()
        assert parent.wait() == -signal.SIGKILL  # when the worker has closed the output, too
    assert hearer.waiting() == []


def test_a_hand_over_names_the_new_process_which_goes_on(maildir: Path, hearer: Hearer) -> None:
    with Parent(maildir, workers=1, env={"NOTIFY_SOCKET": hearer.address}) as parent:
        hearer.wait("READY")
        parent.process.send_signal(signal.SIGUSR2)
        successor = int(parent.out.wait(r"SIGUSR2: process (\d+) has taken over")[1])
        try:
            assert hearer.wait("MAINPID")["MAINPID"] == str(successor)
            assert parent.process.wait(PATIENCE) == 0
            os.kill(successor, signal.SIGHUP)
            assert hearer.wait("RELOADING")["RELOADING"] == "1"
            parent.send(MESSAGE)
        finally:
            os.kill(successor, signal.SIGTERM)
        assert hearer.wait("STOPPING")["STOPPING"] == "1"
        parent.out.finish()


# --- an application ---


def serving(directory: Path, **variables: str) -> Program:
    line = command("app", "--listen=127.0.0.1:0")
    return Program(line, cwd=directory, env=environment(**variables))


def test_an_application_reports_its_start_a_reload_and_its_end(
    tmp_path: Path, hearer: Hearer
) -> None:
    (tmp_path / "app.py").write_text(APPLICATION)
    with serving(tmp_path, NOTIFY_SOCKET=hearer.address) as program:
        port = program.out.wait(r"listening on \S*:(\d+)$")[1]
        assert hearer.wait("READY")["STATUS"] == f"127.0.0.1:{port}; clients: 0"
        program.process.send_signal(signal.SIGHUP)
        assert hearer.next()["RELOADING"] == "1"
        assert hearer.next()["READY"] == "1"
        program.process.send_signal(signal.SIGTERM)
        assert hearer.wait("STOPPING")["STOPPING"] == "1"
        assert program.process.wait(PATIENCE) == 0


def test_a_program_that_a_hook_starts_cannot_speak_for_the_service(
    tmp_path: Path, hearer: Hearer
) -> None:
    (tmp_path / "app.py").write_text(APPLICATION)
    variables = dict.fromkeys(VARIABLES, "7") | {"NOTIFY_SOCKET": hearer.address}
    with serving(tmp_path, **variables) as program:
        port = int(program.out.wait(r"listening on \S*:(\d+)$")[1])
        hearer.wait("READY")
        with smtplib.SMTP("127.0.0.1", port, "c.example", timeout=PATIENCE) as client:
            client.sendmail("a@x.example", ["b@y.example"], MESSAGE)
        program.out.wait("^PATH=")
    assert [line for line in program.out.all if line.startswith(VARIABLES)] == []


# --- the protocol, in this process ---


type_make = Callable[..., ServiceManager]


@pytest.fixture
def make(hearer: Hearer) -> Iterator[type_make]:
    """Makes a manager that speaks to `hearer`."""
    with contextlib.ExitStack() as stack:

        def make(**variables: str) -> ServiceManager:
            environ = {"NOTIFY_SOCKET": hearer.address} | variables
            manager = stack.enter_context(contextlib.closing(ServiceManager(environ)))
            assert environ == {}
            return manager

        yield make


def test_a_blocked_loop_gives_no_sign_of_life(
    run: type_run, make: type_make, hearer: Hearer
) -> None:
    async def block() -> tuple[list[Any], list[Any]]:
        manager = make(WATCHDOG_USEC="20000")
        async with manager.watched(lambda: "fine"):
            while not (lively := hearer.waiting()):
                await asyncio.sleep(0)
            time.sleep(0.2)
            return lively, hearer.waiting()

    lively, blocked = run(block())
    assert lively[0]["WATCHDOG"] == "1"
    assert blocked == []


@pytest.mark.parametrize(
    "variables, seconds",
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid() + 1)}, 0.0),
        ({"WATCHDOG_USEC": "three"}, 0.0),
        ({"WATCHDOG_USEC": "٣"}, 0.0),
        ({}, 0.0),
    ],
)
def test_a_watchdog_is_ours_if_it_has_our_process_id(
    make: type_make, variables: dict[str, str], seconds: float
) -> None:
    assert make(**variables).watchdog_seconds == seconds


def test_what_does_not_fit_into_the_queue_is_sent_later_in_order(
    make: type_make, hearer: Hearer, tmp_path: Path
) -> None:
    manager = make()
    with full_queue(tmp_path / "notify"):
        manager.notify(READY=1)
        manager.notify(MAINPID=7, STATUS="two\nlines")
    fillers = hearer.waiting()
    assert {"FILLER": "1"} in fillers
    assert {"READY": "1"} not in fillers
    manager.notify(STATUS="room")
    assert hearer.waiting() == [
        {"READY": "1"},
        {"MAINPID": "7", "STATUS": "two lines"},
        {"STATUS": "room"},
    ]


def test_the_last_words_follow_when_there_is_room_and_nothing_follows_them(
    make: type_make, hearer: Hearer, tmp_path: Path
) -> None:
    manager = make()
    with full_queue(tmp_path / "notify"):
        manager.notify(STATUS="waits")
        manager.say_last(MAINPID=7)
        manager.stopping("ending")
        assert manager.is_there
    hearer.waiting()
    manager.tick(lambda: pytest.fail("nobody asks for it"))
    assert hearer.waiting() == [{"MAINPID": "7"}]
    assert not manager.is_there


def test_the_end_waits_for_room_for_the_last_words(
    make: type_make, hearer: Hearer, tmp_path: Path
) -> None:
    manager = make()
    with full_queue(tmp_path / "notify"), ThreadPoolExecutor() as threads:
        manager.say_last(MAINPID=7)
        closing = threads.submit(manager.close)
        assert hearer.wait("MAINPID") == {"MAINPID": "7"}
        closing.result(PATIENCE)


def test_a_process_without_a_service_manager_sends_nothing(run: type_run) -> None:
    manager = ServiceManager({})

    async def serve() -> None:
        async with manager.watched(lambda: pytest.fail("nobody asks for it")):
            manager.ready("fine")
            await asyncio.sleep(0)

    run(serve())


def test_a_slow_service_manager_costs_no_memory(make: type_make, tmp_path: Path) -> None:
    manager = make()
    with full_queue(tmp_path / "notify"):
        for number in range(10 * MAX_UNSENT):
            manager.notify(STATUS=number)
        assert len(manager._unsent) == MAX_UNSENT


def test_a_status_is_one_line_of_limited_length(make: type_make, hearer: Hearer) -> None:
    make().notify(STATUS="a\nREADY=1\r" + "x" * 100_000)
    fields = hearer.next()
    assert fields.keys() == {"STATUS"}
    assert len(fields["STATUS"]) == 1024
