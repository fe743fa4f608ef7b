"""`fastsmtp serve` with large bodies in a real S3 server, and their records in a real stream."""

from __future__ import annotations

import asyncio
import os
import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import obstore
import pytest
from faulty_network import Between, between
from nats_kit import NATS_SERVER, REASON, STREAM, Node, ask, nodes
from s3_kit import NO_S3, S3Server, s3_server
from serving import PATIENCE, Gateway, environment, run_to_end

from fastsmtp.delivery import Record, parse_record
from fastsmtp.delivery.bodies import S3Bodies

pytestmark = [
    pytest.mark.interop,
    pytest.mark.one_python,
    pytest.mark.skipif(bool(NO_S3), reason=NO_S3),
    pytest.mark.skipif(not NATS_SERVER, reason=REASON),
]

PIECE = b"".join(os.urandom(32).hex().encode() + b"\r\n" for _ in range(30_000))
LARGE = b"Subject: large\r\n\r\n" + PIECE * 4  # more than one part of an upload
TIMEOUT = 3  # seconds for a request


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with nodes(tmp_path_factory.mktemp("nats"), sync="always") as found:
        yield found[0]


@pytest.fixture
def stream(node: Node) -> None:
    async def make() -> None:
        async with ask(node) as asking:
            await asking.remove()
            await asking.stream()

    asyncio.run(make())


@pytest.fixture
def bodies(server: S3Server, request: pytest.FixtureRequest) -> S3Bodies:
    """The bodies of this test, for its consumer."""
    return server.bodies("".join(c for c in request.node.name if c.isalnum()))


def configured(path: Path, node: Node, server: S3Server, url: str, **changed: str) -> str:
    """The flag of a configuration file."""
    table = {
        "url": url,
        "endpoint": server.endpoint,
        "region": "us-east-1",
        "access_key_id": server.key,
        "secret_access_key": server.secret,
    }
    keys = [f'{key} = "{value}"' for key, value in (table | changed).items()]
    file = path / "fastsmtp.toml"
    nats = [f'deliver = "{node.url}"', "[nats]", f'stream = "{STREAM}"', 'sync = "always"']
    file.write_text("\n".join([*nats, "[bodies]", f"timeout = {TIMEOUT}", *keys]) + "\n")
    file.chmod(0o600)
    return f"--config={file}"


async def records(node: Node, bodies: S3Bodies) -> list[Record]:
    async with ask(node) as asking:
        return [parse_record(octets, bodies.stored) for _, octets in await asking.messages()]


def read(record: Record) -> bytes:
    assert not isinstance(record.body, bytes)
    with record.body.open() as file:
        return file.read()


def names(bodies: S3Bodies) -> list[str]:
    return sorted(each["path"] for page in obstore.list(bodies.store) for each in page)


def test_a_large_body_is_in_the_bucket_byte_for_byte_and_its_record_names_it(
    tmp_path: Path, node: Node, stream: None, server: S3Server, bodies: S3Bodies
) -> None:
    with Gateway(None, configured(tmp_path, node, server, bodies.url)) as gateway:
        gateway.send(LARGE, "b@y.example", "c@y.example")
        gateway.send(b"Subject: small\r\n\r\nx\r\n")
        large, small = asyncio.run(records(node, bodies))
        assert read(large) == LARGE
        assert [each.address for each in large.rcpt_to] == ["b@y.example", "c@y.example"]
        assert not isinstance(large.body, bytes)
        name = large.body.path.rpartition("/")[2]
        assert names(bodies) == [name, f"{name}.kept"]
        assert small.body == b"Subject: small\r\n\r\nx\r\n"
        assert gateway.stop() == 0
        said = "\n".join([*gateway.out.all, *gateway.err.all])
        assert server.secret not in said


def begun(gateway: Gateway) -> smtplib.SMTP:
    """A client in the middle of its message."""
    client = gateway.client()
    client.mail("a@x.example")
    client.rcpt("b@y.example")
    assert client.docmd("DATA")[0] == 354
    client.send(LARGE[: len(LARGE) * 3 // 4])
    return client


def ended(client: smtplib.SMTP) -> int:
    """The reply to the rest of the message."""
    client.send(LARGE[len(LARGE) * 3 // 4 :] + b".\r\n")
    code = client.getreply()[0]
    client.close()
    return code


async def sent_again(gateway: Gateway) -> None:
    """As a client does, until it has a 250."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await asyncio.to_thread(gateway.send, LARGE)
            except smtplib.SMTPResponseException as error:
                if not 400 <= error.smtp_code < 500:
                    raise
                await asyncio.sleep(0.1)


def silent(network: Between) -> None:
    network.all_new = {"to_client"}
    network.swallow("to_client")


def reset(network: Between) -> None:
    """Each connection, whenever the server answers."""
    network.loses = lambda octets: True


@pytest.mark.parametrize("fault", [pytest.param(silent, marks=pytest.mark.nightly), reset])
def test_a_bucket_that_fails_within_a_message_is_451_and_later_mail_flows_by_itself(
    tmp_path: Path,
    node: Node,
    stream: None,
    server: S3Server,
    bodies: S3Bodies,
    fault: Callable[[Between], None],
) -> None:
    async def drive() -> None:
        port = urlsplit(server.endpoint).port
        assert port is not None
        async with between(port) as network:
            endpoint = f"http://127.0.0.1:{network.port}"
            config = configured(tmp_path, node, server, bodies.url, endpoint=endpoint)
            gateway = await asyncio.to_thread(Gateway, None, config)
            with gateway:
                client = await asyncio.to_thread(begun, gateway)
                async with asyncio.timeout(PATIENCE):
                    while not await asyncio.to_thread(server.uploads):
                        await asyncio.sleep(0.02)
                fault(network)
                assert await asyncio.to_thread(ended, client) in (451, 452)
                assert await records(node, bodies) == []
                network.all_new, network.loses = set(), lambda octets: False
                network.cut()
                await sent_again(gateway)
                (record,) = await records(node, bodies)
                assert await asyncio.to_thread(read, record) == LARGE
                # An object without its marker is an orphan, which the gateways remove by its age.
                (kept,) = [name for name in names(bodies) if name.endswith(".kept")]
                assert not isinstance(record.body, bytes)
                assert record.body.path.endswith(f"/{kept.removesuffix('.kept')}")
                assert not any("Traceback" in line for line in gateway.err.all)

    asyncio.run(drive())


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"access_key_id": "nobody"}, "bodies: access_key_id is not known to the server"),
        ({"secret_access_key": "wr0ng"}, "bodies: secret_access_key does not belong to"),
        ({"endpoint": "http://127.0.0.1:1"}, "bodies cannot be stored in s3://mail/x: "),
    ],
)
def test_a_bucket_that_cannot_be_used_is_one_line_at_the_start_that_names_the_setting(
    tmp_path: Path,
    node: Node,
    stream: None,
    server: S3Server,
    changed: dict[str, str],
    words: str,
) -> None:
    config = configured(tmp_path, node, server, "s3://mail/x", **changed)
    done = run_to_end("--listen=127.0.0.1:0", config, env=environment())
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if "running as root" not in line]
    assert f"{node.url}: {words}" in line
    assert server.secret not in line
    assert "wr0ng" not in line
