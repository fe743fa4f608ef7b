"""The Maildir's names are its own, nothing is replaced, and leftovers are told from deliveries.

Faults OPS-08, and file systems that have no hard links or no locks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest
from maildir_kit import MESSAGE, NOTHING, Calls, deliver, files, only

from fastsmtp.errors import SMTPError
from fastsmtp.gateway.delivery.maildir import Maildir

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def box(tmp_path: Path) -> Maildir:
    return Maildir(str(tmp_path / "mail"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, box: Maildir) -> Calls:
    return Calls(monkeypatch)


# Names: OPS-08.


@pytest.fixture
def same_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every name made is alike but for its random part, which is taken from this list first."""
    chances: list[str] = []
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    real = secrets.token_hex
    monkeypatch.setattr(secrets, "token_hex", lambda n: chances.pop(0) if chances else real(n))
    return chances


def test_ops_08_a_name_that_is_taken_in_tmp_is_not_written_to(
    box: Maildir, same_names: list[str]
) -> None:
    same_names += ["0" * 16, "0" * 16, "1" * 16]
    first, second = box.deliver(), box.deliver()
    first.write(b"first")
    second.write(b"second")
    first.commit()
    second.commit()
    assert files(box) == {"cur": [], "new": [b"first", b"second"], "tmp": []}


def test_ops_08_a_name_that_is_taken_in_new_is_not_replaced(
    box: Maildir, same_names: list[str]
) -> None:
    same_names += ["0" * 16, "0" * 16, "1" * 16]
    deliver(box, b"first")
    deliver(box, b"second")
    assert files(box) == {"cur": [], "new": [b"first", b"second"], "tmp": []}


def test_ops_08_a_generator_that_repeats_itself_ends_in_a_refusal(
    box: Maildir, same_names: list[str]
) -> None:
    same_names += ["0" * 16] * 20
    deliver(box, b"first")
    with pytest.raises(SMTPError) as refused:
        deliver(box, b"second")
    assert refused.value.response_code == 451
    assert files(box) == only(b"first")


def test_ops_08_a_link_planted_in_tmp_is_not_followed(
    box: Maildir, same_names: list[str], tmp_path: Path
) -> None:
    same_names += ["0" * 16, "0" * 16, "1" * 16]
    planted = Path(box.tmp, box.unique_name())
    planted.symlink_to(tmp_path / "elsewhere")
    deliver(box)
    assert not (tmp_path / "elsewhere").exists()
    planted.unlink()
    assert files(box) == only(MESSAGE)


@pytest.mark.parametrize("days", [-1, 1, -20_000])
def test_ops_08_a_clock_that_jumps_makes_no_name_twice(
    box: Maildir, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    deliver(box, b"before")
    now = max(0, time.time_ns() + days * 86_400_000_000_000)
    monkeypatch.setattr(time, "time_ns", lambda: now)
    deliver(box, b"behind")
    deliver(box, b"behind")
    assert sorted(files(box)["new"]) == [b"before", b"behind", b"behind"]


def test_ops_08_a_process_number_used_again_makes_no_name_twice(
    box: Maildir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    other = Maildir(box.path)
    assert len({deliver(one) for one in (box, other) for _ in range(50)}) == 100


def test_ops_08_two_workers_share_a_maildir(box: Maildir) -> None:
    script = (
        "import sys\n"
        "from fastsmtp.gateway.delivery.maildir import Maildir\n"
        "box = Maildir(sys.argv[1])\n"
        "for number in range(100):\n"
        "    box.remove_leftovers()\n"
        "    delivery = box.deliver()\n"
        "    delivery.write(b'%s ' % sys.argv[2].encode())\n"
        "    delivery.commit(b'%d' % number)\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", script, box.path, name]) for name in ("a", "b")
    ]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    wanted = {f"{name} {number}".encode() for name in ("a", "b") for number in range(100)}
    found = files(box)
    assert (len(found["new"]), set(found["new"]), found["tmp"]) == (200, wanted, [])


def test_a_name_has_no_colon_comma_or_slash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "a/b:c,d\n" + "x" * 300)
    name = Maildir(str(tmp_path / "mail")).unique_name()
    assert not set(name) & set("/:,\n ")
    assert len(name) < 128


# File systems without links, or without locks.


@pytest.mark.parametrize("code", ["EPERM", "EOPNOTSUPP", "ENOSYS"])
def test_without_hard_links_a_message_is_renamed(box: Maildir, calls: Calls, code: str) -> None:
    calls.fail("link", code)
    deliver(box)
    assert files(box) == only(MESSAGE)
    assert calls.names()[-3:] == ["rename", "open_directory", "fsync_directory"]


def test_without_hard_links_nothing_is_replaced_either(
    box: Maildir, calls: Calls, same_names: list[str]
) -> None:
    same_names += ["0" * 16, "0" * 16, "1" * 16]
    deliver(box, b"first")
    calls.fail("link", "EPERM", 2)
    calls.fail("link", "EPERM", 3)
    deliver(box, b"second")
    assert files(box) == {"cur": [], "new": [b"first", b"second"], "tmp": []}


def test_without_hard_links_a_failed_sync_leaves_nothing(box: Maildir, calls: Calls) -> None:
    calls.fail("link", "EPERM")
    calls.fail("fsync_directory", "EIO")
    with pytest.raises(SMTPError):
        deliver(box)
    assert files(box) == NOTHING


def test_a_link_whose_success_was_lost_is_not_made_twice(
    box: Maildir, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def link_over_a_bad_network(source: str, target: str) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", link_over_a_bad_network)
    deliver(box)
    assert files(box) == only(MESSAGE)


# Leftovers.


def abandoned(box: Maildir, age: float = 0) -> Path:
    """A file as a delivery of a process that was killed leaves it."""
    path = Path(box.tmp, box.unique_name())
    path.write_bytes(b"half a mess")
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_leftovers_of_a_dead_run_go(box: Maildir) -> None:
    path = abandoned(box)
    assert box.remove_leftovers() == 1
    assert not path.exists()


def test_a_delivery_under_way_is_no_leftover_however_old(box: Maildir) -> None:
    delivery = box.deliver()
    delivery.write(b"half ")
    (path,) = Path(box.tmp).iterdir()
    os.utime(path, (0, 0))
    assert Maildir(box.path).remove_leftovers() == 0
    delivery.commit(b"whole")
    assert files(box) == only(b"half whole")


def test_files_of_others_stay(box: Maildir) -> None:
    kept = [
        Path(box.tmp, name)
        for name in ("1700000000.12345_1.host", "note", "1.M1P1R0123456789abcdef.host,S=1")
    ]
    for path in kept:
        path.write_bytes(b"not ours")
        os.utime(path, (0, 0))
    linked = Path(box.tmp, box.unique_name())
    linked.symlink_to(kept[0])
    directory = Path(box.tmp, box.unique_name())
    directory.mkdir()
    assert box.remove_leftovers() == 0
    assert all(path.exists() for path in [*kept, linked, directory])


@pytest.mark.parametrize(("hours", "removed"), [(35, 0), (37, 1)])
def test_where_files_cannot_be_locked_age_decides(
    box: Maildir, monkeypatch: pytest.MonkeyPatch, hours: int, removed: int
) -> None:
    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    abandoned(box, hours * 3600)
    assert box.remove_leftovers() == removed
    deliver(box)
    assert files(box)["new"] == [MESSAGE]


def test_a_new_file_that_a_cleaner_took_is_made_again(
    box: Maildir, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    taken: list[str] = []

    def cleaner_comes_first(descriptor: int, operation: int) -> None:
        if not taken:
            (path,) = Path(box.tmp).iterdir()
            taken.append(str(path))
            path.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", cleaner_comes_first)
    deliver(box)
    assert taken
    assert files(box) == only(MESSAGE)
