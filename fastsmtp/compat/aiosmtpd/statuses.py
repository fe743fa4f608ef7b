"""Reads the answers of hooks: `"250 OK"`, `"550 no such user"`.

In: what a hook has returned. Out: the text of an acceptance, or an exception: `SMTPError` for a
refusal, TypeError and ValueError for an answer that is neither, which the engine makes a failure.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from fastsmtp import SMTPError

__all__ = ["Status", "accepted", "parse", "refusal"]


class Status(NamedTuple):
    """A reply: its code, and its text, whose lines end with LF."""

    code: int
    text: str


def parse(hook: str, status: object) -> Status:
    """Return the reply that `hook` has answered with. Raises TypeError and ValueError for an answer
    that is not a reply.
    """
    if isinstance(status, bytes):
        status = status.decode("utf-8", "surrogateescape")
    if not isinstance(status, str):
        raise TypeError(f"{hook} returned {type(status)}, not a reply such as '250 OK'")
    lines = [re.fullmatch(r"([2-5][0-9]{2})(?:[ -](.*))?", line) for line in status.splitlines()]
    found = [line for line in lines if line is not None]
    if not found or len(found) < len(lines) or len({line[1] for line in found}) > 1:
        raise ValueError(f"{hook} returned {status[:60]!r}, which does not begin with a reply code")
    return Status(int(found[0][1]), "\n".join(line[2] or "" for line in found))


def accepted(hook: str, status: object) -> str:
    """Return the text of an acceptance, any 2xx; raises what the head of this module says."""
    code, text = parse(hook, status)
    if code >= 400:
        raise SMTPError(text, code)
    if code >= 300:
        raise ValueError(f"{hook} returned the reply code {code}: it has to accept or refuse")
    return text


def refusal(hook: str, status: object) -> SMTPError:
    """Return the refusal that `status` is; raises ValueError where it is none."""
    code, text = parse(hook, status)
    if code < 400:
        raise ValueError(f"{hook} returned the reply code {code} for what has failed")
    return SMTPError(text, code)
