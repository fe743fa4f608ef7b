"""What a 250 after a message promises."""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["Promise"]


class Promise(enum.Enum):
    """Where a message is before its client gets 250. The value is the word for users.

    MEMORY: it is in the memory of one process. QUORUM: in the memory of several machines. DISK: on
    one disk, synced. QUORUM_DISK: on several disks, synced. NEXT_HOP: another mail server has
    answered 2xx, and has thereby taken responsibility (RFC 5321 §6.1). REMOTE: an HTTP endpoint has
    answered 2xx, which does not state that it has stored anything.
    """

    MEMORY = "memory"
    QUORUM = "quorum"
    DISK = "disk"
    QUORUM_DISK = "quorum_disk"
    NEXT_HOP = "next_hop"
    REMOTE = "remote"

    def covers(self, required: Promise) -> bool:
        """Whether this promise is at least as strong as `required`."""
        return required is self or required in _ALSO[self]

    def weaker(self, other: Promise) -> Promise:
        """Return what is true of a message of which one part has this promise, and the rest the
        other: a body that is stored apart from its record.
        """
        if self.covers(other):
            return other
        return self if other.covers(self) else Promise.MEMORY


_ALSO: Final = {
    Promise.MEMORY: frozenset[Promise](),
    Promise.QUORUM: frozenset({Promise.MEMORY}),
    Promise.DISK: frozenset({Promise.MEMORY}),
    Promise.QUORUM_DISK: frozenset({Promise.MEMORY, Promise.QUORUM, Promise.DISK}),
    Promise.NEXT_HOP: frozenset({Promise.MEMORY, Promise.DISK}),
    Promise.REMOTE: frozenset({Promise.MEMORY}),
}
