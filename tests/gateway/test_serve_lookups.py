"""`fastsmtp serve` with a resolver that does not answer: it ends at a signal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from c_library import build_library, preload
from serving import PATIENCE, Gateway, command, environment, errors_in

from fastsmtp._net.reverse_dns import MAX_IN_FLIGHT

CROWD = 700
NEVER = "10000"  # seconds, which is beyond the patience of a test

# Read at the start of every Python: what each run of `serve` is to find.
WITHOUT_AIODNS = "import sys\nsys.modules['aiodns'] = None\n"
WITH_AIODNS = """\
import aiodns
first = aiodns.DNSResolver.__init__
def init(self, *arguments, **options):
    place = dict(nameservers=["127.0.0.1"], udp_port={port}, tcp_port={port}, lookups="b")
    first(self, *arguments, **options | place)
aiodns.DNSResolver.__init__ = init
"""


@pytest.fixture(scope="module")
def slow_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library whose `getnameinfo` takes as long as SLOW_NAMES says."""
    return build_library("slow_names", tmp_path_factory.mktemp("library"))


@pytest.fixture(params=["system", "aiodns"])
def slow(
    request: pytest.FixtureRequest, tmp_path: Path, slow_names: Path
) -> Iterator[dict[str, str]]:
    """The environment of a gateway whose resolver, of either kind, never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as dead:
        dead.bind(("127.0.0.1", 0))
        if request.param == "aiodns":
            pytest.importorskip("aiodns")
            text = WITH_AIODNS.format(port=dead.getsockname()[1])
        else:
            text = WITHOUT_AIODNS
        (tmp_path / "sitecustomize.py").write_text(text)
        path = f"{tmp_path}{os.pathsep}{environment()['PYTHONPATH']}"
        yield {"PYTHONPATH": path, "LD_PRELOAD": preload(slow_names), "SLOW_NAMES": NEVER}


def crowd(stack: ExitStack, port: int) -> list[socket.socket]:
    """Connect from CROWD addresses."""
    clients = []
    for number in range(CROWD):
        client = socket.socket()
        stack.enter_context(client)
        client.settimeout(PATIENCE)
        client.bind((f"127.1.{number >> 8}.{number & 255}", 0))
        client.connect(("127.0.0.1", port))
        clients.append(client)
    return clients


@pytest.mark.parametrize("leave", [True, False])
def test_ops_14_one_signal_ends_the_gateway_although_the_resolver_hangs(
    tmp_path: Path, slow: dict[str, str], leave: bool
) -> None:
    with Gateway(tmp_path / "mail", env=slow) as gateway, ExitStack() as stack:
        clients = crowd(stack, gateway.ports[0])
        assert clients[-1].recv(4) == b"220 "  # the last ones find no place, and do not wait
        if leave:
            stack.close()
        assert gateway.stop() == 0
        assert gateway.errors() == []
        assert gateway.out.all[-1] == "fastsmtp: ended"


def test_ops_14_a_second_signal_ends_the_gateway_at_once_although_the_resolver_hangs(
    tmp_path: Path, slow: dict[str, str]
) -> None:
    with Gateway(tmp_path / "mail", env=slow) as gateway, ExitStack() as stack:
        crowd(stack, gateway.ports[0])
        client = gateway.client()  # with a message under way, which the first signal waits for
        client.mail("a@x.example")
        client.rcpt("b@y.example")
        assert client.docmd("DATA")[0] == 354
        gateway.process.send_signal(signal.SIGTERM)
        gateway.out.wait(": no new clients")
        assert gateway.stop() == 1
        client.close()
        assert gateway.errors() == []


def test_ops_14_most_of_a_crowd_is_greeted_although_the_resolver_is_dead(
    tmp_path: Path, slow: dict[str, str]
) -> None:
    with Gateway(tmp_path / "mail", env=slow) as gateway, ExitStack() as stack:
        clients = crowd(stack, gateway.ports[0])
        # Those without a place are greeted first, and one of them is served beside the others.
        assert {client.recv(4) for client in clients[MAX_IN_FLIGHT:]} == {b"220 "}
        with gateway.client() as client:
            assert client.noop()[0] == 250
        assert {client.recv(4) for client in clients[:MAX_IN_FLIGHT]} == {b"220 "}
        assert gateway.stop() == 0
        assert gateway.errors() == []


@pytest.mark.parametrize("others", [[], ["127.0.0.1:0"]])
def test_a_signal_ends_a_gateway_that_looks_up_where_to_listen(
    tmp_path: Path, slow: dict[str, str], others: list[str]
) -> None:
    listen = [f"--listen={place}" for place in [*others, "slow.example:0"]]
    process = subprocess.Popen(
        command(*listen, f"--maildir={tmp_path / 'mail'}"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**slow, SLOW_NAMES_MARK=str(tmp_path / "asked")),
    )
    with process:
        try:
            while not (tmp_path / "asked").exists():
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, errors_in(err.splitlines())) == (0, [])
    assert out.endswith("fastsmtp: ended\n")
