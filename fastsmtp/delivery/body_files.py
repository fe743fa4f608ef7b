"""Bodies that are too large for a record: each in a synced file of its own.

The event loop collects WRITE_OCTETS of a body, a thread writes them, and at the end syncs the file
and its directory. There are few threads, and the process does not wait for them at exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Container
from typing import Any, BinaryIO, Final, TypeVar

from fastsmtp.delivery.directories import remove_file
from fastsmtp.delivery.errors import Unavailable, delivery_error
from fastsmtp.delivery.record import StoredBody
from fastsmtp.delivery.sink import BodyWriter

__all__ = ["BodyFile", "BodyFiles", "BodyFileWriter"]

T = TypeVar("T")

WRITE_OCTETS: Final = 64 * 1024  # collected before a thread writes them
THREADS: Final = 4  # syncs wait for the disk; for writes, more threads are of no use
_NAME: Final = re.compile(r"[0-9]+-[0-9a-f]{16}")
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class BodyFile:
    """A body that is safe on disk. path: absolute; size: octets; sha256: hexadecimal digits."""

    __slots__ = ("path", "sha256", "size")

    def __init__(self, path: str, size: int, sha256: str) -> None:
        self.path = path
        self.size = size
        self.sha256 = sha256

    def open(self) -> BinaryIO:
        """Return the octets, as received, as a file to read. Blocks; raises OSError."""
        return open(self.path, "rb", opener=_open_no_link)


class BodyFiles:
    """The bodies in one directory, which exists. Belongs to one event loop."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def begin(self) -> BodyFileWriter:
        """Begin a body; its file is made with its first octets."""
        # By time, so that a listing shows them in the order of arrival; 64 random bits.
        name = f"{time.time_ns()}-{secrets.token_hex(8)}"
        return BodyFileWriter(self, os.path.join(self.directory, name))

    def stored(self, name: str, size: int, sha256: str) -> BodyFile:
        """Return a body that was finished before. Raises ValueError for a name that is not ours."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"no body has the name {name!r}")
        return BodyFile(os.path.join(self.directory, name), size, sha256)

    def remove(self, name: str) -> None:
        """Remove a body that is no longer needed; blocks. A failure is logged."""
        remove_file(os.path.join(self.directory, name))

    def remove_all_but(self, names: Container[str]) -> int:
        """Remove the bodies that are not in `names`, and return how many there were.

        Blocks; raises OSError. No other process may write here.
        """
        with os.scandir(self.directory) as entries:
            orphans = [
                entry.path
                for entry in entries
                if _NAME.fullmatch(entry.name) and entry.name not in names
            ]
        for path in orphans:
            os.unlink(path)
        return len(orphans)

    def close(self) -> None:
        """End the threads, each after its current job."""
        for _ in self._threads:
            self._jobs.put(None)
        self._threads.clear()

    def call(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Return a future for the result of `job` in a thread; it raises `DeliveryError`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if len(self._threads) < THREADS:
            # A daemon: a hanging disk must not keep the process alive.
            thread = threading.Thread(target=self._run, name="fastsmtp-bodies", daemon=True)
            thread.start()
            self._threads.append(thread)

        def run() -> None:
            result: Any = None
            failure = None
            try:
                result = job()
            except BaseException as error:
                failure = delivery_error(error)
            # The loop may be closed.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, future, result, failure)

        self._jobs.put(run)
        return future

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class BodyFileWriter(BodyWriter):
    """One body on its way into its file. Methods are called on the loop; one job runs at a time."""

    def __init__(self, files: BodyFiles, path: str) -> None:
        self._files = files
        self._path = path
        self._pieces: list[bytes] = []
        self._held = 0  # octets in them
        self._size = 0
        self._hash = hashlib.sha256()
        self._descriptor = -1
        self._directory = -1
        self._job: asyncio.Future[Any] | None = None
        self._is_over = False

    def write(self, octets: bytes) -> asyncio.Future[None] | None:
        """Take octets. If a future is returned, wait for it before the next call.

        Raises RuntimeError before that, and at the end.
        """
        self._check_free()
        self._pieces.append(bytes(octets))
        self._held += len(octets)
        return None if self._held < WRITE_OCTETS else self._begin(self._write)

    def finish(self) -> asyncio.Future[StoredBody]:
        """Make the body durable. Raises RuntimeError as `write` does."""
        self._check_free()
        return self._begin(self._finish)

    def discard(self) -> None:
        """Remove the file, as soon as no thread works on it."""
        if self._is_over:
            return
        self._is_over = True
        if self._job is None or self._job.done():
            self._remove_later()
        else:
            self._job.add_done_callback(self._remove_later)

    def _check_free(self) -> None:
        if self._is_over:
            raise RuntimeError("the body was discarded")
        if self._job is not None and not self._job.done():
            raise RuntimeError("the last piece of the body is not written yet")

    def _begin(self, job: Callable[[list[bytes]], T]) -> asyncio.Future[T]:
        pieces, self._pieces = self._pieces, []
        self._held = 0

        def guarded() -> T:
            try:
                return job(pieces)
            except BaseException:
                self._remove()
                raise

        self._job = self._files.call(guarded)
        return self._job

    def _remove_later(self, ended: object = None) -> None:
        self._pieces.clear()
        if self._size:
            self._files.call(self._remove)

    # In a thread.

    def _write(self, pieces: list[bytes]) -> None:
        if self._descriptor < 0:
            if self._size:
                raise Unavailable("the body has failed before")
            # Before the first write, and for this body alone: the kernel reports a write-back error
            # once for each open descriptor, and never to a descriptor opened later.
            self._directory = os.open(self._files.directory, os.O_RDONLY | os.O_DIRECTORY)
            self._descriptor = os.open(self._path, _FLAGS, 0o600)
        for piece in pieces:
            self._hash.update(piece)
            self._size += len(piece)
            view = memoryview(piece)
            while view:  # the kernel may write a part: a signal, or the last free block
                view = view[os.write(self._descriptor, view) :]

    def _finish(self, pieces: list[bytes]) -> StoredBody:
        self._write(pieces)
        os.fsync(self._descriptor)
        os.fsync(self._directory)
        self._close()
        return BodyFile(self._path, self._size, self._hash.hexdigest())

    def _remove(self) -> None:
        self._close()
        remove_file(self._path)

    def _close(self) -> None:
        descriptors = (self._descriptor, self._directory)
        self._descriptor = self._directory = -1
        for descriptor in descriptors:
            # After an fsync, close() has nothing to report; without one, the file is not used.
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _settle(future: asyncio.Future[T], result: T, failure: BaseException | None) -> None:
    if future.done():  # it may have been cancelled
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)
        future.exception()  # retrieved, so that asyncio does not log it


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)
