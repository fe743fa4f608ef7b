"""The two statements that store records: COPY, and INSERT for records that may be there already.

Each is a transaction of its own, and stores nothing while the settings of the server are weaker
than the promise.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from fastsmtp.delivery.errors import Refused, Unavailable, Unclear
from fastsmtp.delivery.postgres.connecting import Connection
from fastsmtp.delivery.postgres.errors import store_error
from fastsmtp.delivery.postgres.server import CONDITIONS, facts_of, shortfall
from fastsmtp.delivery.postgres.table import COLUMNS, Table, copy_parts, insert_arguments
from fastsmtp.delivery.promise import Promise
from fastsmtp.delivery.record import Record
from fastsmtp.delivery.sink import Receipt
from fastsmtp.errors import SMTPError

__all__ = ["TRY_SECONDS", "store"]

# After which a connection without an answer is given up, and another one is tried. A commit that
# was only slow is found then: see `_INSERT`.
TRY_SECONDS: Final = 8.0
_UNIQUE_VIOLATION: Final = "23505"
_TOGETHER: Final = 1024 * 1024  # octets; more goes to the socket in pieces of
_PIECE: Final = 256 * 1024

# A record that is there was committed by a try whose answer was lost, and the server may have given
# up waiting for a standby then. The message in the log of the server makes this transaction one
# that has written something, so that its commit waits for all that was written before.
_INSERT: Final = """
WITH given AS (
    SELECT id, fingerprint, to_timestamp(received) AS received, envelope::jsonb, message
    FROM unnest($1::text[], $2::text[], $3::float8[], $4::text[], $5::bytea[])
        AS t (id, fingerprint, received, envelope, message)
    WHERE {condition}
), stored AS (
    INSERT INTO {table} ({columns}) SELECT {columns} FROM given
    ON CONFLICT (id) DO NOTHING RETURNING id
)
SELECT given.id, stored.id IS NOT NULL AS is_new, there.fingerprint = given.fingerprint AS is_same,
    pg_logical_emit_message(true, 'fastsmtp', '') IS NOT NULL AS is_written
FROM given LEFT JOIN stored USING (id) LEFT JOIN {table} AS there USING (id)
"""


async def store(
    connection: Connection, table: Table, promise: Promise, records: Sequence[Record]
) -> list[Receipt | BaseException]:
    """Store records together; return a receipt or an exception for each.

    Raises `DeliveryError` if the statement has failed, and closes the connection if it may not be
    used any more. A record that is there already, with the same id and content, counts as stored.
    """
    link = connection.link
    giving_up = asyncio.get_running_loop().call_later(TRY_SECONDS, link.terminate)
    connection.warning = ""
    results: list[Receipt | BaseException]
    try:
        results = await _stored(connection, table, promise, records)
    except asyncio.CancelledError:
        link.terminate()
        raise
    except Exception as error:
        if giving_up.when() <= asyncio.get_running_loop().time():
            raise Unclear(f"no answer within {TRY_SECONDS:g} seconds") from error
        raise store_error(error) from error
    finally:
        giving_up.cancel()
    if connection.warning and promise is Promise.QUORUM_DISK:
        raise Unclear(f"the server has warned: {connection.warning}")
    return results


async def _stored(
    connection: Connection, table: Table, promise: Promise, records: Sequence[Record]
) -> list[Receipt | BaseException]:
    link, condition = connection.link, CONDITIONS[promise]
    try:
        status = await link.copy_to_table(
            table.own_name,
            source=_source(copy_parts(records)),
            columns=[*COLUMNS],
            schema_name=table.schema,
            format="binary",
            where=condition,
        )
    except Exception as error:
        if getattr(error, "sqlstate", None) != _UNIQUE_VIOLATION:
            raise
    else:
        if status == f"COPY {len(records)}":
            return [table.name] * len(records)
        stored = int(status.rpartition(" ")[2])
        await _explain(connection, table, promise, stored, len(records))
    text = _INSERT.format(condition=condition, table=table.quoted, columns=", ".join(COLUMNS))
    rows = {row["id"]: row for row in await link.fetch(text, *insert_arguments(records))}
    if not rows:
        await _explain(connection, table, promise, 0, len(records))
    return [_fate(table, rows.get(record.id)) for record in records]


def _fate(table: Table, row: Any) -> Receipt | BaseException:
    if row is None or (not row["is_new"] and row["is_same"] is None):
        # Committed while this statement ran, which does not see it; or a trigger drops rows.
        return Unclear("the row is not to be seen yet")
    if row["is_new"] or row["is_same"]:
        return table.name
    return Refused(
        SMTPError("Message could not be stored", 451, "4.3.0"), "the id is that of another message"
    )


async def _explain(
    connection: Connection, table: Table, promise: Promise, stored: int, records: int
) -> None:
    """Raise why fewer rows were stored than there are records."""
    weaker = shortfall(await facts_of(connection.link, table), promise)
    if weaker and not stored:
        raise Unavailable(weaker)
    kind = Unclear if stored else Unavailable
    raise kind(f"the server has stored {stored} of {records} rows: does a trigger drop them?")


def _source(parts: list[bytes]) -> memoryview | AsyncIterator[bytes]:
    """Return what COPY sends: everything at once, or piece by piece as the server takes it."""
    if sum(map(len, parts)) <= _TOGETHER:
        return memoryview(b"".join(parts))  # asyncpg takes bytes for the path of a file
    return _pieces(parts)


async def _pieces(parts: list[bytes]) -> AsyncIterator[bytes]:
    held: list[bytes] = []
    octets = 0
    for part in parts:
        for start in range(0, len(part), _PIECE):
            piece = part[start : start + _PIECE]
            held.append(piece)
            octets += len(piece)
            if octets >= _PIECE:
                yield b"".join(held)
                held.clear()
                octets = 0
    yield b"".join(held)
