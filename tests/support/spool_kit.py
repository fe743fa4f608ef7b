"""For tests of the spool: a sink that keeps what it gets and fails by order, and records to put."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path

from fastsmtp.delivery import Promise, Receipt, Recipient, Record, Sink, StoredBody
from fastsmtp.delivery.sink import BodyWriter

BODY = b"Subject: x\r\n\r\nhello\r\n"
LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcdef" * 20_000 + b"\r\n"


def record(id: str = "s-1", body: bytes = BODY, *recipients: str, sender: str = "a@x") -> Record:
    """A record as a session would make it."""
    return Record(
        id,
        sender,
        tuple(Recipient(each) for each in recipients or ("b@y.example",)),
        body,
        headers=b"Received: from c\r\n\tby y; Mon, 30 Nov 2026 12:00:00 +0000\r\n",
        received=1_790_000_000.5,
        node="y",
    )


class Collector(Sink):
    """Keeps (id, recipients, octets) of what it takes, in `taken`.

    outcomes: for the next puts, in their order: an exception is raised by the future, a list is the
    fates of the recipients; then all is taken. hold: while it is set, futures stay open.
    """

    def __init__(self, max_record: int = 1024 * 1024) -> None:
        self.max_record = max_record
        self.taken: list[tuple[str, tuple[str, ...], bytes]] = []
        self.tried: list[str] = []
        self.outcomes: deque[BaseException | list[object]] = deque()
        self.failure: Exception | None = None
        self.hold = False
        self.held: list[tuple[Record, asyncio.Future[Receipt]]] = []
        self.most = 0
        self.is_closed = False
        self._changed = asyncio.Event()

    async def start(self) -> Promise:
        self.promise = Promise.DISK
        return self.promise

    async def close(self, patience: float) -> None:
        self.is_closed = True

    def begin(self, record: Record) -> BodyWriter:
        return InMemory()

    def put(self, record: Record) -> asyncio.Future[Receipt]:
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.tried.append(record.id)
        self.held.append((record, future))
        self.most = max(self.most, len(self.held))
        if not self.hold:
            self.answer()
        self._changed.set()
        return future

    def answer(self) -> None:
        """Answer what is held."""
        held, self.held = self.held, []
        for record, future in held:
            if not future.done():
                self._answer(record, future)
        self._changed.set()

    def _answer(self, record: Record, future: asyncio.Future[Receipt]) -> None:
        outcome = self.outcomes.popleft() if self.outcomes else self.failure
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
            return
        future.set_result("taken" if outcome is None else outcome)  # type: ignore[arg-type]
        if outcome is None:
            self.taken.append((record.id, tuple(r.address for r in record.rcpt_to), octets(record)))

    @property
    def ids(self) -> list[str]:
        """Ids of what was taken."""
        return [id for id, _, _ in self.taken]

    async def until(self, condition: object) -> None:
        """Wait until `condition()` holds; it is asked after each put."""
        assert callable(condition)
        async with asyncio.timeout(60):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


def octets(record: Record) -> bytes:
    """The body of a record."""
    if isinstance(record.body, bytes):
        return record.body
    with record.body.open() as file:
        return file.read()


class InMemory(BodyWriter):
    """Gathers a body."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, octets: bytes) -> None:
        self._pieces.append(octets)

    def finish(self) -> asyncio.Future[StoredBody]:
        future: asyncio.Future[StoredBody] = asyncio.get_running_loop().create_future()
        future.set_result(b"".join(self._pieces))  # type: ignore[arg-type]
        return future

    def discard(self) -> None:
        self._pieces.clear()


async def emptied(spool: object) -> None:
    """Wait until nothing is left in the spool."""
    async with asyncio.timeout(60):
        while spool.count:  # type: ignore[attr-defined]
            await asyncio.sleep(0.005)


def database(path: Path) -> Path:
    return path / "spool.db"
