"""The comparison of gateways that hand mail over: it runs, and judges by its goals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from handoff import compare
from handoff.stores import STORES
from postfix_kit import why_no_postfix
from postgres_kit import why_no_postgres
from serving import environment

RUNS = [
    ("postgres", "keep", why_no_postgres()),
    ("relay", "smtpd-proxy", why_no_postfix()),
]

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


ROUNDS = (20.0, 40.0, 60.0)  # microseconds of what a gateway is compared with


def judged(store: str, profile: str, cpu: float) -> tuple[dict[str, Any], str]:
    """The row of a gateway that takes so many microseconds in each round, and the table."""
    beside = STORES[store].beside
    rounds = [
        {
            (profile, beside): compare.Sample(1000.0, other),
            (profile, store): compare.Sample(500.0, cpu),
        }
        for other in ROUNDS
    ]
    found = compare.summary(rounds)
    return found[profile]["servers"][store], compare.table(found)


def test_ratios_are_taken_inside_of_a_round_and_judged_by_the_goal() -> None:
    row, table = judged("postgres", "200x1KiB", 60.0)
    assert row["ratio"] == {"median": 1.5, "lowest": 1.0, "highest": 3.0}
    assert row["goal"] == {"ratio": STORES["postgres"].goal, "met": True}
    assert "| postgres | 500 | 60.0 | 1.50 × keep | ≤ 1.8: met |" in table


@pytest.mark.parametrize(("cpu", "met"), [(26.0, True), (30.0, False)])
def test_a_relay_is_judged_beside_the_proxy_of_postfix(cpu: float, met: bool) -> None:
    for profile in ("20x1KiB", "200x50KiB"):
        row, table = judged("relay", profile, cpu)
        assert row["goal"] == {"ratio": 0.7, "met": met}
        assert f"{cpu / 40:.2f} × smtpd-proxy" in table


def test_a_profile_without_a_goal_has_a_ratio_only() -> None:
    row, _ = judged("nats", "20x50KiB", 60.0)
    assert row["ratio"]["median"] == 1.5
    assert "goal" not in row


@pytest.mark.interop
@pytest.mark.parametrize(("store", "beside", "why_not"), RUNS, ids=[run[0] for run in RUNS])
def test_the_comparison_runs(tmp_path: Path, store: str, beside: str, why_not: str) -> None:
    if why_not:
        pytest.skip(why_not)
    written = tmp_path / "found.json"
    bench = [sys.executable, str(Path(compare.__file__).parents[1])]
    options = [f"--stores={store}", "--profile=20x1KiB", "--scale=0.02", "--rounds=1"]
    done = subprocess.run(
        [*bench, "handoff", *options, f"--json={written}"],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left out" not in done.stdout
    assert {*json.loads(written.read_text())["profiles"]["20x1KiB"]["servers"]} == {beside, store}
