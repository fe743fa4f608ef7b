"""A message as it goes to the next hop: dots doubled, line ends checked, hops counted.

In: the octets of a message, in pieces. Out: the octets of the DATA phase (RFC 5321 §4.5.2). Raised:
`Refused` for a message that must not go there; nothing of the piece with the fault is sent.

A bare CR or LF is refused, never repaired: two servers that disagree about it can be made to see
two messages in one (SMTP smuggling), and a signature of the sender would break.
"""

from __future__ import annotations

from typing import Final

from fastsmtp.delivery.errors import Refused
from fastsmtp.delivery.relay._lines import dots_after_lines
from fastsmtp.errors import SMTPError

__all__ = ["Content"]

_FIELD: Final = b"\r\nreceived:"
_EMPTY_LINE: Final = b"\r\n\r\n"


class Content:
    """The content of one message. max_hops: fields Received that it may have (RFC 5321 §6.3).
    takes_8bit: the next hop has 8BITMIME (RFC 6152).
    """

    __slots__ = ("_ends_in_cr", "_head", "_hops", "_is_line_start", "_max_hops", "_takes_8bit")

    def __init__(self, *, max_hops: int, takes_8bit: bool) -> None:
        self._max_hops = max_hops
        self._takes_8bit = takes_8bit
        self._hops = 0
        self._head: bytes | None = b"\r\n"  # the last octets of the header; None after it
        self._is_line_start = True
        self._ends_in_cr = False

    def encode(self, piece: bytes) -> bytes:
        """Return a piece as it goes over the wire; raises Refused."""
        if not piece:
            return b""
        dots = dots_after_lines(piece, self._ends_in_cr)
        if dots < 0:
            raise _bare()
        if not self._takes_8bit and not piece.isascii():
            raise Refused(SMTPError("The next hop does not take 8-bit messages", 554, "5.6.3"))
        if self._head is not None:
            self._count_hops(piece)
        stuffed = piece.replace(b"\r\n.", b"\r\n..") if dots else piece
        if self._is_line_start and piece.startswith(b"."):
            stuffed = b"." + stuffed
        elif self._ends_in_cr and piece.startswith(b"\n."):
            stuffed = b"\n." + stuffed[1:]
        self._is_line_start = piece.endswith(b"\r\n") or (self._ends_in_cr and piece == b"\n")
        self._ends_in_cr = piece.endswith(b"\r")
        return stuffed

    def end(self) -> bytes:
        """Return the end of the DATA phase; raises Refused. A message without a CRLF at its end
        gets one, since the phase ends with a line of its own.
        """
        if self._ends_in_cr:
            raise _bare()
        return b".\r\n" if self._is_line_start else b"\r\n.\r\n"

    def _count_hops(self, piece: bytes) -> None:
        assert self._head is not None
        seen = self._head + piece
        end = seen.find(_EMPTY_LINE)
        self._head = seen[-len(_FIELD) + 1 :] if end < 0 else None
        head = seen if end < 0 else seen[: end + 2]
        self._hops += head.lower().count(_FIELD)
        if self._hops > self._max_hops:
            raise Refused(SMTPError("Too many hops, this message loops", 554, "5.4.6"))


def _bare() -> Refused:
    text = "Message contains a bare CR or LF, which the next hop cannot carry"
    return Refused(SMTPError(text, 550, "5.6.0"))
