"""`fastsmtp serve --deliver nats://`: mail in a stream of a real server, wrong settings in one
line, and kill -9 under load.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mail_load import Load
from nats_kit import NATS_SERVER, REASON, STREAM, Node, ask, nodes
from serving import Gateway, environment, run_to_end

from fastsmtp.delivery import parse_record
from fastsmtp.gateway.config import load, shown_values

pytestmark = [
    pytest.mark.interop,
    pytest.mark.one_python,
    pytest.mark.skipif(not NATS_SERVER, reason=REASON),
]

KILLS = int(os.environ.get("FASTSMTP_KILL_CYCLES", "200"))
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
LOGINS = """
authorization { user: gateway, password: secret }
"""
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with nodes(tmp_path_factory.mktemp("nats"), sync="always", more=LOGINS) as found:
        yield found[0]


@pytest.fixture
def stream(node: Node) -> str:
    """A new stream with the usual name."""

    async def make(**settings: Any) -> None:
        async with ask(node, user="gateway", password="secret") as asking:
            await asking.remove()
            await asking.stream()

    asyncio.run(make())
    return STREAM


async def stored(node: Node) -> list[bytes]:
    """The bodies in the stream."""
    async with ask(node, user="gateway", password="secret") as asking:
        records = [parse_record(octets) for _, octets in await asking.messages()]
    bodies = [record.body for record in records]
    assert all(isinstance(body, bytes) for body in bodies)
    return bodies  # type: ignore[return-value]


def configured(tmp_path: Path, node: Node, *lines: str, password: str = "secret") -> str:
    """The flag of a configuration file."""
    file = tmp_path / f"c{next(_numbers)}.toml"
    url = node.url.replace("://", f"://gateway:{password}@")
    file.write_text("\n".join([f'deliver = "{url}"', *lines]) + "\n")
    file.chmod(0o600)
    return f"--config={file}"


def serving(tmp_path: Path, node: Node, *lines: str) -> Gateway:
    config = configured(tmp_path, node, *lines, "[nats]", f'stream = "{STREAM}"', 'sync = "always"')
    return Gateway(None, config)


def test_mail_goes_into_the_stream_and_the_start_line_says_what_a_250_means(
    tmp_path: Path, node: Node, stream: str
) -> None:
    with serving(tmp_path, node) as gateway:
        start = "\n".join(gateway.said_at_start())
        assert "250 means: on this disk (disk)" in start
        assert "secret" not in start
        gateway.send(MESSAGE)
        assert asyncio.run(stored(node)) == [MESSAGE]
        assert gateway.stop() == 0
        assert "num_replicas of stream MAIL is 1" in "\n".join(gateway.out.all)
        assert gateway.errors() == [line for line in gateway.err.all if "root" in line]


@pytest.mark.parametrize(
    "lines, words",
    [
        ([], "nats: stream is missing"),
        (
            ['require = "quorum_disk"', "[nats]", 'stream = "MAIL"', 'sync = "always"'],
            "require is quorum_disk; 250 means disk only: num_replicas of stream MAIL is 1",
        ),
    ],
)
def test_wrong_settings_are_one_line_with_the_name_of_the_setting(
    tmp_path: Path, node: Node, stream: str, lines: list[str], words: str
) -> None:
    assert words in refused(configured(tmp_path, node, *lines))


def test_a_wrong_password_is_one_line_that_does_not_show_it(
    tmp_path: Path, node: Node, stream: str
) -> None:
    config = configured(tmp_path, node, "[nats]", 'stream = "MAIL"', password="guessed")
    assert "the server refuses the login" in refused(config)
    shown = "\n".join(shown_values(load({}, {"FASTSMTP_CONFIG": config[9:]})))
    assert "guessed" not in shown


def test_servers_that_are_down_at_the_start_are_one_line(tmp_path: Path) -> None:
    found = refused("--deliver=nats://127.0.0.1:1", "--nats=stream=MAIL")
    assert "no server can be reached: nats://127.0.0.1:1" in found


def refused(*arguments: str) -> str:
    """The line of a start that fails."""
    done = run_to_end("--listen=127.0.0.1:0", *arguments, env=environment())
    assert done.returncode != 0
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if "running as root" not in line]
    assert len(lines) == 1, lines
    assert "guessed" not in lines[0]
    return lines[0]


async def killed(tmp_path: Path, node: Node, seed: int) -> set[str]:
    """Kill the gateway after some messages; return what it had acknowledged."""
    chance = random.Random(seed)
    last = chance.choice([1, 3, 20, 100])
    with serving(tmp_path, node) as gateway:
        load = Load(gateway.ports[0], 8, seed=seed, sizes=(10, 1000, 20_000))

        def kill(count: int) -> None:
            if count == last:
                gateway.process.kill()

        load.on_acknowledged = kill
        await load.run()
    assert load.refused == []
    return load.acknowledged


async def kill_cycles(tmp_path: Path, node: Node, seeds: range) -> tuple[int, int]:
    """Return how many messages were acknowledged, and how many are there."""
    acknowledged: set[str] = set()
    for seed in seeds:
        acknowledged |= await killed(tmp_path, node, seed)
    found = [hashlib.sha256(body).hexdigest() for body in await stored(node)]
    assert acknowledged <= set(found)
    assert len(found) == len(set(found))  # a client that was cut off has not sent it again
    return len(acknowledged), len(found)


def test_a_killed_gateway_has_put_what_it_acknowledged(
    tmp_path: Path, node: Node, stream: str
) -> None:
    asyncio.run(kill_cycles(tmp_path, node, range(3)))


@pytest.mark.nightly
def test_a_gateway_that_is_killed_two_hundred_times_has_put_what_it_acknowledged(
    tmp_path: Path, node: Node, stream: str
) -> None:
    acknowledged, found = asyncio.run(kill_cycles(tmp_path, node, range(100, 100 + KILLS)))
    print(f"{KILLS} kills, {acknowledged} acknowledged, {found} found, 0 lost, 0 twice")
