"""What the JSON of the micro-benchmarks holds: versions too, but not each single timing."""

from __future__ import annotations

from importlib import metadata
from typing import Any


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """Add the versions that the numbers depend on; the name of the machine is nobody's business."""
    machine_info["node"] = ""
    cpu = machine_info.get("cpu", {})  # with all that it can do, and its frequency of the moment
    machine_info["cpu"] = {name: cpu.get(name) for name in ("brand_raw", "count")}
    ours = metadata.packages_distributions()["fastsmtp"][0]  # older revisions have another name
    machine_info["versions"] = {name: metadata.version(name) for name in (ours, "uvloop", "Cython")}


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Leave out the timings that the statistics were made of: they are a hundred times the rest."""
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"].pop("data", None)
