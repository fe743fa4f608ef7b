"""Calls of foreign code that have held the event loop: counted, and told once, by name."""

from __future__ import annotations

from math import inf
from typing import Final

from fastsmtp._counts.families import cell
from fastsmtp._counts.tally import Tally
from fastsmtp._log import logger

__all__ = ["STALL", "Stalls"]

_STALLS: Final = cell("loop_stalls_total")

STALL: Final = 1.0  # seconds of one call after which it is logged


class Stalls:
    """The stalls of one server. tally: where they are counted.

    Calls are nested: a hook may answer, which calls the next hook. The innermost one that was too
    long is told, because it ends first; those around it were not too long by themselves.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._told_until = -inf

    def tell(self, began: float, ended: float, who: str, connection: object = None) -> None:
        """Tell of a call if it was too long. who: the name of a hook, "" if unknown. connection:
        its str names session and client; None if unknown.
        """
        if ended - began <= STALL or began < self._told_until:
            return
        self._told_until = ended
        self._tally.add(_STALLS)
        start, facts = ("", ()) if connection is None else ("%s: ", (connection,))
        text = f"{start}%s held the event loop for %.1f s"
        logger.warning(text, *facts, who or "something other than a hook", ended - began)
