"""The table of the sink, without a server: its names, and what is refused at construction."""

from __future__ import annotations

import asyncio

import pytest
from spool_kit import record

from fastsmtp.delivery import Unavailable
from fastsmtp.delivery.postgres import Postgres, schema
from fastsmtp.delivery.postgres.table import COLUMNS, copy_parts, insert_arguments

URL = "postgresql://u:secret@db.example/mail"


def test_the_schema_names_every_column_and_the_table() -> None:
    text = schema("letters.mail")
    assert "CREATE TABLE letters.mail (" in text
    for column in COLUMNS:
        assert f"    {column} " in text


@pytest.mark.parametrize("name", ["", "Mail", 'mail"', "a.b.c", "mail; drop", "1mail", "a" * 64])
def test_a_table_with_another_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="table takes"):
        schema(name)
    with pytest.raises(ValueError, match="table takes"):
        Postgres(URL, table=name)


@pytest.mark.parametrize(
    "url, options, message",
    [
        ("mysql://db.example/x", {}, "begins with postgresql://"),
        ("postgresql://u:pa?ss@db.example/x", {}, "percent-encoded"),
        ("postgresql://[::1/x", {}, "percent-encoded"),
        (URL, {"max_record": 0}, "max_record takes"),
        (URL, {"max_record": 1 << 30}, "max_record takes"),
        (URL, {"parallel": 0}, "parallel takes"),
        (URL, {"deadline": 0.0}, "deadline takes"),
    ],
)
def test_an_argument_that_is_not_usable_is_refused_by_its_name(
    url: str, options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        Postgres(url, **options)  # type: ignore[arg-type]
    assert "ss@" not in str(raised.value)


def test_a_file_of_a_certificate_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"/nowhere/ca\.pem"):
        Postgres(f"{URL}?sslmode=verify-full&sslrootcert=/nowhere/ca.pem")


@pytest.mark.parametrize(
    "url, environment, is_verified",
    [
        ("postgresql://db.example/mail", "", True),
        ("postgresql://10.0.0.1,127.0.0.1/mail", "", True),
        ("postgresql:///mail", "db.example", True),
        ("postgresql:///mail?host=db.example", "", True),
        ("postgresql://db.example/mail?sslmode=disable", "", False),
        ("postgresql://localhost:1/mail", "db.example", False),
        ("postgresql://[::1]:5432/mail", "", False),
        ("postgresql://%2Frun%2Fpostgresql/mail", "", False),
        ("postgresql:///mail", "", False),
    ],
)
def test_the_certificate_of_a_host_that_is_not_local_is_verified(
    url: str, environment: str, is_verified: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOST", environment)
    given: dict[str, object] = {}

    async def connect(url: str, **options: object) -> None:
        given.update(options)
        raise ConnectionRefusedError

    monkeypatch.setattr("asyncpg.connect", connect)
    with pytest.raises(Unavailable):
        asyncio.run(Postgres(url).start())
    assert given.get("ssl", False) is is_verified


def test_no_text_shows_the_password() -> None:
    sink = Postgres(URL, password="other")
    assert sink.where == "postgresql://db.example/mail table mail"
    assert "secret" not in repr(sink)


def test_both_statements_store_the_same() -> None:
    each = record("s-1")
    parts = b"".join(copy_parts([each]))
    ids, fingerprints, times, envelopes, messages = insert_arguments([each])
    for value in (ids[0], fingerprints[0], envelopes[0]):
        assert value.encode() in parts
    assert messages[0] in parts
    assert times == [each.received]
