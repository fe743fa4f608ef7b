"""The octets that clients send: commands, and messages of any size that take no more memory."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from email.utils import formatdate
from itertools import count
from typing import Final

from fastsmtp.gateway.bench.plan import Plan

__all__ = ["DATA", "END", "QUIT", "RSET", "STARTTLS", "Script"]

DATA: Final = b"DATA\r\n"
RSET: Final = b"RSET\r\n"
STARTTLS: Final = b"STARTTLS\r\n"
QUIT: Final = b"QUIT\r\n"
END: Final = b".\r\n"  # after a line end

_LINE: Final = b"x" * 76 + b"\r\n"
# Larger messages are written in pieces of this many lines, all of them the same object.
_LINES_OF_A_PIECE: Final = 3360  # 256 KiB
_PIECE: Final = _LINE * _LINES_OF_A_PIECE


class Script:
    """What a plan sends. octets: the size of each message, header and body.

    Every message has a Message-ID of its own, because some servers store a message only once.
    """

    def __init__(self, plan: Plan) -> None:
        verb = "LHLO" if plan.target.lmtp else "EHLO"
        self.greeting = f"{verb} {plan.helo}\r\n".encode()
        self.mail = f"MAIL FROM:<{plan.sender}>\r\n".encode()
        self.rcpts = tuple(f"RCPT TO:<{each}>\r\n".encode() for each in plan.recipients)
        self.envelope = b"".join((self.mail, *self.rcpts, DATA))
        self._numbers = count(1)
        self._before_number, self._header = _header(plan)
        head = len(self._before_number) + _DIGITS + len(self._header)
        first, self._lines = divmod(max(0, plan.octets - head), len(_LINE))[::-1]
        if first == 1:  # a line has two octets for its end
            first, self._lines = (first + len(_LINE), self._lines - 1) if self._lines else (0, 0)
        if first:
            self._header += b"x" * (first - 2) + b"\r\n"
            head += first
        self.octets = head + self._lines * len(_LINE)
        self.is_small = self._lines <= _LINES_OF_A_PIECE
        if self.is_small:
            self._header += _LINE * self._lines

    def whole(self, after: bytes) -> bytes:
        """Return the next message, a small one, with its end, and the commands that go with it."""
        number = next(self._numbers)
        return b"%b%012d%b.\r\n%b" % (self._before_number, number, self._header, after)

    def pieces(self, after: bytes) -> Iterator[bytes]:
        """Return the next message likewise, of any size, in pieces."""
        yield b"%b%012d%b" % (self._before_number, next(self._numbers), self._header)
        whole, rest = divmod(self._lines, _LINES_OF_A_PIECE)
        for _ in range(whole):
            yield _PIECE
        yield b"%b.\r\n%b" % (_LINE * rest, after)


_DIGITS: Final = 12  # of the number in a Message-ID


def _header(plan: Plan) -> tuple[bytes, bytes]:
    """The header up to the number in its Message-ID, and the rest."""
    sender = plan.sender or "<>"
    before = (
        f"From: {sender if plan.sender else 'MAILER-DAEMON'}\r\n"
        f"To: {plan.recipients[0]}\r\n"
        f"Date: {formatdate(localtime=True)}\r\n"
        "Subject: sent by fastsmtp bench\r\n"
        f"Message-ID: <{secrets.token_hex(4)}."
    )
    return before.encode(), f"@{plan.helo.strip('[]')}>\r\n\r\n".encode()
