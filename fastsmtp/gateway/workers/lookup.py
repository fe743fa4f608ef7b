"""Names that are looked up while workers serve: in a process of its own, because a resolver may
need half a minute, and the parent has workers to care for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from fastsmtp.gateway.workers.child import Child
from fastsmtp.gateway.workers.names import Names, find
from fastsmtp.gateway.workers.parent import Parent
from fastsmtp.gateway.workers.worker import Worker

__all__ = ["look_up"]


def look_up(parent: Parent, hosts: Collection[str], then: Callable[[Names], object]) -> None:
    """Look up `hosts`, and call `then` with what was found. Raises OSError if no process starts."""

    def ready(child: Child) -> None:
        child.forget()
        then({host: _from_json(each) for host, each in child.facts["names"].items()})

    def failed(child: Child) -> None:
        then(dict.fromkeys(hosts, (0, f"the lookup of its name has failed: {child.reason()}")))

    child = parent.fork_helper(partial(_serve, hosts))
    child.on_ready, child.on_end = ready, failed


def _serve(hosts: Collection[str], worker: Worker) -> int:
    worker.ready(names=find(hosts))
    return 0


def _from_json(found: Any) -> Any:
    """Return what was a tuple as one."""
    if isinstance(found[0], int):
        return tuple(found)
    return [(family, tuple(address)) for family, address in found]
