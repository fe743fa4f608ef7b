"""Replies of a server: octets in, codes out. A server may send anything; memory is bounded."""

from __future__ import annotations

from typing import Final

__all__ = ["BadReply", "ReplyReader"]

MAX_LINE: Final = 4096  # octets; RFC 5321 §4.5.3.1.5 has 512
MAX_LINES: Final = 256  # of one reply
MAX_REPLY: Final = 65536  # octets of the lines of one reply

# The first four octets of a line, RFC 5321 §4.2.1; a line may end after its code.
_LAST: Final = {
    b"%d%b" % (code, end): code for code in range(200, 600) for end in (b" ", b"\r", b"\n")
}
_MORE: Final = {b"%d-" % code: code for code in range(200, 600)}


class BadReply(Exception):
    """What came is not a reply. The text says what is wrong with it."""


class ReplyReader:
    """Reads the replies of one connection. `lines`: those of the last reply, without line ends."""

    __slots__ = ("_at", "_code", "_octets", "_size", "lines")

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self._octets = b""
        self._at = 0  # where the next line begins
        self._code = 0  # of the reply whose first lines were read
        self._size = 0  # of these lines

    def feed(self, octets: bytes) -> None:
        """Take what the server sent; read it with `next_code` before more is fed."""
        rest = self._octets[self._at :]
        self._octets = rest + octets if rest else octets
        self._at = 0

    @property
    def is_empty(self) -> bool:
        """Whether all octets that were fed belong to replies that were returned."""
        return self._at == len(self._octets) and not self._code

    def next_code(self) -> int:
        """Return the code of the next whole reply, 0 if there is none; raises BadReply."""
        while True:
            at, octets = self._at, self._octets
            end = octets.find(b"\n", at)
            if end - at > MAX_LINE or (end < 0 and len(octets) - at > MAX_LINE):
                raise BadReply(f"a line of more than {MAX_LINE} octets")
            if end < 0:
                return 0
            self._at = end + 1
            start = octets[at : at + 4]
            code = _LAST.get(start)
            if not self._code:
                self.lines = []
                self._size = 0
            self.lines.append(octets[at:end].removesuffix(b"\r"))
            if code is not None and self._code in (0, code):
                self._code = 0
                return code
            self._continue(_MORE.get(start), end - at)

    def _continue(self, code: int | None, size: int) -> None:
        """Take a line with which its reply does not end."""
        if code is None or self._code not in (0, code):
            raise BadReply("not a reply")
        self._code = code
        self._size += size
        if len(self.lines) >= MAX_LINES or self._size > MAX_REPLY:
            raise BadReply("a reply without an end")
