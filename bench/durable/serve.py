"""A program that delivers: `serve.py PORT SINK DIRECTORY`; SINK is maildir or spool.

The spool drains into a destination that is down, so that what is measured is how it takes mail.
"""

from __future__ import annotations

import asyncio
import sys

from fastsmtp import SMTPServer
from fastsmtp.delivery import Promise, Receipt, Record, Sink, Unavailable, deliver
from fastsmtp.delivery.maildir import Maildir
from fastsmtp.delivery.spool import Spool


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


SINKS = {"maildir": Maildir, "spool": lambda path: Spool(path, drain_into=Down())}


def main(port: int, sink: str, directory: str) -> None:
    hook = deliver(SINKS[sink](directory), log=lambda entry: None)
    SMTPServer(name="bench.example", auth_optional=True, on_data=hook).run(port, "127.0.0.1")


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
