"""`Postgres`: a sink whose 250 means that the message is a row of a committed transaction.

Waiting messages go together, by one COPY. What a commit promises follows from the settings of the
server, which are read at the start; a server that promises less later is down until it promises as
much again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from fastsmtp.delivery.bodies import BodyStore
from fastsmtp.delivery.errors import Unavailable
from fastsmtp.delivery.handoff import RemoteSink
from fastsmtp.delivery.handoff.dispatcher import DEADLINE
from fastsmtp.delivery.postgres.connecting import Connection, Server
from fastsmtp.delivery.postgres.errors import connect_error
from fastsmtp.delivery.postgres.server import (
    Facts,
    check_server,
    check_table,
    facts_of,
    promise_of,
    shortfall,
)
from fastsmtp.delivery.postgres.storing import store
from fastsmtp.delivery.postgres.table import DEFAULT_TABLE, Table
from fastsmtp.delivery.promise import Promise
from fastsmtp.delivery.record import Record
from fastsmtp.delivery.sink import Receipt

__all__ = ["Postgres"]

# Octets of a body in its row. A larger one costs less in a body store; without one, a row takes
# what mail servers usually accept. PostgreSQL's own limit is 1 GiB.
WITH_BODIES: Final = 1024 * 1024
WITHOUT_BODIES: Final = 32 * 1024 * 1024
LONGEST: Final = 512 * 1024 * 1024
PARALLEL: Final = 2
CHECK_SECONDS: Final = 5.0
CLOSING: Final = 1.0  # seconds for a connection to end in good order


class Postgres(RemoteSink):
    """A table of a PostgreSQL database, version 12 or newer.

    url: `postgresql://user@host:port/database`, with the options of libpq; what it does not say is
    taken from PGHOST and so on, and ~/.pgpass. A host that is not local is connected to with TLS
    and a certificate that the system trusts, unless `sslmode` says otherwise. table: as `fastsmtp
    postgres schema` makes it. password: instead of one in the URL. bodies: where bodies of more
    than `max_record` octets are stored; without it they are refused. deadline: seconds in which a
    message is tried again. parallel: connections.

    Receipts are the name of the table. Raises ValueError for arguments that are not usable.
    """

    receipt_key = "table"

    def __init__(
        self,
        url: str,
        *,
        table: str = DEFAULT_TABLE,
        password: str | None = None,
        bodies: BodyStore | None = None,
        max_record: int | None = None,
        deadline: float = DEADLINE,
        parallel: int = PARALLEL,
    ) -> None:
        if max_record is None:
            max_record = WITH_BODIES if bodies is not None else WITHOUT_BODIES
        if not 0 < max_record <= LONGEST:
            raise ValueError(f"max_record takes 1 to {LONGEST} octets, got {max_record}")
        if parallel < 1:
            raise ValueError(f"parallel takes a number of connections, got {parallel}")
        self.max_record = max_record
        self._server = Server(url, password)
        self._table = Table(table)
        self._promised: Promise | None = None  # by the server
        self._idle: list[Connection] = []
        super().__init__(
            f"{self._server.name} table {table}",
            deadline=deadline,
            parallel=parallel,
            bodies=bodies,
        )

    def __repr__(self) -> str:
        return f"<Postgres {self.where}>"

    async def connect(self) -> Promise:
        """Connect, check server and table, and return what a commit promises.

        Raises ValueError with the name of what has to be changed, `Unavailable` without an answer.
        """
        self._promised = None
        connection, facts = await self._new()
        self._idle.append(connection)
        promise = promise_of(facts)
        self._promised = promise
        weak = shortfall(facts, Promise.DISK)
        self.remarks = (f"250 means {promise.value} only, for {weak}",) if weak else ()
        return promise

    async def send(self, records: list[Record]) -> Sequence[Receipt | BaseException]:
        """Store records by one transaction."""
        assert self._promised is not None
        connection = await self._taken()
        try:
            return await store(connection, self._table, self._promised, records)
        finally:
            self._give_back(connection)

    async def probe(self) -> None:
        """Raise while the server promises less than at the start, or takes no writes."""
        connection = await self._taken()
        try:
            await self._checked(connection)
        except BaseException:
            connection.link.terminate()
            raise
        finally:
            self._give_back(connection)

    async def disconnect(self) -> None:
        """Close all connections."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(_close(connection) for connection in idle))

    # Connections: as many as there are batches at a time, each made when it is needed.

    async def _taken(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.link.is_closed():
                return connection
        try:
            connection, _ = await self._new()
        except ValueError as error:  # final at the start; now it may be repaired
            raise Unavailable(str(error)) from error
        return connection

    def _give_back(self, connection: Connection) -> None:
        if self.promise is None or connection.link.is_closed():
            connection.link.terminate()
        else:
            self._idle.append(connection)

    async def _new(self) -> tuple[Connection, Facts]:
        connection = await self._server.connect()
        try:
            return connection, await self._checked(connection)
        except BaseException:
            connection.link.terminate()
            raise

    async def _checked(self, connection: Connection) -> Facts:
        """Ask a server for its settings. Raises ValueError, and `Unavailable` if it promises less
        than at the start.
        """
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                facts = await facts_of(connection.link, self._table)
        except TimeoutError as error:
            raise Unavailable(f"no answer within {CHECK_SECONDS:g} seconds") from error
        except Exception as error:
            raise connect_error(error) from error
        check_server(facts)
        check_table(facts, self._table)
        if self._promised is not None and (weak := shortfall(facts, self._promised)):
            raise Unavailable(weak)
        return facts


async def _close(connection: Connection) -> None:
    try:
        await connection.link.close(timeout=CLOSING)
    except Exception:  # it was of no use any more
        connection.link.terminate()
