"""`Postgres` with a real server: what is stored, what a start refuses, and faults while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from faulty_network import Between, between
from free_ports import free_port
from postgres_kit import Postgres as Server
from postgres_kit import bouncer, cluster, standby, why_no_postgres
from spool_kit import BODY, record

from fastsmtp.delivery import (
    DeliveryError,
    Full,
    Promise,
    Record,
    Refused,
    Unclear,
    encode_envelope,
)
from fastsmtp.delivery.bodies import FileBodies
from fastsmtp.delivery.postgres import Postgres, schema

REASON = why_no_postgres()

pytestmark = [pytest.mark.interop, pytest.mark.skipif(bool(REASON), reason=REASON)]

TAKES = 60.0  # seconds; only what hangs ever waits so long


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    """A server for all tests that do not end it."""
    with cluster() as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    """The same, with an empty table."""
    running.run("DROP TABLE IF EXISTS mail")
    running.run(schema())
    return running


@contextlib.asynccontextmanager
async def started(url: str, **options: Any) -> AsyncIterator[Postgres]:
    async with asyncio.timeout(TAKES):
        sink = Postgres(url, **options)
        await sink.start()
        try:
            yield sink
        finally:
            await sink.close(5)


def through(proxy: Between) -> str:
    return f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"


async def stored(sink: Postgres, each: Record) -> None:
    """Store a message, however short the deadline is."""
    while True:
        with contextlib.suppress(DeliveryError):
            assert await sink.put(each) == "mail"
            return


async def told(sink: Postgres, text: str, *, sends: Iterator[Record]) -> None:
    """Send messages until one fails with that text; a machine that stands still causes others."""
    for each in sends:
        try:
            await sink.put(each)
        except DeliveryError as error:
            if text in str(error):
                return


def ids(server: Server) -> list[str]:
    return server.lines("SELECT id FROM mail ORDER BY number")


async def refused(url: str, **options: Any) -> str:
    """Return why a start is refused."""
    sink = Postgres(url, **options)
    with pytest.raises((ValueError, OSError, DeliveryError)) as raised:
        await sink.start()
    await sink.close(1)
    return str(raised.value)


# What is stored.


def test_a_message_is_a_row_with_its_envelope_and_its_octets(run: Any, server: Server) -> None:
    each = record("s-1", b"Subject: \x00\xff\r\n\r\n\\x41\r\n")

    async def scenario() -> None:
        async with started(server.dsn) as sink:
            assert sink.promise is Promise.DISK
            assert await sink.put(each) == "mail"

    run(scenario())
    row = server.run(
        "SELECT id, fingerprint, extract(epoch FROM received), envelope,"
        " encode(message, 'hex') FROM mail"
    )
    id, fingerprint, received, envelope, message = row.split("|")
    assert (id, fingerprint, float(received)) == ("s-1", each.fingerprint, each.received)
    assert json.loads(envelope) == json.loads(encode_envelope(each))
    assert bytes.fromhex(message) == each.headers + each.body  # type: ignore[operator]


def test_many_messages_are_stored_by_few_transactions(server: Server) -> None:
    async def scenario() -> None:
        async with started(server.dsn) as sink:
            puts = [sink.put(record(f"s-{number}")) for number in range(600)]
            assert await asyncio.gather(*puts) == ["mail"] * 600

    asyncio.run(scenario())
    assert server.run("SELECT count(*), count(DISTINCT xmin::text) < 10 FROM mail") == "600|t"


def test_words_that_jsonb_refuses_are_replaced(server: Server) -> None:
    each = record("s-1", sender="a\0\udcff\\u0000\U0001f600")

    async def scenario() -> None:
        async with started(server.dsn) as sink:
            await sink.put(each)

    asyncio.run(scenario())
    found = server.run("SELECT envelope->>'mail_from' FROM mail")
    assert found == "a\ufffd\ufffd\\u0000\U0001f600"


def test_a_large_body_is_stored_piece_by_piece(run: Any, server: Server) -> None:
    body = b"0123456789abcdef" * 400_000

    async def scenario() -> None:
        async with started(server.dsn) as sink:
            await sink.put(record("s-1", body))

    run(scenario())
    each = record("s-1", body)
    expected = hashlib.sha256(each.headers + body).hexdigest()
    assert server.run("SELECT encode(sha256(message), 'hex') FROM mail") == expected


def test_a_body_in_a_store_is_named_in_the_envelope(server: Server, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with started(server.dsn, bodies=FileBodies(tmp_path / "b"), max_record=10) as sink:
            each = record("s-1")
            writer = sink.begin(each)
            writer.write(BODY)
            each.set_body(await writer.finish())
            await sink.put(each)

    asyncio.run(scenario())
    name, octets = server.run("SELECT envelope->>'body', length(message) FROM mail").split("|")
    assert (tmp_path / "b" / name).read_bytes() == BODY
    assert int(octets) == len(record().headers)


def test_pgbouncer_in_transaction_mode_stands_between(server: Server) -> None:
    async def scenario(url: str) -> None:
        async with started(url) as sink:
            for round in range(5):
                puts = [sink.put(record(f"{round}-{number}")) for number in range(20)]
                await asyncio.gather(*puts)
            await asyncio.gather(*(sink.put(record(f"1-{number}")) for number in range(20)))
            await sink.probe()

    with bouncer(server) as url:
        asyncio.run(scenario(url))
    assert len(ids(server)) == 100


# Messages that are sent again.


def test_a_lost_answer_to_a_commit_leaves_one_row(run: Any, server: Server) -> None:
    async def scenario() -> int:
        async with between(server.port) as proxy:
            lost = 0

            def loses(octets: bytes) -> bool:
                nonlocal lost
                is_answer = b"COPY " in octets and lost < 2
                lost += is_answer
                return is_answer

            proxy.loses = loses
            async with started(through(proxy)) as sink:
                puts = [sink.put(record(f"s-{number}")) for number in range(50)]
                assert await asyncio.gather(*puts) == ["mail"] * 50
            return lost

    assert run(scenario()) >= 1
    assert sorted(ids(server)) == sorted(f"s-{number}" for number in range(50))


def test_an_id_with_other_content_is_refused_and_not_taken_for_a_second_try(server: Server) -> None:
    async def scenario() -> None:
        async with started(server.dsn) as sink:
            await sink.put(record("s-1"))
            assert await sink.put(record("s-1")) == "mail"
            with pytest.raises(Refused, match="id is that of another message"):
                await sink.put(record("s-1", b"other"))
            puts = [sink.put(record(id, body)) for id, body in (("s-1", b"x"), ("s-2", BODY))]
            results = await asyncio.gather(*puts, return_exceptions=True)
            assert isinstance(results[0], Refused)
            assert results[1] == "mail"
            assert not sink.availability.is_down

    asyncio.run(scenario())
    assert ids(server) == ["s-1", "s-2"]


def test_a_row_that_a_trigger_refuses_spoils_neither_its_batch_nor_the_sink(server: Server) -> None:
    server.run(
        "CREATE OR REPLACE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.id LIKE 'bad%' THEN RAISE EXCEPTION 'we do not like it'; END IF;"
        " IF NEW.id LIKE 'gone%' THEN RETURN NULL; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER no BEFORE INSERT ON mail FOR EACH ROW EXECUTE FUNCTION no()"
    )

    async def scenario() -> None:
        async with started(server.dsn) as sink:
            names = ["s-1", "bad-1", "bad-2", "bad-3", "bad-4", "s-2"]
            puts = [sink.put(record(name)) for name in names]
            results = await asyncio.gather(*puts, return_exceptions=True)
            assert [isinstance(each, Refused) for each in results] == [0, 1, 1, 1, 1, 0]
            assert "we do not like it" in str(results[1])
            assert not sink.availability.is_down
        async with started(server.dsn, deadline=0.5) as sink:
            gone = itertools.repeat(record("gone-1"))
            await told(sink, "does a trigger drop them", sends=gone)

    asyncio.run(scenario())
    assert sorted(ids(server)) == ["s-1", "s-2"]


# What a 250 is worth.


@pytest.mark.parametrize(
    "settings, promise",
    [
        ({"fsync": "off"}, Promise.MEMORY),
        ({"synchronous_commit": "off"}, Promise.MEMORY),
        ({"synchronous_commit": "local"}, Promise.DISK),
        ({}, Promise.DISK),
    ],
)
def test_the_promise_follows_from_the_settings_of_the_server(
    server: Server, settings: dict[str, str], promise: Promise
) -> None:
    async def scenario() -> None:
        async with started(server.dsn) as sink:
            assert sink.promise is promise

    with changed(server, **settings):
        asyncio.run(scenario())


@contextlib.contextmanager
def changed(server: Server, **settings: str) -> Iterator[None]:
    """Settings of the server, for as long as this lasts."""
    server.reload(**settings)
    try:
        yield
    finally:
        for name in settings:
            server.run(f"ALTER SYSTEM RESET {name}")
        server.run("SELECT pg_reload_conf()")
        assert server.log is not None
        for name in settings:
            server.log.wait(f'parameter "{name}" (changed|removed)')


@pytest.mark.parametrize("name", ["fsync", "synchronous_commit"])
def test_a_setting_that_becomes_weaker_stores_nothing_until_it_is_restored(
    server: Server, name: str
) -> None:
    async def scenario() -> None:
        async with started(server.dsn, deadline=0.2) as sink:
            await stored(sink, record("s-1"))
            with changed(server, **{name: "off"}):
                # Sessions learn of a change a moment after the log of the server.
                many = (record(f"t-{number}") for number in itertools.count())
                await told(sink, f"{name} is off", sends=many)
                before = ids(server)
                # A record that may be there already is no exception.
                with pytest.raises(DeliveryError):
                    await sink.put(record("s-1"))
                with pytest.raises(DeliveryError, match=f"{name} is off"):
                    await sink.probe()
                assert ids(server) == before
            await stored(sink, record("s-2"))
        assert ids(server)[-1] == "s-2"

    asyncio.run(scenario())


def test_a_message_waits_for_a_synchronous_standby(server: Server) -> None:
    async def scenario() -> None:
        async with started(server.dsn) as sink:
            assert sink.promise is Promise.QUORUM_DISK
            future = sink.put(record("s-1"))
            while not server.run("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"):
                await asyncio.sleep(0)
            assert not future.done()
            with standby(server, "copy"):
                assert await future == "mail"
                assert await sink.put(record("s-2")) == "mail"

    with changed(server, synchronous_standby_names="copy"):
        asyncio.run(scenario())
    assert ids(server) == ["s-1", "s-2"]


def test_a_commit_that_no_standby_has_confirmed_is_not_acknowledged(server: Server) -> None:
    async def scenario() -> None:
        async with started(server.dsn, deadline=1.0) as sink:
            assert sink.promise is Promise.QUORUM_DISK
            future = sink.put(record("s-1"))
            # The wait for a standby is cancelled by hand: the row is there, on one disk.
            while not future.done():
                await asyncio.to_thread(
                    server.run,
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                    " WHERE wait_event = 'SyncRep'",
                )
            with pytest.raises(Unclear):
                await future

    with changed(server, synchronous_standby_names="nobody"):
        asyncio.run(scenario())
    assert ids(server) == ["s-1"]


# The page.


def test_the_consumer_of_the_page_takes_every_row_once_and_those_that_failed_again(
    server: Server,
) -> None:
    page = (Path(__file__).parents[3] / "docs/postgres.md").read_text()
    code = next(each for each in page.split("```python test\n") if "TAKE = " in each)
    program: dict[str, Any] = {"__name__": "consumer"}
    exec(code.partition("```")[0], program)
    taken: list[str] = []

    def handle(envelope: dict[str, Any], message: bytes) -> None:
        if envelope["id"] == "s-7" and "s-7" not in taken:
            taken.append("s-7")
            raise RuntimeError("a consumer fails")
        taken.append(envelope["id"])
        assert message == record(envelope["id"]).headers + BODY

    async def consume() -> None:
        connection = await asyncpg.connect(server.dsn)
        try:
            await program["consume"](connection)
        finally:
            await connection.close()

    async def scenario() -> None:
        program["handle"] = handle
        async with started(server.dsn) as sink:
            await asyncio.gather(*(sink.put(record(f"s-{number}")) for number in range(10)))
        with pytest.raises(RuntimeError, match="a consumer fails"):
            await consume()
        assert len(ids(server)) == 10
        taken[:] = ["s-7"]
        await asyncio.gather(consume(), consume())

    asyncio.run(scenario())
    assert sorted(taken[1:]) == sorted(f"s-{number}" for number in range(10))
    assert ids(server) == []


# What a start refuses.

CREATE = schema()


@pytest.mark.parametrize(
    "sql, message",
    [
        ("", "does not exist: make it with what fastsmtp postgres schema prints"),
        ("CREATE VIEW mail AS SELECT 1 AS id", "it is not a table"),
        (CREATE.replace("CREATE TABLE", "CREATE UNLOGGED TABLE"), "it is unlogged"),
        (CREATE.replace(" UNIQUE", ""), "column id must be unique"),
        (
            CREATE.replace("envelope    jsonb", "envelope    json"),
            "column envelope is of type json",
        ),
        (f"{CREATE}; ALTER TABLE mail DROP COLUMN received", "column received is missing"),
        (f"{CREATE}; ALTER TABLE mail ADD more text NOT NULL", "column more needs a value"),
        (f"{CREATE}; GRANT SELECT (id, fingerprint) ON mail TO clerk", "needs GRANT INSERT"),
        (f"{CREATE}; GRANT INSERT ON mail TO clerk", "needs GRANT SELECT (id)"),
        (
            f"{CREATE}; GRANT ALL ON mail TO clerk; ALTER TABLE mail ENABLE ROW LEVEL SECURITY",
            "row-level security",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_what_is_wrong(
    running: Server, sql: str, message: str
) -> None:
    _drop(running)
    if sql:
        running.run(sql)
    url = running.dsn.replace("postgres@", "clerk@") if "clerk" in sql else running.dsn
    assert message in asyncio.run(refused(url))


def test_the_rights_that_the_schema_names_are_enough(server: Server) -> None:
    _drop(server)
    server.run(f"{CREATE}; GRANT INSERT, SELECT (id, fingerprint) ON mail TO clerk")

    async def scenario() -> None:
        async with started(server.dsn.replace("postgres@", "clerk@")) as sink:
            await sink.put(record("s-1"))
            await sink.put(record("s-1"))

    asyncio.run(scenario())
    assert ids(server) == ["s-1"]


def _drop(server: Server) -> None:
    server.run(
        "DO $$ BEGIN CREATE ROLE clerk LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
    )
    kind = server.run("SELECT relkind FROM pg_class WHERE oid = to_regclass('mail')")
    if kind:
        server.run("DROP VIEW mail" if kind == "v" else "DROP TABLE mail")


@pytest.mark.parametrize(
    "change, message",
    [
        (("/postgres", "/nowhere"), 'database "nowhere" does not exist'),
        (("postgres@", "stranger@"), 'role "stranger" does not exist'),
        (("/postgres", "/postgres?sslmode=require"), "the server has no TLS"),
        (("/postgres", "/postgres?sslmode=perhaps"), "sslmode"),
        (("/postgres", "/postgres?sslmod=require"), 'parameter "sslmod"'),
    ],
)
def test_a_url_that_leads_nowhere_is_refused_with_the_reason(
    server: Server, change: tuple[str, str], message: str
) -> None:
    url = server.dsn
    assert message in asyncio.run(refused(change[1].join(url.rsplit(change[0], 1))))


def test_a_server_that_is_not_there_is_refused_with_the_reason() -> None:
    url = f"postgresql://postgres@127.0.0.1:{free_port()}/postgres"
    assert asyncio.run(refused(url)) == "Connection refused"


def test_a_server_that_is_read_only_is_refused(server: Server) -> None:
    with changed(server, default_transaction_read_only="on"):
        assert asyncio.run(refused(server.dsn)) == "the server is read-only now"


# Faults while it runs.


def test_a_server_that_becomes_read_only_takes_mail_again_when_it_is_over(server: Server) -> None:
    async def scenario() -> None:
        async with started(server.dsn) as sink:
            await sink.put(record("s-1"))
            with changed(server, default_transaction_read_only="on"):
                future = sink.put(record("s-2"))
                await asyncio.sleep(0)
            assert await future == "mail"

    asyncio.run(scenario())
    assert sorted(ids(server)) == ["s-1", "s-2"]


def test_sessions_that_an_administrator_ends_are_replaced(run: Any, server: Server) -> None:
    async def scenario() -> None:
        async with started(server.dsn) as sink:
            for round in range(3):
                puts = [sink.put(record(f"{round}-{number}")) for number in range(100)]
                server.run(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'fastsmtp'"
                )
                assert await asyncio.gather(*puts) == ["mail"] * 100

    # `run` fails for a future whose exception nobody has retrieved.
    run(scenario())
    assert len(ids(server)) == 300


def test_a_connection_that_goes_silent_is_given_up_and_the_message_stored_once(
    run: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastsmtp.delivery.postgres.storing.TRY_SECONDS", 0.3)

    async def scenario() -> None:
        async with between(server.port) as proxy, started(through(proxy)) as sink:
            await sink.put(record("s-1"))
            proxy.swallow("to_client")
            future = sink.put(record("s-2"))
            while not ids(server)[1:]:
                await asyncio.sleep(0)
            assert await future == "mail"

    run(scenario())
    assert ids(server) == ["s-1", "s-2"]


def test_a_message_is_given_up_at_its_deadline(run: Any, server: Server) -> None:
    async def scenario() -> None:
        async with between(server.port) as proxy, started(through(proxy), deadline=0.3) as sink:
            await stored(sink, record("s-1"))
            proxy.swallow("to_client")
            with pytest.raises(Unclear, match="no answer within"):
                await sink.put(record("s-2"))

    run(scenario())


def test_a_server_that_is_stopped_for_a_while_answers_late(server: Server) -> None:
    async def scenario() -> None:
        async with started(server.dsn) as sink:
            await sink.put(record("s-1"))
            server.send(signal.SIGSTOP)
            try:
                puts = [sink.put(record(f"t-{number}")) for number in range(100)]
                await asyncio.sleep(0.2)
                assert not any(future.done() for future in puts)
            finally:
                server.send(signal.SIGCONT)
            assert await asyncio.gather(*puts) == ["mail"] * 100

    asyncio.run(scenario())
    assert len(ids(server)) == 101


def test_a_killed_server_has_all_that_was_acknowledged_and_nothing_twice(server: Server) -> None:
    acknowledged: list[str] = []

    async def client(sink: Postgres, name: str) -> None:
        for number in range(40):
            await sink.put(record(f"{name}-{number}"))
            acknowledged.append(f"{name}-{number}")

    async def scenario() -> None:
        async with started(server.dsn) as sink:
            clients = asyncio.gather(*(client(sink, f"c{number}") for number in range(20)))
            while len(acknowledged) < 100:
                await asyncio.sleep(0)
            server.kill()
            assert not clients.done()
            await asyncio.to_thread(server.start)
            await clients

    asyncio.run(scenario())
    found = ids(server)
    assert len(acknowledged) == 800
    assert sorted(found) == sorted(acknowledged)


def test_a_full_disk_is_full_and_leaves_nothing(server: Server) -> None:
    # What PostgreSQL says when the disk is full; a quota of one's own says it too.
    server.run(
        "CREATE OR REPLACE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;"
        "CREATE TRIGGER no_room BEFORE INSERT ON mail FOR EACH ROW EXECUTE FUNCTION no_room()"
    )

    async def scenario() -> None:
        async with started(server.dsn) as sink:
            puts = [sink.put(record(f"s-{number}")) for number in range(3)]
            results = await asyncio.gather(*puts, return_exceptions=True)
            assert all(isinstance(each, Full) for each in results)
            assert not sink.availability.is_down

    asyncio.run(scenario())
    assert ids(server) == []
