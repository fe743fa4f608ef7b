"""What the programs of this folder share beside measuring: facts, figures, arguments, the JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from load.measuring import CannotRun

BENCH = Path(__file__).parents[1]
RESULTS = BENCH / "results"


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "lowest": min(values), "highest": max(values)}


# Facts.


def output_of(*command: str) -> str:
    """The first line that a command prints, empty when there is no such command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, cwd=BENCH)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.partition("\n")[0].strip() if done.returncode == 0 else ""


def version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def machine() -> dict[str, Any]:
    """The machine as far as it matters here: no name and no path of it."""
    processor = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line for line in lines if line.startswith("model name")), "")
    return {
        "processor": processor.partition(":")[2].strip() or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    commit = output_of("git", "describe", "--always", "--dirty", "--abbrev=12")
    flags = sysconfig.get_config_var("CONFIG_ARGS") or ""
    return {
        "fastsmtp": version_of("fastsmtp-engine"),
        "commit": commit or "unknown",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        # An interpreter without profile-guided optimisation is slower, often by a tenth.
        "optimized": "yes" if "--enable-optimizations" in flags else "no",
        "uvloop": version_of("uvloop"),
        "openssl": ssl.OPENSSL_VERSION.split()[1],
        "compiler": output_of(os.environ.get("CC") or "cc", "--version") or "absent",
    }


def facts(server_core: int, client_core: int) -> dict[str, Any]:
    """The beginning of a report."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine() | {"load_before": os.getloadavg()[0]},
        "versions": versions(),
        "cores": {"servers": server_core, "client": client_core},
    }


def print_facts(report: dict[str, Any]) -> None:
    for part in (report["machine"], report["versions"]):
        print(", ".join(f"{name} {fact}" for name, fact in part.items()))


# A program.


def program(name: str, measure: Callable[[], dict[str, Any]], written: Path) -> int:
    """Measure, write the report as JSON, and return the status to end with."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Out by way of every `finally`.
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        report = measure()
    except CannotRun as reason:
        print(f"{name}: {reason}", file=sys.stderr)
        return 2
    report["machine"]["load_after"] = os.getloadavg()[0]
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def names_of(known: dict[str, Any]) -> Any:
    def names(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return found

    return names


def bounded(kind: type, lowest: float, highest: float) -> Any:
    def number(text: str) -> Any:
        value = kind(text)
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"takes {lowest} to {highest}")
        return value

    return number
