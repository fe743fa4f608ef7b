"""A body on its way into a file, as it arrives: what all sinks do about it.

The event loop gathers WRITE_OCTETS, and one of a few threads writes them. Two calls of one body
never overlap: a discard may come during a write.
"""

from __future__ import annotations

import abc
import asyncio
import functools
import hashlib
import threading
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from fastsmtp.delivery.batcher import Batcher
from fastsmtp.delivery.errors import Unavailable
from fastsmtp.delivery.record import StoredBody
from fastsmtp.delivery.sink import BodyWriter

__all__ = ["DISCARDED", "FileBodyWriter", "Job", "file_threads"]

WRITE_OCTETS: Final = 64 * 1024  # HIGH_WATER of a DataStream: more would only wait longer
THREADS: Final = 4  # syncs wait for the disk; for writes, more threads are of no use
DISCARDED: Final = "the body was discarded"

Job: TypeAlias = Callable[[], Any]


def file_threads(name: str, threads: int = THREADS) -> Batcher[Job, Any]:
    """Return the threads that work on files: `add(job, octets)` has one of them call it."""
    return Batcher(_call_each, name=name, threads=threads, max_items=1)


def _call_each(jobs: list[Job]) -> list[Any]:
    return [job() for job in jobs]


class FileBodyWriter(BodyWriter):
    """Writes one body. Its methods are called on the loop, those of a subclass in a thread."""

    def __init__(self, threads: Batcher[Job, Any]) -> None:
        self._threads = threads
        self._pieces: list[bytes] = []
        self._held = 0  # octets in them
        self._job: asyncio.Future[Any] | None = None
        self._is_over = False
        # For the threads, under the lock.
        self._lock = threading.Lock()
        self._size = 0
        self._hash = hashlib.sha256()

    def write(self, octets: bytes) -> asyncio.Future[None] | None:
        """Take octets. If a future is returned, wait for it before the next call.

        Raises RuntimeError before that, and at the end.
        """
        self._check_free()
        self._pieces.append(octets)
        self._held += len(octets)
        return None if self._held < WRITE_OCTETS else self._begin(self._add)

    def finish(self) -> asyncio.Future[StoredBody]:
        """The future is done when all is in the file. Raises RuntimeError as `write` does."""
        self._check_free()
        return self._begin(self._end)

    def discard(self) -> None:
        """Remove the file, as soon as no thread works on it."""
        if not self._is_over:
            self._is_over = True
            self._pieces.clear()
            self._threads.add(self._discard, 0)

    def _check_free(self) -> None:
        if self._is_over:
            raise RuntimeError(DISCARDED)
        if self._job is not None and not self._job.done():
            raise RuntimeError("the last piece of the body is not written yet")

    def _begin(self, step: Callable[[bytes], Any]) -> asyncio.Future[Any]:
        octets = b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        self._job = self._threads.add(functools.partial(self._guarded, step, octets), len(octets))
        return self._job

    # In a thread.

    def _guarded(self, step: Callable[[bytes], Any], octets: bytes) -> Any:
        with self._lock:
            if self._is_over:
                raise Unavailable(DISCARDED)
            try:
                return step(octets)
            except BaseException:
                self._is_over = True
                self._remove()
                raise

    def _add(self, octets: bytes) -> None:
        self._hash.update(octets)
        self._size += len(octets)
        self._store(octets)

    def _end(self, octets: bytes) -> StoredBody:
        self._add(octets)
        return self._stored(self._size, self._hash.hexdigest())

    def _discard(self) -> None:
        with self._lock:
            self._remove()

    @abc.abstractmethod
    def _store(self, octets: bytes) -> None:
        """Write octets into the file, which is made first. Raises OSError."""

    @abc.abstractmethod
    def _stored(self, size: int, sha256: str) -> StoredBody:
        """Return the complete body. Raises OSError."""

    @abc.abstractmethod
    def _remove(self) -> None:
        """Remove the file if it was made and still belongs to the writer."""
