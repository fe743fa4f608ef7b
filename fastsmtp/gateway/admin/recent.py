"""The latest refusals of a process, in memory that another process can read.

A ring of slots of fixed size, each with the time, a length and JSON. The reader drops a slot that
is being written: its JSON is not whole, or its length does not fit.
"""

from __future__ import annotations

import json
import struct
import time
from typing import Any, Final

__all__ = ["Recent"]

SLOTS: Final = 32
SLOT: Final = 512  # octets
MAX_FIELD: Final = 64  # characters of one field
ENOUGH: Final = 16  # characters of one field, below which notes of hooks are left out instead
_NOTE: Final = "note_"  # begins their names
_HEAD: Final = struct.Struct("<dI")


class Recent:
    """memory: at least `Recent.SIZE` octets, with zeroes at first."""

    SIZE: Final = SLOTS * SLOT

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._next = 0

    def add(self, fields: dict[str, str]) -> None:
        """Put a refusal in the place of the oldest one."""
        short = {name: value[:MAX_FIELD] for name, value in fields.items() if value}
        octets = json.dumps(short, separators=(",", ":")).encode()
        while len(octets) > SLOT - _HEAD.size:  # non-ASCII characters take six octets each
            _shorten(short)
            octets = json.dumps(short, separators=(",", ":")).encode()
        start = self._next * SLOT
        self._next = (self._next + 1) % SLOTS
        self._memory[start : start + _HEAD.size] = bytes(_HEAD.size)
        self._memory[start + _HEAD.size : start + _HEAD.size + len(octets)] = octets
        _HEAD.pack_into(self._memory, start, time.time(), len(octets))

    def read(self) -> list[dict[str, Any]]:
        """Return all refusals, each with its time, the newest first."""
        found = []
        for start in range(0, self.SIZE, SLOT):
            moment, length = _HEAD.unpack_from(self._memory, start)
            if 0 < length <= SLOT - _HEAD.size:
                octets = bytes(self._memory[start + _HEAD.size : start + _HEAD.size + length])
                try:
                    found.append({"time": moment, **json.loads(octets)})
                except ValueError:
                    continue
        return sorted(found, key=lambda each: each["time"], reverse=True)


def _shorten(fields: dict[str, str]) -> None:
    """Shorten the longest field, or leave a note out: the names of notes take room, too."""
    longest = max(fields, key=lambda name: len(fields[name]))
    notes = [name for name in fields if name.startswith(_NOTE)]
    if notes and len(fields[longest]) <= ENOUGH:
        del fields[notes[-1]]
    else:
        fields[longest] = fields[longest][: len(fields[longest]) // 2]
