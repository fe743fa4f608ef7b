"""Gives one record to a sink; a large body goes first, piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final, TypeVar

from fastsmtp.blocking import call_in_thread
from fastsmtp.delivery.errors import TooLarge
from fastsmtp.delivery.record import Record, StoredBody
from fastsmtp.delivery.sink import Receipt, Sink

__all__ = ["BodyDamaged", "hand_over", "pieces_of"]

T = TypeVar("T")

PIECE: Final = 256 * 1024  # octets of a large body that are in memory at a time


class BodyDamaged(Exception):
    """The file with the body does not exist, or has another size."""


def hand_over(sink: Sink, record: Record) -> asyncio.Future[Receipt]:
    """Return a future for the sink's result, which raises the sink's errors, and BodyDamaged."""
    if isinstance(record.body, bytes) and len(record.body) <= sink.max_record:
        return sink.put(record)
    return asyncio.ensure_future(_hand_over_large(sink, record))


async def _hand_over_large(sink: Sink, record: Record) -> Receipt:
    try:
        writer = sink.begin(record)
    except NotImplementedError:
        raise TooLarge(f"the sink takes no more than {sink.max_record} octets") from None
    try:
        async for piece in pieces_of(record.body):
            if (ready := writer.write(piece)) is not None:
                await ready
        record.set_body(await writer.finish())
        stored = sink.put(record)
    except BaseException:
        writer.discard()
        raise
    return await stored  # the body is the sink's, which may have it whatever this raises


async def pieces_of(body: bytes | StoredBody) -> AsyncIterator[bytes]:
    """Yield a body in pieces; a file is read in threads. Raises BodyDamaged, OSError."""
    if isinstance(body, bytes):
        for start in range(0, len(body), PIECE):
            yield body[start : start + PIECE]
        return
    try:
        file = await _in_thread(body.open)
    except FileNotFoundError:
        raise BodyDamaged("the file with its body is not there") from None
    octets = 0
    try:
        while piece := await _in_thread(lambda: file.read(PIECE)):
            octets += len(piece)
            yield piece
    finally:
        file.close()
    if octets != body.size:
        raise BodyDamaged(f"its body has {octets} of {body.size} octets")


async def _in_thread(call: Callable[[], T]) -> T:
    outcome = await call_in_thread(asyncio.get_running_loop(), call, "fastsmtp-spool-body")
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
