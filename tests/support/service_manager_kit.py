"""A service manager, for tests: it hears what a service says, and starts one with sockets.

`Hearer` is the socket of NOTIFY_SOCKET. `activated` is a command that has sockets from descriptor 3
on, as sd_listen_fds(3) describes it.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from serving import PATIENCE

# Arguments: LISTEN_FDNAMES ("-" for none), the descriptors ("3,7"), and the command. What has the
# numbers from 3 on is moved away first: it may be one of the sockets.
START = """
import os, sys
import fcntl
names, numbers, *command = sys.argv[1:]
moved = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 100) for each in numbers.split(",") if each]
for number, descriptor in enumerate(moved):
    os.dup2(descriptor, 3 + number)
    os.close(descriptor)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(moved))}
if names != "-":
    os.environ["LISTEN_FDNAMES"] = names
os.execv(command[0], command)
"""


def activated(command: Sequence[str], descriptors: Sequence[int], names: str = "-") -> list[str]:
    """The command line that starts `command` with these descriptors, which must be inheritable."""
    numbers = ",".join(map(str, descriptors))
    return [sys.executable, "-c", START, names, numbers, *command]


# No program that a service starts may see them.
VARIABLES = (
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
    *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"),
)


class Hearer:
    """The notification socket at a path, or, with "@" before it, in the abstract namespace."""

    def __init__(self, address: str | Path) -> None:
        self.address = str(address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self.address[1:] if self.address[0] == "@" else self.address)
        self._socket.settimeout(PATIENCE)

    def __enter__(self) -> Hearer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def next(self) -> dict[str, str]:
        """Wait for the next datagram and return its fields."""
        text = self._socket.recv(65536).decode()
        return dict(line.split("=", 1) for line in text.split("\n"))

    def wait(self, name: str, text: str = "") -> dict[str, str]:
        """Wait for a datagram that has this field, with this text in it."""
        while True:
            fields = self.next()
            if name in fields and text in fields[name]:
                return fields

    def waiting(self) -> list[dict[str, str]]:
        """Return what has come already."""
        found = []
        self._socket.setblocking(False)
        try:
            while True:
                found.append(self.next())
        except BlockingIOError:
            return found
        finally:
            self._socket.settimeout(PATIENCE)
