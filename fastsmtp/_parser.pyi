"""Framing: octets in; command and AUTH lines, mail data and BDAT chunks out.

A `Parser` is fed what a read has brought and then asked, one event per call. What the next octet
means is said between two calls (`expect_auth_line`, `expect_mail_data`, `expect_chunk`,
`skip_octets`); without that it begins a command line.

Nothing that a peer sends raises: what is wrong comes as a `Fault`. The events do not depend on how
the octets were cut into feeds, except where a body is cut into pieces.

RFC 5321 §2.3.7, §2.3.8, §4.1.1.4, §4.5.2; RFC 3030 §2; RFC 4954 §4.
"""

from enum import IntEnum
from typing import Final, Self, final

def scanners() -> tuple[str, ...]:
    """Return the names of the scanners of content that this processor can run, the best first.

    The first one is in use. There is one for each instruction set, and "portable".
    """

def use_scanner(name: str) -> None:
    """Scan content by this one of `scanners()`, in all parsers: for tests and measurements.

    Every one does the same. Raises ValueError for another name.
    """

class Verb(IntEnum):
    """The verb of a command line (RFC 5321 §4.1.1 and extensions).

    UNKNOWN is everything that is not in this list, an empty line too; HTTP is any HTTP method:
    GET HEAD POST PUT PATCH DELETE TRACE CONNECT OPTIONS PRI. AUTH_LINE is no verb, it is the line
    behind a 334 (`expect_auth_line`).
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
    of its command; the next line is read as if nothing had been. After the others the parser is
    dead: it drops all that is fed and answers None for ever.
    """

    LINE_TOO_LONG = 1
    """Longer than `max_command_length`, CR LF included (RFC 5321 §4.5.3.1.4)."""
    LINE_ENDLESS = 2
    """No CR LF in 16 times as many octets as the line may have."""
    BARE_LF = 3
    """An LF without a CR before it, anywhere in a command line (RFC 5321 §2.3.8)."""
    CONTROL_CHARACTER = 4
    """0x00-0x1F but TAB, 0x7F, or a CR without an LF behind it."""
    FOREIGN_PROTOCOL = 5
    """The very first octet is 0x00, 0x03 or 0x16: TLS, or something else that is not SMTP."""
    TOO_MUCH_DATA = 6
    """The body has more octets than `drop_limit`."""
    AUTH_LINE_TOO_LONG = 7
    """A line that begins `AUTH `, or one behind a 334, has more than 12288 octets before CR LF
    (RFC 4954 §4).
    """

@final
class Command:
    """A command line in good form: ended by CR LF, short enough, without control octets but TAB.

    Made by `Parser` only; not compared by value.
    """

    @property
    def verb(self) -> int:
        """A value of `Verb`; a plain int, because that is several times faster to read."""
    @property
    def argument(self) -> bytes:
        """All behind the one SP or TAB that ends the verb, without trailing SP and TAB; of an
        AUTH_LINE all there is.
        """
    @property
    def word(self) -> bytes:
        """The verb as sent, at most 128 octets, if `verb` is UNKNOWN or HTTP; else b""."""

@final
class Fault:
    """Octets that are not what they should be. Made by `Parser` only."""

    @property
    def kind(self) -> int:
        """A value of `FaultKind`."""

@final
class Signal:
    """An end that was reached; the two that exist are compared by identity."""

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

        TypeError for anything but bytes. An empty read is fine.
        """
    def next_event(self) -> Command | Fault | Signal | bytes | None:
        """Return what the fed octets mean next, or None when more are needed.

        Bytes are a piece of the body: never empty, dots removed, cut at the message's limits; the
        very object that was fed if all of it is body and nothing had to change. Raises nothing for
        what the peer sends. RFC 5321 §2.3.8, §4.5.2; RFC 3030 §2.
        """
    def begin_message(self, size: int, drop_limit: int, normalize: bool) -> None:
        """Start a message: set its limits, forget the facts of the last one.

        `size`: so many octets are handed out at most, then `size_exceeded` (RFC 1870); 0: no limit.
        `drop_limit`: beyond it the fault TOO_MUCH_DATA; 0: no limit. Both count as `body_octets`.
        `normalize`: a bare LF is handed out as CR LF, a bare CR as a space; else both as they are.
        More than the smaller limit is never handed out. ValueError for a negative number.
        """
    def expect_auth_line(self) -> None:
        """Read the client's answer to a 334 next: one line of at most 12288 octets before CR LF.

        It comes as a `Command` with the verb AUTH_LINE, or as a `Fault`; commands follow. RFC 4954
        §4. RuntimeError while other content is due.
        """
    def expect_mail_data(self) -> None:
        """Read DATA content next, as if CR LF had just been seen, up to the line with one dot.

        A dot at the start of a line is removed. RuntimeError while other content is due.
        """
    def expect_chunk(self, octets: int, last: bool) -> None:
        """Read so many octets of BDAT content next: as they are, no dots, no end marker.

        A CR and its LF may stand in two chunks. `last`: the message ends with this chunk, so a CR
        at its end is a bare one. ValueError for a negative number, RuntimeError while other content
        is due.
        """
    def skip_octets(self, octets: int) -> None:
        """Drop so many octets next, unseen: a refused chunk. The facts of the message stay.

        ValueError for a negative number, RuntimeError while content is due.
        """
    def discard_body(self) -> None:
        """Scan the rest of this message for its facts and its end, but hand out no more of it."""
    def clear(self) -> None:
        """Forget all that is buffered, and what was seen of an unfinished command line."""
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

        Lines end at CR LF only. One that is not ended yet does not count, but for the last line of
        a last chunk. Right at the end of the message.
        """
