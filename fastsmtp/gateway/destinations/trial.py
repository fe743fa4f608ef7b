"""What a 250 would mean, for `fastsmtp check`: another machine is asked, without a message."""

from __future__ import annotations

import asyncio

from fastsmtp.delivery import DeliveryError, Promise, Sink, Unavailable, deliver
from fastsmtp.gateway.config import Config
from fastsmtp.gateway.destinations.destination import line_of, why_not
from fastsmtp.gateway.destinations.errors import DestinationError
from fastsmtp.gateway.destinations.table import sink_of

__all__ = ["promise_of"]


def promise_of(config: Config) -> list[str]:
    """Return a line about the promise, and one for each remark; nothing is made or changed.

    Raises DestinationError if the service would not start.
    """
    sink = sink_of(config)
    if config.maildir:
        return [_checked(sink, Promise.DISK, config)]
    try:
        found, remarks = asyncio.run(_asked(sink))
    except (DeliveryError, OSError, ValueError) as error:
        if not config.spool or not isinstance(error, (Unavailable, OSError)):
            raise DestinationError(why_not(config, error)) from error
        found, remarks = Promise.DISK, (f"warning: {why_not(config, error)}",)
    if config.on_unavailable == "spool":
        found = found.weaker(Promise.DISK)
    elif config.spool:
        found = Promise.DISK
    return [_checked(sink, found, config), *remarks]


def _checked(sink: Sink, promise: Promise, config: Config) -> str:
    try:
        deliver(sink, require=config.require).check(promise)
    except ValueError as error:
        raise DestinationError(why_not(config, error)) from error
    return line_of(config, config.spool, promise)


async def _asked(sink: Sink) -> tuple[Promise, tuple[str, ...]]:
    async with sink:
        assert sink.promise is not None
        return sink.promise, sink.remarks
