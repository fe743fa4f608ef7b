"""`NATS`: a sink whose 250 means that a stream of JetStream has acknowledged the message.

What an acknowledgement is worth depends on the stream and on its servers, so both are looked at
when the sink starts, after each new connection, and from time to time: a stream that was changed so
that it would lose mail gets no more of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from fastsmtp.delivery.bodies import BodyStore
from fastsmtp.delivery.errors import TooLarge, Unavailable
from fastsmtp.delivery.handoff import RemoteSink
from fastsmtp.delivery.handoff.dispatcher import DEADLINE
from fastsmtp.delivery.log import logger
from fastsmtp.delivery.nats.link import Link
from fastsmtp.delivery.nats.publisher import Outgoing, Publisher
from fastsmtp.delivery.nats.settings import Login, check_name, settings_of
from fastsmtp.delivery.nats.stream import HEADERS, Facts, facts_of, lost_quorum
from fastsmtp.delivery.nats.syncing import synced_servers
from fastsmtp.delivery.promise import Promise
from fastsmtp.delivery.record import Record, encode_record
from fastsmtp.delivery.sink import Receipt

__all__ = ["NATS"]

T = TypeVar("T")

# Batches at a time. Measured with three servers on one disk: two are 0.8 times the mail with 20
# clients and no more with 200, because each batch is synced on its own.
PARALLEL: Final = 1
AGAIN: Final = 0.2  # seconds until the start asks again
ASKING: Final = 5.0  # seconds for an answer about the stream
PROBING: Final = 1.0  # seconds: without a leader there is no answer, and soon there is one
CHECKING: Final = 60.0  # seconds from one look at the stream to the next
_NO_STREAM: Final = 404


class NATS(RemoteSink):
    """A stream of JetStream. The extra `nats` has the library.

    servers: URLs, as a sequence or one text with commas, such as "nats://n1:4222,n2,n3"; tls://
    demands TLS. stream: its name. subject: of the messages; "": that of the stream, if it has only
    one. user, password, token: of the login, if the URL has none. credentials: path of a .creds
    file. nkey: path of a file with a seed. ca, cert, key: paths of PEM files, to verify the servers
    with and to show them. sync: "always" states that all servers have `sync_interval: always`; ""
    asks them. monitor: the monitoring URLs of the servers, such as "http://n1:8222", to ask them
    there. domain: of JetStream. bodies: a store for bodies that are too large for the servers.
    deadline: seconds in which a message is sent again.

    Receipts are places in the stream. Raises ValueError for values that cannot be right.
    """

    receipt_key = "nats"

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        stream: str,
        subject: str = "",
        user: str = "",
        password: str = "",
        token: str = "",
        credentials: str = "",
        nkey: str = "",
        ca: str = "",
        cert: str = "",
        key: str = "",
        sync: str = "",
        monitor: Sequence[str] = (),
        domain: str = "",
        bodies: BodyStore | None = None,
        deadline: float = DEADLINE,
    ) -> None:
        login = Login(user, password, token, credentials, nkey)
        self._settings = settings_of(servers, login, ca=ca, cert=cert, key=key)
        _check(stream, subject, domain, sync)
        where = f"{self._settings.servers[0]} stream {stream}"
        super().__init__(where, deadline=deadline, parallel=PARALLEL, bodies=bodies)
        self._stream = stream
        self._subject = subject
        self._api = f"$JS.{domain}.API" if domain else "$JS.API"
        self._monitor = tuple(monitor)
        self._synced: set[str] | None = set() if not sync else None
        self._deadline = deadline
        self._link: Link | None = None
        self._facts: Facts | None = None
        self._publisher: Publisher | None = None
        self._fault = ""  # why the stream gets no mail: it was changed
        self._look = asyncio.Event()  # the stream is to be looked at now
        self._watcher: asyncio.Task[None] | None = None

    # The interface of a remote sink.

    async def start(self) -> Promise:
        """Connect, and start the store of bodies; see `RemoteSink.start`."""
        promise = await super().start()
        assert self._facts is not None
        if promise is not self._facts.promise:
            self.remarks += (f"250 means {promise.value} only: large bodies are kept like that",)
        return promise

    async def connect(self) -> Promise:
        """Connect, and check the stream; see `RemoteSink.connect`."""
        _check_library()
        self._link = Link(self._settings, self._look.set)
        await self._link.open()
        info = await _patiently(lambda: self._info(ASKING))
        if self._synced is not None:
            self._synced = await synced_servers(self._link, _copies(info), self._monitor)
        facts = self._facts_of(info)
        publisher = Publisher(self._link, self._stream, facts.subject, is_atomic=facts.is_atomic)
        await _patiently(publisher.try_out)
        self._publisher, self._facts, self._fault = publisher, facts, ""
        self.max_record = facts.max_body
        self.remarks = _remarks(facts)
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        return facts.promise

    async def send(self, records: list[Record]) -> Sequence[Receipt | BaseException]:
        """Publish records; see `RemoteSink.send`."""
        assert self._publisher is not None
        assert self._facts is not None
        assert self._link is not None
        if self._fault:
            raise Unavailable(self._fault)
        # The servers may differ.
        most = min(self._facts.max_octets, self._link.max_payload - HEADERS)
        results: list[Receipt | BaseException | None] = [None] * len(records)
        outgoing = []
        for number, record in enumerate(records):
            octets = encode_record(record)
            if len(octets) <= most:
                outgoing.append(Outgoing(_header_text(record.id), octets))
            else:
                results[number] = TooLarge(f"the servers take {most} octets, it has {len(octets)}")
        found = iter(await self._publisher.publish(outgoing) if outgoing else ())
        return [next(found) if result is None else result for result in results]

    async def probe(self) -> None:
        """Raise while the stream cannot take mail; see `RemoteSink.probe`."""
        info = await self._info(PROBING)
        if lost_quorum(info):
            raise Unavailable(f"stream {self._stream} has lost most of its servers")
        await self._check(info)
        if self._fault:
            raise Unavailable(self._fault)

    async def disconnect(self) -> None:
        """Close the connection; see `RemoteSink.disconnect`."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait([watcher])
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    # The stream.

    async def _info(self, patience: float) -> dict[str, Any]:
        """Return what the servers say of the stream. Raises ValueError if there is none."""
        assert self._link is not None
        answer = await self._link.ask(f"{self._api}.STREAM.INFO.{self._stream}", {}, patience)
        error = answer.get("error")
        if error is None:
            if not isinstance(answer.get("config"), dict):
                raise Unavailable(f"stream {self._stream}: the answer does not describe it")
            return answer
        text = f"{error.get('description')} ({error.get('err_code')})"
        if error.get("code") == _NO_STREAM:
            raise ValueError(f"stream: the servers have no stream {self._stream}: create it first")
        raise Unavailable(f"stream {self._stream}: {text}")

    def _facts_of(self, info: dict[str, Any]) -> Facts:
        assert self._link is not None
        return facts_of(
            info,
            self._subject,
            deadline=self._deadline,
            max_payload=self._link.max_payload,
            synced=self._synced,
        )

    async def _watch(self) -> None:
        """Look at the stream after each new connection, and from time to time."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECKING):
                    await self._look.wait()
            self._look.clear()
            try:
                await self._check(await self._info(ASKING))
            except (ValueError, Unavailable) as error:
                logger.debug("%s: %s", self.where, error)

    async def _check(self, info: dict[str, Any]) -> None:
        """Look for changes that would lose mail; note or forget the fault."""
        assert self._facts is not None
        assert self._link is not None
        try:
            facts = self._facts_of(info)
            if self._synced is not None and not facts.promise.covers(self._facts.promise):
                # The copies are on other servers now.
                found = await synced_servers(self._link, _copies(info), self._monitor)
                self._synced |= found
                facts = self._facts_of(info)
            fault = ""
            if not facts.promise.covers(self._facts.promise):
                fault = f"250 would mean {facts.promise.value} only: {facts.remark}"
        except ValueError as error:
            fault = str(error)
        if fault and fault != self._fault:
            logger.error("%s gets no more mail: %s", self.where, fault)
        self._fault = fault


def _check(stream: str, subject: str, domain: str, sync: str) -> None:
    """Raise ValueError for values that cannot be right."""
    check_name("stream", stream)
    check_name("subject", subject or "any", allows_dots=True)
    check_name("domain", domain or "any")
    if sync not in ("", "always"):
        raise ValueError(f"sync takes 'always' or nothing, got {sync!r:.80}")


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again while nobody answers: servers that have just started have no leader yet."""
    loop = asyncio.get_running_loop()
    until = loop.time() + ASKING
    while True:
        try:
            return await ask()
        except Unavailable:
            if loop.time() >= until:
                raise
        await asyncio.sleep(AGAIN)


def _header_text(text: str) -> str:
    """Return an id for a header, which a line end would end: records of a program may have any."""
    return text if text.isprintable() else ascii(text)


def _copies(info: dict[str, Any]) -> int:
    return int(info["config"].get("num_replicas", 1))


def _remarks(facts: Facts) -> tuple[str, ...]:
    remarks = []
    if facts.remark:
        remarks.append(f"250 means {facts.promise.value} only: {facts.remark}")
    if not facts.is_atomic:
        remarks.append("the stream lacks allow_atomic, which makes it faster")
    return tuple(remarks)


def _check_library() -> None:
    """Raise ValueError with the name of the extra if the library is missing."""
    try:
        import nats.aio.client  # noqa: F401 - looked for only
    except ModuleNotFoundError as error:
        raise ValueError(
            "the sink NATS needs nats-py: pip install 'fastsmtp-engine[nats]'"
        ) from error
