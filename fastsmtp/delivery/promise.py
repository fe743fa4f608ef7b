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
        """Return the strongest promise that both include: what is true of a message of which one
        part has this promise, and the rest the other, such as a body that is stored apart from its
        record.
        """
        both = [each for each in Promise if self.covers(each) and other.covers(each)]
        return next(each for each in both if all(map(each.covers, both)))


_ALSO: Final = {
    Promise.MEMORY: frozenset[Promise](),
    Promise.QUORUM: frozenset({Promise.MEMORY}),
    Promise.DISK: frozenset({Promise.MEMORY}),
    Promise.QUORUM_DISK: frozenset({Promise.MEMORY, Promise.QUORUM, Promise.DISK}),
    Promise.NEXT_HOP: frozenset({Promise.MEMORY, Promise.DISK}),
    Promise.REMOTE: frozenset({Promise.MEMORY}),
}
