"""A server that spools its mail, for tests that kill it: `spool_server.py SPOOL [LOG] [OPTION]...`

It says `port N` when it listens, and ends on SIGTERM. With LOG it drains into that file: a synced
line for each message, its id and the SHA-256 of its body. OPTION: of `Spool`, as `reserve=0`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
import sys

from fastsmtp import SMTPServer
from fastsmtp.delivery import Promise, Receipt, Record, Sink, StoredBody, Unavailable, deliver
from fastsmtp.delivery.sink import BodyWriter
from fastsmtp.delivery.spool import Spool


class LogSink(Sink):
    """Appends a line for each message, and syncs it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = -1

    async def start(self) -> Promise:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.promise = Promise.DISK
        return self.promise

    def put(self, record: Record) -> asyncio.Future[Receipt]:
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        body = record.body
        digest = hashlib.sha256(body).hexdigest() if isinstance(body, bytes) else body.sha256
        try:
            # LF first, too: a kill may cut the line before this one, at the end of a page.
            os.write(self._file, f"\n{record.id} {digest}\n".encode())
            os.fsync(self._file)
        except OSError as error:
            future.set_exception(Unavailable(str(error)))
        else:
            future.set_result("logged")
        return future

    def begin(self, record: Record) -> BodyWriter:
        return _Hashed()

    async def close(self, patience: float) -> None:
        os.close(self._file)


class _Hashed(BodyWriter):
    def __init__(self) -> None:
        self.size = 0
        self.path = ""
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, octets: bytes) -> None:
        self.size += len(octets)
        self._hash.update(octets)

    def finish(self) -> asyncio.Future[StoredBody]:
        future: asyncio.Future[StoredBody] = asyncio.get_running_loop().create_future()
        future.set_result(self)  # type: ignore[arg-type]
        return future

    def discard(self) -> None:
        pass


async def main(path: str, log: str, **options: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    spool = Spool(path, drain_into=LogSink(log) if log else None, **options)
    await spool.start()
    hook = deliver(spool)
    server = SMTPServer(
        name="mx.example",
        auth_optional=True,
        on_data=hook,
        on_mail_from=hook.on_mail_from,
        on_connect=hook.on_connect,
    )
    await server.listen(0, "127.0.0.1")
    print(f"port {server.addresses()[0][1]}", flush=True)
    parent = os.getppid()
    while not stop.is_set() and os.getppid() == parent:  # a test that failed leaves no server
        if log and "drain_and_end" in os.environ.get("SPOOL_SERVER", "") and spool.count == 0:
            break
        await asyncio.sleep(0.02)
    await server.close()
    await spool.close(10)
    print(f"repeated {spool.counts.repeated}", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    plain = [each for each in sys.argv[1:] if "=" not in each]
    options = {
        name: int(value) for name, _, value in (e.partition("=") for e in sys.argv[1:]) if value
    }
    asyncio.run(main(plain[0], plain[1] if len(plain) > 1 else "", **options))
