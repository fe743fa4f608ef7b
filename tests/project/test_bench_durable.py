"""The comparison of servers that sync: its parts measure what they say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from durable import chart, compare, sustained
from durable.servers import SERVERS
from durable.tree import cpu_of_tree
from serving import environment_of_others

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(sys.platform != "linux", reason="/proc and LD_PRELOAD"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]

BURN = "import os\nwhile sum(os.times()[:2]) < 0.3: pass\n"


def test_cpu_time_of_a_tree_has_that_of_children_alive_and_ended() -> None:
    script = (
        "import subprocess, sys\n"
        f"burn = [sys.executable, '-c', {BURN!r}]\n"
        "subprocess.run(burn)\n"
        f"alive = subprocess.Popen([*burn[:2], {BURN + 'print(flush=True); input()'!r}],"
        " stdout=subprocess.PIPE)\n"
        "alive.stdout.readline()\n"
        "print(flush=True)\n"
        "input()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 0.55 <= cpu_of_tree(process.pid) < 5
        assert cpu_of_tree(process.pid) < cpu_of_tree(os.getpid())
        process.communicate(b"\n\n")


def test_a_slow_disk_takes_its_time_for_each_flush_and_shares_it(tmp_path: Path) -> None:
    slow = compare.slow_disk(tmp_path) | {"FLUSH_MICROSECONDS": "50000"}
    script = (
        "import os, sys, threading\n"
        "file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "threads = [threading.Thread(target=os.fsync, args=(file,)) for _ in range(20)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
    )
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "file")],
        env=environment_of_others() | slow,
        check=True,
    )
    took = time.monotonic() - began
    assert took >= 0.05
    # Begun and ended flushes are the first numbers after the lock and the condition.
    numbers = memoryview((tmp_path / "flushes").read_bytes()).cast("q")
    assert 1 <= max(number for number in numbers[-4:] if 0 <= number < 100) <= 19


def report() -> dict[str, Any]:
    cell = ("20x1KiB", "postfix"), ("20x1KiB", "maildir")
    rounds = [
        {cell[0]: compare.Sample(1000.0, 600.0, 20.0), cell[1]: compare.Sample(rate, 120.0, 5.0)}
        for rate in (2000.0, 3000.0, 4000.0)
    ]
    return {
        "date": "2026-01-02T00:00:00+00:00",
        "machine": {"processor": "P", "cores": 2, "system": "S"},
        "versions": {"python": "3", "fastsmtp": "0", "commit": "c", "postfix": "3"},
        "rounds": 3,
        "flush_ms": 0.125,
        "profiles": compare.summary(rounds),
    }


def test_ratios_are_taken_inside_of_a_round_and_judged_by_the_goals() -> None:
    row = report()["profiles"]["20x1KiB"]["servers"]["maildir"]
    assert row["rate_ratio"] == {"median": 3.0, "lowest": 2.0, "highest": 4.0}
    assert row["cpu_ratio"]["median"] == 0.2
    assert row["goal"] == {"rate": 2.5, "cpu": 0.3, "met": True}
    assert "| maildir | 3,000 | 3.00 | 120 | 0.20 | 5.0 | ≥ 2.5, ≤ 0.30: met |" in chart.page(
        report()
    )


def test_every_goal_is_of_a_server_and_a_profile_that_there_is() -> None:
    assert all(server in SERVERS and name in compare.PROFILES for server, name in compare.GOALS)


def test_the_comparison_runs_and_its_picture_is_drawn(tmp_path: Path) -> None:
    written = tmp_path / "found.json"
    options = ["--servers=maildir,spool", "--profile=20x1KiB,20x1KiB+2ms", "--scale=0.02"]
    bench = [sys.executable, str(Path(compare.__file__).parents[1])]
    done = subprocess.run(
        [*bench, "durable", *options, "--rounds=1", f"--json={written}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left out" not in done.stdout
    found = json.loads(written.read_text())
    assert {*found["profiles"]["20x1KiB+2ms"]["servers"]} == {"maildir", "spool"}
    pytest.importorskip("matplotlib")
    chart.draw(found, tmp_path / "found.svg")
    assert (tmp_path / "found.svg").read_text().startswith("<?xml")


def test_mail_through_a_spool_is_drained_at_a_steady_rate(tmp_path: Path) -> None:
    written = tmp_path / "sustained.json"
    arguments = ["--seconds=5", "--count=100", "--share=0.05", f"--json={written}"]
    assert sustained.main(arguments) == 0
    report = json.loads(written.read_text())
    assert len(report["memory"]) == len(report["most_waiting"]) == 5
    assert report["sent"] == 5 * report["rate"] > 0
    assert all(report["memory"])
