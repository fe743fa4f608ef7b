"""The chart of the comparison: what is checked in was made of one measurement, and can be again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from peers import chart, goals
from peers.profiles import PROFILES
from peers.servers import SERVERS

pytestmark = pytest.mark.one_python


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(chart.PUBLISHED.read_text(encoding="utf-8"))
    return found


def luminance(colour: str) -> float:
    """As WCAG 2 defines it, of #rrggbb."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("page", ["#ffffff", "#0d1117"])
@pytest.mark.parametrize("colour", [chart.INK, chart.OWN, chart.OTHER])
def test_the_colours_of_the_chart_can_be_read_on_light_and_dark_pages(
    colour: str, page: str
) -> None:
    darker, lighter = sorted([luminance(colour), luminance(page)])
    assert (lighter + 0.05) / (darker + 0.05) >= 4


def test_the_figures_in_readme_are_made_from_the_published_measurement(
    report: dict[str, Any],
) -> None:
    readme = chart.README.read_text(encoding="utf-8")
    assert chart.with_parts(readme, report) == readme
    assert chart.day_of(report) in chart.picture(report)


def test_a_readme_without_marks_is_an_error(report: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no <!-- bench-peers: sentence -->"):
        chart.with_parts("# fastsmtp\n", report)


def test_the_table_in_readme_has_the_medians_of_four_profiles(report: dict[str, Any]) -> None:
    lines = [line for line in chart.rows(report).splitlines() if line.startswith("| ")]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[1:]]
    assert len(table) == 4
    for name, (what, *cells) in zip(chart.TABLE_ROWS, table, strict=True):
        profile = report["profiles"][name]
        assert what == profile["what"]
        for server, cell in zip(chart.TABLE_COLUMNS, cells, strict=True):
            row = profile["servers"].get(server)
            assert cell == (chart.figure(row["median"]) if row else "–")


def test_the_published_summary_follows_from_its_samples(report: dict[str, Any]) -> None:
    costs: dict[tuple[str, str], list[float]] = {}
    for line in report["samples"]:
        cell = (line["profile"], line["server"])
        costs.setdefault(cell, []).append(line["cpu_ns"] / line["amount"] / 1000)
    assert len(costs) == sum(len(found["servers"]) for found in report["profiles"].values())
    for name, found in report["profiles"].items():
        assert name in PROFILES
        for server, row in found["servers"].items():
            assert server in SERVERS
            own = costs[name, server]
            assert len(own) == report["rounds"] >= 5
            assert [row["lowest"], row["highest"]] == pytest.approx([min(own), max(own)])
    # A goal that was set after the run has no row in it.
    told = [line["goal"] for line in report["goals"]]
    assert told == [goal.text for goal in goals.COMPARED if goal.text in told] != []


def test_the_published_measurement_names_no_machine(report: dict[str, Any]) -> None:
    assert set(report["machine"]) == {
        *("processor", "cores", "system"),
        *("load_before", "load_after"),
    }
    assert "/" not in json.dumps(report["versions"])


@pytest.mark.parametrize(
    "value, text",
    [(0.123, "0.12"), (3.46, "3.5"), (12.3, "12"), (123.4, "123"), (17418.6, "17,419")],
)
def test_figures_have_the_digits_that_they_deserve(value: float, text: str) -> None:
    assert chart.figure(value) == text


def test_the_same_measurement_gives_the_same_picture_again(
    report: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, which the extra bench brings")
    for name in ("one.svg", "other.svg"):
        chart.draw(report, tmp_path / name)
    text = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "other.svg").read_text(encoding="utf-8")
    assert text.count("<svg") == 1
    for colour in (chart.INK, chart.OWN):
        assert colour in text
    assert "#ffffff" not in text
