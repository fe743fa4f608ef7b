"""`fastsmtp serve --deliver smtp://…`: a gateway before another one, which has a Maildir."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

import pytest
from clients import until
from mail_load import Load
from serving import PATIENCE, Gateway, body_of, environment

from fastsmtp.gateway.config import Config, ConfigError, load
from fastsmtp.gateway.config.text import toml
from fastsmtp.gateway.destinations.errors import DestinationError
from fastsmtp.gateway.destinations.table import sink_of

MESSAGE = b"Subject: x\r\n\r\n.hello\r\n"
OURS = re.compile(rb"\AReceived: [^\n]*\n(?:[ \t][^\n]*\n)*")


class Hop(NamedTuple):
    gateway: Gateway
    maildir: Path

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.gateway.ports[0]}"

    def take(self) -> list[bytes]:
        """The messages that have arrived, as they were sent to us; they are removed."""
        found = []
        for path in sorted((self.maildir / "new").iterdir()):  # one that arrives meanwhile stays
            found.append(OURS.sub(b"", body_of(path.read_bytes()), count=1))
            path.unlink()
        return found


@pytest.fixture(scope="module")
def hop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hop]:
    """A server for one domain."""
    maildir = tmp_path_factory.mktemp("hop") / "mail"
    with Gateway(maildir, "--domain=y.example", "--admin=127.0.0.1:0") as gateway:
        yield Hop(gateway, maildir)


def failed(*arguments: str) -> str:
    """The one line of a start that fails."""
    done = subprocess.run(
        [sys.executable, "-m", "fastsmtp", "serve", "--listen=127.0.0.1:0", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "running as root" not in line]
    assert len(lines) == 1, lines
    return lines[0].removeprefix("fastsmtp: error: ")


def test_each_recipient_gets_the_answer_of_the_next_hop_and_rules_come_first(hop: Hop) -> None:
    rules = ("--recipient=*", "--reject=no@y.example", "--discard=drop@y.example")
    with Gateway(None, f"--deliver={hop.url}", *rules) as front:
        assert front.out.all[-1].endswith(
            f"delivering to {hop.url}; 250 means: taken by the next mail server (next_hop)"
        )
        with front.client() as client:
            names = ["b@y.example", "b@z.example", "no@y.example", "drop@y.example"]
            refused = client.sendmail("a@x.example", names, MESSAGE)
        assert refused == {
            "b@z.example": (550, b"5.1.1 No such recipient here, relay denied"),
            "no@y.example": (550, b"5.7.1 Mail for this recipient is not accepted"),
        }
        (path,) = (hop.maildir / "new").iterdir()
        assert b"drop@y.example" not in path.read_bytes()
        assert hop.take() == [MESSAGE]
        front.out.wait(r"relayed id=.* to=<b@y\.example>.* next_hop=250")
        assert front.stop() == 0
    assert front.errors() == []


def test_mail_waits_in_a_spool_for_a_next_hop_that_is_down_and_each_recipient_has_its_fate(
    tmp_path: Path, hop: Hop
) -> None:
    port = hop.gateway.ports[0]
    spool = f"--spool={tmp_path / 'spool'}"
    with Gateway(None, "--deliver=smtp://127.0.0.1:9", spool) as front:  # nobody is there
        with front.client() as client:
            client.sendmail("a@x.example", ["b@y.example", "b@z.example"], MESSAGE)
            client.sendmail("a@x.example", ["c@y.example"], b"x" * 70 + b"\r\n" + MESSAGE * 9000)
        assert front.stop() == 0
    with Gateway(None, f"--deliver=smtp://127.0.0.1:{port}", spool) as front:
        front.err.wait(r"number=1 is refused, and kept|is refused, and kept: .* 550 5\.1\.1")
        asyncio.run(until(lambda: len([*(hop.maildir / "new").iterdir()]) == 2))
        assert front.stop() == 0
    assert sorted(map(len, hop.take())) == [len(MESSAGE), 72 + 9000 * len(MESSAGE)]


def scraped(front: Gateway) -> dict[str, float]:
    """The metrics of the relay."""
    address = next(line.split()[-1] for line in front.out.all if "metrics and state on" in line)
    text = urllib.request.urlopen(f"http://{address}/metrics").read().decode()
    return {
        name.removeprefix("fastsmtp_relay_"): float(value)
        for name, _, value in (line.rpartition(" ") for line in text.splitlines())
        if name.startswith("fastsmtp_relay_")
    }


@pytest.mark.parametrize("with_spool", [False, True], ids=["direct", "spool"])
def test_the_connections_to_the_next_hop_are_scraped(
    with_spool: bool, hop: Hop, tmp_path: Path
) -> None:
    spool = [f"--spool={tmp_path / 'spool'}"] if with_spool else []
    with Gateway(None, f"--deliver={hop.url}", "--admin=127.0.0.1:0", *spool) as front:
        with front.client() as client:
            client.sendmail("a@x.example", ["b@y.example"], MESSAGE)
        # The gauges are set once a second.
        asyncio.run(until(lambda: hop.take() == [MESSAGE]))
        expected = {
            *(('connections{state="idle"}', 1.0), ('connections{state="in_use"}', 0.0)),
            *(('connections{state="opening"}', 0.0), ("connections_opened_total", 1.0)),
            *(("waiting_messages", 0.0), ("waits_total", 0.0)),
        }
        asyncio.run(until(lambda: {*scraped(front).items()} == expected))
        assert front.stop() == 0


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ('deliver = "smtp://127.0.0.1:9"', "Connection refused"),
        ('deliver = "smtp://HOP"\n[relay]\ntls = "starttls"\nca = "/nowhere"', "ca: /nowhere"),
        ('deliver = "lmtp://HOP"', "it answered to LHLO: 500"),
        ('deliver = "smtps://HOP"', "is tls = 'implicit' right"),
        ('deliver = "smtp://u:geheim@HOP"', "it offers no AUTH, and the relay speaks"),
        ('deliver = "smtp://mx.example"\n[relay]\ntls = "off"\nuser = "u"\npassword = "geheim"',
         "[relay] password: "),
        ('deliver = "smtp://HOP"\n[relay]\nforward = "xclient"', "does not offer XCLIENT"),
    ],
)  # fmt: skip
def test_a_next_hop_that_cannot_be_used_is_one_line_at_the_start(
    lines: str, reason: str, hop: Hop, tmp_path: Path
) -> None:
    file = tmp_path / "fastsmtp.toml"
    file.write_text(lines.replace("HOP", f"127.0.0.1:{hop.gateway.ports[0]}"))
    file.chmod(0o600)
    line = failed(f"--config={file}")
    assert reason in line
    assert line.startswith("deliver ")
    assert "geheim" not in line


@pytest.mark.parametrize(
    ("url", "table", "reason"),
    [
        ("smtp://u:geheim@mx.example", {"user": "v"}, "[relay] user: the URL has one too"),
        ("smtps://mx.example", {"tls": "off"}, "[relay] tls: smtps:// is TLS from the start"),
        ("smtp://mx.example?tls=off", {}, "belongs into the table [relay]"),
        ("lmtp://mx.example/path", {}, "a path needs no host, as in lmtp:/run"),
        ("smtp://", {}, "[relay] host: "),
        ("smtp://mx.example:0", {}, "[relay] port: "),
        ("smtp://mx.example:x", {}, "Port could not be cast"),
        ("smtp://mx.example", {"max_connections": 0}, "[relay] max_connections: "),
    ],
)
def test_a_url_that_does_not_fit_is_named(url: str, table: dict[str, object], reason: str) -> None:
    with pytest.raises(DestinationError) as error:
        sink_of(configured(url, table))
    assert reason in str(error.value)
    assert "geheim" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("smtp://mx.example", "mx.example:25"),
        ("smtps://user:p%40ss@mx.example", "mx.example:465"),
        ("smtp://[::1]:2525", "[::1]:2525"),
        ("lmtp://127.0.0.1", "127.0.0.1:24"),
        ("lmtp:/run/dovecot/lmtp", "/run/dovecot/lmtp"),
    ],
)
def test_a_url_names_the_next_hop(url: str, shown: str) -> None:
    assert str(sink_of(configured(url, {}))) == shown


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ConfigError, match="hosts"):
        configured("smtp://mx.example", {"hosts": "mx"})


def configured(url: str, table: dict[str, object]) -> Config:
    """A configuration with that table."""
    keys = "\n".join(f"{key} = {toml(value)}" for key, value in table.items())
    with NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(f"deliver = {toml(url)}\n[relay]\n{keys}\n")
        file.flush()
        return load({}, {}, file.name).config


# --- kill -9 ---


async def kill_under_load(front: Gateway, seed: int) -> set[str]:
    """Load a gateway, kill it at some message; return what was acknowledged."""
    sender = Load(front.ports[0], 6, seed=seed)
    limit = random.Random(seed).randint(1, 60)
    sender.on_acknowledged = lambda count: front.process.kill() if count == limit else None
    await sender.run()
    assert len(sender.acknowledged) >= limit
    return sender.acknowledged


def lost_in(cycles: int, hop: Hop, seed: int) -> tuple[int, int]:
    """Kill so many gateways; return how many messages were acknowledged, and lost."""
    acknowledged = lost = 0
    for cycle in range(cycles):
        with Gateway(None, f"--deliver={hop.url}") as front:
            sent = asyncio.run(kill_under_load(front, seed + cycle))
        found = {hashlib.sha256(body).hexdigest() for body in hop.take()}
        acknowledged += len(sent)
        lost += len(sent - found)
    return acknowledged, lost


def test_a_gateway_that_is_killed_under_load_has_lost_nothing_acknowledged(hop: Hop) -> None:
    acknowledged, lost = lost_in(3, hop, seed=3)
    assert acknowledged >= 3
    assert lost == 0


@pytest.mark.nightly
def test_a_gateway_that_is_killed_200_times_has_lost_nothing_acknowledged(hop: Hop) -> None:
    acknowledged, lost = lost_in(200, hop, seed=1000)
    print(f"200 kills: {acknowledged} acknowledged, {lost} lost")
    assert lost == 0
