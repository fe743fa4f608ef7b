"""A worker as it sees itself: its number, its sockets, the orders of its parent.

In: orders from the channel, `drain` and `hurry`, and SIGTERM. Out: the end of the servers, and
messages to the parent. A worker that loses its parent finishes its messages and ends.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Collection, Iterable
from typing import Final

from fastsmtp.gateway.admin.pages import Page
from fastsmtp.gateway.config import Listener
from fastsmtp.gateway.workers.channel import Channel
from fastsmtp.gateway.workers.draining import let_clients_end
from fastsmtp.gateway.workers.sockets import SocketsOfListeners, SocketsOfSlot, places_of
from fastsmtp.server import SMTPServer

__all__ = ["Worker"]


class Worker:
    """What a service gets from its parent. number: from 1. count: of workers at its start. page:
    where it counts.
    """

    def __init__(
        self, number: int, count: int, sockets: SocketsOfSlot, channel: Channel, page: Page
    ) -> None:
        self.number: Final = number
        self.page: Final = page
        self.count: Final = count
        self._sockets = sockets
        self._channel = channel
        self._draining: asyncio.Task[None] | None = None

    def sockets(self, listeners: Iterable[Listener]) -> SocketsOfListeners:
        """Return listeners with their sockets, in the order given."""
        places = places_of(listeners)
        return [(listener, self._sockets.get(place, [])) for place, listener in places.items()]

    def obey(
        self,
        loop: asyncio.AbstractEventLoop,
        servers: Collection[SMTPServer],
        stop: asyncio.Event,
        hurry: Callable[[], object],
    ) -> None:
        """Follow the orders of the parent: end the clients of `servers` and then set `stop`, or
        set it at once, or call `hurry`.

        SIGTERM, which may come from the parent and from a service manager, only sets `stop`.
        """

        def on_message() -> None:
            for word, facts in self._channel.receive():
                if word == "hurry":
                    hurry()
                elif word == "drain" and self._draining is None:
                    end = let_clients_end(servers, facts["empty"], self._tell_emptied)
                    self._draining = loop.create_task(end)
                    self._draining.add_done_callback(lambda _: stop.set())
            if self._channel.is_over:  # the parent is gone
                loop.remove_reader(self._channel.fileno())
                stop.set()

        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_reader(self._channel.fileno(), on_message)

    def ready(self, **facts: object) -> None:
        """Tell the parent that this worker accepts clients, and what it should know of it."""
        self._channel.send("ready", **facts)

    def _tell_emptied(self) -> None:
        self._channel.send("emptied")

    def failed(self, text: str, status: int) -> None:
        """Tell the parent why this worker cannot start, in one line, with the exit status."""
        self._channel.send("failed", text=text, status=status)
