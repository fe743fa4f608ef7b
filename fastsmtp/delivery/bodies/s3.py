"""`S3Bodies`: bodies as objects in a bucket of S3, or of a server with its interface.

A body is uploaded while it arrives, in parts of PART octets (S3 allows no smaller ones), each with
its SHA-256 for the server to check; reading from its client pauses meanwhile. An upload that is not
completed leaves no object, and is aborted.
"""

from __future__ import annotations

import contextlib
import io
import re
import secrets
import threading
import urllib.parse
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from fastsmtp.delivery.batcher import Batcher
from fastsmtp.delivery.bodies.store import KEPT, ORPHAN_AGE, BodyStore, unpaired
from fastsmtp.delivery.body_writer import FileBodyWriter, Job, file_threads
from fastsmtp.delivery.errors import Full, Unavailable
from fastsmtp.delivery.log import logger
from fastsmtp.delivery.promise import Promise
from fastsmtp.delivery.record import Record
from fastsmtp.delivery.sink import BodyWriter

if TYPE_CHECKING:
    from obstore import WritableFile
    from obstore.store import ClientConfig, S3Store

__all__ = ["S3Bodies"]

PART: Final = 5 * 1024 * 1024  # the smallest that S3 takes, and what an upload has in memory
UPLOADS: Final = 16  # at a time; each has up to two parts in memory
TIMEOUT: Final = 20.0  # seconds for one request, with its retries
RETRIES: Final = 3
READ: Final = 1024 * 1024  # octets that a reader has in memory

_MISSING: Final = "S3Bodies needs the package obstore: pip install 'fastsmtp-engine[s3]'"
_NAME: Final = re.compile(r"[0-9A-Za-z_-]{1,128}-[0-9a-f]{16}")
_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,128}")
_LONGEST_REASON: Final = 300  # characters of an error's text
# A word in the text of an error of obstore -> the setting that is wrong.
_SETTINGS: Final = (
    ("InvalidAccessKeyId", "access_key_id is not known to the server"),
    ("SignatureDoesNotMatch", "secret_access_key does not belong to access_key_id"),
    ("NoSuchBucket", "url names a bucket that does not exist"),
    ("PermissionDenied", "access_key_id and secret_access_key give no right to write there"),
    ("AccessDenied", "access_key_id and secret_access_key give no right to write there"),
    ("Unauthenticated", "access_key_id and secret_access_key are not accepted"),
    ("UnknownIssuer", "the certificate of the server is not trusted: set ca"),
    ("certificate", "the certificate of the server is not valid"),
)


class S3Bodies(BodyStore):
    """Bodies as objects below `url`, "s3://bucket" or "s3://bucket/prefix".

    endpoint: of the server, such as "https://s3.example.org"; None: that of AWS. region,
    access_key_id, secret_access_key: None: from the environment (`AWS_…`), or from the
    machine's own role. ca: authorities to trust beside the system's, PEM. uploads: how many bodies
    may arrive at a time, each with up to 10 MiB in memory; the next one gets `Full`. timeout:
    seconds for a request and its retries. promise: what the server's answer is worth; S3's
    interface does not tell whether an object is on one disk or on several.

    Raises ImportError without the package obstore, ValueError for arguments that cannot be right.
    """

    def __init__(
        self,
        url: str,
        *,
        endpoint: str | None = None,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        ca: str | None = None,
        uploads: int = UPLOADS,
        timeout: float = TIMEOUT,
        promise: Promise = Promise.DISK,
        orphan_age: float = ORPHAN_AGE,
    ) -> None:
        if uploads < 1:
            raise ValueError(f"uploads takes a number of bodies, 1 or more, got {uploads}")
        if not timeout > 0:
            raise ValueError(f"timeout takes a number of seconds above 0, got {timeout}")
        super().__init__(file_threads("fastsmtp-s3", min(uploads, UPLOADS)), orphan_age=orphan_age)
        self.url = url
        self.uploads = threading.BoundedSemaphore(uploads)
        self._promise = promise
        given = {
            "endpoint": endpoint,
            "region": region,
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
        }
        self.store = _store_of(
            url, {key: value for key, value in given.items() if value}, ca, timeout
        )

    def __repr__(self) -> str:
        return f"S3Bodies({self.url!r})"

    def begin(self, record: Record) -> BodyWriter:
        """Begin a body; its upload begins with its first octets."""
        id = record.id if _ID.fullmatch(record.id) else "message"
        return S3BodyWriter(self, f"{id}-{secrets.token_hex(8)}", self._threads)

    def stored(self, name: str, size: int, sha256: str) -> S3Body:
        """Return the body that a record names. Raises ValueError for a name that is not ours."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"no body has the name {name!r:.80}")
        return S3Body(self, name, size, sha256)

    def check(self) -> Promise:
        """Store and remove an object; see the base."""
        import obstore

        name = f"check-{secrets.token_hex(8)}"
        try:
            obstore.put(self.store, name, b"", use_multipart=False)
            obstore.delete(self.store, name)
        except (obstore.exceptions.BaseError, OSError) as error:
            text = str(error)
            for word, advice in _SETTINGS:
                if word in text:
                    raise ValueError(f"bodies: {advice} ({self.url})") from error
            raise Unavailable(
                f"bodies cannot be stored in {self.url}: {_first_line(text)}"
            ) from error
        return self._promise

    def keep(self, name: str) -> None:
        """Mark a body as one with a record; see the base."""
        import obstore

        with failures_translated():
            obstore.put(self.store, self._checked(name) + KEPT, b"", use_multipart=False)
            obstore.head(self.store, name)

    def remove(self, name: str) -> None:
        """Remove a body and its marker; see the base."""
        import obstore

        try:
            with failures_translated():
                # The body first: a marker without a body is removed with the orphans.
                for each in (self._checked(name), name + KEPT):
                    with contextlib.suppress(FileNotFoundError):
                        obstore.delete(self.store, each)
        except Unavailable as error:
            logger.warning("a body stays behind: %s/%s: %s", self.url, name, error)

    def remove_orphans(self, before: float) -> int:
        """Remove what was last written before a Unix time and has no record; see the base."""
        import obstore

        with failures_translated():
            written = {
                each["path"]: each["last_modified"].timestamp()
                for page in obstore.list(self.store)
                for each in page
                if _NAME.fullmatch(each["path"].removesuffix(KEPT))
            }
            orphans = [name for name in unpaired(written) if written[name] < before]
            for name in orphans:
                obstore.delete(self.store, name)
        return sum(not name.endswith(KEPT) for name in orphans)

    def _checked(self, name: str) -> str:
        self.stored(name, 0, "")
        return name


class S3Body:
    """A body in a bucket. path: its URL. size: octets. sha256: hexadecimal digits."""

    __slots__ = ("_bodies", "_name", "sha256", "size")

    def __init__(self, bodies: S3Bodies, name: str, size: int, sha256: str) -> None:
        self._bodies = bodies
        self._name = name
        self.size = size
        self.sha256 = sha256

    @property
    def path(self) -> str:
        return f"{self._bodies.url.rstrip('/')}/{self._name}"

    def open(self) -> BinaryIO:
        """Return the octets, as received, as a file to read. Blocks; raises OSError, also at the
        end of a file whose octets are not those that were stored.
        """
        import obstore

        with failures_translated(OSError):
            found = obstore.get(self._bodies.store, self._name)
        pieces = iter(found.stream(min_chunk_size=READ))
        return io.BufferedReader(_Checked(pieces, self), READ)


class S3BodyWriter(FileBodyWriter):
    """Uploads one body."""

    def __init__(self, bodies: S3Bodies, name: str, threads: Batcher[Job, Any]) -> None:
        super().__init__(threads)
        self._bodies = bodies
        self._name = name
        self._upload: WritableFile | None = None
        self._is_complete = False

    # In a thread.

    def _store(self, octets: bytes) -> None:
        import obstore

        if self._upload is None:
            if not self._bodies.uploads.acquire(blocking=False):
                raise Full("as many bodies are being uploaded as `uploads` allows")
            try:
                self._upload = obstore.open_writer(
                    self._bodies.store, self._name, buffer_size=PART, max_concurrency=1
                )
            except BaseException:
                self._bodies.uploads.release()
                raise
        with failures_translated():
            self._upload.write(octets)

    def _stored(self, size: int, sha256: str) -> S3Body:
        assert self._upload is not None
        with failures_translated():
            self._upload.close()
        self._upload = None
        self._bodies.uploads.release()
        self._is_complete = True
        return S3Body(self._bodies, self._name, size, sha256)

    def _remove(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            self._bodies.uploads.release()
            try:
                with failures_translated():
                    # The only way to abort it; close() would complete it.
                    upload.__exit__(Unavailable, Unavailable("discarded"), None)
            except (Unavailable, OSError) as error:  # OSError: its end has failed before
                logger.debug("an upload may stay behind: %s: %s", self._name, error)
        elif self._is_complete:
            self._bodies.remove(self._name)


class _Checked(io.RawIOBase):
    """The octets of a body, compared with its size and SHA-256 at their end."""

    def __init__(self, pieces: Iterator[Any], body: S3Body) -> None:
        self._pieces = pieces
        self._body = body
        self._piece = memoryview(b"")
        self._left = body.size
        self._hash = sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._piece:
            with failures_translated(OSError):
                piece = next(self._pieces, None)
            if piece is None:
                if self._left or self._hash.hexdigest() != self._body.sha256:
                    raise OSError(f"the body is damaged: {self._body.path}")
                return 0
            self._piece = memoryview(piece)
            self._left -= len(self._piece)
            self._hash.update(self._piece)
        taken = self._piece[: len(buffer)]
        buffer[: len(taken)] = taken
        self._piece = self._piece[len(taken) :]
        return len(taken)


@contextlib.contextmanager
def failures_translated(kind: type[Exception] = Unavailable) -> Iterator[None]:
    """Raise `kind` for an exception of obstore; a FileNotFoundError stays one."""
    import obstore

    try:
        yield
    except FileNotFoundError:
        raise
    except (obstore.exceptions.BaseError, OSError) as error:
        raise kind(_first_line(str(error))) from error


def _first_line(text: str) -> str:
    return next(iter(text.splitlines()), "")[:_LONGEST_REASON]


def _store_of(url: str, given: dict[str, Any], ca: str | None, timeout: float) -> S3Store:
    try:
        import obstore.store
    except ImportError as error:
        raise ImportError(_MISSING) from error
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "s3" or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"url takes s3://bucket or s3://bucket/prefix, got {url!r:.200}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("url takes no credentials: set access_key_id and secret_access_key")
    endpoint = given.get("endpoint", "https://")
    if not endpoint.startswith(("https://", "http://")):
        raise ValueError(f"endpoint takes an https:// or http:// URL, got {endpoint!r:.200}")
    client: ClientConfig = {
        "allow_http": endpoint.startswith("http://"),
        "timeout": timedelta(seconds=timeout),
    }
    if ca is not None:
        client["root_certificate"] = ca
    try:
        return obstore.store.S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            checksum_algorithm="sha256",
            client_options=client,
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=timeout)},
            **given,
        )
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise ValueError(
            f"url, endpoint or ca cannot be used: {_first_line(str(error))}"
        ) from error
