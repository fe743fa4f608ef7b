"""The gateway's destination: the sink that the command line names, its start and its end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

from fastsmtp.delivery import Delivery, Entry, Promise, Sink, deliver
from fastsmtp.delivery.maildir import Maildir
from fastsmtp.delivery.spool import Spool, SpoolError
from fastsmtp.gateway.config import Config

__all__ = ["Destination", "DestinationError", "reason_of"]

# The promises in the words of the start line.
WORDS: Final = {Promise.DISK: "on this disk"}


class DestinationError(Exception):
    """The destination is not usable; the text is one line for the user."""


class Destination:
    """The sink of one run. log: gets an entry for each message."""

    def __init__(self, config: Config, log: Callable[[Entry], object]) -> None:
        self._config = config
        maildir = Maildir(config.maildir)
        self._sink: Sink = maildir
        if config.spool:
            self._sink = Spool(config.spool, drain_into=maildir, quota=config.spool_quota)
        self.delivery: Delivery = deliver(self._sink, name=config.name, log=log)

    async def start(self) -> str:
        """Start the sink; return the text for the start line. Raises DestinationError."""
        config = self._config
        try:
            promise = await self._sink.start()
        except SpoolError as error:
            raise DestinationError(str(error)) from error
        except OSError as error:
            reason = reason_of(error)
            raise DestinationError(f"cannot deliver into {config.maildir}: {reason}") from error
        way = f" by way of the spool {config.spool}" if config.spool else ""
        means = f"250 means: {WORDS[promise]} ({promise.value})"
        return f"delivering to {config.maildir}{way}; {means}"

    async def close(self, patience: float) -> bool:
        """End, after at most `patience` seconds; False: something is still running."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self._sink.close(patience)
        return loop.time() - began < patience


def reason_of(error: OSError) -> str:
    """Return the system's text for the error, without what the event loop adds to it."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    # The errors of host name lookups have numbers of their own, negative ones.
    return error.strerror or str(error) or type(error).__name__
