"""A power cut loses no message that was acknowledged. On a loop device, with the Maildir's own
commits, and once without any sync, which has to be found.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from pathlib import Path

import pytest
from c_library import build_library, preload
from maildir_drill import Drill, found, message, on_disk
from power_cut import Disk, make_disk, mounted

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="loop devices")

MEGABYTES = 64
CUTS = int(os.environ.get("FASTSMTP_POWER_CUTS", "30"))  # of a night


def sizes(chance: random.Random) -> list[int]:
    """Those of a batch."""
    return [chance.choice([100, 3000, 70_000, 210_000]) for _ in range(chance.randint(1, 8))]


def load_until_stopped(drill: Drill, chance: random.Random, enough: int) -> list[bytes]:
    """Send batches, and stop the process at some moment after `enough` of them; return what was
    acknowledged by then.
    """
    acknowledged: list[bytes] = []
    for _ in range(enough):
        acknowledged += put(drill, chance)
    moment = threading.Timer(chance.uniform(0, 0.02), drill.process.send_signal, [signal.SIGSTOP])
    messages = [message(size) for size in sizes(chance)]
    moment.start()
    # In a thread, which waits for a stopped reader until that is killed.
    threading.Thread(target=drill.send, args=messages, daemon=True).start()
    moment.join()
    # It is stopped: an answer that is in the pipe was given before.
    acknowledged += [
        on_disk(text)
        for text, result in zip(messages, drill.answer_that_is_there(), strict=False)
        if isinstance(result, str)
    ]
    return acknowledged


def put(drill: Drill, chance: random.Random) -> list[bytes]:
    messages = [message(size) for size in sizes(chance)]
    assert len(drill.put(*messages)) == len(messages)
    return [on_disk(text) for text in messages]


def lost(disk: Disk, copy: Path, how: str, chance: random.Random, env: dict[str, str]) -> int:
    """Cut the power under load; return how many acknowledged messages are not there, whole."""
    drill = Drill(disk.path / "mail", how, env)
    try:
        acknowledged = load_until_stopped(drill, chance, chance.randint(1, 5))
        disk.cut(drill.process.pid, copy)
    finally:
        drill.process.kill()
        drill.end()
    with mounted(copy) as after:
        new = after.path / "mail" / "new"
        there = {path.read_bytes() for path in new.iterdir()} if new.exists() else set()
        check_start(after.path / "mail", there)
    return len([each for each in acknowledged if each not in there])


def check_start(maildir: Path, there: set[bytes]) -> None:
    """A start on what the cut has left: the same messages, and nothing in tmp."""
    drill = Drill(maildir, "free", {})
    try:
        assert set(found(maildir)) == there
        assert found(maildir, "tmp") == []
    finally:
        drill.process.kill()
        drill.end()


def cuts(directory: Path, how: str, chance: random.Random, number: int) -> list[int]:
    """What each of several cuts of one disk loses."""
    with mounted(make_disk(directory, "disk", MEGABYTES)) as disk:
        return [lost(disk, directory / "copy.img", how, chance, {}) for _ in range(number)]


@pytest.mark.parametrize("how", ["each", "all"])
def test_ops_06_a_power_cut_loses_nothing_acknowledged(tmp_path: Path, how: str) -> None:
    assert cuts(tmp_path, how, random.Random(how), 3) == [0] * 3


@pytest.mark.nightly
@pytest.mark.parametrize("how", ["each", "all", "free"])
def test_ops_06_many_power_cuts_lose_nothing_acknowledged(tmp_path: Path, how: str) -> None:
    for _ in range(CUTS // 10):
        assert cuts(tmp_path, how, random.Random(), 10) == [0] * 10


def test_a_power_cut_finds_what_was_acknowledged_without_a_sync(tmp_path: Path) -> None:
    env = {"LD_PRELOAD": preload(build_library("no_sync", tmp_path))}
    with mounted(make_disk(tmp_path, "disk", MEGABYTES)) as disk:
        assert lost(disk, tmp_path / "copy.img", "free", random.Random(1), env) > 0
