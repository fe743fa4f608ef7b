"""The comparison of gateways that hand mail over: it runs, and judges by its goals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from handoff import compare
from handoff.stores import STORES
from postgres_kit import why_no_postgres
from serving import environment

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def test_ratios_are_taken_inside_of_a_round_and_judged_by_the_goal() -> None:
    cell = (compare.JUDGED, compare.ENGINE), (compare.JUDGED, "postgres")
    rounds = [
        {cell[0]: compare.Sample(1000.0, engine), cell[1]: compare.Sample(500.0, 60.0)}
        for engine in (20.0, 40.0, 60.0)
    ]
    row = compare.summary(rounds)[compare.JUDGED]["servers"]["postgres"]
    assert row["ratio"] == {"median": 1.5, "lowest": 1.0, "highest": 3.0}
    assert row["goal"] == {"ratio": STORES["postgres"].goal, "met": True}
    assert "| postgres | 500 | 60.0 | 1.50 | ≤ 1.8: met |" in compare.table(compare.summary(rounds))


@pytest.mark.interop
@pytest.mark.skipif(bool(why_no_postgres()), reason=why_no_postgres())
def test_the_comparison_runs(tmp_path: Path) -> None:
    written = tmp_path / "found.json"
    bench = [sys.executable, str(Path(compare.__file__).parents[1])]
    options = ["--stores=postgres", "--profile=20x1KiB", "--scale=0.02", "--rounds=1"]
    done = subprocess.run(
        [*bench, "handoff", *options, f"--json={written}"],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left out" not in done.stdout
    assert {*json.loads(written.read_text())["profiles"]["20x1KiB"]["servers"]} == {
        "keep",
        "postgres",
    }
