"""The picture of a comparison, and the figures in README, both made from its JSON.

    python bench chart --json bench/results/peers.json --svg bench/results/peers.svg
    python bench chart --publish

With --publish the JSON and its picture become docs/speed.json and docs/speed.svg, and the marked
parts of README are rewritten: the sentence at its head, and the table with the picture. The picture
has no background, and colours that can be read on a white and on a nearly black page. It needs the
extra `bench`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import sys
import textwrap
import tomllib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from load.reporting import BENCH, RESULTS
from peers.servers import SERVERS

ROOT = BENCH.parent
PUBLISHED = ROOT / "docs" / "speed.json"
PICTURE = ROOT / "docs" / "speed.svg"
README = ROOT / "README.md"
MARKS = ("<!-- bench-peers: {} -->", "<!-- /bench-peers: {} -->")

PANELS = ("keep", "conn", "mid", "big", "pipe", "tls-keep")
COLUMNS = 2
# At least 4 : 1 against #ffffff and against #0d1117, the pages of GitHub.
INK, OWN, OTHER = "#77777d", "#2f81d6", "#77777d"
OURS = {"fastsmtp", "coroutine", "compat"}
YARDSTICKS = ("floor", "uvloop")  # drawn first and hollow: no servers
TABLE_ROWS = ("keep", "conn", "big", "tls-keep")
TABLE_COLUMNS = {
    "fastsmtp": "fastsmtp, callbacks",
    "coroutine": "fastsmtp, coroutines",
    "smtp-sink": "smtp-sink (Postfix)",
    "smtp-server": "smtp-server (Node.js)",
    "aiosmtpd": "aiosmtpd",
}
LABELS = {"floor": "floor in C", "uvloop": "floor on uvloop", "coroutine": "with coroutines"}
LABELS["compat"] = "with aiosmtpd's handler"
STYLE: dict[Any, Any] = {
    "axes.facecolor": "none",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 9,
    "svg.hashsalt": "fastsmtp",  # the same JSON gives the same file
}


def figure(value: float) -> str:
    """Microseconds with as many digits as they deserve."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def day_of(report: dict[str, Any]) -> str:
    return datetime.fromisoformat(report["date"]).strftime("%Y-%m-%d")


def caption(report: dict[str, Any]) -> str:
    """Where and when, and with which versions."""
    machine, versions = report["machine"], report["versions"]
    peers = [
        *("uvloop " + versions["uvloop"], "Postfix " + versions["postfix"]),
        *("aiosmtpd " + versions["aiosmtpd"], "smtp-server " + versions["smtp-server"]),
        "Node.js " + versions["node"].removeprefix("v"),
    ]
    return (
        f"Measured on {day_of(report)}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['system']}, {versions['python']}, fastsmtp {versions['fastsmtp']} "
        f"({versions['commit']}), {', '.join(peers)}. Median of {report['rounds']} rounds, "
        "each server on one core, the load on another one."
    )


def draw_panel(axes: Any, profile: dict[str, Any]) -> None:
    """One profile: a dot for each server, with a line from the lowest to the highest round."""
    rows = profile["servers"]
    names = sorted(rows, key=lambda name: (name not in YARDSTICKS, list(SERVERS).index(name)))
    for height, name in enumerate(reversed(names)):
        row, colour = rows[name], OWN if name in OURS else OTHER
        axes.plot([row["lowest"], row["highest"]], [height] * 2, color=colour, linewidth=2)
        inside = "none" if name in YARDSTICKS else colour
        axes.plot(row["median"], height, "o", color=colour, markerfacecolor=inside, markersize=7)
        axes.annotate(
            *(figure(row["median"]), (row["highest"], height)),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
        )
    names.reverse()
    axes.set_yticks(range(len(names)), [LABELS.get(name, name) for name in names])
    for name, label in zip(names, axes.get_yticklabels(), strict=True):
        if name in OURS:
            label.set_color(OWN)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_title(profile["what"], loc="left", fontsize=9, color=INK)
    scale(axes, [row["median"] for row in rows.values()])


def scale(axes: Any, values: list[float]) -> None:
    """Logarithmic, with room for the last label, and nothing that is not needed."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.set_xscale("log")
    axes.set_xlim(min(values) / 1.6, max(values) * 2.6)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes.grid(axis="x", color=INK, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def draw(report: dict[str, Any], path: Path, background: str = "none") -> None:
    """Draw it into a file of the kind that its name says. background: for looking at it."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in PANELS if name in report["profiles"]]
    lines = -(-len(names) // COLUMNS)
    with mpl.rc_context(STYLE):
        whole = Figure(figsize=(9.4, 0.9 + 2.05 * lines), layout="constrained")
        FigureCanvasAgg(whole)
        whole.suptitle(
            "CPU time of the server process for one message, µs (log scale, less is better)"
        )
        panels = whole.subplots(lines, COLUMNS, squeeze=False).flat
        for axes, name in zip(panels, names, strict=False):
            draw_panel(axes, report["profiles"][name])
        for axes in list(panels)[len(names) :]:
            axes.set_axis_off()
        whole.supxlabel(textwrap.fill(caption(report), 165), fontsize=7, x=0.01, ha="left")
        whole.savefig(path, facecolor=background, metadata=no_date(path), dpi=110)


def no_date(path: Path) -> dict[str, Any] | None:
    return {"Date": None, "Creator": None} if path.suffix == ".svg" else None


def sentence(report: dict[str, Any]) -> str:
    """What the engine is, and what a message costs beside others."""
    servers = report["profiles"]["keep"]["servers"]
    cost = {name: f"{figure(row['median'])} µs" for name, row in servers.items()}
    return textwrap.fill(
        "An SMTP and LMTP server engine for Python: it receives a message of 1 KiB in "
        f"**{cost['fastsmtp']} of CPU time** ({cost['coroutine']} with hooks that are coroutines), "
        f"where smtp-server on Node.js takes {cost['smtp-server']} and aiosmtpd "
        f"{cost['aiosmtpd']}. Hooks are written in Python; framing, parsing and dot-unstuffing are "
        "compiled Cython, on top of uvloop.",
        118,
    )


def repository() -> str:
    """The address of the repository: `[project.urls]` of pyproject.toml is its only place."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Source"])


def rows(report: dict[str, Any]) -> str:
    """A table of four profiles."""
    lines = [
        " | ".join(["| CPU time per message, µs", *TABLE_COLUMNS.values()]) + " |",
        "|---" + "|---:" * len(TABLE_COLUMNS) + "|",
    ]
    for name in TABLE_ROWS:
        profile = report["profiles"][name]
        found = [profile["servers"].get(server) for server in TABLE_COLUMNS]
        cells = [figure(row["median"]) if row else "–" for row in found]
        lines.append(" | ".join([f"| {profile['what']}", *cells]) + " |")
    return "\n".join(lines)


def picture(report: dict[str, Any]) -> str:
    """The picture and its caption."""
    # The file itself, not the page about it: a package index shows the picture from there.
    host = repository().replace("//github.com/", "//raw.githubusercontent.com/")
    address = f"{host}/main/{PICTURE.relative_to(ROOT).as_posix()}"
    return (
        f"![CPU time for one message, by server]({address})\n\n"
        f"{textwrap.fill(caption(report), 118)}"
    )


PARTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "sentence": sentence,
    "rows": rows,
    "chart": picture,
}


def with_parts(readme: str, report: dict[str, Any]) -> str:
    """README with each part between its marks. Raises ValueError where marks are missing."""
    for name, part in PARTS.items():
        before, after = (mark.format(name) for mark in MARKS)
        pattern = re.compile(f"{re.escape(before)}.*?{re.escape(after)}", re.DOTALL)
        found = pattern.search(readme)
        if found is None:
            raise ValueError(f"README has no {before}")
        text = f"{before}\n{part(report)}\n{after}"
        readme = readme[: found.start()] + text + readme[found.end() :]
    return readme


def publish(report: dict[str, Any], source: Path) -> None:
    """Make what is checked in."""
    readme = README.read_text(encoding="utf-8")
    README.write_text(with_parts(readme, report), encoding="utf-8")
    draw(report, PICTURE)
    shutil.copyfile(source, PUBLISHED)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench chart", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--json", type=Path, default=RESULTS / "peers.json", help="what was measured")
    add("--svg", type=Path, default=RESULTS / "peers.svg", help="the picture; .png works too")
    add("--background", default="none", help="a colour, for looking at the picture")
    add("--publish", action="store_true", help="rewrite docs/speed.* and README's parts")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    if importlib.util.find_spec("matplotlib") is None:
        print("bench chart: left out: needs the extra: pip install -e '.[bench]'", file=sys.stderr)
        return 2 if given.publish else 0
    try:
        report = json.loads(given.json.read_text())
    except OSError as reason:
        print(f"bench chart: {reason}", file=sys.stderr)
        return 2
    if given.publish:
        publish(report, given.json)
    else:
        draw(report, given.svg, given.background)
    return 0
