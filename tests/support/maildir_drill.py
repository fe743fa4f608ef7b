"""The sink `Maildir` in a process of its own, so that its system calls can fail or be counted.

`Drill` is the test's side. Run as a program (`maildir_drill.py DIRECTORY HOW`), it is the sink: a
line of JSON, a list of messages, makes a batch of them; it answers with a list of receipts and
refusals. HOW: `each` or `all`, how the files of a batch are synced; `free`: as it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from disk_faults import Faults
from serving import PATIENCE, environment

from fastsmtp.delivery import DeliveryError, Recipient, Record
from fastsmtp.delivery.maildir import Maildir
from fastsmtp.delivery.sink import Receipt

__all__ = ["Drill", "drilling", "found", "message"]

HEAD = b"Delivered-To: b@y.example\r\n"
LARGE = 200_000  # octets from which on a message is written as it comes
_numbers = itertools.count(1)


def message(octets: int = 100) -> str:
    """A message like no other one."""
    line = f"Subject: {next(_numbers)}\r\n\r\n"
    return line + "x" * max(0, octets - len(line) - 2) + "\r\n"


def on_disk(text: str) -> bytes:
    """What the file of a message has."""
    return (HEAD + text.encode()).replace(b"\r\n", b"\n")


def found(maildir: Path, part: str = "new") -> list[bytes]:
    """What stands in a part of the Maildir."""
    return [path.read_bytes() for path in sorted((maildir / part).iterdir())]


class Drill:
    """A sink that can be asked for batches. killed: it has ended by a signal."""

    def __init__(self, maildir: Path, how: str, env: dict[str, str]) -> None:
        self.maildir = maildir
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(maildir), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**env),
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.process.communicate()[1]

    def put(self, *messages: str) -> list[str | list[Any]]:
        """Put messages together; for each a file name, or code and enhanced code of a refusal. An
        empty list: the process has died.
        """
        self.send(*messages)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else []

    def send(self, *messages: str) -> None:
        """The same without a wait for what becomes of them."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(messages) + "\n")
            self.process.stdin.flush()

    def answer_that_is_there(self) -> list[str | list[Any]]:
        """What has become of them, empty when that is not known yet."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], 0)[0]:
            return []
        found: list[str | list[Any]] = json.loads(self.process.stdout.readline())
        return found

    def check(self, messages: tuple[str, ...], results: list[str | list[Any]]) -> int:
        """Fail unless what was acknowledged is there, and nothing else; return how many were."""
        kept = [text for text, result in zip(messages, results, strict=True) if is_name(result)]
        for text, result in zip(messages, results, strict=True):
            if isinstance(result, str):
                assert (self.maildir / "new" / result).read_bytes() == on_disk(text)
        assert sorted(found(self.maildir)) == sorted(map(on_disk, kept))
        assert found(self.maildir, "tmp") == []
        return len(kept)

    def empty(self) -> None:
        """Remove what is in the Maildir."""
        for path in (self.maildir / "new").iterdir():
            path.unlink()

    def end(self) -> tuple[int, str]:
        """End it; return the status and what it said on stderr."""
        with contextlib.suppress(BrokenPipeError):
            if self.process.stdin is not None:
                self.process.stdin.close()  # waits for a write under way, whose reader has gone
        self.process.stdin = None
        errors = self.process.communicate(timeout=PATIENCE)[1]
        return self.process.returncode, errors


def is_name(result: str | list[Any]) -> bool:
    return isinstance(result, str)


@contextlib.contextmanager
def drilling(faults: Faults, how: str = "free") -> Iterator[Drill]:
    """Run a sink under the library that puts faults in; its trace begins with the first batch."""
    drill = Drill(faults.maildir, how, faults.env)
    faults.forget()
    try:
        yield drill
    finally:
        drill.process.kill()
        drill.end()


# The sink.


class Forced:
    """In the place of the sink's own choice."""

    def __init__(self, how: str) -> None:
        self._all = how == "all"

    def takes_all(self, count: int) -> bool:
        return self._all

    def note(self, all_: bool, count: int, seconds: float) -> None:
        pass


async def put_one(sink: Maildir, text: str) -> Receipt:
    record = Record("id", "a@x.example", (Recipient("b@y.example"),), headers=HEAD)
    octets = text.encode()
    if len(octets) < LARGE:
        record.set_body(octets)
        return await sink.put(record)
    writer = sink.begin(record)
    for at in range(0, len(octets), 50_001):
        waiting = writer.write(octets[at : at + 50_001])
        if waiting is not None:
            await waiting
    record.set_body(await writer.finish())
    return await sink.put(record)


async def answer(sink: Maildir, text: str) -> Receipt | list[Any]:
    try:
        return await put_one(sink, text)
    except DeliveryError as error:
        return [error.reply.response_code, error.reply.enhanced_code]


async def main(directory: str, how: str) -> None:
    async with Maildir(directory) as sink:
        if how != "free":
            sink._syncs = Forced(how)  # type: ignore[assignment]
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            results = await asyncio.gather(*(answer(sink, text) for text in json.loads(line)))
            print(json.dumps(results), flush=True)


if __name__ == "__main__":
    if "SAME_NAMES" in os.environ:  # as a generator and a clock that stand still would make them
        secrets.token_hex = lambda nbytes=None: "0" * 16
        time.time_ns = lambda: 1_700_000_000_000_000_000
    asyncio.run(main(*sys.argv[1:]))
