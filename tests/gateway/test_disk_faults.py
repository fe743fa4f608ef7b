"""A disk that is full or broken costs a message its 250, and nothing else.

The faults are real, or as real as a test can have them: a small tmpfs that is full, a limit on the
size of files, and system calls that fail or wait. Faults OPS-06 and OPS-07, §9.4.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from disk_faults import Faults
from serving import PATIENCE, Gateway, bodies, leftovers, messages

pytest_plugins = ["gateway_fixtures"]

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
LARGE = b"Subject: large\r\n\r\n" + (b"x" * 78 + b"\r\n") * 3000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tmpfs, /proc and LD_PRELOAD")


def code_of(gateway: Gateway, message: bytes) -> tuple[int, str]:
    """Send one message; return code and enhanced code of the reply to it."""
    with gateway.client() as client:
        client.mail("a@x.example")
        client.rcpt("b@y.example")
        code, text = client.data(message)
        return code, text.split()[0].decode()


# Full disks, and limits that look like one.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(directory)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.strip()}")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(path: Path) -> None:
    """Take all room that is left."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount")
def test_ops_07_a_full_disk_refuses_and_takes_mail_again_when_there_is_room(
    small_disk: Path,
) -> None:
    maildir = small_disk / "mail"
    with Gateway(maildir) as gateway:
        gateway.send(MESSAGE)
        assert code_of(gateway, LARGE + LARGE) == (452, "4.3.1")  # larger than the disk
        assert leftovers(maildir) == []
        gateway.send(MESSAGE)
        fill(small_disk / "filler")
        for _ in range(3):
            assert code_of(gateway, MESSAGE) == (452, "4.3.1")
        assert leftovers(maildir) == []
        assert len(messages(maildir)) == 2
        (small_disk / "filler").unlink()
        gateway.send(MESSAGE)
        gateway.out.wait("refused .* reason=ENOSPC:")
        assert gateway.stop() == 0
        assert gateway.errors() == []
    assert bodies(maildir) == [MESSAGE] * 3


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount")
def test_ops_07_a_gateway_starts_on_a_full_disk_and_refuses_until_there_is_room(
    small_disk: Path,
) -> None:
    maildir = small_disk / "mail"
    with Gateway(maildir) as gateway:
        assert gateway.stop() == 0
    fill(small_disk / "filler")
    inodes = [small_disk / f"inode{number}" for number in range(10_000)]
    with contextlib.suppress(OSError):
        for path in inodes:
            path.touch()
    with Gateway(maildir) as gateway:
        assert code_of(gateway, MESSAGE) == (452, "4.3.1")
        (small_disk / "filler").unlink()
        for path in inodes:
            path.unlink(missing_ok=True)
        gateway.send(MESSAGE)
        assert gateway.stop() == 0
    assert bodies(maildir) == [MESSAGE]


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_ops_07_a_limit_on_the_size_of_files_is_no_end_of_the_process(tmp_path: Path) -> None:
    maildir = tmp_path / "mail"
    with Gateway(maildir, preexec_fn=limit_files) as gateway:
        assert code_of(gateway, LARGE) == (452, "4.3.1")
        assert leftovers(maildir) == []
        assert code_of(gateway, MESSAGE)[0] == 250
        assert gateway.stop() == 0
    assert bodies(maildir) == [MESSAGE]


# Calls that fail.

EXPECTED = {
    "ENOSPC": (452, "4.3.1"),
    "EDQUOT": (452, "4.3.1"),
    "EFBIG": (452, "4.3.1"),
    "EIO": (451, "4.3.0"),
    "EROFS": (451, "4.3.0"),
}


@pytest.mark.parametrize("code", EXPECTED)
def test_ops_07_every_call_of_a_delivery_may_fail_once(faults: Faults, code: str) -> None:
    with faults.start() as gateway:
        for call in ("open", "write", "fsync", "link", "fsync_directory"):
            for k in itertools.count(1):
                faults.forget()
                faults.order(call, str(getattr(errno, code)), k)
                reply = code_of(gateway, LARGE)
                if not faults.fired:
                    assert reply[0] == 250, (call, k)
                    break
                assert reply == EXPECTED[code], (call, k)
                assert leftovers(faults.maildir) == []
                assert messages(faults.maildir) == []
            assert k > (3 if call == "write" else 1)
            assert bodies(faults.maildir) == [LARGE]
            for path in (faults.maildir / "new").iterdir():
                path.unlink()
        assert gateway.stop() == 0


@pytest.mark.parametrize("call", ["fsync", "fsync_directory"])
def test_ops_07_an_fsync_that_failed_is_not_repeated(faults: Faults, call: str) -> None:
    with faults.start() as gateway:
        faults.order(call, str(errno.EIO))
        assert code_of(gateway, MESSAGE) == (451, "4.3.0")
        assert gateway.stop() == 0
    assert [result for name, result, _ in faults.trace() if name == call] == [-errno.EIO]


def test_a_message_that_waits_for_the_disk_does_not_hold_up_the_others(faults: Faults) -> None:
    with faults.start() as gateway:
        slow = threading.Thread(target=gateway.send, args=(MESSAGE,))
        with faults.waiting_at("fsync"):
            slow.start()
            while not faults.fired:
                assert gateway.process.poll() is None
            with gateway.client() as client:
                assert client.noop()[0] == 250
            gateway.send(LARGE)
            assert messages(faults.maildir) != []
            assert slow.is_alive()
        slow.join(PATIENCE)
        assert gateway.stop() == 0
    assert sorted(bodies(faults.maildir)) == sorted([MESSAGE, LARGE])


def test_ops_02_a_message_behind_its_dot_gets_its_real_reply(faults: Faults) -> None:
    with faults.start() as gateway:
        client = gateway.client()
        client.mail("a@x.example")
        client.rcpt("b@y.example")
        client.docmd("DATA")
        with faults.waiting_at("fsync"):
            client.send(MESSAGE + b".\r\n")
            while not faults.fired:
                assert gateway.process.poll() is None
            gateway.process.terminate()
            gateway.out.wait("SIGTERM: no new clients")
        assert client.getreply()[0] == 250
        assert client.getreply()[0] == 421
        client.close()
        assert gateway.wait() == 0
    assert bodies(faults.maildir) == [MESSAGE]


def test_ops_02_a_second_signal_does_not_wait_for_the_disk(faults: Faults) -> None:
    with faults.start() as gateway:
        client = gateway.client()
        client.mail("a@x.example")
        client.rcpt("b@y.example")
        client.docmd("DATA")
        with faults.waiting_at("fsync"):
            client.send(MESSAGE + b".\r\n")
            while not faults.fired:
                assert gateway.process.poll() is None
            gateway.process.terminate()
            gateway.out.wait("SIGTERM: no new clients")
            gateway.process.terminate()
            assert gateway.wait() == 1
        client.close()
    assert messages(faults.maildir) == []


@pytest.mark.slow
def test_ops_02_one_signal_ends_it_although_the_disk_does_not_answer(faults: Faults) -> None:
    """After `close_timeout`, and five seconds for the disk, which this test waits for."""
    with faults.start("--close-timeout=1") as gateway, faults.waiting_at("fsync"):
        client = gateway.client()
        client.mail("a@x.example")
        client.rcpt("b@y.example")
        client.docmd("DATA")
        client.send(MESSAGE + b".\r\n")
        while not faults.fired:
            assert gateway.process.poll() is None
        assert gateway.stop() == 1
        assert "does not answer: ending without it" in gateway.err.all[-1]
        client.close()
    assert messages(faults.maildir) == []


# The order of calls: what survives a power cut.


def test_ops_06_before_each_250_its_message_is_synced_and_then_its_directory(
    faults: Faults,
) -> None:
    sent = [MESSAGE, LARGE, b"Subject: y\r\n\r\n"]
    with faults.start() as gateway:
        for message in sent:
            gateway.send(message)
        assert gateway.stop() == 0
    trace = faults.trace()
    assert all(result >= 0 for _, result, _ in trace)
    ends = [at for at, (name, _, _) in enumerate(trace) if name == "reply"]
    starts = [0, *(end + 1 for end in ends)]
    assert len(ends) == len(sent)
    for start, end in zip(starts, ends, strict=False):
        check_order(trace[start:end], faults.maildir)


def check_order(calls: list[tuple[str, int, str]], maildir: Path) -> None:
    """One delivery: everything is written, then synced, then named, then the name is synced."""
    names = [name for name, _, _ in calls]
    (opened,) = [path for name, _, path in calls if name == "open"]
    assert Path(opened).parent == maildir / "tmp"
    assert names[0] == "open"
    writes = names.count("write")
    assert names[1 : writes + 1] == ["write"] * writes
    assert names[writes + 1 :] == ["fsync", "link", "fsync_directory", "unlink"]
    assert {path for name, _, path in calls if name in ("write", "fsync", "unlink")} == {opened}
    assert calls[writes + 2][2] == str(maildir / "new" / Path(opened).name)
    assert calls[writes + 3][2] == str(maildir / "new")
