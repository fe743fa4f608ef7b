"""Framing: octets in; command and AUTH lines, mail data and BDAT chunks out.

`Parser.feed` takes the octets of a read, `next_event` returns one event per call. Between two calls
`expect_auth_line`, `expect_mail_data`, `expect_chunk` or `skip_octets` set the meaning of the next
octets; otherwise they begin a command line.

No input of a peer raises: malformed input is a `Fault`. The events do not depend on how the octets
were cut into feeds, except that a body is cut into different pieces.

RFC 5321 §2.3.7, §2.3.8, §4.1.1.4, §4.5.2; RFC 3030 §2; RFC 4954 §4.
"""

from enum import IntEnum
from typing import Final, Self, final

def scanners() -> tuple[str, ...]:
    """Return the names of the scanners of content that this processor can run, the best first.

    The first one is in use. There is one for each instruction set, and "portable".
    """

def use_scanner(name: str) -> None:
    """Use this one of `scanners()` in all parsers: for tests and measurements.

    All give the same results. Raises ValueError for another name.
    """

class Verb(IntEnum):
    """The verb of a command line (RFC 5321 §4.1.1 and extensions).

    UNKNOWN is everything that is not in this list, an empty line too; HTTP is any HTTP method:
    GET HEAD POST PUT PATCH DELETE TRACE CONNECT OPTIONS PRI. AUTH_LINE is not a verb but the line
    after a 334 (`expect_auth_line`).
    """

    UNKNOWN = 0
    HELO = 1
    EHLO = 2
    LHLO = 3
    MAIL = 4
    RCPT = 5
    DATA = 6
    BDAT = 7
    RSET = 8
    NOOP = 9
    VRFY = 10
    HELP = 11
    QUIT = 12
    AUTH = 13
    STARTTLS = 14
    XCLIENT = 15
    XFORWARD = 16
    EXPN = 17
    SEND = 18
    SOML = 19
    SAML = 20
    TURN = 21
    ETRN = 22
    PROXY = 23
    HTTP = 24
    AUTH_LINE = 25

class FaultKind(IntEnum):
    """What is wrong with the octets.

    LINE_TOO_LONG and AUTH_LINE_TOO_LONG come at the CR LF of the line, CONTROL_CHARACTER in place
    of its command; the next line is read normally. After the others the parser is dead: it drops
    everything that is fed, and always returns None.
    """

    LINE_TOO_LONG = 1
    """Longer than `max_command_length`, CR LF included (RFC 5321 §4.5.3.1.4)."""
    LINE_ENDLESS = 2
    """No CR LF within 16 times the limit of the line."""
    BARE_LF = 3
    """An LF without a CR before it, anywhere in a command line (RFC 5321 §2.3.8)."""
    CONTROL_CHARACTER = 4
    """0x00-0x1F except TAB, 0x7F, or a CR without an LF after it."""
    FOREIGN_PROTOCOL = 5
    """The very first octet is 0x00, 0x03 or 0x16: TLS, or something else that is not SMTP."""
    TOO_MUCH_DATA = 6
    """The body has more octets than `drop_limit`."""
    AUTH_LINE_TOO_LONG = 7
    """A line that begins `AUTH `, or a line after a 334, has more than 12288 octets before CR LF
    (RFC 4954 §4).
    """

@final
class Command:
    """A well-formed command line: ended by CR LF, short enough, without control octets except TAB.

    Made by `Parser` only; not compared by value.
    """

    @property
    def verb(self) -> int:
        """A value of `Verb`; a plain int, because that is several times faster to read."""
    @property
    def argument(self) -> bytes:
        """The octets after the one SP or TAB that ends the verb, without trailing SP and TAB; of an
        AUTH_LINE the whole line.
        """
    @property
    def word(self) -> bytes:
        """The verb as sent, at most 128 octets, if `verb` is UNKNOWN or HTTP; else b""."""

@final
class Fault:
    """Malformed input. Made by `Parser` only."""

    @property
    def kind(self) -> int:
        """A value of `FaultKind`."""

@final
class Signal:
    """The end of data or of a chunk; the two objects are compared by identity."""

END_OF_DATA: Final[Signal]
"""The line with a single dot was read (RFC 5321 §4.1.1.4); commands follow."""
END_OF_CHUNK: Final[Signal]
"""All octets of `expect_chunk` or `skip_octets` were read (RFC 3030 §2); commands follow."""

@final
class Parser:
    """The octets of one connection as events.

    `max_command_length`: octets of a command line, CR LF included, 8 or more. ValueError if less.
    """

    def __new__(cls, max_command_length: int = 2048) -> Self: ...
    def feed(self, data: bytes) -> None:
        """Take the octets of one read; `data` is kept until they are consumed.

        Raises TypeError for anything except bytes. An empty read is allowed.
        """
    def next_event(self) -> Command | Fault | Signal | bytes | None:
        """Return the next event of the fed octets, or None when more are needed.

        Bytes are a piece of the body: never empty, dots removed, cut at the message's limits; the
        same object that was fed if all of it is body and nothing had to change. No input of a peer
        raises. RFC 5321 §2.3.8, §4.5.2; RFC 3030 §2.
        """
    def begin_message(self, size: int, drop_limit: int, normalize: bool) -> None:
        """Start a message: set its limits, forget the facts of the last one.

        `size`: the most octets that are returned, then `size_exceeded` (RFC 1870); 0: no limit.
        `drop_limit`: beyond it the fault TOO_MUCH_DATA; 0: no limit. Both count like `body_octets`.
        `normalize`: a bare LF is returned as CR LF, a bare CR as a space; else both unchanged. More
        than the smaller limit is never returned. Raises ValueError for a negative number.
        """
    def expect_auth_line(self) -> None:
        """Read the client's answer to a 334 next: one line of at most 12288 octets before CR LF.

        It comes as a `Command` with the verb AUTH_LINE, or as a `Fault`; commands follow. RFC 4954
        §4. Raises RuntimeError while other content is due.
        """
    def expect_mail_data(self) -> None:
        """Read DATA content next, as if CR LF had just been seen, up to the line with one dot.

        A dot at the start of a line is removed. Raises RuntimeError while other content is due.
        """
    def expect_chunk(self, octets: int, last: bool) -> None:
        """Read `octets` octets of BDAT content next: unchanged, no dots, no end marker.

        A CR and its LF may be in two chunks. `last`: the message ends with this chunk, so a CR at
        its end is bare. Raises ValueError for a negative number, RuntimeError while other content
        is due.
        """
    def skip_octets(self, octets: int) -> None:
        """Drop the next `octets` octets without a scan: a refused chunk. The facts of the message
        remain.

        Raises ValueError for a negative number, RuntimeError while content is due.
        """
    def discard_body(self) -> None:
        """Scan the rest of this message for its facts and its end, but return no more of it."""
    def clear(self) -> None:
        """Forget the buffered octets and the state of an unfinished command line."""
    lf_ends_lines: bool
    """Whether an LF without CR ends a command or AUTH line too, instead of the fault BARE_LF.

    It has no effect on mail data. False at first; may be changed between two calls of `next_event`.
    """
    @property
    def buffered(self) -> int:
        """Octets fed and not yet consumed."""
    @property
    def payload_octets(self) -> int:
        """Raw octets of DATA and BDAT content consumed on this connection, skipped ones too."""
    @property
    def body_octets(self) -> int:
        """Octets of this message so far: dots removed, before normalising, without the dot line."""
    @property
    def size_exceeded(self) -> bool:
        """Whether the message has more octets than its `size`."""
    @property
    def bare_newline(self) -> bool:
        """Whether a CR without LF, or an LF without CR, was seen (RFC 5321 §2.3.8)."""
    @property
    def has_nul(self) -> bool:
        """Whether an octet 0x00 was seen."""
    @property
    def has_8bit(self) -> bool:
        """Whether an octet of 0x80 or more was seen."""
    @property
    def longest_line(self) -> int:
        """Octets of the longest line, CR LF not counted, dots removed, before normalising.

        Lines end at CR LF only. An unfinished line does not count, except the last line of a last
        chunk. Final only at the end of the message.
        """
