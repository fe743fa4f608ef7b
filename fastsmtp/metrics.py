"""Metrics for programs: the counts of servers as a dict, as Prometheus text, and in a registry.

In: tallies, or the dict that `SMTPServer.stats` returns. Out: the dict, and the text exposition
format of Prometheus, version 0.0.4. The names are the table in docs/metrics.md.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from fastsmtp._counts.families import FAMILIES, PROMISES, USED, Family, Kind, Merge, cell
from fastsmtp._counts.tally import Tally

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector as _Collector
else:
    _Collector = object

__all__ = [
    "CONTENT_TYPE",
    "PROMISES",
    "Collector",
    "Stats",
    "Tally",
    "cell",
    "clear_gauges",
    "exposition",
    "stats_of",
]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PREFIX: Final = "fastsmtp_"

Stats: TypeAlias = dict[str, Any]
# Parts of a server that not every one has: left out as long as all their cells are 0.
_OPTIONAL: Final = ("delivery", "spool", "relay", "log", "workers")

_READY: Final = cell("ready")


class Place(NamedTuple):
    """Where the counts of one metric are: its series, each with its labels and its cells."""

    family: Family
    series: list[tuple[tuple[str, ...], slice]]
    cells: slice


def _place(family: Family) -> Place:
    start, width = cell(family.name), family.width
    series = [
        (labels, slice(start + number * width, start + (number + 1) * width))
        for number, labels in enumerate(family.series())
    ]
    return Place(family, series, slice(start, start + len(series) * width))


_PLACES: Final = [_place(family) for family in FAMILIES]


def stats_of(*tallies: Tally, is_one_process: bool = False) -> Stats:
    """Return the counts of one or more tallies, together, as a plain dict for JSON.

    Counters are added; a gauge, such as the age of the oldest message, is added or the largest one,
    or the smallest one of those that are ready. is_one_process: the tallies are parts of one
    process, each with other gauges.
    """
    rows = [tally.values(USED) for tally in tallies]
    cells = [sum(column) for column in zip(*rows, strict=True)]
    if not is_one_process:
        _merge_gauges(cells, rows)
    stats: Stats = {"build": _build()}
    counted: set[str] = set()
    for place in _PLACES:
        *path, last = place.family.path
        level = stats
        for key in path:
            level = level.setdefault(key, {})
        level[last] = _values(place, cells)
        if any(cells[place.cells]):
            counted.add(place.family.path[0])
    return {key: stats[key] for key in stats if key not in _OPTIONAL or key in counted}


def _merge_gauges(cells: list[int], rows: list[list[int]]) -> None:
    """Set the gauges of several processes in `cells`."""
    ready = [row for row in rows if row[_READY]] or rows
    for family, _, part in _PLACES:
        if family.merge is not Merge.SUM:
            chosen = ready if family.merge is Merge.MIN else rows
            columns = zip(*(row[part] for row in chosen), strict=True)
            merge = min if family.merge is Merge.MIN else max
            cells[part] = [merge(column) for column in columns]


def _values(place: Place, cells: list[int]) -> Any:
    """Return the value of a metric, or a dict of values by its labels."""
    found: dict[str, Any] = {}
    for labels, part in place.series:
        own = cells[part]
        if not labels:
            return _value(place.family, own)
        level = found
        for label in labels[:-1]:
            level = level.setdefault(label, {})
        if not place.family.is_sparse or any(own):
            level[labels[-1]] = _value(place.family, own)
    return found


def clear_gauges(tally: Tally) -> None:
    """Set what describes a running process to 0: the process has ended, or one begins."""
    for place in _PLACES:
        if place.family.kind is Kind.GAUGE:
            for number in range(place.cells.start, place.cells.stop):
                tally.set(number, 0)


def _build() -> dict[str, str]:
    version = getattr(sys.modules[__package__], "__version__", "")
    return {"version": version, "python": ".".join(map(str, sys.version_info[:3]))}


def _value(family: Family, cells: list[int]) -> Any:
    if not family.bounds:
        return cells[0] if family.scale == 1 else cells[0] * family.scale
    *buckets, total = cells
    so_far = list(itertools.accumulate(buckets))
    bounds = [*map(_number, family.bounds), "+Inf"]
    return {
        "count": so_far[-1],
        "sum": total * family.scale,
        "buckets": dict(zip(bounds, so_far, strict=True)),
    }


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.9g}"


# Prometheus.


class HasStats(Protocol):
    """An object with counts, such as an `SMTPServer`."""

    def stats(self) -> Stats:
        """Return the counts."""


class Sample(NamedTuple):
    """One line of the exposition. suffix: of the metric's name, such as "_bucket"."""

    suffix: str
    labels: dict[str, str]
    value: float


def exposition(source: Stats | Tally | Iterable[Tally]) -> str:
    """Return the counts in the text format of Prometheus, `CONTENT_TYPE`.

    source: the dict of `SMTPServer.stats` or `stats_of`, a tally, or several, which become one.
    """
    lines: list[str] = []
    for name, kind, text, samples in _metrics(_stats(source)):
        lines.append(f"# HELP {name} {text}")
        lines.append(f"# TYPE {name} {kind.value}")
        lines.extend(f"{name}{one.suffix}{_labels(one)} {one.value:.12g}" for one in samples)
    return "\n".join([*lines, ""])


def _stats(source: Stats | Tally | Iterable[Tally]) -> Stats:
    if isinstance(source, dict):
        return source
    return stats_of(source) if isinstance(source, Tally) else stats_of(*source)


def _labels(sample: Sample) -> str:
    # The values are words of ours: none has a character that must be escaped.
    pairs = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _metrics(stats: Stats) -> Iterator[tuple[str, Kind, str, list[Sample]]]:
    """Yield name, type, help and samples of each metric that `stats` has."""
    build = [Sample("", stats["build"], 1)]
    yield f"{PREFIX}build_info", Kind.GAUGE, "The versions that run.", build
    for family in FAMILIES:
        level: Any = stats
        for key in family.path:
            level = level.get(key, {})
        samples = list(_samples(family, level, {}))
        if samples:
            yield PREFIX + family.name, family.kind, family.help, samples


def _samples(family: Family, found: Any, labels: dict[str, str]) -> Iterator[Sample]:
    if len(labels) < len(family.labels):
        name = family.labels[len(labels)].name
        for value, below in found.items():
            yield from _samples(family, below, {**labels, name: value})
    elif not isinstance(found, dict):
        yield Sample("", labels, found)
    elif found:
        for bound, count in found["buckets"].items():
            yield Sample("_bucket", {**labels, "le": bound}, count)
        yield Sample("_count", labels, found["count"])
        yield Sample("_sum", labels, found["sum"])


class Collector(_Collector):
    """The counts of a server for a registry of prometheus_client: `REGISTRY.register(Collector(
    server))`. Needs the extra `metrics`.

    source: a server, a tally, or a function that returns a dict as `SMTPServer.stats` does.
    """

    def __init__(self, source: HasStats | Tally | Callable[[], Stats]) -> None:
        if isinstance(source, Tally):
            self._stats: Callable[[], Stats] = lambda: stats_of(source)
        else:
            self._stats = source if callable(source) else source.stats

    def describe(self) -> Iterator[Metric]:
        """Return the metrics without samples: registries ask for names only, and ask early."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics. Raises ModuleNotFoundError, with the name of the extra."""
        try:
            from prometheus_client.core import Metric
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "prometheus_client is not installed: pip install 'fastsmtp-engine[metrics]'"
            ) from error
        for name, kind, text, samples in _metrics(self._stats()):
            # A registry adds the ending of counters itself.
            metric = Metric(name.removesuffix("_total"), text, kind.value)
            for one in samples:
                suffix = "_total" if kind is Kind.COUNTER else one.suffix
                metric.add_sample(metric.name + suffix, one.labels, one.value)
            yield metric
