"""Bodies in a bucket of a real S3 server (SeaweedFS)."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import runpy
import smtplib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from example_kit import BODY, EXAMPLES, IS_POSSIBLE, example, smtp
from obstore.store import from_url
from on_loops import on_loops
from s3_kit import NO_S3, S3Server, s3_server

from fastsmtp import SMTPServer
from fastsmtp.delivery import (
    Full,
    Promise,
    Receipt,
    Recipient,
    Record,
    StoredBody,
    Unavailable,
    Unclear,
    encode_record,
    parse_record,
)
from fastsmtp.delivery.bodies import S3Bodies

pytestmark = [pytest.mark.interop, pytest.mark.skipif(bool(NO_S3), reason=NO_S3)]

SMALL = b"0123456789abcdef\r\n" * 20_000
PIECE = os.urandom(512 * 1024)
LARGE = PIECE * 25  # three parts of an upload
PATIENCE = 60.0
HOUR = 3600.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def run(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Any]:
    """Run a coroutine on each loop. Connections to the server stay open for the next request."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        yield runner.run


@pytest.fixture
def store(server: S3Server, request: pytest.FixtureRequest) -> S3Bodies:
    """One of its own for each test."""
    return server.bodies(f"{request.node.name.replace('[', '/').replace(']', '')}/b")


async def stored(store: S3Bodies, octets: bytes = SMALL, id: str = "session-1") -> Record:
    record = Record(id, "a@example.org", (Recipient("b@example.org"),))
    writer = store.begin(record)
    for start in range(0, len(octets), len(PIECE)):
        written = writer.write(octets[start : start + len(PIECE)])
        if written is not None:
            await written
    record.set_body(await writer.finish())
    return record


def future_of(result: Receipt | BaseException) -> asyncio.Future[Receipt]:
    future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
    return future


def names(store: S3Bodies) -> list[str]:
    return sorted(each["path"] for page in obstore.list(store.store) for each in page)


async def emptied(store: S3Bodies) -> None:
    async with asyncio.timeout(PATIENCE):
        while names(store):
            await asyncio.sleep(0.01)


def body_of(record: Record) -> StoredBody:
    assert not isinstance(record.body, bytes)
    return record.body


@on_loops
async def test_a_body_is_uploaded_kept_and_read_back_by_a_consumer(
    store: S3Bodies, server: S3Server
) -> None:
    assert await store.start() is Promise.DISK is store.promise
    record = await stored(store, LARGE)
    name = body_of(record).path.rpartition("/")[2]
    assert name.startswith("session-1-")
    assert names(store) == [name]
    assert await store.follow(record, future_of("7")) == "7"
    assert names(store) == [name, f"{name}.kept"]
    assert store.remove_orphans(time.time() + HOUR) == 0
    await store.close(PATIENCE)
    found = parse_record(encode_record(record), store.stored)
    with body_of(found).open() as file:
        assert hashlib.sha256(file.read()).hexdigest() == found.sha256 == record.sha256
    assert found.size == len(LARGE)
    store.remove(name)
    store.remove(name)
    assert names(store) == server.uploads() == []


@on_loops
async def test_a_body_without_octets_is_one_too(store: S3Bodies) -> None:
    await store.start()
    with body_of(await stored(store, b"")).open() as file:
        assert file.read() == b""
    await store.close(PATIENCE)


@on_loops
async def test_a_body_whose_record_was_certainly_not_stored_is_removed(store: S3Bodies) -> None:
    await store.start()
    with pytest.raises(Unavailable):
        await store.follow(await stored(store), future_of(Unavailable("down")))
    await emptied(store)
    await store.close(PATIENCE)


@on_loops
async def test_a_body_whose_record_may_be_stored_stays_until_it_is_old(store: S3Bodies) -> None:
    await store.start()
    with pytest.raises(Unclear):
        await store.follow(await stored(store), future_of(Unclear("no answer")))
    assert store.remove_orphans(time.time() - HOUR) == 0
    assert len(names(store)) == 1
    assert store.remove_orphans(time.time() + HOUR) == 1
    assert names(store) == []
    await store.close(PATIENCE)


@on_loops
async def test_a_body_that_is_gone_cannot_be_kept(store: S3Bodies) -> None:
    await store.start()
    record = await stored(store)
    obstore.delete(store.store, names(store))
    with pytest.raises(Unclear, match="not kept"):
        await store.follow(record, future_of("7"))
    assert store.remove_orphans(time.time() + HOUR) == 0
    assert names(store) == []
    await store.close(PATIENCE)


@on_loops
async def test_an_upload_that_is_discarded_is_aborted_at_whatever_moment(
    store: S3Bodies, server: S3Server
) -> None:
    await store.start()
    record = Record("session-1", "", ())
    empty, small, large, finished = (store.begin(record) for _ in range(4))
    for writer, count in ((small, 1), (large, 15), (finished, 15)):
        for _ in range(count):
            written = writer.write(PIECE)
            assert written is not None
            await written
    assert server.uploads()
    await finished.finish()
    for writer in (empty, small, large, finished):
        writer.discard()
    await store.close(PATIENCE)
    assert names(store) == server.uploads() == []


@on_loops
async def test_more_bodies_than_may_be_uploaded_at_a_time_are_full(server: S3Server) -> None:
    store = server.bodies("few", uploads=1)
    await store.start()
    first, second = store.begin(Record("a-1", "", ())), store.begin(Record("a-2", "", ()))
    written = first.write(PIECE)
    assert written is not None
    await written
    refused = second.write(PIECE)
    assert refused is not None
    with pytest.raises(Full):
        await refused
    await first.finish()
    first.discard()
    third = store.begin(Record("a-3", "", ()))
    written = third.write(PIECE)
    assert written is not None
    await written
    third.discard()
    await store.close(PATIENCE)
    assert names(store) == []


@on_loops
async def test_a_body_whose_octets_have_changed_is_not_read_to_its_end(store: S3Bodies) -> None:
    await store.start()
    body = body_of(await stored(store))
    for octets in (SMALL[:-1] + b"x", SMALL[:-1], SMALL + b"x"):
        obstore.put(store.store, body.path.rpartition("/")[2], octets)
        with body.open() as file, pytest.raises(OSError, match="damaged"):
            file.read()
    with body.open() as file:
        assert isinstance(file, io.BufferedReader)
        assert file.read(5) == SMALL[:5]
    await store.close(PATIENCE)


@on_loops
async def test_a_server_that_stops_answering_makes_a_body_unavailable(server: S3Server) -> None:
    store = server.bodies("paused", timeout=1.5)
    await store.start()
    writer = store.begin(Record("a-1", "", ()))
    written = writer.write(PIECE)
    assert written is not None
    await written
    server.pause(True)
    try:
        with pytest.raises(Unavailable):
            await writer.finish()
    finally:
        server.pause(False)
    await store.close(PATIENCE)
    # What lay in a socket of the server may become an object yet: it is an orphan.
    async with asyncio.timeout(PATIENCE):
        while names(store):
            store.remove_orphans(time.time() + HOUR)


@on_loops
async def test_an_id_that_is_no_name_of_an_object_is_not_part_of_it(store: S3Bodies) -> None:
    await store.start()
    name = body_of(await stored(store, id="../../x y")).path.rpartition("/")[2]
    assert name.startswith("message-")
    await store.close(PATIENCE)


@pytest.mark.parametrize("name", ["", "../x", "a/b-0123456789abcdef", "a-0123456789abcdef.kept"])
def test_a_name_that_is_not_ours_is_neither_opened_nor_removed(server: S3Server, name: str) -> None:
    store = server.bodies()
    with pytest.raises(ValueError, match="no body"):
        store.stored(name, 1, "")
    with pytest.raises(ValueError, match="no body"):
        store.remove(name)


@pytest.mark.parametrize(
    "options, setting",
    [
        ({"access_key_id": "nobody"}, "access_key_id"),
        ({"secret_access_key": "wrong"}, "secret_access_key"),
    ],
)
@on_loops
async def test_wrong_credentials_are_an_error_that_names_the_setting_and_not_its_value(
    server: S3Server, options: dict[str, str], setting: str
) -> None:
    with pytest.raises(ValueError, match=setting) as error:
        await server.bodies(**options).start()
    assert not {*options.values(), server.secret} & {*str(error.value).split()}


@on_loops
async def test_a_server_that_is_not_there_is_unavailable_at_start(server: S3Server) -> None:
    store = server.bodies(endpoint="http://127.0.0.1:1", timeout=0.5)
    with pytest.raises(Unavailable, match="cannot be stored in s3://mail"):
        await store.start()


@pytest.mark.parametrize(
    "url, options, text",
    [
        ("file:///tmp/x", {}, "url takes s3://bucket"),
        ("s3://", {}, "url takes s3://bucket"),
        ("s3://key:secret@mail", {}, "url takes no credentials"),
        ("s3://mail?x=1", {}, "url takes s3://bucket"),
        ("s3://mail", {"endpoint": "127.0.0.1:9000"}, "endpoint takes"),
        ("s3://mail", {"uploads": 0}, "uploads takes"),
        ("s3://mail", {"timeout": 0.0}, "timeout takes"),
        ("s3://mail", {"ca": "not a certificate"}, "ca"),
        ("s3://mail", {"orphan_age": 1.0}, "orphan_age takes"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused(
    url: str, options: dict[str, object], text: str
) -> None:
    with pytest.raises(ValueError, match=text) as error:
        S3Bodies(url, **options)  # type: ignore[arg-type]
    assert "secret@" not in str(error.value)


@pytest.mark.skipif(IS_POSSIBLE[0].args[0] or IS_POSSIBLE[1].args[0], reason="no examples here")
def test_the_example_of_object_storage_keeps_whole_messages_only(server: S3Server) -> None:
    large = BODY + (b"x" * 998 + b"\r\n") * 7000
    variables = {
        "AWS_ENDPOINT": server.endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": server.key,
        "AWS_SECRET_ACCESS_KEY": server.secret,
    }
    with example("object_storage.py", "s3://mail/example", "0", **variables) as running:
        with smtp(running) as client:
            client.ehlo()
            client.mail("a@x.example")
            client.rcpt("b@y.example")
            _, reply = client.data(large)
            client.mail("a@x.example")
            client.rcpt("b@y.example")
            assert client.docmd("DATA")[0] == 354
            client.send(large)
            client.close()
        with smtp(running) as client:
            client.sendmail("a@x.example", ["b@y.example"], BODY)
    store = server.bodies("example").store
    names = [each["path"] for page in store.list() for each in page]
    assert sorted(len(store.get(name).bytes()) for name in names) == [len(BODY), len(large)]
    assert reply.decode().removeprefix("2.6.0 OK: stored as ") in names
    assert server.uploads() == []


@pytest.mark.skipif(IS_POSSIBLE[0].args[0] or IS_POSSIBLE[1].args[0], reason="no examples here")
def test_the_example_of_object_storage_keeps_nothing_of_a_message_that_is_too_large(
    tmp_path: Path,
) -> None:
    archive = runpy.run_path(str(EXAMPLES / "object_storage.py"))["Archive"]
    on_data = archive(from_url(f"file://{tmp_path}")).on_data
    server = SMTPServer(auth_optional=True, size=1000, on_data=on_data)
    with server.threaded(port=0) as address, smtplib.SMTP(*address) as client:
        client.ehlo()
        client.mail("a@x.example")  # without SIZE=
        client.rcpt("b@y.example")
        assert client.data(BODY + b"x\r\n" * 1000)[0] == 552
        assert client.sendmail("a@x.example", ["b@y.example"], BODY) == {}
    assert [path.read_bytes() for path in tmp_path.rglob("*.eml")] == [BODY]
