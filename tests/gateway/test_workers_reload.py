"""SIGHUP, SIGTTIN and SIGTTOU replace, add and remove workers; no client notices."""

from __future__ import annotations

import os
import re
import shutil
import signal
import smtplib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import PATIENCE, bodies, messages
from worker_kit import Parent, Settings, ids_in, load

pytest_plugins = ["gateway_fixtures"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SO_REUSEPORT with BPF, /proc")

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
LINE = re.compile(r"(\d{4}-\d\d-\d\d [\d:]{8},\d{3} )?fastsmtp(\[\d\])?: [a-zA-Z0-9]")
IS_READY = r"SIGHUP: \d+ new workers? (is|are) ready$"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path)


@pytest.fixture
def parent(maildir: Path) -> Iterator[Parent]:
    """Two workers, which have had no client; nothing was reported when they end."""
    with Parent(maildir, workers=2) as parent:
        yield parent
        assert parent.stop() == 0
        assert parent.errors() == []
        # Several processes write to one pipe, and every line is whole.
        assert [line for line in parent.out.all if not LINE.match(line)] == []


def test_a_reload_serves_the_new_configuration_with_new_workers(settings: Settings) -> None:
    settings.write(domains=["x.example"])
    with settings.start() as parent:
        before = parent.workers()
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            parent.send(MESSAGE)
        settings.write(domains=["y.example"])
        parent.process.send_signal(signal.SIGHUP)
        parent.out.wait(IS_READY)
        parent.send(MESSAGE)
        parent.wait_for_workers(2)
        assert not set(before) & set(parent.workers())
        assert parent.stop() == 0
    assert bodies(settings.maildir) == [MESSAGE]


WRONG = {
    "broken": ("listen = [", "is not TOML"),
    "unknown key": ("wrokers = 2", "workers"),
    "wrong value": ("workers = -2", "workers"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_reload_of_a_wrong_configuration_changes_nothing(settings: Settings, kind: str) -> None:
    text, reason = WRONG[kind]
    settings.write()
    with settings.start() as parent:
        before = parent.workers()
        settings.path.write_text(text)
        parent.process.send_signal(signal.SIGHUP)
        line = parent.err.wait("SIGHUP: everything stays as it was: ").string
        assert reason in line
        parent.send(MESSAGE)
        assert parent.workers() == before
        assert parent.stop() == 0
        assert len(parent.errors()) == 1


def test_a_reload_whose_workers_cannot_start_keeps_the_old_ones(settings: Settings) -> None:
    settings.write()
    with settings.start() as parent:
        before = parent.workers()
        settings.write(cert="missing.pem")
        parent.process.send_signal(signal.SIGHUP)
        parent.err.wait("SIGHUP: everything stays as it was: .*missing.pem")
        parent.send(MESSAGE)
        assert parent.workers() == before
        settings.write()
        parent.process.send_signal(signal.SIGHUP)
        parent.out.wait(IS_READY)
        parent.send(MESSAGE)
        assert parent.stop() == 0
        assert len(parent.errors()) == 1
    assert bodies(settings.maildir) == [MESSAGE] * 2


def test_a_reload_changes_the_number_of_workers(settings: Settings) -> None:
    settings.write(workers=1)
    with settings.start() as parent:
        for workers in (3, 1, 2):
            settings.write(workers=workers)
            parent.process.send_signal(signal.SIGHUP)
            parent.out.wait(f"SIGHUP: {workers} new workers? (is|are) ready$")
            parent.wait_for_workers(workers)
            parent.send(MESSAGE)
        assert parent.stop() == 0
        assert parent.errors() == []
    assert bodies(settings.maildir) == [MESSAGE] * 3


def test_a_message_that_a_reload_overtakes_gets_its_reply(parent: Parent) -> None:
    client = parent.client()
    client.mail("a@x.example")
    client.rcpt("b@y.example")
    client.docmd("DATA")
    parent.process.send_signal(signal.SIGHUP)
    parent.out.wait(IS_READY)
    client.send(MESSAGE + b".\r\n")
    assert client.getreply()[0] == 250
    # A client that has connected before the reload may go on for some seconds.
    client.sendmail("a@x.example", ["b@y.example"], MESSAGE)
    client.quit()
    assert bodies(parent.maildir) == [MESSAGE] * 2


def test_more_and_fewer_workers_by_signals(parent: Parent) -> None:
    parent.process.send_signal(signal.SIGTTIN)
    parent.out.wait("SIGTTIN: 3 workers")
    assert len(parent.workers()) == 3
    for left in (2, 1):
        parent.process.send_signal(signal.SIGTTOU)
        parent.out.wait(f"SIGTTOU: {left} workers?")
    parent.wait_for_workers(1)
    parent.send(MESSAGE)


def test_the_last_worker_stays(maildir: Path) -> None:
    with Parent(maildir, workers=1) as parent:
        parent.process.send_signal(signal.SIGTTOU)
        parent.err.wait("SIGTTOU: the last worker stays")
        parent.send(MESSAGE)
        assert parent.stop() == 0


def test_signals_that_come_during_a_reload_take_effect_after_it(parent: Parent) -> None:
    for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGHUP):
        parent.process.send_signal(number)
        parent.wait_for_delivery(number)
    parent.out.wait("SIGHUP: 2 new workers are ready")
    parent.out.wait("SIGTTIN: 3 workers")
    parent.out.wait("SIGHUP: 3 new workers are ready")
    parent.wait_for_workers(3)
    parent.send(MESSAGE)


# Load.


def reload(parent: Parent) -> None:
    parent.process.send_signal(signal.SIGHUP)
    parent.out.wait(IS_READY)


TIMES = [3, pytest.param(20, marks=pytest.mark.nightly)]


@pytest.mark.parametrize("times", TIMES)
def test_reloads_under_load_lose_refuse_and_reset_nothing(parent: Parent, times: int) -> None:
    steady = load(parent, lambda: reload(parent), times)
    assert (steady.refused, steady.cut) == ([], [])
    found = ids_in(messages(parent.maildir))
    assert Counter(found) == Counter(steady.acknowledged)


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.nightly)])
def test_workers_that_come_and_go_under_load_lose_refuse_and_reset_nothing(
    parent: Parent, times: int
) -> None:
    def more_and_fewer() -> None:
        for number in (signal.SIGTTIN, signal.SIGTTOU):
            parent.process.send_signal(number)
            parent.out.wait(f"{number.name}: . workers?")

    steady = load(parent, more_and_fewer, times)
    assert (steady.refused, steady.cut) == ([], [])
    assert Counter(ids_in(messages(parent.maildir))) == Counter(steady.acknowledged)


@pytest.mark.parametrize("times", TIMES)
def test_killed_workers_under_load_lose_nothing_acknowledged(maildir: Path, times: int) -> None:
    with Parent(maildir, workers=2) as parent:
        victims = iter(range(times))

        def kill() -> None:
            workers = parent.workers()
            os.kill(workers[next(victims) % len(workers)], signal.SIGKILL)
            parent.out.wait("worker . is process")

        steady = load(parent, kill, times)
        assert parent.stop() == 0
        assert len(parent.errors()) == times
    assert steady.refused == []
    found = Counter(ids_in(messages(maildir)))
    assert set(steady.acknowledged) <= set(found)
    assert set(found.values()) == {1}


@pytest.mark.skipif(shutil.which("smtp-source") is None, reason="needs Postfix's smtp-source")
@pytest.mark.parametrize("times", TIMES)
def test_reloads_under_the_load_of_another_client_lose_and_refuse_nothing(
    parent: Parent, times: int
) -> None:
    count = 100 * times
    command = [
        "smtp-source",
        "-s",
        "10",
        "-m",
        str(count),
        "-f",
        "a@x.example",
        "-t",
        "b@y.example",
    ]
    client = subprocess.Popen([*command, f"inet:127.0.0.1:{parent.ports[0]}"])
    for _ in range(times):
        reload(parent)
    assert client.wait(PATIENCE * times) == 0
    assert len(messages(parent.maildir)) == count


def memory_of(pid: int) -> int:
    """KiB, a share of what other processes have too."""
    return int(re.findall(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[0])


def files_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.parametrize("times", [10, pytest.param(1000, marks=pytest.mark.nightly)])
def test_reloads_leave_no_files_open_and_little_memory(parent: Parent, times: int) -> None:
    def facts() -> tuple[list[int], list[int]]:
        parent.wait_for_workers(2)
        processes = [parent.process.pid, *parent.workers()]
        return [files_of(each) for each in processes], [memory_of(each) for each in processes]

    reload(parent)
    files, before = facts()
    for _ in range(times):
        reload(parent)
    files_now, now = facts()
    print(f"after {times} reloads: {before} KiB -> {now} KiB, {files} -> {files_now} files")
    assert files_now == files
    assert sum(now) - sum(before) < 4096
