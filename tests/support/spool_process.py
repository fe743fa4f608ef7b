"""A spooling server in a process of its own, and what it has drained."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from collections import Counter
from pathlib import Path

from serving import PATIENCE, environment

PROGRAM = Path(__file__).with_name("spool_server.py")


class SpoolProcess:
    """`spool_server.py`. log: the file it drains into, None: it keeps everything."""

    def __init__(
        self,
        path: Path,
        log: Path | None = None,
        *,
        env: dict[str, str] | None = None,
        options: tuple[str, ...] = ("reserve=0",),
    ) -> None:
        self.path = path
        self.log = log
        self.port = 0
        self.said = b""
        self._env = environment() | (env or {})
        self._options = options
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> bool:
        """Start; return whether it listens: a fault may have ended it before."""
        arguments = [str(self.path), *([str(self.log)] if self.log else []), *self._options]
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(PROGRAM), *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._env,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while line := await self._process.stdout.readline():
                self.said += line
                if line.startswith(b"port "):
                    self.port = int(line.split()[1])
                    return True
        await self._process.wait()
        return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal; one to a process that has gone is lost."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and return the status."""
        self.send(number)
        return await self.ended()

    async def ended(self) -> int:
        """Wait for its end."""
        assert self._process is not None
        out, _ = await asyncio.wait_for(self._process.communicate(), PATIENCE)
        self.said += out
        assert self._process.returncode is not None
        return self._process.returncode

    @property
    def repeated(self) -> int:
        """What it has counted, at its end, as records that may have been delivered twice."""
        return int(self.said.rpartition(b"repeated ")[2].split()[0])


async def drained(path: Path, log: Path) -> int:
    """Start on a spool, drain it, end; return how many were counted as perhaps delivered twice."""
    process = SpoolProcess(path, log, env={"SPOOL_SERVER": "drain_and_end"})
    assert await process.start(), process.said
    assert await process.ended() == 0, process.said
    return process.repeated


def logged(log: Path) -> Counter[str]:
    """SHA-256 of the bodies that were drained, each with how often."""
    return Counter(digest for _, digest in _lines(log))


def ids_of(log: Path) -> dict[str, set[str]]:
    """The ids under which each body was drained."""
    found: dict[str, set[str]] = {}
    for id, digest in _lines(log):
        found.setdefault(digest, set()).add(id)
    return found


def _lines(log: Path) -> list[tuple[str, str]]:
    """Id and digest of each line that is whole."""
    return re.findall(r"^(\S+) ([0-9a-f]{64})$", log.read_text(), re.MULTILINE)
