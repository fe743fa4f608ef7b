"""For tests of the Maildir: what is in it, and calls of `os` that fail by order."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastsmtp.gateway.delivery.maildir import Maildir

MESSAGE = b"Subject: x\n\nhello\n"


def files(box: Maildir) -> dict[str, list[bytes]]:
    """What stands in each part of the Maildir."""
    return {
        part: [path.read_bytes() for path in sorted(Path(box.path, part).iterdir())]
        for part in ("cur", "new", "tmp")
    }


def only(message: bytes) -> dict[str, list[bytes]]:
    return {"cur": [], "new": [message], "tmp": []}


NOTHING: dict[str, list[bytes]] = {"cur": [], "new": [], "tmp": []}


def deliver(box: Maildir, message: bytes = MESSAGE) -> str:
    return box.deliver().commit(message)


def deliver_in_two_pieces(box: Maildir) -> None:
    delivery = box.deliver()
    delivery.write(b"first")
    delivery.commit(b"second")


class Calls:
    """Stands before functions of `os`: keeps their order, lets chosen calls fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, int | str, str]] = []
        self.faults: dict[tuple[str, int], str] = {}
        self._counts: dict[str, int] = {}
        self._directories: set[int] = set()
        for name in ("open", "write", "fsync", "link", "rename", "unlink"):
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def fail(self, name: str, code: str, call: int = 1) -> None:
        """Let the `call`-th call of `name` fail; of a directory it is called fsync_directory."""
        self.faults[name, call] = code

    def names(self) -> list[str]:
        return [name for name, _, _ in self.made]

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(first: Any, *rest: Any, **named: Any) -> Any:
            kind = name
            if name == "fsync" and first in self._directories:
                kind = "fsync_directory"
            if name == "open" and rest[0] & os.O_DIRECTORY:
                kind = "open_directory"
            call = self._counts[kind] = self._counts.get(kind, 0) + 1
            code = self.faults.get((kind, call))
            self.made.append((kind, first, code or ""))
            if code is not None:
                number = getattr(errno, code)
                raise OSError(number, os.strerror(number))
            result = function(first, *rest, **named)
            if kind == "open_directory":
                self._directories.add(result)
            elif kind == "open":
                self._directories.discard(result)
            return result

        return wrapper
