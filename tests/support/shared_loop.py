"""One loop for all runs of a test file: thousands of runs would open as many selectors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastsmtp.testing import VirtualLoop

_loops: list[VirtualLoop] = []
uncaught: list[dict[str, Any]] = []  # what a callback of the shared loop has raised: nothing


def shared_loop() -> VirtualLoop:
    """The loop, made at the first call."""
    if not _loops:
        _loops.append(VirtualLoop())
        _loops[0].set_exception_handler(lambda loop, context: uncaught.append(context))
    return _loops[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Hooks that fail on purpose, a million times, are not worth a line of log each."""
    logger = logging.getLogger("fastsmtp")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def close_shared_loop() -> None:
    """The file is done."""
    while _loops:
        _loops.pop().close()
    uncaught.clear()
