"""A program that delivers: `serve.py PORT SINK DIRECTORY`; SINK: maildir, spool, drained or nats.

The spool drains into a destination that is down, so that what is measured is how it takes mail. The
one that is drained delivers into a Maildir, and tells once a second how many messages wait. nats
has three servers as its children, which sync each message.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from fastsmtp import SMTPServer
from fastsmtp.delivery import Promise, Receipt, Record, Sink, Unavailable, deliver
from fastsmtp.delivery.maildir import Maildir
from fastsmtp.delivery.nats import NATS
from fastsmtp.delivery.spool import Spool

HERE = Path(__file__).parent
PAGE = os.sysconf("SC_PAGE_SIZE")


class Down(Sink):
    """A destination that takes nothing."""

    async def start(self) -> Promise:
        self.promise = Promise.REMOTE
        return self.promise

    def put(self, record: Record) -> asyncio.Future[Receipt]:
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        future.set_exception(Unavailable("it is down"))
        return future

    async def close(self, patience: float) -> None:
        self.promise = None


@contextlib.asynccontextmanager
async def telling(spool: Spool) -> AsyncIterator[None]:
    """Print once a second how many messages wait, and the octets of memory of this process."""

    async def tell() -> None:
        while True:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
            print(json.dumps({"waiting": spool.count, "memory": resident}), flush=True)
            await asyncio.sleep(1)

    task = asyncio.create_task(tell())
    try:
        yield
    finally:
        task.cancel()


def serve_drained(port: int, directory: str) -> None:
    spool = Spool(f"{directory}/spool", drain_into=Maildir(f"{directory}/mail"))
    hook = deliver(spool, log=lambda entry: None)
    server = SMTPServer(
        name="bench.example",
        auth_optional=True,
        on_data=hook,
        lifespan=lambda server: telling(spool),
    )
    server.run(port, "127.0.0.1")


def serve_nats(port: int, directory: str) -> None:
    sys.path += [str(HERE.parents[1] / "tests" / part) for part in ("support", "")]
    from nats_kit import STREAM, ask, nodes

    async def make_stream() -> None:
        async with ask(*servers) as asking:
            await asking.stream(num_replicas=len(servers))

    with nodes(Path(directory), 3, sync="always") as servers:
        asyncio.run(make_stream())
        monitor = [each.monitor_url for each in servers]
        sink = NATS([each.url for each in servers], stream=STREAM, monitor=monitor)
        hook = deliver(sink, require=Promise.QUORUM_DISK, log=lambda entry: None)
        SMTPServer(name="bench.example", auth_optional=True, on_data=hook).run(port, "127.0.0.1")


SINKS = {"maildir": Maildir, "spool": lambda path: Spool(path, drain_into=Down())}

PROGRAMS = {"drained": serve_drained, "nats": serve_nats}


def main(port: int, sink: str, directory: str) -> None:
    if sink in PROGRAMS:
        PROGRAMS[sink](port, directory)
        return
    hook = deliver(SINKS[sink](directory), log=lambda entry: None)
    SMTPServer(name="bench.example", auth_optional=True, on_data=hook).run(port, "127.0.0.1")


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
