"""A spool with workers: each has a directory of its own, and no message stays in one of them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import until
from serving import PATIENCE, Gateway, bodies, command, environment, messages, run_to_end
from worker_kit import Parent, Steady, ids_in

pytest_plugins = ["gateway_fixtures"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SO_REUSEPORT with BPF, /proc")

COUNT = 20


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def message(number: int) -> bytes:
    return b"X-Id: id%d\r\n\r\ntext\r\n" % number


def send_all(parent: Parent) -> None:
    """Send one message from each of many addresses, so that every worker gets some."""
    for number in range(COUNT):
        parent.send_from(f"127.0.0.{number + 1}", message(number))


def wait_for(maildir: Path, count: int = COUNT) -> None:
    async def has_all() -> None:
        await until(lambda: len(messages(maildir)) >= count)

    asyncio.run(has_all())


class Closed:
    """A Maildir into which nothing can be delivered, until the end of the block."""

    def __init__(self, maildir: Path) -> None:
        self._maildir = maildir

    def __enter__(self) -> None:
        shutil.rmtree(self._maildir)
        self._maildir.write_text("a file")

    def __exit__(self, *error: object) -> None:
        self._maildir.unlink()
        for name in ("tmp", "new", "cur"):
            (self._maildir / name).mkdir(parents=True)


def fastsmtp_spool(name: str, spool: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(name, str(spool), *arguments, name="spool"),
        env=environment(), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip


def test_each_worker_has_a_directory_of_its_own(maildir: Path, spool: Path) -> None:
    with Parent(maildir, f"--spool={spool}", workers=2) as parent:
        begin = re.compile(r" by way of the spool (.+?);")
        ways = {found[1] for line in parent.out.all if (found := begin.search(line))}
        while len(ways) < 2:  # a worker is ready a little before the line about it
            ways.add(parent.out.wait(begin.pattern)[1])
        assert ways == {str(spool), f"{spool}/workers/2"}
        send_all(parent)
        wait_for(maildir)
        assert parent.stop() == 0
        assert parent.errors() == []
    assert Counter(ids_in(messages(maildir))) == Counter(f"id{each}" for each in range(COUNT))


@pytest.mark.parametrize("first, second", [(0, 2), (2, 0), (2, 2)])
def test_a_second_server_on_a_spool_is_refused(
    maildir: Path, spool: Path, first: int, second: int
) -> None:
    option = f"--spool={spool}"
    with Parent(maildir, option, workers=first) if first else Gateway(maildir, option) as server:
        done = run_to_end(
            f"--workers={second}", option, "--listen=127.0.0.1:0", f"--maildir={maildir}"
        )
        assert done.returncode == 1
        assert f"the spool {spool} is in use by process {server.process.pid}" in done.stderr
        assert done.stderr.count("\n") == 1
        assert server.stop() == 0


@pytest.mark.parametrize(
    "workers, number",
    [
        (0, signal.SIGTERM),
        (0, signal.SIGKILL),
        (1, signal.SIGTERM),
        (2, signal.SIGKILL),
        pytest.param(1, signal.SIGKILL, marks=pytest.mark.nightly),
        pytest.param(2, signal.SIGTERM, marks=pytest.mark.nightly),
    ],
)
def test_fewer_workers_than_before_deliver_what_all_have_left(
    maildir: Path, spool: Path, workers: int, number: signal.Signals
) -> None:
    option = f"--spool={spool}"
    with Parent(maildir, option, workers=3) as parent, Closed(maildir):
        send_all(parent)
        for process in [parent.process.pid, *parent.workers()]:
            os.kill(process, number)
        parent.wait()
    with Parent(maildir, option, workers=workers) if workers else Gateway(maildir, option) as next_:
        wait_for(maildir)
        assert next_.stop() == 0
    assert Counter(ids_in(messages(maildir))) == Counter(f"id{each}" for each in range(COUNT))


def test_messages_of_a_server_without_workers_are_delivered_by_workers(
    maildir: Path, spool: Path
) -> None:
    option = f"--spool={spool}"
    with Gateway(maildir, option) as gateway, Closed(maildir):
        gateway.send(message(0))
        assert gateway.stop() == 0
    with Parent(maildir, option, workers=2) as parent:
        wait_for(maildir, 1)
        assert parent.stop() == 0
    assert ids_in(messages(maildir)) == ["id0"]


def test_what_a_removed_worker_leaves_is_delivered_by_a_running_one(
    maildir: Path, spool: Path
) -> None:
    with Parent(maildir, f"--spool={spool}", workers=2) as parent:
        with Closed(maildir):
            send_all(parent)
            parent.process.send_signal(signal.SIGTTOU)
            parent.out.wait("SIGTTOU: 1 workers?")
            parent.wait_for_workers(1)
        wait_for(maildir)
        assert parent.stop() == 0
    assert set(ids_in(messages(maildir))) == {f"id{each}" for each in range(COUNT)}


@pytest.fixture
def full(maildir: Path, spool: Path) -> Iterator[Parent]:
    """A parent whose two workers have messages that cannot be delivered."""
    with Parent(maildir, f"--spool={spool}", workers=2) as parent, Closed(maildir):
        send_all(parent)
        yield parent


@pytest.mark.parametrize("is_running", [True, False])
def test_the_commands_see_the_messages_of_all_workers(
    full: Parent, spool: Path, tmp_path: Path, is_running: bool
) -> None:
    if not is_running:
        for process in [full.process.pid, *full.workers()]:
            os.kill(process, signal.SIGKILL)
        full.wait()
    done = fastsmtp_spool("list", spool, "--json")
    listed = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(listed) == COUNT
    assert {each.get("spool", 1) for each in listed} == {1, 2}
    assert [each["received"] for each in listed] == sorted(each["received"] for each in listed)
    second = next(each for each in listed if each.get("spool") == 2)
    for name in (f"2/{second['number']}", second["id"]):
        shown = fastsmtp_spool("show", spool, name)
        assert shown.stdout.startswith(f"2/{second['number']} ")
    exported = fastsmtp_spool("export", spool, second["id"], f"--output={tmp_path / 'one.eml'}")
    assert exported.returncode == 0
    assert b"X-Id: id" in (tmp_path / "one.eml").read_bytes()
    assert fastsmtp_spool("delete", spool, "--yes", second["id"]).stdout == "1 deleted\n"
    missing = fastsmtp_spool("show", spool, second["id"])
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert "the spool has no record" in missing.stderr
    assert len(fastsmtp_spool("list", spool, "--limit=3").stdout.splitlines()) >= 3
    rest = fastsmtp_spool("delete", spool, "--yes", "--state=all")
    assert rest.stdout == f"{COUNT - 1} deleted\n"


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.nightly)])
def test_reloads_and_kills_under_load_lose_nothing_acknowledged(
    maildir: Path, spool: Path, times: int
) -> None:
    async def load(parent: Parent) -> Steady:
        steady = Steady(parent.ports[0], clients=12)
        for number in range(times):
            await steady.wait_for(30)
            parent.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(parent.out.wait, "SIGHUP: 2 new workers are ready")
            await steady.wait_for(30)
            os.kill(parent.workers()[-1 - number % 2], signal.SIGKILL)
            await asyncio.to_thread(parent.out.wait, "worker . is process")
        await steady.wait_for(30)
        await steady.stop()
        return steady

    with Parent(maildir, f"--spool={spool}", workers=2) as parent:
        steady = asyncio.run(load(parent))
        wait_for(maildir, len(steady.acknowledged))
        assert parent.stop() == 0
    assert steady.refused == []
    # A message may come twice if its process was killed after the delivery.
    assert set(steady.acknowledged) <= set(ids_in(messages(maildir)))


def test_no_directory_is_left_unused_by_many_reloads(maildir: Path, spool: Path) -> None:
    with Parent(maildir, f"--spool={spool}", workers=2) as parent:
        for _ in range(4):
            parent.process.send_signal(signal.SIGHUP)
            parent.out.wait("SIGHUP: 2 new workers are ready")
            parent.wait_for_workers(2)
        assert len(list((spool / "workers").iterdir())) <= 4
        assert parent.stop() == 0
        assert parent.errors() == []
    assert bodies(maildir) == []
