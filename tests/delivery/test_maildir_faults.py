"""The Maildir on a disk that fails: nothing is acknowledged that is not there, nothing refused
stays, whatever call of a commit fails, and whoever is committed together with it.
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
import sys
from pathlib import Path

import pytest
from disk_faults import Faults
from maildir_drill import LARGE, Drill, drilling, found, is_name, message, on_disk

pytest_plugins = ["gateway_fixtures"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc and LD_PRELOAD")

BATCHES = {"one": (100,), "three": (100, 5000, 70_000), "large": (LARGE,), "mixed": (100, LARGE)}
REPLIES = {"ENOSPC": [452, "4.3.1"], "EDQUOT": [452, "4.3.1"], "EFBIG": [452, "4.3.1"]}
REFUSED = [451, "4.3.0"]
# The calls of a commit, by how the files of a batch are synced.
CALLS = {
    "each": ("open", "write", "fsync", "link", "fsync_directory"),
    "all": ("open", "write", "syncfs", "link", "fsync_directory"),
}


@pytest.mark.parametrize("code", ["EIO", "ENOSPC", "EDQUOT", "EFBIG", "EROFS"])
@pytest.mark.parametrize("how", CALLS)
def test_ops_07_every_call_of_a_commit_may_fail_once(faults: Faults, how: str, code: str) -> None:
    with drilling(faults, how) as drill:
        for call, sizes in itertools.product(CALLS[how], BATCHES.values()):
            fired = 0
            for k in itertools.count(1):
                messages = tuple(map(message, sizes))
                faults.forget()
                faults.order(call, str(getattr(errno, code)), k)
                results = drill.put(*messages)
                kept = drill.check(messages, results)
                drill.empty()
                if not faults.fired:
                    assert kept == len(sizes), (call, k, results)
                    break
                fired += 1
                refused = [result for result in results if not is_name(result)]
                assert refused, (call, k)
                assert all(each == REPLIES.get(code, REFUSED) for each in refused)
                # What follows is not hurt.
                after = (message(),)
                assert drill.check(after, drill.put(*after)) == 1
                drill.empty()
            assert fired >= (len(sizes) if call in ("open", "write", "link") else 1), call


@pytest.mark.parametrize("call", ["fsync", "open", "write", "link"])
def test_a_fault_of_one_file_costs_no_other_message_of_the_batch(faults: Faults, call: str) -> None:
    with drilling(faults, "each") as drill:
        messages = message(), message(), message()
        faults.order(call, str(errno.EIO), 2)
        results = drill.put(*messages)
        assert [is_name(result) for result in results] == [True, False, True]
        drill.check(messages, results)


@pytest.mark.parametrize("how, call", [("all", "syncfs"), ("each", "fsync_directory")])
def test_a_sync_that_was_for_all_of_them_refuses_all_of_them(
    faults: Faults, how: str, call: str
) -> None:
    with drilling(faults, how) as drill:
        messages = message(), message(), message()
        faults.order(call, str(errno.EIO))
        assert drill.put(*messages) == [REFUSED] * 3
        drill.check(messages, [REFUSED] * 3)


@pytest.mark.parametrize("how, call", [("each", "fsync"), ("all", "syncfs")])
def test_ops_07_a_sync_that_failed_is_not_repeated(faults: Faults, how: str, call: str) -> None:
    with drilling(faults, how) as drill:
        faults.order(call, str(errno.EIO))
        drill.put(message())
        calls = [(name, result) for name, result, _ in faults.trace() if name != "fired"]
    assert calls == [("open", calls[0][1]), ("write", calls[1][1]), (call, -errno.EIO), calls[3]]
    assert calls[3] == ("unlink", 0)


def test_a_directory_whose_sync_failed_is_opened_and_checked_before_the_next_message(
    faults: Faults,
) -> None:
    with drilling(faults, "each") as drill:
        faults.order("fsync_directory", str(errno.EIO), 1)
        assert drill.put(message()) == [REFUSED]
        # It fails the check, too: not trusted yet.
        faults.order("fsync_directory", str(errno.EIO), 1)
        faults.forget()
        assert drill.put(message()) == [REFUSED]
        assert [name for name, _, _ in faults.trace()] == [
            *("open", "unlink", "fired", "fsync_directory")
        ]
        assert is_name(*drill.put(message()))
        faults.forget()
        assert is_name(*drill.put(message()))
        assert [name for name, _, _ in faults.trace()] == [
            *("open", "write", "fsync", "link", "fsync_directory", "unlink")
        ]


def test_directories_whose_handles_are_stale_are_opened_again(faults: Faults) -> None:
    """On NFS, when the server was restored or has exported another file system."""
    with drilling(faults) as drill:
        faults.order("open", str(errno.ESTALE))
        assert drill.put(message()) == [REFUSED]
        faults.forget()
        assert is_name(*drill.put(message()))
        assert [name for name, _, _ in faults.trace()][:2] == ["open", "unlink"]


def test_directories_that_were_moved_away_are_found_again(faults: Faults) -> None:
    with drilling(faults) as drill:
        assert is_name(*drill.put(message()))
        drill.empty()
        for part in ("tmp", "new"):
            os.rmdir(faults.maildir / part)
        assert drill.put(message()) == [REFUSED]
        for part in ("tmp", "new"):
            os.mkdir(faults.maildir / part)
        messages = (message(),)
        assert drill.check(messages, drill.put(*messages)) == 1


def test_a_name_in_tmp_that_cannot_be_removed_costs_a_leftover_and_no_message(
    faults: Faults,
) -> None:
    with drilling(faults) as drill:
        text = message()
        faults.order("unlink", str(errno.EIO))
        assert is_name(*drill.put(text))
        assert found(faults.maildir) == found(faults.maildir, "tmp") == [on_disk(text)]
        status, errors = drill.end()
        assert status == 0
        assert "a file stays behind" in errors


@pytest.mark.parametrize("how", CALLS)
def test_ops_06_the_order_of_calls_makes_every_message_of_a_batch_durable(
    faults: Faults, how: str
) -> None:
    with drilling(faults, how) as drill:
        results = drill.put(message(), message(100_000), message())
        calls = [(name, path) for name, _, path in faults.trace()]
    writes = [call for call in calls if call[0] in ("open", "write")]
    files = [path for name, path in calls if name == "open"]
    tmp, new = f"{faults.maildir}/tmp", f"{faults.maildir}/new"
    syncs = [("syncfs", tmp)] if how == "all" else [("fsync", path) for path in files]
    links = [("link", f"{new}/{name}") for name in results]
    unlinks = [("unlink", path) for path in files]
    assert calls == writes + syncs + links + [("fsync_directory", new)] + unlinks
    assert len(files) == 3


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    "how, call", [(how, call) for how, calls in CALLS.items() for call in (*calls, "unlink")]
)
def test_ops_05_a_process_killed_at_any_call_of_a_batch_has_lost_nothing_acknowledged(
    faults: Faults, how: str, call: str, moment: str
) -> None:
    batches = [tuple(message(size) for size in (100, 70_000, 100)) for _ in range(4)]
    acknowledged: list[bytes] = []
    with drilling(faults, how) as drill:
        # In the second batch, or in the third where a batch has one such call.
        faults.order(call, f"kill-{moment}", 3 if call in ("syncfs", "fsync_directory") else 5)
        for batch in batches:
            results = drill.put(*batch)
            acknowledged += [on_disk(text) for text, _ in zip(batch, results, strict=False)]
        assert drill.end()[0] == -signal.SIGKILL
    sent = {on_disk(text) for batch in batches for text in batch}
    kept = found(faults.maildir)
    assert set(acknowledged) <= set(kept) <= sent
    assert len(kept) == len(set(kept))
    check_restart(faults.maildir, kept)


def check_restart(maildir: Path, kept: list[bytes]) -> None:
    """A new run has what the dead one had delivered, and removes what it had not."""
    drill = Drill(maildir, "free", {})
    assert found(maildir, "tmp") == []
    assert sorted(found(maildir)) == sorted(kept)
    drill.process.kill()
    drill.end()
