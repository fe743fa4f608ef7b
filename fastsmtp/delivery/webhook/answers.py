"""What the answer of an endpoint means for the message.

2xx: it has the message, except for the `recipients` that its body of JSON refuses, each with a
reply as below. 4xx with a body of JSON that has `code`, from 400 to 599: the reply for the client,
with `text` and `enhanced_code` if it has them. A few others are permanent by themselves. All the
rest is tried again: an endpoint that is being set up or moved must not make mail bounce.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Final

from fastsmtp.delivery.errors import Refused, TooLarge, Unavailable, Unclear
from fastsmtp.delivery.sink import Fate, Receipt
from fastsmtp.errors import SMTPError
from fastsmtp.log_text import escaped

__all__ = ["ANSWER", "MOST_WAIT", "outcome_of", "seconds_to_wait", "without_query"]

ANSWER: Final = 16 * 1024  # octets of an answer that are read
LONGEST_TEXT: Final = 300  # characters of a text for the client, which needs one line of a reply
MOST_WAIT: Final = 300.0  # seconds that Retry-After may ask for
_ENHANCED_CODE: Final = re.compile(r"[45]\.\d{1,3}\.\d{1,3}")
_CLOSES: Final = 421  # a reply that ends the connection with the client
_TEMPORARY: Final = 451
# These say certainly that the message was not taken.
_NOT_TAKEN: Final = frozenset({401, 403, 404, 405, 407, 408, 410, 421, 425, 426, 429})
_PERMANENT: Final = {
    406: SMTPError("Message was refused by its destination", 550, "5.7.1"),
    431: SMTPError("Too many recipients", 554, "5.5.3"),
}


def outcome_of(
    status: int, body: bytes, location: str, addresses: Sequence[str]
) -> Receipt | Refused | TooLarge | Unavailable | Unclear:
    """Return the receipt for an answer of 2xx, otherwise why the message was not delivered.

    body: the first ANSWER octets of it. location: of a redirect, "" without one. addresses: of the
    recipients.
    """
    if 200 <= status < 300:
        return _fates_in(status, body, addresses)
    if 300 <= status < 400:
        where = _shown(without_query(location))
        return Unavailable(f"HTTP {status}, a redirect to {where}: it is not followed")
    reason = f"HTTP {status}: {_shown(body.decode('utf-8', 'replace'))}"
    if 400 <= status < 500:
        refusal = _refusal_in(_members_of(body)) or _PERMANENT.get(status)
        if refusal is not None:
            return Refused(refusal, reason)
        if status == 413:
            return TooLarge(reason)
    return (Unavailable if status in _NOT_TAKEN else Unclear)(reason)


def seconds_to_wait(retry_after: str) -> float:
    """Return what Retry-After asks for (RFC 9110 §10.2.3), at most MOST_WAIT; 0 for nonsense."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MOST_WAIT)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, seconds), MOST_WAIT)


def without_query(location: str) -> str:
    """Return a URL as it may be shown: its query may be secret."""
    return re.split("[?#]", location, maxsplit=1)[0]


def _fates_in(status: int, body: bytes, addresses: Sequence[str]) -> Receipt | Unclear:
    """Return a fate for each recipient if the body refuses some, otherwise one for all."""
    if len(body) >= ANSWER and b'"recipients"' in body:
        return Unclear(f"HTTP {status}: the answer has recipients, and more than {ANSWER} octets")
    found = _members_of(body).get("recipients")
    refused: dict[str, Fate] = {}
    for address, members in found.items() if isinstance(found, dict) else ():
        reply = _refusal_in(members)
        if reply is not None:
            refused[address] = Refused(reply, f"HTTP {status}: {_shown(json.dumps(members))}")
    if not refused.keys() & set(addresses):
        return str(status)
    return [refused.get(address, str(status)) for address in addresses]


def _members_of(body: bytes) -> dict[str, Any]:
    """Return the object of JSON that a body is, {} for anything else."""
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refusal_in(found: Any) -> SMTPError | None:
    code = found.get("code") if isinstance(found, dict) else None
    if not isinstance(code, int) or isinstance(code, bool) or not 400 <= code <= 599:
        return None
    text, enhanced = found.get("text"), found.get("enhanced_code")
    is_valid = isinstance(enhanced, str) and _ENHANCED_CODE.fullmatch(enhanced) is not None
    return SMTPError(
        _one_line(text) if isinstance(text, str) else "",
        _TEMPORARY if code == _CLOSES else code,
        enhanced if is_valid else None,
    )


def _one_line(text: str) -> str:
    """Return text as a reply may have it: printable ASCII (RFC 5321 §4.2)."""
    words = text[:LONGEST_TEXT].encode("ascii", "replace").decode("ascii").split()
    return " ".join("".join(c for c in word if c.isprintable()) for word in words)


def _shown(text: str) -> str:
    return escaped(text, LONGEST_TEXT, plain=" ")
