"""How a worker that is not needed any more ends: no client that has reached it is refused.

In: its servers, and the addresses whose queues no other worker empties. Out: nothing, once there is
no client left, or enough time has passed; then the servers can be closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

from fastsmtp.server import SMTPServer

__all__ = ["let_clients_end"]

# After its first packet, a client is in the queue when the handshake is over. The system sends its
# part again after 1 and 3 seconds.
HANDSHAKES: Final = 3.0
# Clients that connect to deliver are done in less; those that only stay connected get 421 then.
PATIENCE: Final = 10.0
LOOK_AGAIN: Final = 0.05


async def let_clients_end(
    servers: Iterable[SMTPServer], empty: Iterable[Any], has_emptied: Callable[[], object]
) -> None:
    """Accept no more, except on the addresses `empty`, where clients may still be in the queue;
    then wait for the clients. has_emptied: called when nothing is accepted any more.
    """
    servers = list(servers)
    kept = {tuple(each) if isinstance(each, list) else each for each in empty}
    _close_listeners(servers, lambda address: address not in kept)
    if kept:
        await asyncio.sleep(HANDSHAKES)
        _close_listeners(servers, lambda address: True)
    has_emptied()
    clock = asyncio.get_running_loop().time
    end = clock() + PATIENCE
    while clock() < end and any(server.connections for server in servers):  # noqa: ASYNC110
        # An event at the end of each connection would be work for all of them, at all times.
        await asyncio.sleep(LOOK_AGAIN)


def _close_listeners(servers: list[SMTPServer], is_chosen: Callable[[Any], bool]) -> None:
    for server in servers:
        for address in list(filter(is_chosen, server.addresses())):
            server.close_listener(address)
