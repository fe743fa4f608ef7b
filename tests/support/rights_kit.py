"""Programs that give up the rights of root, for tests: a Python that every user can read, and what
the system says about a process.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fastsmtp

NOBODY = 65534

# Arguments: a folder of ours, a directory that others cannot enter, its subdirectory that they are
# to see, the command. In a mount namespace of its own; the process stays the same.
SHOW = """
set -e
mount --rbind "$2" "$1"
mount -t tmpfs -o mode=755 tmpfs "$2"
mkdir "$2/$3"
mount --rbind "$1/$3" "$2/$3"
shift 3
exec "$@"
"""


def why_no_root() -> str:
    """The reason to skip; "" where a process can become another user, and namespaces are there."""
    if os.geteuid():
        return "it takes root"
    if not os.path.exists("/proc/self/status") or shutil.which("setpriv") is None:
        return "it takes Linux, and setpriv"
    if hidden() is not None:
        done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
        if done.returncode:
            return "others cannot read this Python, and there are no mount namespaces"
    return ""


def hidden() -> Path | None:
    """The directory that keeps others from this Python, if there is one."""
    for place in (sys.base_prefix, sys.prefix, str(Path(fastsmtp.__file__).parent)):
        for directory in reversed([Path(place), *Path(place).parents]):
            if not directory.stat().st_mode & 0o001:
                return directory
    return None


@contextmanager
def readable(command: list[str]) -> Iterator[list[str]]:
    """The command in such a way that it, and whoever it becomes, can read this Python."""
    closed = hidden()
    if closed is None:
        yield command
        return
    shown = Path(sys.base_prefix).relative_to(closed).parts[0]
    with tempfile.TemporaryDirectory() as folder:
        yield ["unshare", "--mount", "sh", "-c", SHOW, "sh", folder, str(closed), shown, *command]


def low_port() -> int:
    """A free port of 127.0.0.1 that only root can bind; another one in each process of tests."""
    first = 600 + os.getpid() * 37 % 400
    for port in range(first, 1024):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port below 1024 is free")


def facts(pid: int) -> list[dict[str, str]]:
    """What /proc says about each thread of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        pairs = [line.partition(":") for line in (task / "status").read_text().splitlines()]
        found.append({name: value for name, _, value in pairs})
    return found


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
