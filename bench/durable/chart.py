"""The picture and the table of `bench durable`, made from its JSON.

    python bench durable-chart --json bench/results/durable.json --svg bench/results/durable.svg
    python bench durable-chart --publish

With --publish the JSON and its picture become docs/durable.json and docs/durable.svg, and the table
becomes docs/durable.md. The picture needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

from durable.compare import table
from durable.servers import PEER, SERVERS
from load.reporting import BENCH, RESULTS
from peers.chart import INK, OTHER, OWN, STYLE, day_of, no_date

DOCS = BENCH.parent / "docs"
PUBLISHED, PICTURE, PAGE = (DOCS / f"durable.{kind}" for kind in ("json", "svg", "md"))
PANELS = {"rate": "messages per second (more is better)", "cpu": "CPU µs per message (less)"}


def caption(report: dict[str, Any]) -> str:
    """Where and when, and with which versions."""
    machine, versions = report["machine"], report["versions"]
    return (
        f"Measured on {day_of(report)}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['system']}, {versions['python']}, fastsmtp {versions['fastsmtp']} "
        f"({versions['commit']}), Postfix {versions['postfix']}. Median of {report['rounds']} "
        "rounds, servers in turn, on one file system; every 250 is synced, and a flush of the disk "
        f"takes {report['flush_ms']:.2f} ms."
    )


def page(report: dict[str, Any]) -> str:
    """What docs/durable.md says."""
    servers = "\n".join(
        f"| {name} | {server.what} |" for name, server in SERVERS.items() if is_there(report, name)
    )
    return (
        "# Durable mail beside Postfix\n\n"
        "<!-- made by `make bench-durable` and `python bench durable-chart --publish` -->\n\n"
        f"![Messages per second and CPU time, by server]({PICTURE.name})\n\n"
        f"{textwrap.fill(caption(report), 118)}\n\n{table(report['profiles'])}\n\n"
        "Ratios are taken inside a round, medians over the rounds. p99 is the time from the first "
        "octet of a\nmessage to its 250. CPU time is that of all processes of a server.\n\n"
        f"| server | is |\n|---|---|\n{servers}\n"
    )


def is_there(report: dict[str, Any], server: str) -> bool:
    return any(server in profile["servers"] for profile in report["profiles"].values())


def draw_panel(axes: Any, profile: dict[str, Any], key: str) -> None:
    """One profile and one measure: a bar for each server, with its lowest and highest round."""
    rows = profile["servers"]
    names = [name for name in SERVERS if name in rows][::-1]
    for height, name in enumerate(names):
        row, colour = rows[name][key], OTHER if name == PEER else OWN
        axes.barh(height, row["median"], color=colour, height=0.55)
        axes.plot([row["lowest"], row["highest"]], [height] * 2, color=INK, linewidth=1)
        axes.annotate(
            *(f"{row['median']:,.0f}", (max(row["median"], row["highest"]), height)),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_title(f"{profile['what']}: {PANELS[key]}", loc="left", fontsize=8, color=INK)
    axes.margins(x=0.2)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw it into a file of the kind that its name says."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    profiles = list(report["profiles"].values())
    with mpl.rc_context(STYLE):
        whole = Figure(figsize=(9.4, 0.7 + 1.3 * len(profiles)), layout="constrained")
        FigureCanvasAgg(whole)
        panels = whole.subplots(len(profiles), len(PANELS), squeeze=False)
        for line, profile in zip(panels, profiles, strict=True):
            for axes, key in zip(line, PANELS, strict=True):
                draw_panel(axes, profile, key)
        whole.supxlabel(textwrap.fill(caption(report), 165), fontsize=7, x=0.01, ha="left")
        whole.savefig(path, facecolor="none", metadata=no_date(path), dpi=110)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    summary = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser("bench durable-chart", description=summary)
    add = parser.add_argument
    add("--json", type=Path, default=RESULTS / "durable.json", help="what was measured")
    add("--svg", type=Path, default=RESULTS / "durable.svg", help="the picture; .png works too")
    add("--publish", action="store_true", help="make docs/durable.* anew")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    if importlib.util.find_spec("matplotlib") is None:
        print(
            "bench durable-chart: left out: needs the extra: pip install -e '.[bench]'",
            file=sys.stderr,
        )
        return 2 if given.publish else 0
    try:
        report = json.loads(given.json.read_text())
    except OSError as reason:
        print(f"bench durable-chart: {reason}", file=sys.stderr)
        return 2
    draw(report, PICTURE if given.publish else given.svg)
    if given.publish:
        PAGE.write_text(page(report), encoding="utf-8")
        shutil.copyfile(given.json, PUBLISHED)
    return 0
