"""`FileBodies`: bodies in one directory, each in a synced file."""

from __future__ import annotations

import contextlib
import errno
import os

from fastsmtp.delivery.bodies.store import KEPT, ORPHAN_AGE, BodyStore, unpaired
from fastsmtp.delivery.body_files import BodyFile, BodyFiles
from fastsmtp.delivery.body_writer import file_threads
from fastsmtp.delivery.directories import make_directory, remove_file, sync_directory
from fastsmtp.delivery.promise import Promise
from fastsmtp.delivery.record import Record
from fastsmtp.delivery.sink import BodyWriter

__all__ = ["FileBodies"]


class _MadeWhenNeeded(BodyFiles):
    def open_directory(self) -> int:
        make_directory(self.directory)
        return super().open_directory()


class FileBodies(BodyStore):
    """Bodies as synced files in `directory`, which is made for the first one.

    Several processes, and consumers, may share it. On a network file system it must survive what
    the promise of the sink survives.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, orphan_age: float = ORPHAN_AGE
    ) -> None:
        threads = file_threads("fastsmtp-bodies")
        super().__init__(threads, orphan_age=orphan_age)
        self.directory = os.path.abspath(directory)
        self._files = _MadeWhenNeeded(self.directory, threads=threads)

    def __repr__(self) -> str:
        return f"FileBodies({self.directory!r})"

    def begin(self, record: Record) -> BodyWriter:
        """Begin a body; its file is made with its first octets."""
        return self._files.begin()

    def stored(self, name: str, size: int, sha256: str) -> BodyFile:
        """Return the body that a record names. Raises ValueError for a name that is not ours."""
        return self._files.stored(name, size, sha256)

    def check(self) -> Promise:
        """Look whether files can be written; see the base. A full disk is not an error."""
        # Nothing is made here: `fastsmtp check` may be called by another user than the service.
        place = self.directory
        while not os.path.lexists(place):
            place = os.path.dirname(place)
        number = 0 if os.path.isdir(place) else errno.ENOTDIR
        if not number and not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            number = errno.EACCES
        if number:
            raise ValueError(f"bodies cannot be stored in {self.directory}: {os.strerror(number)}")
        return Promise.DISK

    def keep(self, name: str) -> None:
        """Mark a body as one with a record; see the base."""
        path = self._path(name)
        descriptor = os.open(path + KEPT, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(self.directory)
        os.stat(path)

    def remove(self, name: str) -> None:
        """Remove a body and its marker; see the base."""
        path = self._path(name)
        remove_file(path)  # first: a marker without a body is removed with the orphans
        remove_file(path + KEPT)

    def remove_orphans(self, before: float) -> int:
        """Remove what was last written before a Unix time and has no record; see the base."""
        try:
            with os.scandir(self.directory) as entries:
                found = {entry.name: entry for entry in entries if self._is_ours(entry.name)}
        except FileNotFoundError:
            return 0
        removed = 0
        for name in unpaired(found):
            entry = found[name]
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                if entry.stat(follow_symlinks=False).st_mtime < before:
                    os.unlink(entry.path)
                    removed += not name.endswith(KEPT)
        return removed

    def _is_ours(self, name: str) -> bool:
        return self._files.is_name(name.removesuffix(KEPT))

    def _path(self, name: str) -> str:
        return self.stored(name, 0, "").path
