"""How many files this process may open, and how many of them are for clients.

An admitted client needs a descriptor, and usually one more for its message; a refused one keeps its
own until it has read the reason.
"""

from __future__ import annotations

from typing import Final

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]  # mypy takes the names of modules for constants

__all__ = ["default_max_clients", "max_lingering", "open_files"]

OPEN_FILES: Final = 10_240  # OPEN_MAX of macOS, which holds even when the limit is infinite
MAX_CLIENTS: Final = 2**31 - 1  # as many as the option `max_clients` takes
# Refused clients that may stay connected for a while: at most 16, and at most one for every 64
# files that the process may open.
MAX_LINGERING: Final = 16
FILES_PER_LINGERING: Final = 64


def open_files() -> int:
    """Return how many files this process may open."""
    if resource is not None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 < soft != resource.RLIM_INFINITY:
            return soft
    return OPEN_FILES


def default_max_clients() -> int:
    """Return 0.8 of the files that this process may open; hooks need the rest."""
    return min(max(1, int(0.8 * open_files())), MAX_CLIENTS)


def max_lingering() -> int:
    """Return how many refused clients of one server may stay connected for a while."""
    return min(MAX_LINGERING, open_files() // FILES_PER_LINGERING)
