"""What a service manager is told: sd_notify(3), the protocol of systemd and of others.

In: NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID. Out: one datagram for each change. A service manager
that is gone, slow or wrong costs one log line, never mail.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Final

from fastsmtp.gateway.log import logger
from fastsmtp.log_text import clean

__all__ = ["ServiceManager"]

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
STATUS_SECONDS: Final = 5.0  # between two looks at the status text, which is sent when it differs
MAX_STATUS: Final = 1024  # characters
MAX_UNSENT: Final = 16  # datagrams that wait for a slow service manager; older ones are dropped
# The last datagram is tried so often, and at the end of the process for so long.
LAST_AGAIN: Final = 0.05  # seconds
LAST_SECONDS: Final = 5


class ServiceManager:
    """The service manager of this process; without one, nothing is sent.

    The variables are taken out of `environ`, so that programs which hooks start do not speak in our
    name, and neither does a worker that is forked from this process.
    """

    def __init__(
        self,
        environ: MutableMapping[str, str],
        warn: Callable[[str], object] = logger.warning,
    ) -> None:
        self._warn = warn
        given = {name: environ.pop(name) for name in VARIABLES if name in environ}
        is_for_us = given.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        # For a program that takes over from this one.
        self.variables: Mapping[str, str] = given
        self._address = given.get("NOTIFY_SOCKET", "")
        microseconds = given.get("WATCHDOG_USEC", "")
        self.watchdog_seconds = 0.0  # 0: there is no watchdog
        if is_for_us and microseconds.isascii() and microseconds.isdigit():
            self.watchdog_seconds = int(microseconds) / 1e6
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self._unsent: deque[bytes] = deque(maxlen=MAX_UNSENT)
        self._status = ""
        self._is_last = False  # nothing follows what is unsent

    @property
    def is_there(self) -> bool:
        """Whether there is one to notify."""
        return self._socket is not None

    def close(self) -> None:
        """Send nothing more; wait for a slow service manager only if `say_last` was called."""
        sock, self._socket = self._socket, None
        if sock is None:
            return
        if self._is_last and self._unsent:
            sock.setblocking(True)
            limit = struct.pack("ll", LAST_SECONDS, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            with suppress(OSError):
                sock.sendto(self._unsent[0], _address_of(self._address))
        sock.close()

    def notify(self, **fields: str | int) -> None:
        """Send fields such as READY=1 as one datagram; never raises, never waits. What finds the
        queue of the service manager full is sent before the next one.
        """
        if self._socket is None or self._is_last:
            return
        lines = [f"{name}={_line(str(value))}" for name, value in fields.items()]
        self._status = str(fields.get("STATUS", self._status))
        self._unsent.append("\n".join(lines).encode("utf-8", "backslashreplace"))
        self._flush(self._socket)

    def say_last(self, **fields: str | int) -> None:
        """Send fields as `notify` does, and nothing after them: another process speaks from now on.
        They are not lost if the service manager is slow.
        """
        self._unsent.clear()
        self.notify(**fields)
        self._is_last = True
        self._send_last()

    def _flush(self, sock: socket.socket) -> None:
        try:
            while self._unsent:
                sock.sendto(self._unsent[0], _address_of(self._address))
                self._unsent.popleft()
        except BlockingIOError:
            pass
        except (OSError, ValueError) as error:  # ValueError: not an address
            reason = getattr(error, "strerror", None) or str(error)
            self._warn(f"cannot notify {clean(self._address)}: {reason}")
            self.close()

    def ready(self, status: str) -> None:
        """Report that everything serves, after the start or a reload."""
        self.notify(READY=1, STATUS=status)

    def reloading(self) -> None:
        """Report that a reload begins; `ready` ends it."""
        self.notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)

    def stopping(self, status: str) -> None:
        """Report that the end has begun."""
        self.notify(STOPPING=1, STATUS=status)

    @asynccontextmanager
    async def watched(self, status: Callable[[], str]) -> AsyncIterator[None]:
        """Send what changes in `status`, and the signs of life that a watchdog wants, inside.

        The event loop sends them: one that is blocked sends none. Nothing is sent afterwards.
        """
        reporting = asyncio.ensure_future(self._report(status)) if self.is_there else None
        try:
            yield
        finally:
            if reporting is not None:
                reporting.cancel()
            self.close()

    async def _report(self, status: Callable[[], str]) -> None:
        while self.is_there:
            pause = self.tick(status)
            await asyncio.sleep(pause)

    def tick(self, status: Callable[[], str]) -> float:
        """Send what is due, and return the seconds until the next call."""
        if self._is_last:
            self._send_last()
            return LAST_AGAIN
        if self._socket is not None:
            fields = {"WATCHDOG": "1"} if self.watchdog_seconds else {}
            text = status()
            if text != self._status:
                fields["STATUS"] = text
            if fields:
                self.notify(**fields)
            else:
                self._flush(self._socket)
        return min(STATUS_SECONDS, self.watchdog_seconds / 2 or STATUS_SECONDS)

    def _send_last(self) -> None:
        if self._socket is not None:
            self._flush(self._socket)
        if not self._unsent:
            self.close()


def _address_of(text: str) -> str:
    if text.startswith("@"):
        return "\0" + text[1:]  # in the abstract namespace
    if not text.startswith("/"):
        raise ValueError("it takes a path, or @ and a name")
    return text


def _line(text: str) -> str:
    return " ".join(text.split())[:MAX_STATUS]
