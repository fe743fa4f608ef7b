"""Bodies that are too large for a record: each in a synced file of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import secrets
import time
from collections.abc import Callable, Container
from typing import Any, BinaryIO, Final

from fastsmtp.delivery.batcher import Batcher
from fastsmtp.delivery.body_writer import FileBodyWriter, Job, file_threads
from fastsmtp.delivery.directories import remove_file
from fastsmtp.delivery.errors import DeliveryError

__all__ = ["BodyFile", "BodyFiles", "BodyFileWriter"]

_NAME: Final = re.compile(r"[0-9]+-[0-9a-f]{16}")
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def _nothing() -> None:
    pass


class BodyFile:
    """A body that is safe on disk. path: absolute; size: octets; sha256: hexadecimal digits.

    has_arrived: called when another part of the program counts its octets.
    """

    __slots__ = ("has_arrived", "path", "sha256", "size")

    def __init__(
        self, path: str, size: int, sha256: str, has_arrived: Callable[[], None] = _nothing
    ) -> None:
        self.path = path
        self.size = size
        self.sha256 = sha256
        self.has_arrived = has_arrived

    def open(self) -> BinaryIO:
        """Return the octets, as received, as a file to read. Blocks; raises OSError."""
        return open(self.path, "rb", opener=_open_no_link)


class BodyFiles:
    """The bodies in one directory, which exists. Belongs to one event loop.

    refusal: returns why no more octets can be taken, None if they can; called in threads. arriving:
    octets of bodies that are not discarded, and have not `has_arrived`. threads: of the caller, who
    starts and closes them; None: its own.
    """

    def __init__(
        self,
        directory: str,
        refusal: Callable[[], DeliveryError | None] = _nothing,
        *,
        threads: Batcher[Job, Any] | None = None,
    ) -> None:
        self.directory = directory
        self.refusal = refusal
        self.arriving = 0
        self._threads = threads or file_threads("fastsmtp-bodies")

    def start(self) -> None:
        """Start the threads; see `Batcher.start`."""
        self._threads.start()

    async def close(self, patience: float) -> None:
        """Finish what is under way, for at most `patience` seconds."""
        await self._threads.close(patience)

    def begin(self) -> BodyFileWriter:
        """Begin a body; its file is made with its first octets."""
        # By time, so that a listing shows them in the order of arrival; 64 random bits.
        name = f"{time.time_ns()}-{secrets.token_hex(8)}"
        return BodyFileWriter(self, name, self._threads)

    def open_directory(self) -> int:
        """Return a descriptor of the directory, for a new file in it. Blocks; raises OSError."""
        return os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)

    def is_name(self, name: str) -> bool:
        """Whether a file of this name is a body."""
        return _NAME.fullmatch(name) is not None

    def stored(self, name: str, size: int, sha256: str) -> BodyFile:
        """Return a body that was finished before. Raises ValueError for a name that is not ours."""
        if not self.is_name(name):
            raise ValueError(f"no body has the name {name!r}")
        return BodyFile(os.path.join(self.directory, name), size, sha256)

    def remove(self, name: str) -> None:
        """Remove a body that is no longer needed; blocks. A failure is logged."""
        remove_file(os.path.join(self.directory, name))

    def remove_later(self, name: str) -> None:
        """Have a thread remove it."""
        self._threads.add(functools.partial(self.remove, name), 0)

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


class BodyFileWriter(FileBodyWriter):
    """Writes one body, and syncs it at its end."""

    def __init__(self, files: BodyFiles, name: str, threads: Batcher[Job, Any]) -> None:
        super().__init__(threads)
        self._files = files
        self._arriving = 0  # octets, of those of all bodies
        self._path = os.path.join(files.directory, name)
        self._descriptor = -1
        self._directory = -1
        self._is_made = False

    def write(self, octets: bytes) -> asyncio.Future[None] | None:
        """Take octets, as the base does; the future may raise the refusal of the files."""
        written = super().write(octets)
        self._files.arriving += len(octets)
        self._arriving += len(octets)
        return written

    def discard(self) -> None:
        """Remove the file, as soon as no thread works on it."""
        self._has_arrived()
        super().discard()

    def _has_arrived(self) -> None:
        self._files.arriving -= self._arriving
        self._arriving = 0

    # In a thread.

    def _store(self, octets: bytes) -> None:
        if refusal := self._files.refusal():
            raise refusal
        if not self._is_made:
            # Before the first write, and for this body alone: the kernel reports a write-back error
            # once for each open descriptor, and never to a descriptor opened later.
            self._directory = self._files.open_directory()
            self._descriptor = os.open(self._path, _FLAGS, 0o600)
            self._is_made = True
        view = memoryview(octets)
        while view:  # the kernel may write a part: a signal, or the last free block
            view = view[os.write(self._descriptor, view) :]

    def _stored(self, size: int, sha256: str) -> BodyFile:
        os.fsync(self._descriptor)
        os.fsync(self._directory)
        self._close()
        return BodyFile(self._path, size, sha256, self._has_arrived)

    def _remove(self) -> None:
        self._close()
        if self._is_made:
            remove_file(self._path)

    def _close(self) -> None:
        descriptors = (self._descriptor, self._directory)
        self._descriptor = self._directory = -1
        for descriptor in descriptors:
            # After an fsync, close() has nothing to report; without one, the file is not used.
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)
