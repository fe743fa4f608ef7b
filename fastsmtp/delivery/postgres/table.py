"""The table of `Postgres`: the statement that makes it, and rows in the binary form of COPY."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from typing import Any, Final

from fastsmtp.delivery.record import Record, encode_envelope

__all__ = ["COLUMNS", "DEFAULT_TABLE", "Table", "copy_parts", "insert_arguments", "schema"]

DEFAULT_TABLE: Final = "mail"
# Column -> its type, as `format_type` of PostgreSQL writes it.
COLUMNS: Final = {
    "id": "text",
    "fingerprint": "text",
    "received": "timestamp with time zone",
    "envelope": "jsonb",
    "message": "bytea",
}

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SCHEMA: Final = """\
-- The table into which fastsmtp stores mail. Its user needs no more than this, whatever its name:
-- GRANT INSERT, SELECT (id, fingerprint) ON {table} TO gateway;
CREATE TABLE {table} (
    number      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id          text NOT NULL UNIQUE,
    fingerprint text NOT NULL,
    received    timestamptz NOT NULL,
    envelope    jsonb NOT NULL,
    message     bytea NOT NULL
);
COMMENT ON COLUMN {table}.number IS 'roughly in the order of arrival';
COMMENT ON COLUMN {table}.id IS 'equal if the gateway has sent a message again';
COMMENT ON COLUMN {table}.fingerprint IS 'equal if a client has sent a message again';
COMMENT ON COLUMN {table}.envelope IS 'client, sender, recipients; with a member "body",
the body is stored elsewhere under that name, and "message" has our headers alone';
COMMENT ON COLUMN {table}.message IS 'RFC 5322, our trace headers and the octets of the client';
"""

# The binary form of COPY: a header, rows of fields with their lengths in front, an end.
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END: Final = struct.pack("!h", -1)
_START_OF_ROW: Final = struct.Struct("!hi")
# fingerprint, received, and the first octet of the envelope: the version of jsonb.
_MIDDLE_OF_ROW: Final = struct.Struct("!i64siqib")
_LENGTH: Final = struct.Struct("!i")
_JSONB_VERSION: Final = 1
_EPOCH: Final = 946_684_800_000_000  # 2000-01-01, from which PostgreSQL counts microseconds
# Letters that JSON can escape and jsonb refuses: NUL, and halves of surrogate pairs.
_MAYBE_REFUSED: Final = re.compile(rb"\\u(?:0000|d[89a-f])")
_REFUSED: Final = re.compile("[\0\ud800-\udfff]")


class Table:
    """The name of a table: `mail`, or `schema.mail`. Raises ValueError for other forms.

    name: as it was given. quoted: for SQL text.
    """

    def __init__(self, name: str) -> None:
        parts = name.split(".")
        if len(parts) > 2 or not all(map(_NAME.fullmatch, parts)):
            raise ValueError(
                f"table takes a name or schema.name of a-z, 0-9 and _, got {name!r:.80}"
            )
        self.name = name
        self.schema = parts[0] if len(parts) == 2 else None
        self.own_name = parts[-1]
        self.quoted = ".".join(f'"{part}"' for part in parts)


def schema(table: str = DEFAULT_TABLE) -> str:
    """Return the SQL that makes the table. Raises ValueError for a name that is not usable."""
    return _SCHEMA.format(table=Table(table).name)


def copy_parts(records: Sequence[Record]) -> list[bytes]:
    """Return the rows of records, in pieces, as COPY … (FORMAT binary) takes them."""
    parts = [_HEADER]
    columns = len(COLUMNS)
    for record in records:
        name, headers, body = record.id.encode(), record.headers, _octets_in_row(record)
        fingerprint = record.fingerprint
        envelope = _envelope_of(record, fingerprint)
        start = _START_OF_ROW.pack(columns, len(name)) + name
        received = _microseconds(record) - _EPOCH
        middle = _MIDDLE_OF_ROW.pack(
            64, fingerprint.encode(), 8, received, len(envelope) + 1, _JSONB_VERSION
        )
        length = _LENGTH.pack(len(headers) + len(body))
        parts += [start, middle, envelope, length, headers, body]
    parts.append(_END)
    return parts


def insert_arguments(records: Sequence[Record]) -> tuple[list[Any], ...]:
    """Return the columns of records: ids, fingerprints, seconds, envelopes, messages."""
    return (
        [record.id for record in records],
        [record.fingerprint for record in records],
        [_microseconds(record) / 1e6 for record in records],
        [_envelope_of(record, record.fingerprint).decode() for record in records],
        [record.headers + _octets_in_row(record) for record in records],
    )


def _microseconds(record: Record) -> int:
    return round(record.received * 1e6)


def _octets_in_row(record: Record) -> bytes:
    """Return the body, or nothing if it is stored elsewhere."""
    return record.body if isinstance(record.body, bytes) else b""


def _envelope_of(record: Record, fingerprint: str) -> bytes:
    """Return the envelope, with U+FFFD for what jsonb would refuse: it can come from a hook."""
    envelope = encode_envelope(record, fingerprint=fingerprint)
    if _MAYBE_REFUSED.search(envelope):
        return json.dumps(_storable(json.loads(envelope))).encode("ascii")
    return envelope


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return _REFUSED.sub("\ufffd", value)
    if isinstance(value, list):
        return [_storable(each) for each in value]
    if isinstance(value, dict):
        return {key: _storable(each) for key, each in value.items()}
    return value
