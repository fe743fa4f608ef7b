"""Writes deploy/grafana-dashboard.json: the panels below, for every instance that is chosen.

python deploy/make_dashboard.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

WHERE = '{instance=~"$instance"'
DASHBOARD = Path(__file__).with_name("grafana-dashboard.json")
WIDTH = 24  # columns of Grafana's grid


class Panel(NamedTuple):
    """queries: expression and legend; `@` stands for the chosen instances."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    columns: int = 8
    rows: int = 8


def rate(metric: str, by: str, legend: str) -> tuple[str, str]:
    return f"sum by ({by}) (rate({metric}@[$__rate_interval]))", legend


def total(metric: str, legend: str, only: str = "") -> tuple[str, str]:
    return f"sum(rate({metric}@{only}[$__rate_interval]))", legend


def one(title: str, query: str, unit: str = "none") -> Panel:
    """A single number."""
    return Panel(title, unit, ((query, ""),), "stat", 4, 4)


def percentiles(metric: str, by: str, legend: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (
            f"histogram_quantile({part}, sum by ({by}) (rate({metric}_bucket@[$__rate_interval])))",
            f"{legend} p{100 * part:g}".strip(),
        )
        for part in (0.5, 0.99)
    )


REFUSED = (
    "sum by (stage, code)"
    ' (rate(fastsmtp_replies_total@, code=~"[45].*|other.*"}[$__rate_interval]))'
)
SECTIONS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        one("Processes that take mail", "sum(fastsmtp_ready@)"),
        one("Sinks that are up", "sum(fastsmtp_delivery_up@)"),
        one("Clients", "sum(fastsmtp_open_connections@)"),
        one("Accepted", total("fastsmtp_messages_total", "", ', result="accepted"}')[0], "mps"),
        one("In the spool", "sum(fastsmtp_spool_messages@)"),
        one("Restarts of workers in an hour", "sum(increase(fastsmtp_worker_restarts_total@[1h]))"),
    ),
    "Mail": (
        Panel("Messages", "mps", (rate("fastsmtp_messages_total", "result", "{{result}}"),)),
        Panel("Recipients", "cps", (rate("fastsmtp_recipients_total", "result", "{{result}}"),)),
        Panel(
            "Octets",
            "Bps",
            (
                total("fastsmtp_received_bytes_total", "in"),
                total("fastsmtp_sent_bytes_total", "out"),
            ),
        ),
        Panel(
            "Clients", "none", (("sum by (instance) (fastsmtp_open_connections@)", "{{instance}}"),)
        ),
        Panel(
            "New connections",
            "cps",
            (
                total("fastsmtp_connections_total", "all"),
                rate("fastsmtp_connections_refused_total", "limit", "refused: {{limit}}"),
            ),
        ),
        Panel(
            "TLS",
            "cps",
            (
                rate("fastsmtp_tls_handshakes_total", "version", "{{version}}"),
                total("fastsmtp_tls_failures_total", "failed"),
            ),
        ),
    ),
    "Refused": (
        Panel("Replies 4xx and 5xx", "cps", ((REFUSED, "{{stage}} {{code}}"),), columns=12),
        Panel("Limits", "cps", (rate("fastsmtp_limits_total", "limit", "{{limit}}"),), columns=6),
        Panel(
            "AUTH",
            "cps",
            (rate("fastsmtp_auth_total", "mechanism, result", "{{mechanism}} {{result}}"),),
            columns=6,
        ),
    ),
    "Times": (
        Panel(
            "Hooks", "s", percentiles("fastsmtp_hook_seconds", "hook, le", "{{hook}}"), columns=12
        ),
        Panel("Delivery", "s", percentiles("fastsmtp_delivery_seconds", "le", ""), columns=6),
        Panel(
            "Event loop is late by",
            "s",
            percentiles("fastsmtp_loop_lag_seconds", "le", ""),
            columns=6,
        ),
    ),
    "Delivery": (
        Panel(
            "Outcomes", "mps", (rate("fastsmtp_delivery_messages_total", "outcome", "{{outcome}}"),)
        ),
        Panel("In flight", "none", (("sum(fastsmtp_delivery_in_flight_messages@)", "messages"),)),
        Panel(
            "Memory of messages in flight",
            "bytes",
            (("sum(fastsmtp_delivery_in_flight_bytes@)", "octets"),),
        ),
        Panel(
            "Messages per batch", "none", percentiles("fastsmtp_delivery_batch_messages", "le", "")
        ),
        Panel(
            "Spool on disk",
            "bytes",
            (
                ("sum by (instance) (fastsmtp_spool_bytes@)", "{{instance}}"),
                ("sum by (instance) (fastsmtp_spool_quota_bytes@)", "{{instance}} quota"),
            ),
        ),
        Panel(
            "Oldest message in the spool",
            "s",
            (("max by (instance) (fastsmtp_spool_oldest_seconds@)", "{{instance}}"),),
        ),
        Panel("Drained", "mps", (rate("fastsmtp_spool_drained_total", "outcome", "{{outcome}}"),)),
        Panel(
            "What a 250 means",
            "none",
            (("sum by (promise) (fastsmtp_delivery_promise@)", "{{promise}}"),),
        ),
        Panel(
            "Connections to the next mail server",
            "none",
            (
                ("sum by (state) (fastsmtp_relay_connections@)", "{{state}}"),
                ("sum(fastsmtp_relay_waiting_messages@)", "waiting for one"),
                total("fastsmtp_relay_connections_opened_total", "opened, per second"),
                total("fastsmtp_relay_waits_total", "had to wait, per second"),
            ),
        ),
    ),
    "Process": (
        Panel(
            "Workers",
            "none",
            (("sum by (instance) (fastsmtp_workers@)", "{{instance}}"),),
            columns=6,
        ),
        Panel(
            "Failures of hooks",
            "cps",
            (
                rate("fastsmtp_hook_failures_total", "hook", "{{hook}}"),
                total("fastsmtp_loop_stalls_total", "holds the loop"),
            ),
            columns=6,
        ),
        Panel(
            "Log",
            "cps",
            (
                total("fastsmtp_log_lines_total", "lines"),
                total("fastsmtp_log_lines_dropped_total", "dropped"),
            ),
            columns=6,
        ),
        Panel(
            "Versions",
            "none",
            (
                (
                    "sum by (version, python) (fastsmtp_build_info@)",
                    "{{version}}, Python {{python}}",
                ),
            ),
            columns=6,
        ),
    ),
}


def expression(text: str) -> str:
    """Write `name@` and `name@, more}` with the selector of the chosen instances."""
    return text.replace("@,", f"{WHERE},").replace("@", f"{WHERE}}}")


def made_panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    targets = [
        {
            "datasource": source,
            "expr": expression(text),
            "legendFormat": legend,
            "refId": chr(65 + i),
        }
        for i, (text, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "datasource": source,
        "gridPos": {"x": x, "y": y, "w": panel.columns, "h": panel.rows},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {},
        "targets": targets,
    }


def made_panels() -> list[dict[str, Any]]:
    """All panels, in rows of the grid, each section below a heading."""
    made: list[dict[str, Any]] = []
    y = 0
    for section, panels in SECTIONS.items():
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        heading = {"id": len(made) + 1, "type": "row", "title": section, "gridPos": place}
        made.append({**heading, "collapsed": False, "panels": []})
        x, y = 0, y + 1
        for panel in panels:
            if x + panel.columns > WIDTH:
                x, y = 0, y + panels[0].rows
            made.append(made_panel(panel, len(made) + 1, x, y))
            x += panel.columns
        y += panels[0].rows
    return made


def dashboard() -> dict[str, Any]:
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "source"}
    instances = {
        "name": "instance",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": "label_values(fastsmtp_build_info, instance)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }
    return {
        "title": "fastsmtp",
        "uid": "fastsmtp",
        "schemaVersion": 39,
        "tags": ["fastsmtp", "smtp"],
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [source, instances]},
        "panels": made_panels(),
    }


if __name__ == "__main__":
    DASHBOARD.write_text(json.dumps(dashboard(), indent=1) + "\n", encoding="utf-8")
