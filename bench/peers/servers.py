"""The servers that are compared: what each is, how it is started, and why it may be left out.

All do the same work: they accept every command, take the body, forget it, and answer 250. Those of
other projects are pinned to a version and run with their defaults.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from load import building
from load.measuring import HOST, CannotRun
from load.reporting import output_of, version_of

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build"
BACKLOG = "1024"  # as fastsmtp's

NODE_VERSION = "3.21.6"  # of smtp-server
NODE_FOLDER = BUILD / f"smtp-server-{NODE_VERSION}"
INSTALL_LIMIT = 120.0  # seconds


class Server(NamedTuple):
    """One that is compared. command: gives how it is started, with PORT where the port stands, and
    raises CannotRun when something is missing. tls: whether a path of key and certificate behind
    that puts all of it inside of TLS. share: of the messages of a profile; the slow ones get fewer.
    warm_up: of these again, how many go ahead of what is measured.
    """

    what: str
    command: Callable[[], list[str]]
    tls: bool = False
    share: float = 1.0
    warm_up: float = 0.1


def serve(kind: str) -> Callable[[], list[str]]:
    return lambda: [sys.executable, str(HERE / "serve.py"), "PORT", kind]


def floor() -> list[str]:
    return [str(building.floor()), "PORT"]


def smtp_sink() -> list[str]:
    if shutil.which("smtp-sink") is None:
        raise CannotRun("needs smtp-sink, which comes with Postfix (Debian: apt install postfix)")
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    return ["smtp-sink", "-4", *user, f"{HOST}:PORT", BACKLOG]


def aiosmtpd() -> list[str]:
    if importlib.util.find_spec("aiosmtpd") is None:
        raise CannotRun("needs aiosmtpd, which comes with the extra: pip install -e '.[bench]'")
    return [sys.executable, str(HERE / "aiosmtpd_server.py"), "PORT"]


def smtp_server() -> list[str]:
    for tool in ("node", "npm"):
        if shutil.which(tool) is None and not (tool == "npm" and NODE_FOLDER.exists()):
            raise CannotRun(f"needs {tool}")
    install_from_npm()
    modules = f"NODE_PATH={NODE_FOLDER / 'node_modules'}"
    # env is gone when node runs: it is the same process.
    return ["env", modules, "node", str(HERE / "smtp_server.js"), "PORT"]


def install_from_npm() -> None:
    """Fetch smtp-server unless it is there; never half of it. Raises CannotRun."""
    if NODE_FOLDER.exists():
        return
    BUILD.mkdir(exist_ok=True)
    package = f"smtp-server@{NODE_VERSION}"
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--no-update-notifier"]
        place = ["--prefix", f"{scratch}/new", "--cache", f"{scratch}/cache"]
        command = ["npm", "install", *quiet, *place, "--fetch-retries=0", package]
        try:
            done = subprocess.run(command, capture_output=True, timeout=INSTALL_LIMIT, check=False)
        except subprocess.TimeoutExpired:
            raise CannotRun(f"npm did not get {package} in two minutes") from None
        if done.returncode != 0:
            errors = [line for line in done.stderr.decode().splitlines() if "error" in line.lower()]
            raise CannotRun(f"npm does not get {package}: {'; '.join(errors)[:200]}")
        Path(scratch, "new").rename(NODE_FOLDER)


# In the order of the tables and of the chart.
SERVERS = {
    "floor": Server("epoll loop in C, canned replies", floor),
    "fastsmtp": Server("fastsmtp, hooks as callbacks", serve("callback"), True),
    "coroutine": Server("fastsmtp, hooks as coroutines", serve("coroutine"), True),
    "logged": Server("fastsmtp, callbacks, transactions logged", serve("logged")),
    "compat": Server("fastsmtp, a handler of aiosmtpd", serve("compat"), True, 0.5),
    "smtp-sink": Server("Postfix's smtp-sink", smtp_sink),
    "smtp-server": Server("smtp-server on Node.js", smtp_server, True, 0.5, 1.0),
    "aiosmtpd": Server("aiosmtpd on uvloop", aiosmtpd, True, 0.2),
    "uvloop": Server("uvloop's TLS, canned replies", serve("floor"), True),
    "greeter": Server("uvloop's TLS, a greeting and the end", serve("greeter"), True),
}
FLOORS = {"uvloop", "greeter"}  # only of what goes inside of TLS


def versions_of_peers() -> dict[str, str]:
    """The versions of what we are compared with."""
    return {
        "postfix": output_of("postconf", "-dh", "mail_version") or "absent",
        "aiosmtpd": version_of("aiosmtpd"),
        "smtp-server": NODE_VERSION if NODE_FOLDER.exists() else "absent",
        "node": output_of("node", "--version") or "absent",
    }
