"""Tables of the dialogue for `model.Model`: states, replies, command lines, bodies.

RFC 5321 §4.1.4 (order of commands), §4.2 (replies); RFC 3463 (enhanced codes).
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class State(IntEnum):
    """What the commands so far have opened; the columns of `TABLE`."""

    NONE = 0  # not greeted
    GREETED = 1
    MAIL = 2  # MAIL accepted
    RCPT = 3  # at least one RCPT accepted
    BDAT = 4  # a chunk was accepted, the last is still to come
    FAILED = 5  # a chunk was refused, the last is still to come


class ModelReply(NamedTuple):
    """A reply code and an enhanced code ("" for none)."""

    code: int
    enhanced: str = ""


REPLIES = {
    "R00": ModelReply(220),
    "R05": ModelReply(421),
    "R06": ModelReply(421),
    "R13": ModelReply(500, "5.5.2"),
    "R16": ModelReply(500),
    "R17": ModelReply(501),
    "R18": ModelReply(501),
    "R20": ModelReply(500, "5.5.2"),
    "R21": ModelReply(502, "5.5.1"),
    "R23": ModelReply(250),
    "R25": ModelReply(250, "2.0.0"),
    "R26": ModelReply(250, "2.0.0"),
    "R27": ModelReply(214, "2.0.0"),
    "R28": ModelReply(252, "2.0.0"),
    "R29": ModelReply(221, "2.0.0"),
    "R31": ModelReply(503, "5.5.1"),
    "R34": ModelReply(503, "5.5.1"),
    "R35": ModelReply(503, "5.5.1"),
    "R36": ModelReply(503, "5.5.1"),
    "R37": ModelReply(503, "5.5.1"),
    "R38": ModelReply(503, "5.5.1"),
    "R46": ModelReply(421, "4.4.2"),
    "R47": ModelReply(421, "4.3.2"),
    "R50": ModelReply(250, "2.1.0"),
    "R51": ModelReply(250, "2.1.5"),
    "R52": ModelReply(501, "5.1.7"),
    "R53": ModelReply(501, "5.1.3"),
    "R54": ModelReply(553, "5.6.7"),
    "R55": ModelReply(552, "5.3.4"),
    "R56": ModelReply(452, "4.5.3"),
    "R57": ModelReply(421, "4.7.0"),
    "R60": ModelReply(354),
    "R61": ModelReply(250, "2.6.0"),
    "R64": ModelReply(550, "5.5.2"),
    "R65": ModelReply(451, "4.3.0"),
    "R82": ModelReply(550, "5.7.0"),
    "B04": ModelReply(250, "2.0.0"),
    "P01": ModelReply(501, "5.5.4"),  # any argument that is wrong
    "P02": ModelReply(555, "5.5.4"),
}

# Which command in which state: a reply, which changes nothing, or what the model does (a method).
TABLE: dict[str, tuple[str, ...]] = {
    # verb:     NONE     GREETED  MAIL            RCPT     BDAT     FAILED
    "HELO": ("_greet", "_greet", "_greet", "_greet", "_greet", "_greet"),
    "EHLO": ("_greet", "_greet", "_greet", "_greet", "_greet", "_greet"),
    "LHLO": ("_greet", "_greet", "_greet", "_greet", "_greet", "_greet"),
    "RSET": ("_reset", "_reset", "_reset", "_reset", "_reset", "_reset"),
    "NOOP": ("R25", "R25", "R25", "R25", "R25", "R25"),
    "VRFY": ("_vrfy", "_vrfy", "_vrfy", "_vrfy", "_vrfy", "_vrfy"),
    "HELP": ("R27", "R27", "R27", "R27", "R27", "R27"),
    "QUIT": ("_quit", "_quit", "_quit", "_quit", "_quit", "_quit"),
    "MAIL": ("R31", "_mail", "R36", "R36", "R36", "R36"),
    "RCPT": ("R31", "R34", "_rcpt", "_rcpt", "R37", "R37"),
    "DATA": ("R31", "R34", "R35", "_data", "R37", "R37"),
    "BDAT": ("R31", "R34", "_no_recipient", "_chunk", "_chunk", "_repeat"),
    "EXPN": ("R21", "R21", "R21", "R21", "R21", "R21"),
    "STARTTLS": ("R21", "R21", "R21", "R21", "R21", "R21"),  # not configured
    "XCLIENT": ("R82", "R82", "R82", "R82", "R82", "R82"),  # not trusted
    "FOO": ("R20", "R20", "R20", "R20", "R20", "R20"),
    "control": ("R13", "R13", "R13", "R13", "R13", "R13"),
}

# Enhanced codes of a hook's rejection.
HOOK_ENHANCED = {
    "_mail": {421: "4.7.0", 450: "4.7.1", 550: "5.7.1"},
    "_rcpt": {421: "4.7.0", 450: "4.2.1", 550: "5.1.1"},
    "message": {421: "4.7.0", 450: "4.7.1", 550: "5.7.1"},
    "message, LMTP": {421: "4.7.0", 450: "4.2.1", 550: "5.7.1"},
}


class Line(NamedTuple):
    """A command line: `fault` is its reply where the state allows the verb; nothing then changes.

    A line with `parameters` is refused by P02 in a session that HELO has greeted.
    """

    verb: str
    octets: bytes
    fault: str = ""
    parameters: bool = False
    body_type: str = "7bit"
    smtp_utf8: bool = False


LINES = {
    "HELO": Line("HELO", b"HELO c.example"),
    "HELO without a name": Line("HELO", b"HELO", "R18"),
    "EHLO": Line("EHLO", b"EHLO c.example"),
    "EHLO with two names": Line("EHLO", b"EHLO a b", "R17"),
    "LHLO": Line("LHLO", b"LHLO c.example"),
    "LHLO without a name": Line("LHLO", b"LHLO", "R17"),
    "MAIL": Line("MAIL", b"MAIL FROM:<a@x.example>"),
    "MAIL with a bad path": Line("MAIL", b"MAIL FROM:<a@@x.example>", "R52"),
    "MAIL with parameters": Line(
        "MAIL", b"MAIL FROM:<> BODY=8BITMIME RET=FULL ENVID=id SIZE=1", "", True, "8bitmime"
    ),
    "MAIL with SMTPUTF8": Line(
        "MAIL", b"MAIL FROM:<\xc3\xa9@x.example> SMTPUTF8", "", True, "7bit", True
    ),
    "MAIL without SMTPUTF8": Line("MAIL", b"MAIL FROM:<\xc3\xa9@x.example>", "R54"),
    "MAIL with BINARYMIME": Line(
        "MAIL", b"MAIL FROM:<a@x.example> BODY=BINARYMIME", "", True, "binarymime"
    ),
    "MAIL, too large": Line("MAIL", b"MAIL FROM:<a@x.example> SIZE=99999", "R55", True),
    "MAIL, unknown parameter": Line("MAIL", b"MAIL FROM:<a@x.example> BODY=7BIT FOO=1", "P02"),
    "MAIL, bad parameter": Line("MAIL", b"MAIL FROM:<a@x.example> RET=X", "P01", True),
    "RCPT": Line("RCPT", b"RCPT TO:<b@y.example>"),
    "RCPT with a bad path": Line("RCPT", b"RCPT TO:<>", "R53"),
    "RCPT with parameters": Line("RCPT", b"RCPT TO:<c@y.example> NOTIFY=NEVER", "", True),
    "RCPT, unknown parameter": Line("RCPT", b"RCPT TO:<c@y.example> RET=FULL", "P02"),
    "DATA": Line("DATA", b"DATA"),
    "DATA with an argument": Line("DATA", b"DATA now", "P01"),
    "BDAT": Line("BDAT", b"BDAT"),
    "BDAT LAST": Line("BDAT", b"BDAT"),
    "BDAT, malformed": Line("BDAT", b"BDAT 5 LASTX", "P01"),
    "BDAT, endless": Line("BDAT", b"BDAT 99999999999999999999", "R55"),
    "RSET": Line("RSET", b"RSET"),
    "RSET with an argument": Line("RSET", b"RSET x", "P01"),
    "NOOP": Line("NOOP", b"NOOP anything"),
    "VRFY": Line("VRFY", b"VRFY a"),
    "VRFY without an argument": Line("VRFY", b"VRFY", "P01"),
    "HELP": Line("HELP", b"HELP anything"),
    "QUIT": Line("QUIT", b"QUIT"),
    "QUIT with an argument": Line("QUIT", b"QUIT now", "P01"),
    "EXPN": Line("EXPN", b"EXPN a"),
    "STARTTLS": Line("STARTTLS", b"STARTTLS"),
    "XCLIENT": Line("XCLIENT", b"XCLIENT NAME=x"),
    "FOO": Line("FOO", b"FOO bar"),
    "empty line": Line("FOO", b""),
    "control octet": Line("control", b"NOOP \x01"),
    "bare CR": Line("control", b"RSET\rNOOP"),
}


class Body(NamedTuple):
    """Octets of one body, or of one chunk; none has a line that begins with a dot."""

    octets: bytes
    bare: bool = False


SIZE = 200  # what the tests set `size` to
BODIES = {
    "plain": Body(b"Subject: x\r\n\r\ntext\r\n"),
    "empty": Body(b""),
    "bare": Body(b"one\ntwo\r\n", bare=True),
    "big": Body(b"x" * 98 + b"\r\n" + b"x" * 99 + b"\r\n"),
}
