"""The table of metrics: names as Prometheus wants them, cells that fit, and its page."""

from __future__ import annotations

import re
from pathlib import Path

from fastsmtp._counts.families import FAMILIES, USED, Kind
from fastsmtp._counts.tally import CELLS

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_every_metric_has_its_row_in_the_documentation() -> None:
    rows = [
        f"| `fastsmtp_{each.name}` | {each.kind.value} |"
        f" {', '.join(f'`{label.name}`' for label in each.labels)} | {each.help} |"
        f" `{'.'.join(each.path)}` |"
        for each in FAMILIES
    ]
    assert [row for row in rows if row not in PAGE] == []


def test_every_value_of_a_label_is_in_the_documentation() -> None:
    values = {value for each in FAMILIES for label in each.labels for value in label.values}
    assert [value for value in sorted(values) if f"`{value}`" not in PAGE] == []


def test_names_follow_the_rules_of_prometheus() -> None:
    names = [each.name for each in FAMILIES]
    assert len({*names}) == len(names)
    for each in FAMILIES:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", each.name)
        assert each.name.endswith("_total") == (each.kind is Kind.COUNTER)
        assert bool(each.bounds) == (each.kind is Kind.HISTOGRAM)
        # A counter `x_total` is the family `x` of OpenMetrics, which no other metric may be.
        assert each.name.removesuffix("_total") not in {*names} - {each.name}


def test_the_cells_fit_into_a_tally_with_room_for_new_metrics() -> None:
    assert USED <= 0.75 * CELLS
