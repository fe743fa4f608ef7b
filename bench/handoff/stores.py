"""The stores on the other side: each is started for a run, on a disk of its own, and ended.

A further one is a row of STORES, and a row of SINKS in serve.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from load.measuring import CannotRun

# The kits of the tests start the same servers.
sys.path += [str(Path(__file__).parents[2] / "tests" / part) for part in ("support", "")]


class Store(NamedTuple):
    """run: starts it, and gives the URL for the sink; raises CannotRun. goal: at most so many times
    the CPU time of the engine alone.
    """

    what: str
    run: Callable[[], AbstractContextManager[str]]
    goal: float


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL with its default settings of durability, and the table."""
    from postgres_kit import cluster, why_no_postgres

    from fastsmtp.delivery.postgres import schema

    if reason := why_no_postgres():
        raise CannotRun(reason)
    with cluster(shared_buffers="128MB", max_wal_size="4GB") as server:
        server.run(schema())
        yield server.dsn


STORES = {"postgres": Store("Postgres, fsync and synchronous_commit on", postgres, 1.8)}
