"""Bodies that are too large for a record: written into the file in `tmp` as they arrive.

Nothing is synced here: `put` does that, together with the rest of the commit.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any, BinaryIO

from fastsmtp.delivery.batcher import Batcher
from fastsmtp.delivery.body_writer import FileBodyWriter, Job
from fastsmtp.delivery.maildir._commit import Draft

__all__ = ["LargeBody", "LargeFile", "failure"]


def failure(draft: Draft) -> OSError:
    """Return why a draft has failed; nothing of it remains."""
    return OSError(draft.error, os.strerror(draft.error))


class LargeFile:
    """A body in its file, written and not yet synced: `StoredBody` of a Maildir.

    start: octets of our headers in the file, before the body.
    """

    def __init__(self, draft: Draft, path: str, start: int, size: int, sha256: str) -> None:
        self.draft = draft
        self.path = path
        self.size = size
        self.sha256 = sha256
        self._start = start

    def open(self) -> BinaryIO:
        """Return the body, completely in memory; not after `put`. Each line ends with CRLF: a bare
        LF, which only `bare_newline="accept"` lets in, cannot be told apart in the file.
        """
        with open(self.path, "rb") as file:
            file.seek(self._start)
            return io.BytesIO(file.read().replace(b"\n", b"\r\n"))


class LargeBody(FileBodyWriter):
    """Writes one such file.

    make: returns the draft that has `headers`, in a thread; raises OSError. tmp: its directory.
    """

    def __init__(
        self,
        make: Callable[[], Draft],
        headers: bytes,
        tmp: str,
        threads: Batcher[Job, Any],
    ) -> None:
        super().__init__(threads)
        self._make = make
        self._start = len(headers) - headers.count(b"\r\n")
        self._tmp = tmp
        self._draft: Draft | None = None

    def _store(self, octets: bytes) -> None:
        if self._draft is None:
            self._draft = self._make()
        if not self._draft.write(octets):
            raise failure(self._draft)

    def _stored(self, size: int, sha256: str) -> LargeFile:
        draft = self._draft
        assert draft is not None
        path = os.path.join(self._tmp, os.fsdecode(draft.temporary))
        return LargeFile(draft, path, self._start, size, sha256)

    def _remove(self) -> None:
        if self._draft is not None:
            self._draft.discard()
