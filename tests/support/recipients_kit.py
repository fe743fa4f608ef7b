"""Lists of recipients of which some are refused, as large senders have them: the name of each says
what becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastsmtp import SMTPError

__all__ = ["LONG", "answer_by_name", "mixed", "named"]

LONG: Final = "x" * 300  # makes many replies more than one TLS record


def named(kind: str, count: int) -> list[str]:
    """Return `count` recipients. kind: "deferred", "failed", anything else: accepted."""
    return [f"{kind}{number}@y.example" for number in range(count)]


def mixed(*lists: list[str]) -> list[str]:
    """All recipients of `lists`, evenly mixed."""
    placed = [((place + 0.5) / len(one), name) for one in lists for place, name in enumerate(one)]
    return [name for _, name in sorted(placed)]


def answer_by_name(address: Any, session: Any, callback: Callable[..., object]) -> None:
    """Take, defer or refuse a recipient, as its name says."""
    if address.local_part.startswith("deferred"):
        callback(SMTPError(f"later {LONG}", 450))
    elif address.local_part.startswith("failed"):
        callback(SMTPError(f"unknown {LONG}", 550))
    else:
        callback()
