"""The lines of the log, in each of its formats: text for people, logfmt and JSON for programs.

In: a moment, the name of the process, and a record, a text or an outcome. Out: whole lines, whose
texts are escaped and bounded, with their ends.
"""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
from functools import lru_cache
from typing import Final

from fastsmtp.log_text import escaped
from fastsmtp.transactions import Outcome, quoted

__all__ = ["FORMS", "MAX_LINE", "of_outcome", "of_record", "of_text"]

FORMS: Final = ("text", "logfmt", "json")
MAX_LINE: Final = 3500  # characters of a whole line: a few texts of peers and their names
MAX_TRACEBACK: Final = 16384  # characters
_PLAIN: Final = " \\"  # allowed in our own lines, escaped in texts of peers
_BREAKS: Final = re.compile(r"[\r\n]+")


def of_record(record: logging.LogRecord, name: str, form: str) -> str:
    """Return a record: one line; as text, a traceback adds more lines, which are indented."""
    # Our own lines are escaped already; this is for lines of other code.
    text = escaped(record.getMessage(), MAX_LINE, plain=_PLAIN)
    level = record.levelname.lower()
    trace: list[str] = []
    if record.exc_info and record.exc_info[1] is not None:
        # Only the end, which has the reason: a RecursionError has a thousand frames.
        whole = "".join(traceback.format_exception(record.exc_info[1]))[-MAX_TRACEBACK:]
        trace = [escaped(line, MAX_LINE, plain=_PLAIN) for line in _BREAKS.split(whole) if line]
    if form == "text":
        words = f"{level}: " if record.levelno >= logging.WARNING else ""
        lines = [f"{_time(record.created)} {name}: {words}{text}"]
        lines += [f"    {line}" for line in trace]
        return "".join(f"{line}\n" for line in lines)
    return _of_pairs(record.created, name, form, level, text, trace)


def of_text(moment: float, text: str, name: str, form: str, level: str = "info") -> str:
    """Return a text of ours, which may contain texts of peers that are escaped."""
    text = escaped(text, MAX_LINE, plain=_PLAIN)
    if form == "text":
        words = "" if level == "info" else f"{level}: "
        return f"{_time(moment)} {name}: {words}{text}\n"
    return _of_pairs(moment, name, form, level, text, [])


def of_outcome(moment: float, outcome: Outcome, name: str, form: str) -> str:
    """Return the lines of an outcome."""
    if form == "text":
        start = f"{_time(moment)} {name}: "
        # Its texts are escaped: only a line that is too long needs another look.
        return "".join(
            [
                f"{start}{line if len(line) <= MAX_LINE else escaped(line, MAX_LINE, _PLAIN)}\n"
                for line in outcome.lines(form)
            ]
        )
    if form == "json":
        start = json.dumps({"time": round(moment, 3), "process": name})[:-1]
        return "".join(f"{start}, {line[1:]}\n" for line in outcome.lines(form))
    start = f"time={moment:.3f} process={name} "
    return "".join(f"{start}{line}\n" for line in outcome.lines(form))


def _of_pairs(moment: float, name: str, form: str, level: str, text: str, trace: list[str]) -> str:
    more = {"trace": " / ".join(trace)} if trace else {}
    if form == "json":
        found = {"time": round(moment, 3), "process": name, "level": level, "message": text}
        return f"{json.dumps(found | more)}\n"
    pairs = {"level": level, "message": text} | more
    words = " ".join(f"{key}={quoted(value)}" for key, value in pairs.items())
    return f"time={moment:.3f} process={name} {words}\n"


def _time(moment: float) -> str:
    milliseconds = int(moment * 1000)
    return f"{_second(milliseconds // 1000)},{milliseconds % 1000:03}"


@lru_cache(2)
def _second(moment: int) -> str:
    # Digits only: no names of days or months that a locale could change.
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
