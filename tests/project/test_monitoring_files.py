"""Dashboard and alert rules in deploy/: every metric and every label value in them exists."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastsmtp._counts.families import FAMILIES, Family, Kind

pytestmark = pytest.mark.one_python

ROOT = Path(__file__).parents[2]
ALERTS = (ROOT / "deploy" / "alerts.yml").read_text(encoding="utf-8")
DASHBOARD = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text(encoding="utf-8"))
KNOWN = {f"fastsmtp_{family.name}": family for family in FAMILIES}
ADDED = {"instance", "job", "le"}  # labels of Prometheus
BUILD = {"version", "python"}

# A metric, with what is chosen of it.
USE = re.compile(r"\b(fastsmtp_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|=)"([^"]*)"')


def expressions() -> Iterator[str]:
    yield from re.findall(r"^ +expr: (.+)$", ALERTS, re.MULTILINE)
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for variable in DASHBOARD["templating"]["list"]:
        yield variable["query"]


EXPRESSIONS = [each for each in dict.fromkeys(expressions()) if "fastsmtp_" in each]


def family_of(metric: str) -> Family | None:
    """The family; of a histogram its parts are metrics, and it is none itself."""
    part = re.fullmatch(r"(\w+)_(bucket|sum|count)", metric)
    if part and part[1] in KNOWN and KNOWN[part[1]].kind is Kind.HISTOGRAM:
        return KNOWN[part[1]]
    found = KNOWN.get(metric)
    return found if found is not None and found.kind is not Kind.HISTOGRAM else None


def labels_of(metric: str) -> dict[str, tuple[str, ...]] | None:
    if metric == "fastsmtp_build_info":
        return dict.fromkeys(BUILD, ())
    family = family_of(metric)
    return None if family is None else {label.name: label.values for label in family.labels}


def test_there_are_expressions_for_alerts_and_panels() -> None:
    assert len(EXPRESSIONS) > 50


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_uses_metrics_labels_and_values_that_exist(expression: str) -> None:
    uses = USE.findall(expression)
    assert uses
    for metric, chosen in uses:
        labels = labels_of(metric)
        assert labels is not None, f"there is no {metric}"
        for label, kind, value in MATCHER.findall(chosen):
            if label in ADDED:
                continue
            assert label in labels, f"{metric} has no {label}"
            matches = re.compile(value if kind == "=~" else re.escape(value)).fullmatch
            assert any(map(matches, labels[label])), f"no {label} is {value}"
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            assert {each.strip() for each in grouped.split(",")} <= labels.keys() | ADDED


def test_rates_are_of_counters_and_nothing_else() -> None:
    for expression in EXPRESSIONS:
        for metric in re.findall(r"(?:rate|increase)\((fastsmtp_\w+)", expression):
            family = family_of(metric)
            assert family is not None
            assert family.kind is not Kind.GAUGE, expression


@pytest.mark.parametrize("metric", ["fastsmtp_hook_seconds", "fastsmtp_messages", "fastsmtp_x"])
def test_a_metric_that_does_not_exist_is_found(metric: str) -> None:
    assert labels_of(metric) is None


def test_every_metric_is_on_the_dashboard_but_for_those_that_need_no_panel() -> None:
    shown = {family_of(name) for each in EXPRESSIONS for name, _ in USE.findall(each)}
    missing = {family.name for family in FAMILIES if family not in shown}
    assert missing <= {"start_time_seconds", "process_starts_total"}


def test_the_dashboard_is_that_of_its_program() -> None:
    path = ROOT / "deploy" / "make_dashboard.py"
    spec = importlib.util.spec_from_file_location("make_dashboard", path)
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    assert program.dashboard() == DASHBOARD, "run: python deploy/make_dashboard.py"


def test_panels_do_not_overlap_and_fit_on_the_grid() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_every_alert_has_a_severity_and_a_summary() -> None:
    alerts = re.split(r"^ +- alert: ", ALERTS, flags=re.MULTILINE)[1:]
    names = [each.split()[0] for each in alerts]
    assert len(names) == len(set(names)) > 10
    for each in alerts:
        assert re.search(r"severity: (critical|warning)", each), each
        assert re.search(r'summary: ".+"', each), each


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_accepts_the_rules() -> None:
    command = ["promtool", "check", "rules", str(ROOT / "deploy" / "alerts.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
