"""The wait before the greeting: its delay and the reverse lookup, at the same time."""

from __future__ import annotations

import asyncio

from fastsmtp._connection.stages import Client, Talking
from fastsmtp._net.reverse_dns import ReverseLookup

__all__ = ["GreetingWait", "is_known"]


def is_known(
    loop: asyncio.AbstractEventLoop, lookup: ReverseLookup | None, address: str
) -> tuple[bool, str | None]:
    """Whether there is no name to wait for, and the name, if it is known."""
    if lookup is None or not address:
        return True, None
    return lookup.known(loop, address)


class GreetingWait(Talking):
    """Starts the dialogue when both have ended. talking: the next stage; it gets the octets of a
    client that talks too early, and the dialogue refuses them.
    """

    def __init__(self, client: Client, talking: Talking) -> None:
        self._client: Client | None = client
        self._talking = talking
        self._left = 0
        self._name: str | None = None
        self._delay: asyncio.TimerHandle | None = None
        self._lookup: ReverseLookup | None = None  # it is to call `_looked_up`
        self._address = ""
        self._input_over = False

    def begin(
        self,
        loop: asyncio.AbstractEventLoop,
        lookup: ReverseLookup | None,
        address: str,
        name: str | None,
        greet_delay: float,
    ) -> None:
        """Begin both. lookup: None if there is nothing to look up. greet_delay: seconds."""
        self._left = 1
        self._name = name
        if lookup is not None:
            self._left += 1
            self._lookup = lookup
            self._address = address
            lookup.begin(address, self._looked_up)
        if greet_delay:
            self._left += 1
            self._delay = loop.call_later(greet_delay, self._one_done)
        self._one_done()

    def octets(self, client: Client, data: bytes) -> None:
        """The client talks before our greeting."""
        talking = self._talking  # a reference for the time of the call
        talking.octets(client, data)

    def eof(self, client: Client) -> None:
        """A client that leaves without a command gets no reply."""
        self._input_over = True
        if not client.holds_input():
            client.cut()

    def leave(self) -> None:
        """End both now, which breaks reference cycles with this object and its owner."""
        if self._delay is not None:
            self._delay.cancel()
        if self._lookup is not None:
            self._lookup.abandon(self._address, self._looked_up)
        self._left = 0
        self._client = self._delay = self._lookup = None

    def _looked_up(self, name: str | None) -> None:
        self._name = name
        self._lookup = None
        self._one_done()

    def _one_done(self) -> None:
        if self._left:
            self._left -= 1
            client = self._client
            if not self._left and client is not None:
                client.start(self._name, self._input_over)
