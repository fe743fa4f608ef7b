"""Postfix's load generator, SMTP and LMTP, over TCP and UNIX sockets, against a server on each
loop.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from clients import PATIENCE, Sink, digest, program

from fastsmtp import SMTPServer
from fastsmtp.testing import running

SMTP_SOURCE, REASON = program("smtp-source", "postfix")

pytestmark = [pytest.mark.interop, pytest.mark.skipif(not SMTP_SOURCE, reason=REASON)]

BIG = 30_000_000


class Source:
    """Runs smtp-source against a server; it has to find nothing to complain of."""

    def __init__(self, run: Any, lmtp: bool, unix: bool, folder: Path) -> None:
        self.run = run
        self.lmtp = lmtp
        self.unix = unix
        self.folder = folder

    def __call__(self, server: SMTPServer, *arguments: str) -> None:
        self.run(self._talk(server, arguments))

    async def _talk(self, server: SMTPServer, arguments: tuple[str, ...]) -> None:
        path = str(self.folder / "socket")
        where: dict[str, Any] = {"path": path} if self.unix else {}
        async with running(server, **where) as (host, port):
            target = f"unix:{path}" if self.unix else f"inet:{host}:{port}"
            command = [SMTP_SOURCE, *(["-L"] if self.lmtp else []), "-M", "c.example"]
            command += ["-f", "a@x.example", "-t", "b@y.example", *arguments, target]
            done = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, timeout=2 * PATIENCE, check=False
            )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.fixture(params=["smtp-tcp", "smtp-unix", "lmtp-tcp", "lmtp-unix"])
def source(run: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    protocol, kind = request.param.split("-")
    return Source(run, protocol == "lmtp", kind == "unix", tmp_path)


def letter(source: Source, body: bytes) -> list[str]:
    """The arguments that make smtp-source send `body`, whose lines end in LF."""
    path = source.folder / "letter"
    path.write_bytes(body)
    return ["-F", str(path)]


def sent(body: bytes) -> str:
    """The digest of what it makes of `body`: there is always an empty line at the end."""
    return digest(body.replace(b"\n", b"\r\n") + b"\r\n")


def test_messages_over_parallel_connections_all_arrive(source: Source) -> None:
    sink = Sink()
    body = b"Subject: x\n\n.\n..dots\n\xe4\xf6\n\nend\n" * 50
    source(sink.server(lmtp=source.lmtp), "-m", "200", "-s", "10", *letter(source, body))
    assert len(sink.arrived) == len(sink.closed) == 200
    kind = "LMTP" if source.lmtp else "SMTP"  # it greets with HELO
    expected = sent(body)
    assert Counter((told.digest, told.kind) for told in sink.arrived) == {(expected, kind): 200}


def test_messages_over_kept_connections_all_arrive(source: Source) -> None:
    sink = Sink()
    body = b"Subject: x\n\ntext\n"
    arguments = ["-d", "-m", "500", "-s", "5", *letter(source, body)]
    source(sink.server(lmtp=source.lmtp), *arguments)
    assert len(sink.closed) == 5
    expected = sent(body)
    assert Counter(told.digest for told in sink.arrived) == {expected: 500}


def test_a_thousand_recipients_are_kept_in_order(source: Source) -> None:
    sink = Sink()
    source(sink.server(lmtp=source.lmtp), "-m", "2", "-r", "1000", "-d")
    recipients = [f"{number}b@y.example" for number in range(1000, 1, -1)] + ["b@y.example"]
    assert [told.recipients for told in sink.arrived] == [recipients] * 2


def test_thirty_megabytes_arrive(source: Source) -> None:
    sink = Sink()
    body = (b"x" * 70 + b"\n..\n" + b"\xe4" * 50 + b"\n") * (BIG // 125)
    server = sink.server(lmtp=source.lmtp, size=2 * BIG)
    source(server, *letter(source, body))
    assert [told.digest for told in sink.arrived] == [sent(body)]


def test_generated_payloads_have_the_length_that_was_asked_for(source: Source) -> None:
    bodies: list[bytes] = []

    async def on_data(stream: Any, session: Any) -> None:
        bodies.append(b"".join([piece async for piece in stream]))

    sizes = (1, 80, 4096, 100_000)
    for size in sizes:
        source(Sink().server(lmtp=source.lmtp, on_data=on_data), "-l", str(size))
    payloads = [body.partition(b"\r\n\r\n")[2] for body in bodies]
    assert [len(payload) for payload in payloads] == [size + len(b"\r\n") for size in sizes]
    assert set(b"".join(payloads)) == set(b"0123456789X\r\n")
