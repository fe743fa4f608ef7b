"""Faults in the system calls of a gateway, by a library that is loaded first (disk_faults.c)."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from c_library import preload
from serving import Gateway


class Faults:
    """The library that injects faults for one directory, and its trace of calls."""

    def __init__(self, library: Path, directory: Path) -> None:
        self.directory = directory
        self.maildir = directory / "mail"
        self._order = directory / "order"
        self.log = directory / "trace"
        self._gate = directory / "gate"
        self._serials = itertools.count(1)
        self._open_gates: list[int] = []
        os.mkfifo(self._gate)
        self.env = {
            "LD_PRELOAD": preload(library),
            "FAULT_DIR": f"{self.maildir}/",
            "FAULT_ORDER": str(self._order),
            "FAULT_TRACE": str(self.log),
            "FAULT_GATE": str(self._gate),
        }

    def start(self, *arguments: str) -> Gateway:
        """Start a gateway under the library; what it does from here on is traced."""
        gateway = Gateway(self.maildir, *arguments, env=self.env)
        self.forget()
        return gateway

    def forget(self) -> None:
        """Begin a new trace."""
        self.log.unlink(missing_ok=True)

    def order(self, call: str, action: str, k: int = 1, *, then: str = "") -> None:
        """Do `action` at the `k`-th `call` from now on, once. then: another call, which fails with
        EIO at its next time after that.
        """
        text = f"{next(self._serials)} {call} {k} {action} {then or '-'}\n"
        self._order.with_suffix(".next").write_text(text)
        self._order.with_suffix(".next").rename(self._order)

    @contextlib.contextmanager
    def waiting_at(self, call: str) -> Iterator[None]:
        """Hold the process up at its next `call`, until the end of the block."""
        self.order(call, "wait")
        try:
            yield
        finally:
            # Whoever opens the FIFO for reading, now or later, gets through.
            self._open_gates.append(os.open(self._gate, os.O_RDWR))

    def close(self) -> None:
        """Close what this object has opened."""
        for gate in self._open_gates:
            os.close(gate)

    def trace(self) -> list[tuple[str, int, str]]:
        """Return the calls so far: name, result (negative: an errno), path."""
        if not self.log.exists():
            return []
        lines = self.log.read_text().splitlines()
        calls = [line.split(" ", 2) for line in lines]  # the path of a file without a name has one
        return [(name, int(result), path) for name, result, path in calls]

    @property
    def fired(self) -> bool:
        """The last order was carried out."""
        return any(name == "fired" for name, _, _ in self.trace())
