"""Ports for programs that cannot choose one, and for servers that stop and listen there again.

A port of the system's choice may be given to another process as soon as it is free. These lie below
its range, and each process of pytest has its own.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import socket
from contextlib import ExitStack
from typing import Final

__all__ = ["free_port", "free_ports"]

SHARE: Final = 1250  # ports of one process of pytest
SHARES: Final = 16
FIRST: Final = 12_000

_share = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0) % SHARES
# Not the same as in a run of the tests that has just ended or takes place beside this one.
_places = itertools.count(random.Random(os.urandom(8)).randrange(SHARE))


def free_port() -> int:
    """Return a port that nobody listens on, and that no other test gets."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """Return the first of so many ports in a row."""
    while True:
        places = [next(_places) % SHARE for _ in range(count)]
        if places[-1] < places[0]:  # beyond the end of the share
            continue
        first = FIRST + _share * SHARE + places[0]
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
        return first
