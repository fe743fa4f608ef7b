"""Replies of the next hop, made safe, and the errors that they become.

A next hop may send anything. `ReplyReader` bounds what is read; here the text is bounded again and
cleared of control characters before it goes into a reply of ours or a log.
"""

from __future__ import annotations

import re
from typing import Final

from fastsmtp.delivery.errors import DeliveryError, Refused, Unavailable
from fastsmtp.errors import SMTPError

__all__ = ["HopLost", "HopReply", "OpeningFailed", "refusal_of"]

MAX_LINES: Final = 8  # of a text that is passed on
MAX_LINE: Final = 480  # characters of each of them

_ENHANCED: Final = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: +|$)")
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_CLOSING: Final = 421
# Replies to us, not to the client whose message it is: the next hop wants TLS or a login.
_FOR_US: Final = frozenset({530, 534, 535, 538})


class HopLost(Unavailable):
    """The connection to the next hop has ended, or is of no use any more; the text says why. Before
    the end of a message nothing of it is there; after it the error is `Unclear`.
    """


class OpeningFailed(Unavailable):
    """There is no connection to the next hop; the text says why. setting: what an operator has to
    change, "" if that is not it. is_crowded: it has enough connections for now.
    """

    def __init__(self, reason: str, setting: str = "", *, is_crowded: bool = False) -> None:
        super().__init__(reason)
        self.setting = setting
        self.is_crowded = is_crowded


class HopReply:
    """One reply. code: 200 to 599. lines: as they came. enhanced_code: "" if it has none of the
    code's class (RFC 2034 §4). text: LF between its lines.
    """

    __slots__ = ("code", "enhanced_code", "lines", "text")

    def __init__(self, code: int, lines: list[bytes]) -> None:
        self.code = code
        self.lines = lines
        self.enhanced_code = ""
        texts = [_text_of(line) for line in lines[:MAX_LINES]]
        found = _ENHANCED.match(texts[0])
        if found is not None:
            if found[1][0] == str(code)[0]:
                self.enhanced_code = found[1]
            texts = [_ENHANCED.sub("", text, count=1) if text else text for text in texts]
        self.text = "\n".join(texts)

    @property
    def is_positive(self) -> bool:
        """Whether it accepts."""
        return self.code < 300

    @property
    def closes(self) -> bool:
        """Whether the next hop closes the connection (RFC 5321 §3.8)."""
        return self.code == _CLOSING

    def __str__(self) -> str:
        words = (str(self.code), self.enhanced_code, self.text.replace("\n", " / "))
        return " ".join(filter(None, words))


def _text_of(line: bytes) -> str:
    """Return the text after the code of one line."""
    return _CONTROLS.sub("?", line[4 : 4 + 4 * MAX_LINE].decode("utf-8", "replace")[:MAX_LINE])


def refusal_of(reply: HopReply, place: str) -> DeliveryError:
    """Return the error for a reply that does not accept: the same code, enhanced code and text.

    421 becomes 451, since only the connection to the next hop ends, not that of our client.
    `Unavailable` for replies that concern us and not the message, and for those that make no sense.
    """
    code = reply.code
    if code < 400 or code in _FOR_US:
        return Unavailable(f"{place}: unexpected reply {reply}")
    enhanced = reply.enhanced_code or None
    if code == _CLOSING:
        code, enhanced = 451, enhanced or "4.3.2"
    return Refused(SMTPError(reply.text, code, enhanced), f"{place}: {reply}")
