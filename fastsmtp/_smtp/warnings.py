"""Warnings about a client or an answer: of many with one cause, one line and a count."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

from fastsmtp._log import logger
from fastsmtp.repeats import INTERVAL

__all__ = ["warn"]


def warn(dialogue: Any, cause: Hashable, text: str, *values: object) -> None:
    """Log `text % values` with session and client, and count what comes for the same `cause`."""
    warnings = dialogue.tables.warnings
    if not warnings.is_told(cause):
        logger.warning(f"%s: {text}", dialogue, *values)
        warnings.add(cause, partial(_tell_more, text, values))


def _tell_more(text: str, values: tuple[object, ...], count: int) -> None:
    logger.warning(f"{text}: %d more times in %d seconds", *values, count, INTERVAL)
