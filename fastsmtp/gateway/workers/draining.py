"""How a worker that is not needed any more ends: no client that has reached it is refused.

In: its servers, and the addresses whose queues no other worker empties. Out: nothing, once there is
no client left, or enough time has passed; then the servers can be closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, Final

from fastsmtp.blocking import call_in_thread
from fastsmtp.gateway.socket_holders import handshakes
from fastsmtp.server import SMTPServer

__all__ = ["let_clients_end"]

# After its first packet, a client is in the queue when the handshake is over. The system sends its
# part again after 1 and 3 seconds. With SYN cookies it does not know of the client meanwhile: so
# this waits at least as long as a packet and its answer need.
HANDSHAKES: Final = 3.0
ROUND_TRIP: Final = 0.3
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
        await _handshakes_are_over({each[1] for each in kept if isinstance(each, tuple)})
        _close_listeners(servers, lambda address: True)
    has_emptied()
    clock = asyncio.get_running_loop().time
    end = clock() + PATIENCE
    while clock() < end and any(server.connections for server in servers):  # noqa: ASYNC110
        # An event at the end of each connection would be work for all of them, at all times.
        await asyncio.sleep(LOOK_AGAIN)


async def _handshakes_are_over(ports: Collection[int]) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + HANDSHAKES
    await asyncio.sleep(ROUND_TRIP)
    while loop.time() < end:
        # In a thread: with many connections it takes a moment. An error does not equal 0.
        found = await call_in_thread(loop, partial(handshakes, ports), "fastsmtp-handshakes")
        await asyncio.sleep(LOOK_AGAIN)  # and those that have come meanwhile are accepted
        if found == 0:
            break


def _close_listeners(servers: list[SMTPServer], is_chosen: Callable[[Any], bool]) -> None:
    for server in servers:
        for address in list(filter(is_chosen, server.addresses())):
            server.close_listener(address)
