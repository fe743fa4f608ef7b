"""Which servers sync each message: asked of the servers themselves, and of their monitoring ports.

A stream does not say it. The system account does, where its service JSZ is exported to the account
of the mail; so does the address of each server for monitoring. `sync_interval: always` of a server
is `sync_always` in both.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Final

from fastsmtp.blocking import call_in_thread
from fastsmtp.delivery.log import logger
from fastsmtp.delivery.nats.link import Link

__all__ = ["synced_servers"]

SERVICE: Final = "$SYS.REQ.SERVER.PING.JSZ"
PATIENCE: Final = 1.0  # seconds, for servers that may not be there
MOST: Final = 4 * 1024 * 1024  # octets of an answer


async def synced_servers(link: Link, servers: int, monitor: Sequence[str]) -> set[str]:
    """Return the names of servers that sync each message; the others do not, or give no answer.

    servers: how many have the stream. monitor: addresses of theirs for monitoring.
    """
    found = set()
    if monitor:
        for answer in await asyncio.gather(*[_of_monitor(url) for url in monitor]):
            jetstream = answer.get("jetstream") or {}
            if (jetstream.get("config") or {}).get("sync_always"):
                found.add(str(answer.get("server_name")))
        return found
    for answer in await link.ask_all(SERVICE, {"config": True}, servers, PATIENCE):
        server, data = answer.get("server") or {}, answer.get("data") or {}
        if (data.get("config") or {}).get("sync_always"):
            found.add(str(server.get("name")))
    return found


async def _of_monitor(url: str) -> dict[str, Any]:
    """Return what a server says of itself, an empty dict if it does not answer."""
    loop = asyncio.get_running_loop()
    outcome = await call_in_thread(loop, lambda: _varz(url), "fastsmtp-nats-monitor")
    if isinstance(outcome, dict):
        return outcome
    logger.warning("monitor %s: %s", url, outcome)
    return {}


def _varz(url: str) -> dict[str, Any]:
    from urllib.request import urlopen  # not at the top: it brings a client of HTTP

    with urlopen(f"{url.rstrip('/')}/varz", timeout=PATIENCE) as answer:
        found = json.loads(answer.read(MOST))
    if not isinstance(found, dict):
        raise ValueError("not a server of NATS")
    return found
