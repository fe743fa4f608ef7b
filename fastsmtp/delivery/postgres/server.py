"""What a PostgreSQL server says of itself: what its commits promise, and whether the table fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol, TypeAlias

from fastsmtp.delivery.errors import Unavailable
from fastsmtp.delivery.postgres.table import COLUMNS, Table
from fastsmtp.delivery.promise import Promise

__all__ = [
    "CONDITIONS",
    "Facts",
    "Link",
    "check_server",
    "check_table",
    "facts_of",
    "promise_of",
    "shortfall",
]

# The settings by the names of `_SETTINGS`, and what `_FACTS` tells of the table.
Facts: TypeAlias = dict[str, Any]

OLDEST: Final = 120_000  # COPY … WHERE; `server_version_num`

# What holds while a commit promises as much as at the start; part of each statement that stores, so
# that a setting which has become weaker stores nothing.
CONDITIONS: Final = {
    Promise.MEMORY: "true",
    Promise.DISK: (
        "current_setting('fsync') = 'on' AND current_setting('synchronous_commit') <> 'off'"
    ),
    Promise.QUORUM_DISK: (
        "current_setting('fsync') = 'on'"
        " AND current_setting('synchronous_commit') IN ('on', 'remote_apply')"
        " AND current_setting('synchronous_standby_names') <> ''"
    ),
}
_SYNCED_THERE: Final = frozenset({"on", "remote_apply"})  # by a standby too
_TABLES: Final = frozenset({"r", "p"})  # kinds of relation: a table, a partitioned one
READ_COLUMNS: Final = frozenset({"id", "fingerprint"})

_SETTINGS: Final = """
    current_setting('server_version_num')::int4 AS version,
    current_setting('server_encoding') AS encoding,
    pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' AS is_read_only,
    current_setting('fsync') AS fsync,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('synchronous_standby_names') AS standbys
"""
_FACTS: Final = f"""
SELECT {_SETTINGS}, c.oid IS NOT NULL AS exists, coalesce(c.relkind::text, '') AS kind,
    row_security_active(c.oid) AS has_policies,
    c.relpersistence = 'p' AND NOT EXISTS (
        SELECT FROM pg_partition_tree(c.oid) AS t JOIN pg_class AS p ON p.oid = t.relid
        WHERE p.relpersistence <> 'p'
    ) AS is_logged,
    EXISTS (
        SELECT FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'id'
        WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
            AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum
    ) AS is_unique,
    a.names, a.types, a.inserts, a.selects, a.needed
FROM (SELECT to_regclass($1) AS oid) AS given
LEFT JOIN pg_class AS c ON c.oid = given.oid
LEFT JOIN LATERAL (
    SELECT array_agg(attname::text) AS names,
        array_agg(format_type(atttypid, atttypmod)) AS types,
        array_agg(has_column_privilege(attrelid, attnum, 'INSERT')) AS inserts,
        array_agg(has_column_privilege(attrelid, attnum, 'SELECT')) AS selects,
        array_agg(attnotnull AND NOT atthasdef AND attidentity = '') AS needed
    FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
) AS a ON true
"""


class Link(Protocol):
    """What is used of a connection of asyncpg."""

    def is_closed(self) -> bool: ...
    def terminate(self) -> None: ...
    async def close(self, *, timeout: float | None = None) -> None: ...
    async def fetchrow(self, query: str, *args: object) -> Any: ...
    async def fetch(self, query: str, *args: object) -> Sequence[Any]: ...
    async def copy_to_table(self, table_name: str, **options: Any) -> str: ...


async def facts_of(link: Link, table: Table) -> Facts:
    """Ask a server for its settings, and for what it knows of the table."""
    return dict(await link.fetchrow(_FACTS, table.quoted))


def promise_of(facts: Facts) -> Promise:
    """Return what a commit promises with these settings."""
    if facts["fsync"] != "on" or facts["synchronous_commit"] == "off":
        return Promise.MEMORY
    if facts["standbys"] and facts["synchronous_commit"] in _SYNCED_THERE:
        return Promise.QUORUM_DISK
    return Promise.DISK


def shortfall(facts: Facts, wanted: Promise) -> str:
    """Return which setting of the server promises less than `wanted`, "" if none does."""
    commit = facts["synchronous_commit"]
    if wanted is not Promise.MEMORY:
        if facts["fsync"] != "on":
            return "fsync is off at the server"
        if commit == "off":
            return "synchronous_commit is off at the server"
    if wanted is Promise.QUORUM_DISK:
        if not facts["standbys"]:
            return "synchronous_standby_names is empty at the server"
        if commit not in _SYNCED_THERE:
            return f"synchronous_commit is {commit} at the server, which syncs on no standby"
    return ""


def check_server(facts: Facts) -> None:
    """Raise ValueError for a server that is not usable, `Unavailable` for one that takes no writes
    now.
    """
    if facts["version"] < OLDEST:
        raise ValueError("the server is older than PostgreSQL 12")
    if facts["encoding"] != "UTF8":
        raise ValueError(f"the database has the encoding {facts['encoding']}, it must be UTF8")
    if facts["is_read_only"]:
        raise Unavailable("the server is read-only now")


def check_table(facts: Facts, table: Table) -> None:
    """Raise ValueError for a table that does not fit, with the name of what is wrong."""
    wrong = next(_faults(facts), None)
    if wrong is not None:
        raise ValueError(f"table {table.name}: {wrong}")


def _faults(facts: Facts) -> Iterator[str]:
    if not facts["exists"]:
        yield "it does not exist: make it with what fastsmtp postgres schema prints"
        return
    if facts["kind"] not in _TABLES:
        yield "it is not a table"
    if not facts["is_logged"]:
        yield "it is unlogged, and is empty after a crash: ALTER TABLE … SET LOGGED"
    if facts["has_policies"]:
        yield "row-level security applies to this user, and COPY does not work with it"
    yield from _faults_of_columns(facts)
    if not facts["is_unique"]:
        yield "column id must be unique: a message that is sent again would be there twice"


def _faults_of_columns(facts: Facts) -> Iterator[str]:
    names = facts["names"] or []
    for name, type_ in COLUMNS.items():
        if name not in names:
            yield f"column {name} is missing"
            continue
        place = names.index(name)
        if facts["types"][place] != type_:
            yield f"column {name} is of type {facts['types'][place]}, it must be {type_}"
        if not facts["inserts"][place]:
            yield f"this user needs GRANT INSERT ({name})"
        if name in READ_COLUMNS and not facts["selects"][place]:
            yield f"this user needs GRANT SELECT ({name}), for messages that are sent again"
    for name, is_needed in zip(names, facts["needed"] or [], strict=True):
        if is_needed and name not in COLUMNS:
            yield f"column {name} needs a value, and has no default"
