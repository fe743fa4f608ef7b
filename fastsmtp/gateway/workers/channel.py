"""The channel between the parent and one worker: small messages, whole, in order.

In and out: a word, with facts as JSON values. The end of a process is the end of its channel.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["Channel", "Message", "channel"]

Message = tuple[str, dict[str, Any]]

LONGEST: Final = 256 * 1024  # octets; the system does not send one that is longer
LONGEST_TEXT: Final = 4096  # characters of one fact


class Channel:
    """One end."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.is_over = False

    def fileno(self) -> int:
        """The descriptor, to watch."""
        return self._sock.fileno()

    def send(self, word: str, **facts: object) -> None:
        """Send a message; one to a process that has ended, or does not read, is lost."""
        short = {
            key: value[:LONGEST_TEXT] if isinstance(value, str) else value
            for key, value in facts.items()
        }
        with contextlib.suppress(OSError):
            self._sock.send(json.dumps([word, short]).encode("ascii"))

    def receive(self) -> Iterator[Message]:
        """Yield the messages that have come; `is_over` is set at the end of the other process."""
        while not self.is_over:
            try:
                octets = self._sock.recv(LONGEST)
            except BlockingIOError:
                return
            except OSError:
                octets = b""
            if not octets:
                self.is_over = True
                return
            word, facts = json.loads(octets)
            yield word, facts

    def close(self) -> None:
        """Close this end."""
        self._sock.close()


def channel() -> tuple[Channel, Channel]:
    """Return both ends. Raises OSError."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(one), Channel(other)
