"""The sink NATS with a real server: what is stored, what is refused, what is wrong at the start."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nats_kit import NATS_SERVER, REASON, SUBJECT, Asking, Node, ask, nodes, record
from on_loops import on_loops
from tls_kit import ca_pem, pair

from fastsmtp.delivery import Full, Promise, Record, TooLarge, Unavailable, parse_record
from fastsmtp.delivery.bodies import FileBodies
from fastsmtp.delivery.nats import NATS
from fastsmtp.delivery.nats import sink as sink_module
from fastsmtp.delivery.sink import Receipt

pytestmark = [pytest.mark.interop, pytest.mark.skipif(not NATS_SERVER, reason=REASON)]

LOGINS = """
accounts {
  MAIL { jetstream: enabled, users: [
    {user: gateway, password: secret}
    {user: nothing, password: secret, permissions: {publish: ["x"], subscribe: ["_INBOX.>"]}}
    {user: reads, password: secret,
     permissions: {publish: ["$JS.API.STREAM.INFO.>"], subscribe: ["_INBOX.>"]}}
  ] }
}
"""
LOGIN = {"user": "gateway", "password": "secret"}
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with nodes(tmp_path_factory.mktemp("nats"), sync="always", more=LOGINS) as found:
        yield found[0]


@asynccontextmanager
async def stream(node: Node, **settings: Any) -> AsyncIterator[tuple[Asking, str]]:
    """A stream for one test."""
    name = f"S{next(_numbers)}"
    async with ask(node, **LOGIN) as asking:
        await asking.stream(name, subjects=[f"{SUBJECT}.{name}"], **settings)
        try:
            yield asking, name
        finally:
            await asking.remove(name)


def sink_of(node: Node, name: str, **settings: Any) -> NATS:
    return NATS(node.url, stream=name, **(LOGIN | {"monitor": [node.monitor_url]} | settings))


async def put(sink: NATS, *records: Record) -> list[Receipt | BaseException]:
    return await asyncio.gather(*map(sink.put, records), return_exceptions=True)


async def stored(sink: NATS, sent: Record) -> None:
    """Store a message, however short the deadline is."""
    while not isinstance((await put(sink, sent))[0], str):
        pass


@on_loops
async def test_a_message_is_stored_as_its_record(node: Node) -> None:
    async with stream(node) as (asking, name), sink_of(node, name) as sink:
        assert sink.promise is Promise.DISK
        sent = record()
        assert await put(sink, sent) == [f"{name}:1"]
        ((id, octets),) = await asking.messages(name)
        found = parse_record(octets)
        assert (id, found.id) == (sent.id, sent.id)
        assert (found.headers, found.body) == (sent.headers, sent.body)
        assert found.fingerprint == sent.fingerprint


@on_loops
@pytest.mark.parametrize("private", [True, False])
async def test_messages_that_wait_are_one_batch_in_the_stream(
    node: Node, private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The private part of the library that writes a batch may be missing in another version."""
    if not private:
        monkeypatch.setattr("fastsmtp.delivery.nats.link.WRITING", ("_none", "_flush_pending"))
    async with stream(node) as (asking, name), sink_of(node, name) as sink:
        sent = [record() for _ in range(200)]
        receipts = await put(sink, *sent)
        assert sorted(receipts) == sorted(f"{name}:{n}" for n in range(1, 201))
        stored = [id for id, _ in await asking.messages(name)]
        places = {receipt: item.id for receipt, item in zip(receipts, sent, strict=True)}
        assert stored == [places[f"{name}:{n}"] for n in range(1, 201)]


@on_loops
@pytest.mark.parametrize("answer", [{}, {"config": None}, {"config": []}])
async def test_an_answer_that_does_not_describe_the_stream_is_an_outage(
    node: Node, answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(*_: object) -> dict[str, Any]:
        return answer

    async with stream(node) as (_, name), sink_of(node, name) as sink:
        with monkeypatch.context() as patched:
            patched.setattr("fastsmtp.delivery.nats.link.Link.ask", ask)
            with pytest.raises(Unavailable, match=f"stream {name}: the answer does not describe"):
                await sink.probe()
        await sink.probe()


@on_loops
async def test_the_id_of_a_message_cannot_add_a_header_or_a_command(node: Node) -> None:
    async with stream(node) as (asking, name), sink_of(node, name) as sink:
        sent = [record() for _ in range(3)]
        sent[0].id = "a\r\nNats-Msg-Id: b\r\n\r\n\r\nPUB x 0\r\n\ud800"
        assert len(await put(sink, *sent)) == 3
        found = [(id, parse_record(octets).id) for id, octets in await asking.messages(name)]
        assert found == [(ascii(sent[0].id), sent[0].id), *((each.id,) * 2 for each in sent[1:])]


@on_loops
@pytest.mark.parametrize("atomic", [True, False])
async def test_a_message_that_comes_again_is_stored_once(node: Node, atomic: bool) -> None:
    async with stream(node, allow_atomic=atomic) as (asking, name), sink_of(node, name) as sink:
        known = [record() for _ in range(3)]
        before = await put(sink, *known)
        new = [record() for _ in range(3)]
        after = await put(sink, known[0], new[0], known[1], new[1], known[2], new[2])
        assert after[::2] == before
        assert sorted(after[1::2]) == [f"{name}:{n}" for n in (4, 5, 6)]
        stored = [id for id, _ in await asking.messages(name)]
        assert sorted(stored) == sorted(each.id for each in known + new)


@on_loops
@pytest.mark.parametrize("limit", [{"max_msgs": 5}, {"max_bytes": 5000}])
async def test_a_full_stream_is_452_and_takes_what_fits(node: Node, limit: dict[str, int]) -> None:
    async with stream(node, **limit) as (asking, name), sink_of(node, name) as sink:
        results = await put(sink, *(record() for _ in range(20)))
        kept = [each for each in results if isinstance(each, str)]
        refused = [each for each in results if isinstance(each, Full)]
        assert len(kept) + len(refused) == 20
        assert kept
        assert refused
        assert refused[0].reply.response_code == 452
        assert len(await asking.messages(name)) == len(kept)
        assert sink.refusal() is None


def test_a_server_without_room_for_more_is_452(tmp_path: Path) -> None:
    """Its limit is below the disk; a disk that is full makes a server mute."""
    small = Node("n1", tmp_path / "n1")
    small.configure([], "always", "", max_file="1M")

    async def fill() -> None:
        async with ask(small) as asking:
            await asking.stream("SMALL", allow_atomic=False)
            async with NATS(small.url, stream="SMALL", sync="always") as sink:
                results = await put(sink, *(record(100_000) for _ in range(20)))
                kept = [each for each in results if isinstance(each, str)]
                assert {type(each) for each in results} == {str, Full}
                assert len(await asking.messages("SMALL")) == len(kept)

    small.start()
    try:
        small.ready()
        asyncio.run(fill())
    finally:
        small.end()


@on_loops
async def test_a_record_above_max_payload_is_552_and_harms_no_other(node: Node) -> None:
    async with stream(node) as (_, name), sink_of(node, name) as sink:
        # Many recipients make the envelope of a body that is small enough too large.
        large = record(sink.max_record - 100, recipients=2000)
        results = await put(sink, record(), large, record())
        assert isinstance(results[1], TooLarge)
        assert results[1].reply.response_code == 552
        assert [type(each) for each in results[::2]] == [str, str]
        assert await put(sink, record(sink.max_record - 100)) == [f"{name}:3"]


@on_loops
async def test_a_large_body_without_a_store_is_refused(node: Node) -> None:
    async with stream(node) as (_, name), sink_of(node, name) as sink:
        assert sink.max_record < 1024 * 1024
        with pytest.raises(NotImplementedError):
            sink.begin(record())


@on_loops
async def test_a_large_body_is_in_the_store_before_its_record_is_in_the_stream(
    node: Node, tmp_path: Path
) -> None:
    bodies = FileBodies(tmp_path)
    async with stream(node) as (asking, name), sink_of(node, name, bodies=bodies) as sink:
        sent, body = record(), b"x" * 2_000_000
        writer = sink.begin(sent)
        for start in range(0, len(body), 100_000):
            if (ready := writer.write(body[start : start + 100_000])) is not None:
                await ready
        sent.set_body(await writer.finish())
        assert await put(sink, sent) == [f"{name}:1"]
        ((_, octets),) = await asking.messages(name)
        assert len(octets) < 2000
        found = parse_record(octets, bodies.stored)
        assert not isinstance(found.body, bytes)
        with found.body.open() as file:
            assert file.read() == body
        assert sink.promise is Promise.DISK


@on_loops
async def test_a_stream_that_is_changed_to_lose_mail_gets_no_more(
    node: Node, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    monkeypatch.setattr(sink_module, "CHECKING", 0.01)
    async with stream(node) as (asking, name), sink_of(node, name, deadline=0.5) as sink:
        await stored(sink, record())
        config = (await asking.info(name))["config"]
        await asking.api(f"STREAM.UPDATE.{name}", config | {"max_age": 500 * 10**9})
        while not any("gets no more mail" in line for line in log):
            await asyncio.sleep(0.01)
        (result,) = await put(sink, record())
        assert isinstance(result, Unavailable)
        assert "max_age" in str(result)
        await asking.api(f"STREAM.UPDATE.{name}", config)
        await stored(sink, record())
        assert len(await asking.messages(name)) == 2


async def refusal_of(sink: NATS) -> str:
    """Start a sink that cannot start; return the line."""
    with pytest.raises((ValueError, Unavailable)) as caught:
        await sink.start()
    assert sink.promise is None
    (line,) = str(caught.value).splitlines()
    assert "secret" not in line
    return line


@on_loops
@pytest.mark.parametrize(
    "settings, words",
    [
        ({"storage": "memory"}, "storage is memory"),
        ({"retention": "interest"}, "retention is interest"),
        ({"discard": "old", "max_msgs": 5}, "discard is old"),
        ({"max_age": 10**9, "duplicate_window": 10**9}, "max_age"),
        ({"duplicate_window": 10**10}, "duplicate_window is 10 s"),
        ({"no_ack": True, "allow_atomic": False}, "no_ack"),
        ({"max_msg_size": 1000}, "max_msg_size"),
    ],
)
async def test_a_stream_that_would_lose_mail_is_refused_at_the_start(
    node: Node, settings: dict[str, Any], words: str
) -> None:
    async with stream(node, **settings) as (_, name):
        assert words in await refusal_of(sink_of(node, name))


@on_loops
async def test_what_is_wrong_at_the_start_names_the_setting(node: Node, tmp_path: Path) -> None:
    other = tmp_path / "ca.pem"
    other.write_bytes(ca_pem())
    missing = str(tmp_path / "missing")
    async with stream(node) as (_, name):
        for settings, words in [
            ({"password": "wrong"}, "password"),
            ({"stream": "NONE"}, "stream: the servers have no stream NONE"),
            ({"subject": "post"}, "subject: post is not one of"),
            ({"credentials": missing}, f"credentials: {missing}"),
            ({"credentials": str(other)}, "has no JWT and seed"),
            ({"nkey": str(other)}, "nkey:"),
            ({"ca": missing}, f"ca: {missing}"),
            ({"ca": str(other)}, "the server offers none"),
            ({"deadline": 121.0}, "duplicate_window is 120 s"),
        ]:
            found = await refusal_of(sink_of(node, **{"name": name} | _named(settings)))
            assert words in found, settings


def _named(settings: dict[str, Any]) -> dict[str, Any]:
    return {"name" if key == "stream" else key: value for key, value in settings.items()}


@on_loops
async def test_a_login_without_a_right_is_refused_at_the_start(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "ASKING", 0.2)
    monkeypatch.setattr("fastsmtp.delivery.nats.publisher.ANSWER", 0.2)
    async with stream(node) as (_, name):
        found = await refusal_of(sink_of(node, name, user="nothing"))
        assert "$js.api.stream.info" in found
        assert "lacks a right" in await refusal_of(sink_of(node, name, user="reads"))


@on_loops
async def test_servers_that_do_not_answer_are_named_at_the_start(node: Node) -> None:
    sink = NATS("nats://127.0.0.1:1", stream="MAIL")
    assert "no server can be reached: nats://127.0.0.1:1" in await refusal_of(sink)
    async with stream(node) as (_, name):
        both = NATS(f"nats://127.0.0.1:1,{node.url}", stream=name, **LOGIN)
        async with both:
            assert both.promise is Promise.MEMORY
            assert "sync_interval of n1 is not always, or not known" in both.remarks[0]


@pytest.mark.parametrize(
    "settings",
    [{"stream": "a b"}, {"stream": "a.b"}, {"subject": "a.*"}, {"sync": "never"}, {"domain": "."}],
)
def test_a_value_that_cannot_be_right_is_refused_when_the_sink_is_made(
    settings: dict[str, str],
) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        NATS("nats://n1", **({"stream": "MAIL"} | settings))


@pytest.fixture(scope="module")
def secure_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server with TLS, which demands a certificate of its clients."""
    path = tmp_path_factory.mktemp("secure")
    own = pair()
    (path / "cert.pem").write_bytes(own.cert)
    (path / "key.pem").write_bytes(own.key)
    (path / "ca.pem").write_bytes(ca_pem())
    (path / "other.pem").write_bytes(ca_pem("theirs"))
    tls = (
        f'tls {{ cert_file: "{path}/cert.pem", key_file: "{path}/key.pem", '
        f'ca_file: "{path}/ca.pem", verify: true }}'
    )
    with nodes(path, more=tls) as found:
        yield found[0]


@on_loops
async def test_a_server_with_tls_is_verified_and_shown_our_certificate(secure_node: Node) -> None:
    files = secure_node.path.parent
    own = {"cert": f"{files}/cert.pem", "key": f"{files}/key.pem"}
    url = secure_node.url.replace("nats:", "tls:")
    found = await refusal_of(NATS(url, stream="MAIL", ca=f"{files}/ca.pem", **own))
    assert "the servers have no stream MAIL" in found
    found = await refusal_of(NATS(url, stream="MAIL", ca=f"{files}/other.pem", **own))
    assert found.startswith("ca: the certificate is not trusted")
    found = await refusal_of(NATS(url, stream="MAIL", ca=f"{files}/ca.pem"))
    assert found.startswith(("servers, cert: TLS has failed", "no server can be reached"))
