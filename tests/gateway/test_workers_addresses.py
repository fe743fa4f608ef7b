"""The addresses of a server with workers change at a reload; no client notices."""

from __future__ import annotations

import contextlib
import os
import signal
import smtplib
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest
from c_library import build_library, preload
from free_ports import free_port
from serving import messages
from worker_kit import Settings, ids_in, load

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SO_REUSEPORT with BPF, /proc")

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
IS_READY = r"SIGHUP: \d+ new workers? (is|are) ready$"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path)


def wait_for_refusal(port: int) -> None:
    """Return when nobody listens there any more; no connection is reset until then."""
    with contextlib.suppress(ConnectionRefusedError):
        while True:
            with smtplib.SMTP("127.0.0.1", port, "c.example", 60) as client:
                client.noop()


def test_a_reload_opens_and_closes_addresses(settings: Settings, tmp_path: Path) -> None:
    path, port = tmp_path / "s.sock", free_port()
    settings.write(listen=("127.0.0.1:0", f"smtp:{path}"))
    with settings.start() as parent:
        assert f"fastsmtp: listening on smtp:{path}" in parent.out.all
        settings.write(listen=("127.0.0.1:0", f"127.0.0.1:{port}"))
        parent.process.send_signal(signal.SIGHUP)
        parent.out.wait(IS_READY)
        assert not path.exists()
        with smtplib.SMTP("127.0.0.1", port) as client:
            client.noop()
        settings.write()
        parent.process.send_signal(signal.SIGHUP)
        parent.out.wait(IS_READY)
        parent.wait_for_workers(2)
        wait_for_refusal(port)
        parent.send(MESSAGE)
        assert parent.stop() == 0
        assert parent.errors() == []


def test_a_reload_with_a_port_in_use_changes_nothing(settings: Settings) -> None:
    settings.write()
    with settings.start() as parent, socket.create_server(("127.0.0.1", 0)) as taken:
        before = parent.workers()
        other = free_port()
        taken_port = taken.getsockname()[1]
        settings.write(listen=("127.0.0.1:0", f"127.0.0.1:{other}", f"127.0.0.1:{taken_port}"))
        parent.process.send_signal(signal.SIGHUP)
        parent.err.wait(f"cannot listen on 127.0.0.1:{taken_port}: Address already in use")
        assert parent.workers() == before
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", other))
        assert parent.stop() == 0


@pytest.mark.parametrize("first, second", [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")])
def test_a_port_changes_between_one_address_and_all_of_them_under_load(
    settings: Settings, first: str, second: str
) -> None:
    port = free_port()
    settings.write(listen=(f"{first}:{port}",))
    with settings.start("--stay-root") as parent:

        def change() -> None:
            settings.write(listen=(f"{second}:{port}",))
            parent.process.send_signal(signal.SIGHUP)
            parent.out.wait(IS_READY)

        steady = load(parent, change, 1)
        assert parent.stop() == 0
        assert parent.errors() == []
    assert (steady.refused, steady.cut) == ([], [])
    assert Counter(ids_in(messages(settings.maildir))) == Counter(steady.acknowledged)


def test_a_new_listener_may_have_a_name(settings: Settings) -> None:
    settings.write()
    with settings.start() as parent:
        port = free_port()
        settings.write(listen=("127.0.0.1:0", f"localhost:{port}"))
        parent.process.send_signal(signal.SIGHUP)
        parent.out.wait(IS_READY)
        with smtplib.SMTP("localhost", port, "c.example") as client:
            client.noop()
        assert parent.stop() == 0
        assert parent.errors() == []


def test_a_name_that_does_not_exist_changes_nothing(settings: Settings) -> None:
    settings.write()
    with settings.start() as parent:
        before = parent.workers()
        settings.write(listen=("127.0.0.1:0", "none.invalid:0"))
        parent.process.send_signal(signal.SIGHUP)
        parent.err.wait("everything stays as it was: cannot listen on none.invalid:0: ")
        parent.wait_for_workers(2)
        assert parent.workers() == before
        assert parent.stop() == 0


@pytest.fixture(scope="module")
def slow_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library whose lookup of slow.example takes as long as SLOW_NAMES says."""
    return build_library("slow_names", tmp_path_factory.mktemp("library"))


def test_workers_are_cared_for_while_a_name_is_looked_up(
    settings: Settings, slow_names: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "asked"
    env = {"LD_PRELOAD": preload(slow_names), "SLOW_NAMES": "10000", "SLOW_NAMES_MARK": str(mark)}
    settings.write()
    with settings.start(env=env) as parent:
        worker = parent.workers()[0]
        settings.write(listen=("127.0.0.1:0", "slow.example:0"))
        parent.process.send_signal(signal.SIGHUP)
        while not mark.exists():
            assert parent.process.poll() is None
        os.kill(worker, signal.SIGKILL)
        parent.out.wait("worker 1 is process")
        assert parent.stop() == 0
        assert len(parent.errors()) == 1
