"""A real `fastsmtp serve --workers`: its parent and its workers, clients with other addresses."""

from __future__ import annotations

import contextlib
import re
import smtplib
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from serving import PATIENCE, Gateway, Lines, command, environment

__all__ = ["Parent"]


class Parent(Gateway):
    """One run with workers. maildir: None for an application, which `arguments` name."""

    def __init__(
        self,
        maildir: Path | None,
        *arguments: str,
        workers: int | str = 2,
        listen: tuple[str, ...] = ("127.0.0.1:0",),
        cwd: Path | None = None,
    ) -> None:
        where = [f"--listen={each}" for each in listen]
        if maildir is not None:
            self.maildir = maildir
            where.append(f"--maildir={maildir}")
        self.process = subprocess.Popen(
            command(*where, f"--workers={workers}", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=cwd,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out = Lines(self.process.stdout)
        self.err = Lines(self.process.stderr)
        try:
            self.out.wait(r"workers? (is|are) ready$")
        except AssertionError:
            self.kill()
            raise AssertionError(f"it did not start: {self.err.finish()}") from None
        found = [re.search(r"listening on [^ ]*:(\d+)$", line) for line in self.out.all]
        self.ports = [int(match[1]) for match in found if match is not None]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.kill()

    def workers(self) -> list[int]:
        """The numbers of the processes that the parent has started and that have not ended."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(number) for number in children.read_text().split()]

    def client_from(self, address: str, *, at: int = 0) -> smtplib.SMTP:
        """Return a connection from `address` that has greeted."""
        client = smtplib.SMTP(
            "127.0.0.1", self.ports[at], "c.example", PATIENCE, source_address=(address, 0)
        )
        client.ehlo()
        return client

    def send_from(self, address: str, message: bytes) -> None:
        """Send one message from `address`."""
        with contextlib.closing(self.client_from(address)) as client:
            client.sendmail("a@x.example", ["b@y.example"], message)
            client.quit()
