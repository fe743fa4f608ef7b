"""The gateway's destination: the sink that the configuration names, its start and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fastsmtp.delivery import Delivery, DeliveryError, Entry, Promise, Sink, deliver
from fastsmtp.delivery.errors import reason_of
from fastsmtp.delivery.spool import Fallback, Patient, Spool, SpoolError
from fastsmtp.delivery.spool.directory import SpoolDirectory
from fastsmtp.delivery.spool.family import ServerLock, claim
from fastsmtp.delivery.spool.strays import Strays
from fastsmtp.gateway.config import Config
from fastsmtp.gateway.destinations.errors import DestinationError
from fastsmtp.gateway.destinations.table import sink_of

__all__ = ["Destination", "line_of", "why_not"]

# The promises in the words of the start line.
WORDS: Final = {
    Promise.MEMORY: "in the memory of one process",
    Promise.QUORUM: "in the memory of several machines",
    Promise.DISK: "on this disk",
    Promise.QUORUM_DISK: "on the disks of several machines",
    Promise.NEXT_HOP: "taken by the next mail server",
    Promise.REMOTE: "taken by the HTTP endpoint",
}


class Destination:
    """The sink of one run. log: gets an entry for each message.

    workers: how many processes share the spool, 0: it is for this one alone, which locks it. lock:
    the lock that was handed over to it. place: where mail goes, for log lines. Raises
    DestinationError for a sink that cannot be made, and a spool that has no place.
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
        self.place = str(config.deliver)
        self._lock = ServerLock(config.spool, lock)
        self._is_alone = not workers
        self._strays: Strays | None = None
        self._spool = config.spool
        self._sink = sink_of(config)
        if config.spool:
            try:
                directory = claim(config.spool) if workers else SpoolDirectory(config.spool)
            except SpoolError as error:
                raise DestinationError(str(error)) from error
            self._spool = directory.path
            # The operator has set the quota for all of them.
            self._sink = self._with_spool(directory, config.spool_quota // max(1, workers))
        self.delivery: Delivery = deliver(
            self._sink, name=config.name, require=config.require, log=log
        )

    def _with_spool(self, directory: SpoolDirectory, quota: int) -> Sink:
        """Return the sink with the spool in front of it, or beside it."""
        config, place = self._config, self.place

        def inner() -> Sink:
            sink = sink_of(config)
            return sink if config.maildir else Patient(sink, place)

        self._strays = Strays(config.spool, directory.path, inner)
        if config.on_unavailable == "spool":
            return Fallback(self._sink, directory, name=place, quota=quota)
        return Spool(directory, drain_into=inner(), quota=quota)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the start has found, a line each."""
        limit = self._sink.max_body
        if limit is None:
            return self._sink.remarks
        return (*self._sink.remarks, f"messages of more than {limit} octets are refused")

    async def start(self) -> str:
        """Start the sink; return the text for the start line. Raises DestinationError."""
        try:
            if self._is_alone:
                self._lock.acquire()
            promise = await self._sink.start()
            self.delivery.check(promise)
        except SpoolError as error:
            raise DestinationError(str(error)) from error
        except (OSError, ValueError, DeliveryError) as error:
            raise DestinationError(why_not(self._config, error)) from error
        if self._strays is not None:
            self._strays.start()
        return line_of(self._config, self._spool, promise)

    async def close(self, patience: float) -> bool:
        """End, after at most `patience` seconds; False: something is still running."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self._strays is not None:
            await self._strays.close(patience)
        await self._sink.close(patience - (loop.time() - began))
        self._lock.release()
        return loop.time() - began < patience


def line_of(config: Config, spool: str, promise: Promise) -> str:
    """Return the line of the start. spool: the directory of this process, "" for none."""
    way = ""
    if spool:
        is_beside = config.on_unavailable == "spool"
        way = f", or into the spool {spool}" if is_beside else f" by way of the spool {spool}"
    means = f"250 means: {WORDS[promise]} ({promise.value})"
    return f"delivering to {config.deliver}{way}; {means}"


def why_not(config: Config, error: Exception) -> str:
    """Return why the sink cannot be started, as one line for the user."""
    reason = reason_of(error)
    if config.maildir:
        return f"cannot deliver into {config.maildir}: {reason}"
    return f"deliver {config.deliver}: {reason}"
