"""`Maildir`: a sink whose 250 means that the message is a synced file in `new`.

Waiting messages are committed together, in one call without the GIL (`_commit.pyx` has the order of
system calls, on which the promise rests). A body that is too large for a record goes directly into
the file that becomes the message, as it arrives.

Line ends: files have LF where the wire had CRLF, as every reader of a Maildir on UNIX expects. With
CRLF in the file Python's `mailbox` works, but mutt 2.2 shows a stray ^M after header fields, and
others do not find the empty line after the header. Nothing is lost: unless told otherwise
(`bare_newline`), the engine refuses a message with a bare CR or LF, so turning each LF back into
CRLF restores the octets that were sent.

After a failed sync, and when the directories no longer exist, they are opened again and checked
before the next message.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Final

from fastsmtp.blocking import call_in_thread
from fastsmtp.delivery.batcher import Batcher
from fastsmtp.delivery.body_writer import DISCARDED, file_threads
from fastsmtp.delivery.errors import Unavailable
from fastsmtp.delivery.log import logger
from fastsmtp.delivery.maildir._commit import Draft, Place, Step, commit
from fastsmtp.delivery.maildir.box import Box
from fastsmtp.delivery.maildir.large import LargeBody, LargeFile, failure
from fastsmtp.delivery.maildir.syncing import SyncChoice
from fastsmtp.delivery.promise import Promise
from fastsmtp.delivery.record import Record
from fastsmtp.delivery.sink import BodyWriter, Receipt, Sink

__all__ = ["Maildir"]

# After a failure of these, the kernel may have dropped earlier writes too.
_DOUBTFUL: Final = frozenset({Step.SYNC, Step.SYNC_DIRECTORY})
# The directories are elsewhere now; ESTALE is that of NFS.
_MOVED: Final = frozenset({errno.ENOENT, errno.ESTALE})
# Batches at a time: one is written while another waits for the disk. Measured beside four: with 20
# clients a sixth more mail for 0.74 times the CPU time, with 200 clients 1.07 times for 0.87 times;
# only where a flush takes 2 ms more do four accept more, a sixth with 20 clients.
COMMIT_THREADS: Final = 2


class Maildir(Sink):
    """A Maildir, which is made if it does not exist.

    path: of its directory. Receipts are names of files in `new`.
    """

    done = "delivered"
    receipt_key = "file"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)
        self._box: Box | None = None
        self._place: Place | None = None  # None after a fault: to be opened and checked
        self._syncs = SyncChoice()
        self._commits = Batcher(
            self._commit,
            name="fastsmtp-maildir",
            threads=COMMIT_THREADS,
            coming=lambda: self.coming,
            on_batch=self.count_batch,
        )
        self._files = file_threads("fastsmtp-maildir-file")

    async def start(self) -> Promise:
        """Make the directories, and remove unfinished files of earlier runs.

        Raises OSError when the directory cannot be made or written to. A full disk is not an error:
        mail is refused with 452 until there is space.
        """
        if self.promise is not None:
            raise RuntimeError(f"{self.path} was started before")
        loop = asyncio.get_running_loop()
        failed = await call_in_thread(loop, self._open, "fastsmtp-maildir-open")
        if failed is not None:
            raise failed
        self._commits.start()
        self._files.start()
        self.promise = Promise.DISK
        return self.promise

    def put(self, record: Record) -> asyncio.Future[Receipt]:
        """Take one message; its receipt is the name of its file."""
        return self._commits.add(record, len(record.headers) + record.size)

    def begin(self, record: Record) -> BodyWriter:
        """Begin the file of a message whose body is large; `put` makes it durable and visible."""
        headers = record.headers
        return LargeBody(
            lambda: self._draft(headers, b""), headers, f"{self.path}/tmp", self._files
        )

    def undo(self, record: Record, receipt: Receipt) -> None:
        """Remove a message whose client got no 250."""
        if isinstance(receipt, str) and self._box is not None:
            box = self._box
            self._files.add(lambda: box.remove(receipt), 0)

    async def close(self, patience: float) -> None:
        """End; see `Sink.close`."""
        await asyncio.gather(self._commits.close(patience), self._files.close(patience))
        self.promise = self._place = None

    # In threads.

    def _open(self) -> None:
        box = Box(self.path)
        removed = box.remove_leftovers()
        if removed:
            logger.info("removed %d unfinished files of an earlier run from %s", removed, box.tmp)
        self._place = box.open()
        self._box = box

    def _draft(self, head: bytes, body: bytes) -> Draft:
        """Return a new draft; raises OSError while the directories are not usable."""
        assert self._box is not None
        place = self._place
        if place is None:
            place = self._place = self._box.open_again()
        return Draft(place, self._box.unique_name().encode("ascii"), head, body)

    def _commit(self, records: list[Record]) -> list[Receipt | BaseException]:
        """Commit records together; return a name or an error for each."""
        drafts = [self._draft_of(record) for record in records]
        good = [draft for draft in drafts if isinstance(draft, Draft)]
        lacking: set[Draft] = set()
        # Large bodies that were begun before a fault are in another place than the rest.
        for place in {draft.place for draft in good if draft.place is not None}:
            together = [draft for draft in good if draft.place is place]
            try:
                self._commit_in(place, together)
            except MemoryError:  # raised by the batch, it would commit those in other places again
                lacking.update(together)
        return [self._result(draft, lacking) for draft in drafts]

    def _commit_in(self, place: Place, drafts: list[Draft]) -> None:
        takes_all = self._syncs.takes_all(len(drafts))
        seconds = commit(place, drafts, takes_all)
        if seconds:  # otherwise the batch failed, and says nothing about the disk
            self._syncs.note(takes_all, len(drafts), seconds)

    def _draft_of(self, record: Record) -> Draft | BaseException:
        try:
            if isinstance(record.body, LargeFile):
                draft = record.body.draft
                return Unavailable(DISCARDED) if draft.ended else draft
            if isinstance(record.body, bytes):
                return self._draft(record.headers, record.body)
        except OSError as error:
            return error
        return Unavailable("a Maildir takes bodies that it has begun itself")

    def _result(self, draft: Draft | BaseException, lacking: set[Draft]) -> str | BaseException:
        if isinstance(draft, BaseException):
            return draft
        if draft.stays:
            logger.warning("a file stays behind in %s: %s", self.path, os.strerror(draft.stays))
        if draft.final:
            return draft.final.decode("ascii")
        if draft.step is Step.DONE:
            draft.discard()
            return OSError(errno.ENOMEM, "") if draft in lacking else Unavailable(DISCARDED)
        if draft.step in _DOUBTFUL or draft.error in _MOVED:
            self._place = None
        return failure(draft)
