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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from disk_faults import Faults
from maildir_drill import drilling, found, is_name, message
from serving import environment

from fastsmtp.delivery.maildir._commit import Draft, commit
from fastsmtp.delivery.maildir.box import Box

pytest_plugins = ["gateway_fixtures"]
pytestmark = pytest.mark.usefixtures("no_leaks")

MESSAGE = b"Subject: x\n\nhello\n"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(str(tmp_path / "mail"))


def files(box: Box) -> dict[str, list[bytes]]:
    return {part: found(Path(box.path), part) for part in ("cur", "new", "tmp")}


def only(*messages: bytes) -> dict[str, list[bytes]]:
    return {"cur": [], "new": list(messages), "tmp": []}


def begun(box: Box, octets: bytes = MESSAGE) -> Draft:
    return Draft(box.open(), box.unique_name().encode(), b"", octets)


def deliver(box: Box, octets: bytes = MESSAGE) -> str:
    """Return the name of a message, "" for one that was refused."""
    draft = begun(box, octets)
    assert draft.place is not None
    commit(draft.place, [draft], False)
    return draft.final.decode()


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
    box: Box, same_names: list[str]
) -> None:
    same_names += ["0" * 16, "0" * 16]
    first, second = begun(box, b"first"), begun(box, b"second")
    assert first.write(b"!")
    assert second.write(b"!")
    for draft in (first, second):
        assert draft.place is not None
        commit(draft.place, [draft], False)
    assert files(box) == only(b"first!", b"second!")


def test_ops_08_a_name_that_is_taken_in_new_is_not_replaced(
    box: Box, same_names: list[str]
) -> None:
    same_names += ["0" * 16, "0" * 16]
    assert deliver(box, b"first") != deliver(box, b"second")
    assert files(box) == only(b"first", b"second")


def test_ops_08_a_generator_that_repeats_itself_ends_in_a_refusal(
    box: Box, same_names: list[str]
) -> None:
    same_names += ["0" * 16] * 20
    kept = [deliver(box, b"%d" % number) for number in range(5)]
    assert all(kept)
    refused = begun(box, b"refused")
    assert refused.place is not None
    commit(refused.place, [refused], False)
    assert (refused.final, refused.error) == (b"", errno.EEXIST)
    assert files(box) == only(b"0", b"1", b"2", b"3", b"4")


def test_ops_08_a_link_planted_in_tmp_is_not_followed(
    box: Box, same_names: list[str], tmp_path: Path
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
    box: Box, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    deliver(box, b"before")
    now = max(0, time.time_ns() + days * 86_400_000_000_000)
    monkeypatch.setattr(time, "time_ns", lambda: now)
    deliver(box, b"behind")
    deliver(box, b"behind")
    assert sorted(files(box)["new"]) == [b"before", b"behind", b"behind"]


def test_ops_08_a_process_number_used_again_makes_no_name_twice(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    other = Box(box.path)
    assert len({deliver(one) for one in (box, other) for _ in range(50)}) == 100


def test_ops_08_a_start_goes_on_when_another_process_removes_its_trial_file(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink

    def after_a_clean_up(path: str) -> None:
        monkeypatch.undo()
        assert box.remove_leftovers() == 1
        unlink(path)

    monkeypatch.setattr(os, "unlink", after_a_clean_up)
    Box(box.path)
    assert files(box)["tmp"] == []


WORKER = """
import sys
from fastsmtp.delivery.maildir._commit import Draft, commit
from fastsmtp.delivery.maildir.box import Box
box = Box(sys.argv[1])
for number in range(100):
    box.remove_leftovers()
    place = box.open()
    draft = Draft(place, box.unique_name().encode(), b"", sys.argv[2].encode())
    assert draft.write(b" %d" % number)
    commit(place, [draft], number % 2)
    assert draft.final
"""


def test_ops_08_two_workers_share_a_maildir(box: Box) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, box.path, name], env=environment())
        for name in ("a", "b")
    ]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    wanted = {f"{name} {number}".encode() for name in ("a", "b") for number in range(100)}
    there = files(box)
    assert (len(there["new"]), set(there["new"]), there["tmp"]) == (200, wanted, [])


def test_a_name_has_no_colon_comma_or_slash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "a/b:c,d\n" + "x" * 300)
    name = Box(str(tmp_path / "mail")).unique_name()
    assert not set(name) & set("/:,\n ")
    assert len(name) < 128


# File systems without links, or without locks.


@pytest.mark.parametrize("code", ["EPERM", "EOPNOTSUPP", "ENOSYS"])
def test_without_hard_links_a_message_is_renamed(faults: Faults, code: str) -> None:
    with drilling(faults) as drill:
        faults.order("link", str(getattr(errno, code)))
        messages = (message(),)
        assert drill.check(messages, drill.put(*messages)) == 1
        assert [name for name, _, _ in faults.trace()][-2:] == ["rename", "fsync_directory"]


def test_without_hard_links_nothing_is_replaced_either(faults: Faults) -> None:
    faults.env["SAME_NAMES"] = "yes"
    with drilling(faults) as drill:
        messages = message(), message()
        first = drill.put(messages[0])
        faults.order("link", str(errno.EPERM))
        second = drill.put(messages[1])
        assert first != second
        assert drill.check(messages, first + second) == 2
        assert faults.fired


def test_without_hard_links_a_failed_sync_leaves_nothing(faults: Faults) -> None:
    with drilling(faults) as drill:
        messages = (message(),)
        faults.order("link", str(errno.EPERM), then="fsync_directory")
        results = drill.put(*messages)
        assert not is_name(*results)
        drill.check(messages, results)


def test_a_link_whose_success_was_lost_is_not_made_twice(faults: Faults) -> None:
    with drilling(faults) as drill:
        messages = (message(),)
        faults.order("link", str(-errno.EEXIST))
        assert drill.check(messages, drill.put(*messages)) == 1
        assert faults.fired


def test_without_locks_a_message_is_delivered_too(faults: Faults) -> None:
    with drilling(faults) as drill:
        messages = (message(),)
        faults.order("flock", str(errno.ENOLCK))
        assert drill.check(messages, drill.put(*messages)) == 1
        assert faults.fired


def test_a_new_file_that_a_cleaner_took_is_made_again(faults: Faults) -> None:
    with drilling(faults) as drill, ThreadPoolExecutor(1) as thread:
        messages = (message(),)
        with faults.waiting_at("flock"):
            results = thread.submit(drill.put, *messages)
            while not faults.fired:
                assert drill.process.poll() is None
            (taken,) = (faults.maildir / "tmp").iterdir()
            taken.unlink()
        assert drill.check(messages, results.result(60)) == 1
        names = [name for name, _, _ in faults.trace()]
        assert names.count("open") == 2


# Leftovers.


def abandoned(box: Box, age: float = 0) -> Path:
    """A file as a delivery of a process that was killed leaves it."""
    path = Path(box.tmp, box.unique_name())
    path.write_bytes(b"half a mess")
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_leftovers_of_a_dead_run_go(box: Box) -> None:
    path = abandoned(box)
    assert box.remove_leftovers() == 1
    assert not path.exists()


def test_a_leftover_whose_name_was_taken_goes_too(box: Box) -> None:
    path = abandoned(box)
    path.rename(f"{path}-1")
    assert box.remove_leftovers() == 1
    assert files(box) == only()


def test_a_delivery_under_way_is_no_leftover_however_old(box: Box) -> None:
    draft = begun(box, b"half ")
    assert draft.write(b"whole")
    (path,) = Path(box.tmp).iterdir()
    os.utime(path, (0, 0))
    assert Box(box.path).remove_leftovers() == 0
    assert draft.place is not None
    commit(draft.place, [draft], False)
    assert files(box) == only(b"half whole")


def test_files_of_others_stay(box: Box) -> None:
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
    box: Box, monkeypatch: pytest.MonkeyPatch, hours: int, removed: int
) -> None:
    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    abandoned(box, hours * 3600)
    assert box.remove_leftovers() == removed
    deliver(box)
    assert files(box)["new"] == [MESSAGE]
