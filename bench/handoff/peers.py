"""Gateways of others, which hand each message over to the same place before its 250."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from durable.servers import postfix
from durable.tree import settled_cpu
from handoff.stores import BUILD, SMTPD_PROXY
from load.measuring import free_port, running

STOP_LIMIT = 20.0  # seconds: Postfix has many processes


class Server(NamedTuple):
    """A server that runs. cpu: waits until its work is done; the seconds used so far."""

    port: int
    cpu: Callable[[], float]


@contextmanager
def smtpd_proxy(url: str, core: int) -> Iterator[Server]:
    """Postfix's smtpd with all its processes. url: host and port of the next hop."""
    port = free_port()
    with TemporaryDirectory(prefix="handoff-", dir=BUILD) as directory:
        place = Path(directory)
        place.chmod(0o755)
        command = postfix(place, port, {}, f"smtpd_proxy_filter = {url}")
        pinned = {"preexec_fn": lambda: os.sched_setaffinity(0, {core})}
        with running(command, port, stop_limit=STOP_LIMIT, **pinned) as master:
            yield Server(port, lambda: settled_cpu(master.pid))


PEERS: dict[str, Callable[[str, int], AbstractContextManager[Server]]] = {SMTPD_PROXY: smtpd_proxy}
