"""Clean text: what must stand in no log, no reply and no string that a hook sees."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

# Controls, what reorders or hides, and halves of characters.
UNCLEAN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Lines(logging.Handler):
    """Keeps every line of the log."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line, without its traceback."""
        self.lines.append(record.getMessage())


@contextmanager
def clean_log() -> Iterator[None]:
    """Look at every line that is logged at any level."""
    logger = logging.getLogger("fastsmtp")
    level, propagate, handler = logger.level, logger.propagate, Lines()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
    for line in handler.lines:
        assert not UNCLEAN.search(line), repr(line)
        assert len(line) <= 1024, line
