"""The gateway's destination: the sink that the command line names, its start and its end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

from fastsmtp.delivery import Delivery, Entry, Promise, Sink, deliver
from fastsmtp.delivery.maildir import Maildir
from fastsmtp.delivery.spool import Spool, SpoolError
from fastsmtp.delivery.spool.directory import SpoolDirectory
from fastsmtp.delivery.spool.family import ServerLock, claim
from fastsmtp.delivery.spool.strays import Strays
from fastsmtp.gateway.config import Config

__all__ = ["Destination", "DestinationError", "reason_of"]

# The promises in the words of the start line.
WORDS: Final = {Promise.DISK: "on this disk"}


class DestinationError(Exception):
    """The destination is not usable; the text is one line for the user."""


class Destination:
    """The sink of one run. log: gets an entry for each message.

    workers: how many processes share the spool, 0: it is for this one alone, which locks it. lock:
    the lock that was handed over to it. Raises DestinationError for a spool that has no place.
    """

    def __init__(
        self,
        config: Config,
        log: Callable[[Entry], object],
        *,
        workers: int = 0,
        lock: int = -1,
    ) -> None:
        self._config = config
        self._lock = ServerLock(config.spool, lock)
        self._is_alone = not workers
        self._strays: Strays | None = None
        self._spool = config.spool
        self._sink: Sink = Maildir(config.maildir)
        if config.spool:
            try:
                directory = claim(config.spool) if workers else SpoolDirectory(config.spool)
            except SpoolError as error:
                raise DestinationError(str(error)) from error
            self._spool = directory.path
            self._strays = Strays(config.spool, self._spool, lambda: Maildir(config.maildir))
            # The operator has set the quota for all of them.
            quota = config.spool_quota // max(1, workers)
            self._sink = Spool(directory, drain_into=self._sink, quota=quota)
        self.delivery: Delivery = deliver(self._sink, name=config.name, log=log)

    async def start(self) -> str:
        """Start the sink; return the text for the start line. Raises DestinationError."""
        config = self._config
        try:
            if self._is_alone:
                self._lock.acquire()
            promise = await self._sink.start()
        except SpoolError as error:
            raise DestinationError(str(error)) from error
        except OSError as error:
            reason = reason_of(error)
            raise DestinationError(f"cannot deliver into {config.maildir}: {reason}") from error
        if self._strays is not None:
            self._strays.start()
        way = f" by way of the spool {self._spool}" if self._spool else ""
        means = f"250 means: {WORDS[promise]} ({promise.value})"
        return f"delivering to {config.maildir}{way}; {means}"

    async def close(self, patience: float) -> bool:
        """End, after at most `patience` seconds; False: something is still running."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self._strays is not None:
            await self._strays.close(patience)
        await self._sink.close(patience - (loop.time() - began))
        self._lock.release()
        return loop.time() - began < patience


def reason_of(error: OSError) -> str:
    """Return the system's text for the error, without what the event loop adds to it."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    # The errors of host name lookups have numbers of their own, negative ones.
    return error.strerror or str(error) or type(error).__name__
