"""A sink in memory whose every step a test can hold, fail and look at."""

from __future__ import annotations

import asyncio
import hashlib
import io
from typing import BinaryIO

from fastsmtp import SMTPError
from fastsmtp.delivery import BodyWriter, Promise, Receipt, Record, Sink, StoredBody

__all__ = ["MemoryBody", "MemorySink", "MemoryWriter"]


class MemoryBody:
    """A body that was written piece by piece."""

    def __init__(self, octets: bytes) -> None:
        self.path = "memory/1"
        self.octets = octets
        self.size = len(octets)
        self.sha256 = hashlib.sha256(octets).hexdigest()

    def open(self) -> BinaryIO:
        return io.BytesIO(self.octets)


class MemoryWriter(BodyWriter):
    """With `waits`, each write and the end wait until the test settles `waiting`."""

    def __init__(self, *, waits: bool = False) -> None:
        self.waits = waits
        self.pieces: list[bytes] = []
        self.waiting: asyncio.Future[None] | None = None
        self.ending: asyncio.Future[StoredBody] | None = None
        self.discarded = 0

    @property
    def octets(self) -> bytes:
        return b"".join(self.pieces)

    def write(self, octets: bytes) -> asyncio.Future[None] | None:
        assert self.waiting is None or self.waiting.done(), "a write during a write"
        self.pieces.append(octets)
        if not self.waits:
            return None
        self.waiting = asyncio.get_running_loop().create_future()
        return self.waiting

    def finish(self) -> asyncio.Future[StoredBody]:
        self.ending = asyncio.get_running_loop().create_future()
        if not self.waits:
            self.ending.set_result(MemoryBody(self.octets))
        return self.ending

    def discard(self) -> None:
        self.discarded += 1


class MemorySink(Sink):
    """Keeps records; with `holds`, their futures wait in `held` for the test."""

    def __init__(
        self, *, max_record: int = 100_000, holds: bool = False, waits: bool = False
    ) -> None:
        self.max_record = max_record
        self.holds = holds
        self.waits = waits
        self.records: list[Record] = []
        self.held: list[asyncio.Future[Receipt]] = []
        self.writers: list[MemoryWriter] = []
        self.undone: list[tuple[Record, Receipt]] = []
        self.answer: Receipt | Exception = "r1"
        self.start_error: Exception | None = None
        self.refuses: SMTPError | None = None
        self.promise = Promise.MEMORY

    async def start(self) -> Promise:
        await asyncio.sleep(0)
        if self.start_error is not None:
            raise self.start_error
        self.promise = Promise.MEMORY
        return self.promise

    def put(self, record: Record) -> asyncio.Future[Receipt]:
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.records.append(record)
        self.held.append(future)
        if not self.holds:
            self.settle()
        return future

    def settle(self) -> None:
        """Answer all that was put."""
        held, self.held = self.held, []
        for future in held:
            if isinstance(self.answer, Exception):
                future.set_exception(self.answer)
            else:
                future.set_result(self.answer)

    def begin(self, record: Record) -> MemoryWriter:
        self.writers.append(MemoryWriter(waits=self.waits))
        return self.writers[-1]

    def refusal(self) -> SMTPError | None:
        return self.refuses

    def undo(self, record: Record, receipt: Receipt) -> None:
        self.undone.append((record, receipt))

    async def close(self, patience: float) -> None:
        self.promise = None
