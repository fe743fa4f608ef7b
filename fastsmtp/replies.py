"""Replies: their texts, and how they look on the wire.

A `Reply` is an immutable value that renders itself once, with and without its enhanced status code.
All texts of the engine are here; texts of the application are made safe by `clean_lines`. RFC 5321
§4.2, RFC 2034.
"""

from __future__ import annotations

import re
from typing import Final

from fastsmtp._counts.families import code_slot

__all__ = ["Reply", "clean_lines"]

MAX_REPLY_LINE: Final = 512  # octets with CRLF, RFC 5321 §4.5.3.1.5
MAX_TEXT: Final = 4096  # characters of one application text; longer ones are cut

_LINE_ENDS: Final = re.compile("\r\n|\n|\r")
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_NOT_ASCII: Final = re.compile("[^\x20-\x7e]")
# Characters that reorder or hide what a person reads in a log or a bounce.
_DECEPTIVE: Final = "[\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"  # 0.3 ms to compile


def clean_lines(text: str, utf8: bool) -> list[str]:
    """Split `text` at line ends, replace characters that are not allowed in a reply by "?", and
    drop empty last lines.

    utf8: non-ASCII characters may stay (RFC 6531 §3.7.4.2).
    """
    if type(text) is str and text.isascii() and text.isprintable() and len(text) <= MAX_TEXT:
        return [text]  # nearly every text
    lines = _LINE_ENDS.split(text[:MAX_TEXT])
    while len(lines) > 1 and not lines[-1]:
        lines.pop()
    if utf8:
        return [re.sub(_DECEPTIVE, "?", _CONTROLS.sub("?", line)) for line in lines]
    return [_NOT_ASCII.sub("?", line) for line in lines]


def _broken(line: bytes, room: int) -> list[bytes]:
    """Cut one line of text into pieces of at most `room` octets, at a space if possible."""
    pieces = []
    while len(line) > room:
        cut = line.rfind(b" ", 1, room + 1)
        if cut < 1:
            cut = room
            while cut > 1 and line[cut] & 0xC0 == 0x80:  # not inside a UTF-8 sequence
                cut -= 1
            pieces.append(line[:cut])
            line = line[cut:]
        else:
            pieces.append(line[:cut])
            line = line[cut + 1 :]
    pieces.append(line)
    return pieces


def _render(code: int, enhanced_code: str | None, lines: list[str]) -> bytes:
    """Return the reply as octets: every line carries the code and the enhanced code."""
    tag = f"{enhanced_code} " if enhanced_code else ""
    room = MAX_REPLY_LINE - len("250-\r\n") - len(tag)
    if len(lines) == 1 and len(lines[0]) <= room and lines[0].isascii():
        return f"{code} {tag}{lines[0]}\r\n".encode()
    pieces = [piece for line in lines for piece in _broken(line.encode(), room)]
    start = f"{code}-{tag}".encode()
    rendered = [start + piece + b"\r\n" for piece in pieces[:-1]]
    rendered.append(f"{code} {tag}".encode() + pieces[-1] + b"\r\n")
    return b"".join(rendered)


class Reply:
    """One reply. `wire` holds its octets, `plain` the octets without enhanced status codes.

    text: LF separates the lines of a multi-line reply; characters that are not allowed on the wire
    become "?". enhanced_code: None for replies that never carry one (RFC 2034 §4). octets: the
    rendered reply, for a challenge of AUTH, whose single line may be longer (RFC 4954 §4).
    """

    __slots__ = ("code", "enhanced_code", "plain", "slot", "text", "wire")

    def __init__(
        self,
        code: int,
        enhanced_code: str | None,
        text: str,
        *,
        utf8: bool = False,
        octets: bytes | None = None,
    ) -> None:
        lines = clean_lines(text, utf8)
        self.code = code
        self.slot = code_slot(code)  # where it is counted
        self.enhanced_code = enhanced_code
        self.text = "\n".join(lines)
        self.plain = _render(code, None, lines) if octets is None else octets
        self.wire = _render(code, enhanced_code, lines) if enhanced_code else self.plain

    def __repr__(self) -> str:
        return f"Reply({self.code}, {self.enhanced_code!r}, {self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reply) and self.wire == other.wire

    def __hash__(self) -> int:
        return hash(self.wire)

    def formatted(self, *values: object) -> Reply:
        """Return this reply with `values` formatted into its text (printf style)."""
        return Reply(self.code, self.enhanced_code, self.text % values)


# The greeting and its replacements: never with an enhanced code (RFC 2034 §4).
GREETING: Final = Reply(220, None, "%s ESMTP")
GREETING_LMTP: Final = Reply(220, None, "%s LMTP")
TOO_MANY_CLIENTS: Final = Reply(421, None, "%s Too many connected clients, try again in a moment")
TOO_MANY_FROM_HOST: Final = Reply(
    421, None, "%s Too many connections from your host, try again in a moment"
)
EARLY_TALKER: Final = Reply(421, None, "%s You talk too soon")
CONNECTION_REFUSED: Final = Reply(554, None, "%s Connection refused")
NOT_AVAILABLE: Final = Reply(421, None, "%s Service not available, try again later")
CLOSING_AT_GREETING: Final = Reply(421, None, "%s Server shutting down")

# Lines and dispatch, RFC 5321 §4.2.4 and §4.5.3.1.
LINE_TOO_LONG: Final = Reply(500, "5.5.2", "Error: Command line too long")
LINE_ENDLESS: Final = Reply(421, "4.7.0", "Error: Command line too long")
BARE_LF: Final = Reply(500, "5.5.2", "Error: lines must end with <CR><LF>")
INVALID_CHARACTER: Final = Reply(500, "5.5.2", "Error: invalid character in command")
HTTP: Final = Reply(421, "4.7.0", "HTTP requests not allowed")
NOT_SMTP: Final = Reply(421, "4.7.0", "Error: this is an SMTP server")
NOT_IN_LMTP: Final = Reply(500, None, "Error: %s not allowed in LMTP server")
EHLO_SYNTAX: Final = Reply(501, None, "Error: syntax: %s hostname")
GREETING_REJECTED: Final = Reply(550, None, "Error: greeting rejected")
GREETING_FAILED: Final = Reply(451, None, "Error: local error in processing")
HELO_SYNTAX: Final = Reply(501, None, "Error: Syntax: HELO hostname")
UNRECOGNIZED: Final = Reply(500, "5.5.2", "Error: command not recognized")
NOT_IMPLEMENTED: Final = Reply(502, "5.5.1", "Error: command not implemented")
SYNCHRONIZATION: Final = Reply(
    554, "5.5.0", "Error: SMTP synchronization, wait for the reply"
)  # RFC 2920 §3.1

OK: Final = Reply(250, "2.0.0", "OK")
FLUSHED: Final = Reply(250, "2.0.0", "Flushed")
RSET_SYNTAX: Final = Reply(501, "5.5.4", "Error: syntax: RSET")
HELP: Final = Reply(214, "2.0.0", "See https://tools.ietf.org/html/rfc5321 for details")
VRFY: Final = Reply(252, "2.0.0", "Try to send something. No promises though")
VRFY_FOUND: Final = Reply(250, "2.1.5", "OK")
VRFY_REJECTED: Final = Reply(550, "5.1.1", "Error: no such user")
VRFY_SYNTAX: Final = Reply(501, "5.5.4", "Error: syntax: VRFY string")
BYE: Final = Reply(221, "2.0.0", "Bye")
QUIT_SYNTAX: Final = Reply(501, "5.5.4", "Error: syntax: QUIT")

# TLS, RFC 3207 §4.
READY_FOR_TLS: Final = Reply(220, "2.0.0", "Ready to start TLS")
STARTTLS_SYNTAX: Final = Reply(501, "5.5.4", "Error: syntax: STARTTLS")
TLS_ACTIVE: Final = Reply(503, "5.5.1", "Error: TLS already active")
UPGRADE_REQUIRED: Final = Reply(530, "5.7.0", "Must issue a STARTTLS command first")

# Sequence, RFC 5321 §4.1.4; authentication demanded, RFC 4954 §6.
HELO_FIRST: Final = Reply(503, "5.5.1", "Error: send HELO/EHLO first")
LHLO_FIRST: Final = Reply(503, "5.5.1", "Error: send LHLO first")
AUTHENTICATION_REQUIRED: Final = Reply(530, "5.7.0", "Error: authentication Required")
IN_TRANSACTION: Final = Reply(503, "5.5.1", "Error: Mail transaction in progress")
NEED_MAIL: Final = Reply(503, "5.5.1", "Error: need MAIL command")
NEED_RCPT: Final = Reply(503, "5.5.1", "Error: need RCPT command")
NESTED_MAIL: Final = Reply(503, "5.5.1", "Error: nested MAIL command")
NOT_AFTER_BDAT: Final = Reply(503, "5.5.1", "Error: not allowed after BDAT")
BINARYMIME_NEEDS_BDAT: Final = Reply(503, "5.5.1", "Error: BINARYMIME needs BDAT")  # RFC 3030 §3
DATA_SYNTAX: Final = Reply(501, "5.5.4", "Error: syntax: DATA")

# AUTH, RFC 4954 §4, §6.
AUTH_NEEDS_STARTTLS: Final = Reply(538, "5.7.11", "Error: Must issue a STARTTLS command first")
AUTH_NEEDS_ENCRYPTION: Final = Reply(
    538, "5.7.11", "Error: Encryption required for requested authentication mechanism"
)
ALREADY_AUTHENTICATED: Final = Reply(503, "5.5.1", "Error: No identity changes permitted")
AUTH_SYNTAX: Final = Reply(501, "5.5.4", "Error: syntax: AUTH %s")
UNKNOWN_MECHANISM: Final = Reply(504, "5.5.4", "Error: Unrecognized authentication type")
AUTH_NOT_IMPLEMENTED: Final = Reply(535, "5.7.8", "Authentication not implemented")
INVALID_USERDATA: Final = Reply(501, "5.5.2", "Error: invalid userdata")
MISSING_USERNAME: Final = Reply(501, "5.5.2", "Error: missing username")
INVALID_CREDENTIALS: Final = Reply(535, "5.7.8", "Error: Authentication credentials invalid")
AUTH_ABORTED: Final = Reply(501, "5.7.0", "Authentication aborted")
AUTH_LINE_TOO_LONG: Final = Reply(500, "5.5.6", "Error: Authentication line too long")
AUTHENTICATED: Final = Reply(235, "2.7.0", "Authentication successful")
TOKEN_REFUSED: Final = Reply(535, "5.7.8", "Error: Username and Password not accepted")

# Counters, clocks, shutdown.
TOO_MANY_UNRECOGNIZED: Final = Reply(421, "4.7.0", "Error: too many unrecognized commands")
TOO_MANY_UNAUTHENTICATED: Final = Reply(421, "4.7.0", "Error: too many unauthenticated commands")
TOO_MANY_ERRORS: Final = Reply(421, "4.7.0", "Error: too many errors")
TOO_MANY_JUNK: Final = Reply(421, "4.7.0", "Error: too many commands without a message")
TOO_MANY_AUTH_FAILURES: Final = Reply(421, "4.7.0", "Error: too many failed authentications")
TIMEOUT: Final = Reply(421, "4.4.2", "Timeout - closing connection")
SHUTTING_DOWN: Final = Reply(421, "4.3.2", "Server shutting down")

# MAIL and RCPT.
MAIL_ACCEPTED: Final = Reply(250, "2.1.0", "Accepted")
RCPT_ACCEPTED: Final = Reply(250, "2.1.5", "Accepted")
BAD_SENDER: Final = Reply(
    501, "5.1.7", "Error: Bad sender address syntax, expected MAIL FROM:<user@domain>"
)
BAD_RECIPIENT: Final = Reply(
    501, "5.1.3", "Error: Bad recipient address syntax, expected RCPT TO:<user@domain>"
)
NEEDS_SMTPUTF8: Final = Reply(553, "5.6.7", "Error: SMTPUTF8 is required for this address")
TOO_LARGE: Final = Reply(552, "5.3.4", "Error: message exceeds fixed maximum message size %s")
TOO_MANY_RECIPIENTS: Final = Reply(452, "4.5.3", "Error: too many recipients")
TOO_MANY_MESSAGES: Final = Reply(421, "4.7.0", "Error: too many messages in this session")
BAD_PARAMETER_SYNTAX: Final = Reply(501, "5.5.4", "Error: Bad parameter syntax")
MAIL_PARAMETER_UNKNOWN: Final = Reply(
    555, "5.5.4", "MAIL FROM parameters not recognized or not implemented"
)
RCPT_PARAMETER_UNKNOWN: Final = Reply(
    555, "5.5.4", "RCPT TO parameters not recognized or not implemented"
)
DUPLICATE_PARAMETER: Final = Reply(501, "5.5.4", "Error: duplicate parameter")
BAD_PARAMETER: Final = Reply(501, "5.5.4", "Error: Bad %s parameter value")
BAD_BODY: Final = Reply(501, "5.5.4", "Invalid BODY parameter value. Must be 7BIT or 8BITMIME")
BAD_BODY_BINARYMIME: Final = Reply(
    501, "5.5.4", "Invalid BODY parameter value. Must be 7BIT, 8BITMIME or BINARYMIME"
)
FLAG_WITH_VALUE: Final = Reply(
    501, "5.5.4", "Invalid %s parameter. This flag does not accept a value"
)
REQUIRETLS_NOT_PERMITTED: Final = Reply(
    530, "5.7.0", "REQUIRETLS not permitted on non-TLS connections"
)
BAD_RET: Final = Reply(501, "5.5.4", "Invalid RET parameter value. Must be FULL or HDRS")
BAD_NOTIFY: Final = Reply(
    501, "5.5.4", "Error: NOTIFY parameter must be NEVER, SUCCESS, FAILURE, or DELAY"
)
BAD_NOTIFY_NEVER: Final = Reply(
    501, "5.5.4", "Error: NOTIFY=NEVER cannot be combined with other values"
)
SENDER_REJECTED: Final = Reply(550, None, "Error: sender rejected")
RECIPIENT_REJECTED: Final = Reply(550, None, "Error: recipient rejected")

# Message content.
START_MAIL_INPUT: Final = Reply(354, None, "End data with <CR><LF>.<CR><LF>")
MESSAGE_QUEUED: Final = Reply(250, "2.6.0", "OK: message queued")
MESSAGE_ACCEPTED: Final = Reply(250, "2.6.0", "OK: message accepted")
MESSAGE_REJECTED: Final = Reply(450, None, "Error: message not accepted")
BARE_NEWLINE: Final = Reply(550, "5.5.2", "Error: message contains bare <CR> or <LF>")
NUL_IN_MESSAGE: Final = Reply(550, "5.6.0", "Error: message contains NUL")
LOCAL_ERROR: Final = Reply(451, "4.3.0", "Error: local error in processing")
TOO_MUCH_DATA: Final = Reply(421, "4.7.0", "Error: too much data")
BDAT_SYNTAX: Final = Reply(501, "5.5.4", "Error: syntax: BDAT size [LAST]")
CHUNK_RECEIVED: Final = Reply(250, "2.0.0", "OK: %d octets received")

# XCLIENT and XFORWARD.
NOT_ALLOWED: Final = Reply(550, "5.7.0", "Error: Not allowed")
BAD_ATTRIBUTE: Final = Reply(501, "5.5.4", "Error: Bad command parameter syntax")
BAD_ATTRIBUTE_ADDRESS: Final = Reply(
    501, "5.5.4", "Error: Bad command parameter syntax. Invalid address"
)
LOGIN_REFUSED: Final = Reply(550, "5.7.8", "Error: Authentication credentials invalid")
LOGIN_NOT_IMPLEMENTED: Final = Reply(550, "5.7.8", "Authentication not implemented")
