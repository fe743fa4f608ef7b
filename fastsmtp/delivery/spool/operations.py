"""The commands of `fastsmtp spool`, executed in the process that uses the spool.

A request is a dict: `command`, `which` (numbers and ids, as texts) or `state` (all records in one
state, "": all). The answers are dicts, and octets after a dict that has their number; a dict with
`error` is the last one.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final, TypeAlias

from fastsmtp.delivery.errors import DeliveryError
from fastsmtp.delivery.record import Record
from fastsmtp.delivery.spool.drainer import Drainer
from fastsmtp.delivery.spool.handover import BodyDamaged, pieces_of
from fastsmtp.delivery.spool.keeper import Changes
from fastsmtp.delivery.spool.shelf import Shelf
from fastsmtp.delivery.spool.store import Entry, State, Store, Trouble
from fastsmtp.log_text import escaped

__all__ = ["Answer", "Operations", "Request"]

Request: TypeAlias = Mapping[str, Any]
Answer: TypeAlias = dict[str, Any] | bytes

PAGE_RECORDS: Final = 64
PAGE_OCTETS: Final = 1024 * 1024
SHOWN_OCTETS: Final = 16 * 1024  # of the header of a message
LONGEST_ADDRESS: Final = 1024  # characters


class _NoSuchRecord(Exception):
    """The text is one line for the user."""


class Operations:
    """The commands on one shelf. drainer: None if nothing is being drained."""

    def __init__(self, shelf: Shelf, drainer: Drainer | None) -> None:
        self._shelf = shelf
        self._drainer = drainer
        self._commands: Final[dict[str, Callable[[Request], AsyncGenerator[Answer, None]]]] = {
            "list": self._list,
            "show": self._show,
            "retry": self._retry,
            "export": self._export,
            "delete": self._delete,
        }

    async def perform(self, request: Request) -> AsyncGenerator[Answer, None]:
        """Execute a request; yield the answers."""
        command = self._commands.get(str(request.get("command")))
        if command is None:
            yield {"error": "this version of the server does not know the command"}
            return
        try:
            async for answer in command(request):
                yield answer
        except (_NoSuchRecord, DeliveryError, BodyDamaged) as error:
            yield {"error": str(error)}

    async def _list(self, request: Request) -> AsyncGenerator[Answer, None]:
        left = int(request.get("limit") or 0) or None
        async for entry in self._chosen(request):
            yield self._facts_of(entry, self._record(entry))
            if left is not None and (left := left - 1) == 0:
                return

    async def _show(self, request: Request) -> AsyncGenerator[Answer, None]:
        async for entry in self._chosen(request):
            record = self._record(entry)
            facts = self._facts_of(entry, record)
            if record is not None:
                facts["client"] = record.client._asdict()
                facts["fingerprint"] = record.fingerprint
                facts["headers"] = await _headers_of(record)
            yield facts

    async def _retry(self, request: Request) -> AsyncGenerator[Answer, None]:
        count = 0
        async for entry in self._chosen(request):
            if entry.trouble is not None and not self._is_under_way(entry):
                trouble = entry.trouble._replace(state=State.DEFERRED, due=0.0)
                await self._shelf.change(Changes(troubles=((entry.seq, trouble),)))
                count += 1
        if self._drainer is not None:
            self._drainer.look()
        yield {"retried": count}

    async def _delete(self, request: Request) -> AsyncGenerator[Answer, None]:
        count = kept = 0
        async for entry in self._chosen(request):
            if self._is_under_way(entry):
                kept += 1
            else:
                await self._shelf.remove([entry])
                count += 1
        yield {"deleted": count, "under_way": kept}

    async def _export(self, request: Request) -> AsyncGenerator[Answer, None]:
        async for entry in self._chosen(request):
            record = self._record(entry)
            if record is None:
                # Damaged: exported unchanged.
                yield {"number": entry.seq, "id": entry.id, "follows": len(entry.octets)}
                yield entry.octets
                continue
            head = _envelope_headers(record) + record.headers
            yield {"number": entry.seq, "id": entry.id, "follows": len(head) + record.size}
            yield head
            async for piece in pieces_of(record.body):
                yield piece

    # Which records.

    async def _chosen(self, request: Request) -> AsyncGenerator[Entry, None]:
        which = request.get("which") or ()
        for word in which:
            for number in await self._numbers(str(word)):
                entry = await self._shelf.ask(functools.partial(_entry_of, number))
                if entry is not None:
                    yield entry
        if not which:
            state = str(request.get("state") or "")
            async for entry in self._all():
                if state in ("", State.WAITING if entry.trouble is None else entry.trouble.state):
                    yield entry

    async def _numbers(self, word: str) -> list[int]:
        if word.isascii() and word.isdigit() and len(word) < 19:
            number = int(word)
            if await self._shelf.ask(functools.partial(_entry_of, number)) is not None:
                return [number]
        found = await self._shelf.ask(lambda store: store.numbers_of(word))
        if not found:
            raise _NoSuchRecord(f"the spool has no record {escaped(word, 80, plain=' ')}")
        return found

    async def _all(self) -> AsyncGenerator[Entry, None]:
        after = 0
        while page := await self._shelf.ask(functools.partial(_page_behind, after)):
            for entry in page:
                yield entry
            after = page[-1].seq

    def _is_under_way(self, entry: Entry) -> bool:
        return self._drainer is not None and self._drainer.is_under_way(entry.seq)

    # Their facts.

    def _record(self, entry: Entry) -> Record | None:
        try:
            return self._shelf.record_of(entry)
        except ValueError:
            return None

    def _facts_of(self, entry: Entry, record: Record | None) -> dict[str, Any]:
        trouble = entry.trouble or Trouble(State.WAITING, 0, 0.0, "")
        facts: dict[str, Any] = {
            "number": entry.seq,
            "id": entry.id,
            "state": trouble.state if record is not None else State.DAMAGED,
            "attempts": trouble.attempts,
            "next_attempt": trouble.due or None,
            "reason": trouble.reason,
            "octets": entry.size,
        }
        if record is not None:
            facts |= {
                "received": record.received,
                "size": record.size,
                "mail_from": record.mail_from,
                "rcpt_to": [each.address for each in record.rcpt_to],
            }
        return facts


def _entry_of(number: int, store: Store) -> Entry | None:
    return store.entry(number)


def _page_behind(number: int, store: Store) -> list[Entry]:
    return store.page(number, PAGE_RECORDS, PAGE_OCTETS)


async def _headers_of(record: Record) -> str:
    """Return the header of the message, ours and its own, as text."""
    head = record.headers
    async for piece in pieces_of(record.body):
        head += piece[:SHOWN_OCTETS]
        break
    end = head.find(b"\r\n\r\n", 0, SHOWN_OCTETS)
    return head[: SHOWN_OCTETS if end < 0 else end].decode("utf-8", "backslashreplace")


def _envelope_headers(record: Record) -> bytes:
    """Return header fields that keep the envelope in an exported message."""
    recipients = ",\r\n\t".join(_path(each.address) for each in record.rcpt_to)
    return (
        f"X-Envelope-From: {_path(record.mail_from)}\r\n"
        f"X-Envelope-To: {recipients}\r\n"
        f"X-Spool-Id: {escaped(record.id, LONGEST_ADDRESS, plain='')}\r\n"
    ).encode("utf-8", "backslashreplace")


def _path(address: str) -> str:
    return f"<{escaped(address, LONGEST_ADDRESS, plain=' ')}>"
