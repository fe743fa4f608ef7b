"""Bodies that are too large for a record: written into the file in `tmp` as they arrive.

The event loop collects WRITE_OCTETS, a thread writes them. Nothing is synced here: `put` does that,
together with the rest of the commit.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import threading
from collections.abc import Callable
from typing import Any, BinaryIO, Final, TypeAlias

from fastsmtp.delivery.batcher import Batcher
from fastsmtp.delivery.maildir._commit import Draft
from fastsmtp.delivery.record import StoredBody
from fastsmtp.delivery.sink import BodyWriter

__all__ = ["Job", "LargeBody", "LargeFile", "call_each", "failure"]

WRITE_OCTETS: Final = 64 * 1024  # HIGH_WATER of a DataStream: more would only wait longer

Job: TypeAlias = Callable[[], object]


def call_each(jobs: list[Job]) -> list[Any]:
    """Call jobs, and return their results or exceptions."""
    results: list[Any] = []
    for job in jobs:
        try:
            results.append(job())
        except Exception as error:
            results.append(error)
    return results


def failure(draft: Draft) -> OSError:
    """Return why a draft has failed; nothing of it remains."""
    return OSError(draft.error, os.strerror(draft.error))


class LargeFile:
    """A body in its file, written and not yet synced: `StoredBody` of a Maildir."""

    def __init__(self, draft: Draft, path: str, size: int, sha256: str) -> None:
        self.draft = draft
        self.path = path
        self.size = size
        self.sha256 = sha256

    def open(self) -> BinaryIO:
        """Return the body as received, completely in memory; not after `put`."""
        with open(self.path, "rb") as file:
            return io.BytesIO(file.read().replace(b"\n", b"\r\n")[-self.size :])


class LargeBody(BodyWriter):
    """Writes one such file.

    draft: makes it, in a thread; raises OSError. tmp: path of its directory. threads: call jobs.
    """

    def __init__(self, draft: Callable[[], Draft], tmp: str, threads: Batcher[Job, Any]) -> None:
        self._make = draft
        self._tmp = tmp
        self._threads = threads
        self._waiting = bytearray()
        # Shared with the threads, under the lock: a discard may come during a write.
        self._lock = threading.Lock()
        self._draft: Draft | None = None
        self._is_over = False
        self._size = 0
        self._hash = hashlib.sha256()

    def write(self, octets: bytes) -> asyncio.Future[None] | None:
        """Take octets; return a future if the caller should wait for the disk."""
        self._waiting += octets
        if len(self._waiting) < WRITE_OCTETS:
            return None
        piece = self._take()
        return self._threads.add(lambda: self._write(piece), len(piece))

    def finish(self) -> asyncio.Future[StoredBody]:
        """The future is done when all is written; `put` syncs it."""
        piece = self._take()
        return self._threads.add(lambda: self._finish(piece), len(piece))

    def discard(self) -> None:
        """Remove the file; after `put` a no-op."""
        self._is_over = True
        self._waiting.clear()
        self._threads.add(self._discard, 0)

    def _take(self) -> bytes:
        piece = bytes(self._waiting)
        self._waiting = bytearray()
        return piece

    # In threads.

    def _write(self, piece: bytes) -> None:
        with self._lock:
            if self._is_over:
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            if self._draft is None:
                self._draft = self._make()
            self._size += len(piece)
            self._hash.update(piece)
            if not self._draft.write(piece):
                self._is_over = True
                raise failure(self._draft)

    def _finish(self, piece: bytes) -> LargeFile:
        self._write(piece)
        draft = self._draft
        assert draft is not None
        path = os.path.join(self._tmp, os.fsdecode(draft.temporary))
        return LargeFile(draft, path, self._size, self._hash.hexdigest())

    def _discard(self) -> None:
        with self._lock:
            if self._draft is not None:
                self._draft.discard()
