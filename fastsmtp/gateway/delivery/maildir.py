"""Delivers messages into a Maildir, so that what was reported as delivered survives a power cut.

In: octets of a message, in pieces. Out: one file in `new/`, or an `SMTPError` and nothing.

The order of calls is the promise: write to `tmp/`, fsync the file, link it into `new/`, fsync
`new/`. Only then does `Delivery.commit` return. Whatever fails on the way, both names are removed.
An fsync that has failed is not tried again: the kernel may have dropped the dirty pages, and a
second one would say that all is well.

Line ends: files hold LF where the wire had CRLF, as every reader of a Maildir on UNIX expects. With
CRLF in the file Python's `mailbox` works, but mutt 2.2 shows a stray ^M behind header fields, and
others no longer find the empty line behind the header. Nothing is lost: the engine refuses a
message with a bare CR or LF, so turning each LF back into CRLF gives the octets that were sent.
`UnixLines` does it, over any cut of the pieces.

Nothing that a client sent is part of a path: names are made of time, process, random octets and our
host name.

All calls block; they belong into a thread. A `Delivery` may be used from one thread after another,
and `discard` at any moment from any.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import re
import secrets
import socket
import stat
import threading
import time
from collections.abc import Iterator
from typing import Final

from fastsmtp.delivery.directories import make_directory, sync_directory
from fastsmtp.errors import SMTPError
from fastsmtp.gateway.log import logger

__all__ = ["Delivery", "Maildir", "UnixLines", "refusal"]

# A file that nobody has touched for so long is no delivery under way (the Maildir specification
# says the same).
LEFTOVER_SECONDS: Final = 36 * 3600
NAME_ATTEMPTS: Final = 5  # names hold 64 random bits: a second attempt is already very strange
MAX_HOST: Final = 64  # characters of our host name in a file name, which has at most 255

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# What a file system without hard links answers to link(); EPERM is Linux's word for it.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_OUR_NAME: Final = re.compile(r"[0-9]+\.M[0-9]+P[0-9]+R[0-9a-f]{16}\.[A-Za-z0-9.-]+")


def refusal(error: OSError) -> SMTPError:
    """Return what a client hears: `452 4.3.1` where there is no room, else `451 4.3.0`.

    Both ask the client to try again later (RFC 5321 §4.2.1). What the system said goes to the log,
    never to the client.
    """
    if error.errno in _NO_ROOM:
        return SMTPError("Insufficient system storage, try again later", 452, "4.3.1")
    return SMTPError("Message could not be stored, try again later", 451, "4.3.0")


class UnixLines:
    """Turns CRLF into LF over pieces of any cut; a CR that is not followed by LF stays."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""  # a CR at the end of the last piece, whose LF may follow

    def convert(self, octets: bytes | bytearray) -> bytes:
        """Return what is settled of the octets so far."""
        text = self._held + bytes(octets)
        self._held = b"\r" if text.endswith(b"\r") else b""
        return text[: len(text) - len(self._held)].replace(b"\r\n", b"\n")

    def end(self) -> bytes:
        """Return what was held back."""
        held, self._held = self._held, b""
        return held


class Maildir:
    """A directory with `cur`, `new` and `tmp`, made when it is missing.

    path: absolute. Raises OSError when the directory cannot be made or written to; a disk that is
    only full is no error here, for mail is then refused with 452 until there is room again.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.new = os.path.join(path, "new")
        self.tmp = os.path.join(path, "tmp")
        self._host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:MAX_HOST] or "localhost"
        for directory in (path, self.new, self.tmp, os.path.join(path, "cur")):
            make_directory(directory)
        self._check_writable()

    def deliver(self) -> Delivery:
        """Begin a delivery; nothing is on disk before its first `write`."""
        return Delivery(self)

    def unique_name(self) -> str:
        """Return a file name of this delivery alone, whatever clocks, processes and hosts do."""
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        process = os.getpid()
        chance = secrets.token_hex(8)
        return f"{seconds}.M{nanoseconds // 1000:06}P{process}R{chance}.{self._host}"

    def remove_leftovers(self) -> int:
        """Remove from `tmp` what deliveries of ours left that will never end; return how many.

        A delivery holds a lock on its file while it lives, and the kernel drops the lock when the
        process dies. So a file of ours that can be locked is a leftover, whoever has its process
        number now. Where the file system has no locks, age decides. Files of others are theirs.
        """
        removed = 0
        with os.scandir(self.tmp) as entries:
            for entry in entries:
                if _OUR_NAME.fullmatch(entry.name) and _remove_leftover(entry.path):
                    removed += 1
        return removed

    def _check_writable(self) -> None:
        if not os.access(self.new, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.new)
        path = os.path.join(self.tmp, self.unique_name())
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            os.unlink(path)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            logger.warning("no room in %s: %s", self.path, error.strerror)


class _State(enum.Enum):
    NOTHING_WRITTEN = enum.auto()
    WRITTEN = enum.auto()
    DELIVERED = enum.auto()
    DISCARDED = enum.auto()


class Delivery:
    """One message on its way: `write` as often as needed, then `commit` once, or `discard`.

    Whatever raises has discarded first. `size` is the length of the file so far, in octets.
    """

    def __init__(self, maildir: Maildir) -> None:
        self.size = 0
        self._maildir = maildir
        # discard() may come while another thread is in write() or commit()
        self._lock = threading.Lock()
        self._state = _State.NOTHING_WRITTEN
        self._descriptor = -1
        self._temporary = ""  # path in tmp/, "" while there is none
        self._final = ""  # path in new/, "" while there is none

    def write(self, octets: bytes) -> None:
        """Add octets to the file, which is made first; raises SMTPError when that fails."""
        with self._guarded():
            self._write(octets)

    def commit(self, octets: bytes = b"") -> str:
        """Add the last octets, make the message durable and visible; return its name in `new`.

        Raises SMTPError when it could not be made durable; then it is not visible either.
        """
        with self._guarded():
            self._write(octets)
            os.fsync(self._descriptor)
            self._publish()
            sync_directory(self._maildir.new)
            self._state = _State.DELIVERED
            # The message is safe and will be acknowledged; what goes wrong from here on costs a
            # leftover at most.
            self._remove_temporary()
            return os.path.basename(self._final)

    def discard(self) -> None:
        """Leave nothing behind, not even a committed message: its sender will not hear of it."""
        with self._lock:
            self._discard()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        with self._lock:
            if self._state in (_State.DELIVERED, _State.DISCARDED):
                raise RuntimeError("the delivery has ended already")
            try:
                yield
            except OSError as error:
                self._discard()
                raise refusal(error) from error
            except BaseException:
                self._discard()
                raise

    def _write(self, octets: bytes) -> None:
        if self._state is _State.NOTHING_WRITTEN:
            self._create()
            self._state = _State.WRITTEN
        self.size += len(octets)
        view = memoryview(octets)
        while view:  # the kernel may take a part: a signal, or the last free block
            view = view[os.write(self._descriptor, view) :]

    def _create(self) -> None:
        for _ in range(NAME_ATTEMPTS):
            path = os.path.join(self._maildir.tmp, self._maildir.unique_name())
            try:
                # O_EXCL: never into a file, or through a link, that somebody else has put there.
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                continue
            self._temporary = path
            if self._is_ours():
                return
            self._remove_temporary()
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _is_ours(self) -> bool:
        """Lock the new file; False when a cleaner of another process got hold of it before us."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # no locks on this file system: then cleaners go by age
            return True
        return os.fstat(self._descriptor).st_nlink == 1

    def _publish(self) -> None:
        name = os.path.basename(self._temporary)
        for _ in range(NAME_ATTEMPTS):
            path = os.path.join(self._maildir.new, name)
            try:
                self._give_name(path)
            except FileExistsError:
                # NFS may say so of our own link, when the answer to the first try was lost.
                if not self._is_same_file(path):
                    name = self._maildir.unique_name()
                    continue
            self._final = path
            return
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _give_name(self, path: str) -> None:
        try:
            # Not rename(): link() never replaces a file that is there.
            os.link(self._temporary, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            os.rename(self._temporary, path)
            self._temporary = ""

    def _is_same_file(self, path: str) -> bool:
        return os.path.samestat(os.fstat(self._descriptor), os.lstat(path))

    def _remove_temporary(self) -> None:
        """Remove the name in tmp/, then close: the lock on the file outlives its name."""
        if self._temporary:
            _unlink(self._temporary)
            self._temporary = ""
        if self._descriptor >= 0:
            # After an fsync there is nothing left that close() could report; without one nobody
            # relies on the file.
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1

    def _discard(self) -> None:
        self._state = _State.DISCARDED
        if self._final:
            _unlink(self._final)
            self._final = ""
        self._remove_temporary()


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.warning("a file stays behind: %s: %s", path, error.strerror)


def _remove_leftover(path: str) -> bool:
    """Remove one file of ours from tmp/ if nobody writes it any more."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # gone meanwhile, or not ours after all
        return False
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            if time.time() - facts.st_mtime < LEFTOVER_SECONDS:
                return False
        os.unlink(path)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
