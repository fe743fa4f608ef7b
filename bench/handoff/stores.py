"""What is on the other side: each is started for a run, on a disk of its own, and ended.

A further one is a row of STORES, and a row of SINKS in serve.py.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from load.measuring import HOST, CannotRun, search_where_root_looks, serving

ENGINE = "keep"
SMTPD_PROXY = "smtpd-proxy"
LIFE = 3600  # seconds, after which a server ends whatever happens
BUILD = Path(__file__).parents[2] / "build"  # on a disk, which /tmp need not be
# The kits of the tests start the same servers.
sys.path += [str(Path(__file__).parents[2] / "tests" / part) for part in ("support", "")]


class Store(NamedTuple):
    """run: starts it, on the core of the load if it is one process, and gives the URL for the sink;
    raises CannotRun. goal: at most so many times the CPU time of `beside`, in the profiles of
    `judged`.
    """

    what: str
    run: Callable[[int], AbstractContextManager[str]]
    goal: float
    beside: str = ENGINE
    judged: tuple[str, ...] = ("200x1KiB",)


@contextmanager
def postgres(core: int) -> Iterator[str]:
    """A PostgreSQL with its default settings of durability, and the table."""
    from postgres_kit import cluster, why_no_postgres

    from fastsmtp.delivery.postgres import schema

    if reason := why_no_postgres():
        raise CannotRun(reason)
    with cluster(shared_buffers="128MB", max_wal_size="4GB") as server:
        server.run(schema())
        yield server.dsn


@contextmanager
def nats(core: int) -> Iterator[str]:
    """Three servers of NATS that sync each message, and the stream on all of them."""
    from nats_kit import NATS_SERVER, REASON, ask, nodes

    async def make_stream() -> None:
        async with ask(*servers) as asking:
            await asking.stream(num_replicas=len(servers))
            await asking.leader()

    if not NATS_SERVER:
        raise CannotRun(REASON)
    with (
        TemporaryDirectory(prefix="handoff-", dir=BUILD) as directory,
        nodes(Path(directory), 3, sync="always") as servers,
    ):
        asyncio.run(make_stream())
        yield ",".join(server.url for server in servers)


@contextmanager
def next_hop(core: int) -> Iterator[str]:
    """Postfix's smtp-sink, which takes each message and keeps none."""
    search_where_root_looks()
    program = shutil.which("smtp-sink")
    if program is None:
        raise CannotRun("needs smtp-sink (Debian: apt install postfix)")
    own = ["-u", "nobody"] if os.geteuid() == 0 else []
    with serving([program, *own, f"{HOST}:PORT", "1000"], core, LIFE) as sink:
        yield f"{HOST}:{sink.port}"


STORES = {
    "nats": Store("NATS, three servers with sync_interval: always", nats, 2.0),
    "postgres": Store("Postgres, fsync and synchronous_commit on", postgres, 1.8),
    "relay": Store(
        *("Relay to smtp-sink", next_hop, 0.7, SMTPD_PROXY),
        judged=("20x1KiB", "200x1KiB", "20x50KiB", "200x50KiB"),
    ),
}
