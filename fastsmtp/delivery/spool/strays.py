"""Drains the directories of a spool whose process is gone: it was killed, or there are fewer now.

In: the directory that the user has named, and a function that makes a sink. Out: their messages, in
a sink of their own. A directory with messages that have to wait stays open, so that only one
process tries them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from fastsmtp.blocking import call_in_thread
from fastsmtp.delivery.log import logger
from fastsmtp.delivery.sink import Sink
from fastsmtp.delivery.spool.directory import SpoolDirectory, SpoolError, SpoolInUse
from fastsmtp.delivery.spool.family import directories
from fastsmtp.delivery.spool.sink import Spool

__all__ = ["Strays"]

# Seconds between two looks: one system call for each directory.
LOOK_AGAIN: Final = 2.0
# Seconds until a directory that could not be drained is tried again: its disk was full, perhaps.
TRY_AGAIN: Final = 60.0


class Strays:
    """The directories of the spool `path` that this process has found. own: the one that it uses
    itself. make_sink: called for each.
    """

    def __init__(self, path: str, own: str, make_sink: Callable[[], Sink]) -> None:
        self._path = path
        self._own = own
        self._make_sink = make_sink
        self._open: dict[str, Spool] = {}
        self._bad: dict[str, float] = {}  # were reported: when to try them again
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.get_running_loop().create_task(self._look())

    async def close(self, patience: float) -> None:
        """End; messages that are not drained stay."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.gather(*(spool.close(patience) for spool in self._open.values()))
        self._open.clear()

    async def _look(self) -> None:
        while True:
            for path, spool in list(self._open.items()):
                if not spool.count:
                    await spool.close(LOOK_AGAIN)
                    del self._open[path]
            for directory in await self._found():
                await self._drain(directory)
            await asyncio.sleep(LOOK_AGAIN)

    async def _found(self) -> list[SpoolDirectory]:
        """Return directories that may have messages and that no process uses, locked."""
        # In a thread: the disk may hang.
        loop = asyncio.get_running_loop()
        outcome = await call_in_thread(loop, self._claimed, "fastsmtp-spool-look")
        if isinstance(outcome, BaseException):
            logger.warning("cannot look for messages in %s: %s", self._path, outcome)
            return []
        return outcome

    def _claimed(self) -> list[SpoolDirectory]:
        found = []
        for _, path in directories(self._path):
            directory = SpoolDirectory(path)
            is_known = path == self._own or path in self._open
            is_bad = self._bad.get(path, 0) > time.monotonic()
            if is_known or is_bad or directory.is_known_empty or not directory.exists:
                continue
            try:
                directory.acquire(create=False)
            except SpoolInUse:
                continue
            except SpoolError as error:
                self._report(path, error)
                continue
            found.append(directory)
        return found

    def _report(self, path: str, error: Exception) -> None:
        if path not in self._bad:
            logger.error("messages may be waiting in %s: %s", path, error)
        self._bad[path] = time.monotonic() + TRY_AGAIN

    async def _drain(self, directory: SpoolDirectory) -> None:
        try:
            spool = Spool(directory, drain_into=self._make_sink())
            await spool.start()
        except Exception as error:  # of a sink of any program: the others are looked for further
            directory.release()
            self._report(directory.path, error)
            return
        self._bad.pop(directory.path, None)
        self._open[directory.path] = spool
