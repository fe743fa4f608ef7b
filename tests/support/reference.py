"""The oracle: what octets mean, written from the RFCs, slow and obvious.

Three parts: mail data (end, dots, policies), paths and addresses, parameters. Nothing here imports
fastsmtp, and nothing here was written from it; what the two say of the same octets is compared.
"""

from __future__ import annotations

import ipaddress
import re
from enum import Enum
from typing import NamedTuple

CRLF = b"\r\n"

# --- mail data: RFC 5321 §4.1.1.4 (end), §4.5.2 (dots), §2.3.8 (line ends) -----------------------


def end_of_data(wire: bytes) -> tuple[bytes, bytes, set[bytes]] | None:
    """What `wire`, the bytes after our 354, means: None while open, else (body, rest, bare)."""
    text, end, rest = (CRLF + wire).partition(CRLF + b"." + CRLF)
    if not end:
        return None
    # The CRLF in front is that of the DATA line, so [0] stands before it and is empty.
    lines = text.split(CRLF)[1:]
    # One dot goes, whatever follows it.
    body = b"".join(line.removeprefix(b".") + CRLF for line in lines)
    bare = {c for c in (b"\r", b"\n") if any(c in line for line in lines)}
    return body, rest, bare


class Place(Enum):
    """Where in a line of mail data the last octet has left us."""

    BOL = "just after CR LF"
    MID = "inside a line"
    CR = "after a CR that may belong to a CR LF"
    DOT = "after the dot that began a line, and was dropped"
    DOT_CR = "after such a dot and a CR"


class Machine:
    """The same decision, one octet at a time: `body` is complete as soon as `ended` is true."""

    def __init__(self) -> None:
        self.place = Place.BOL
        self.body = b""
        self.bare: set[bytes] = set()
        self.ended = False

    def step(self, octet: bytes) -> None:
        """Take one octet, which must not stand after the end."""
        assert len(octet) == 1
        assert not self.ended
        pending_cr = self.place in (Place.CR, Place.DOT_CR)
        if octet == b"\n":
            if self.place is Place.DOT_CR:
                self.ended = True
                return
            self.body += b"\r\n" if pending_cr else b"\n"
            if not pending_cr:
                self.bare.add(b"\n")
            self.place = Place.BOL if pending_cr else Place.MID
            return
        if pending_cr:  # nothing but LF follows a CR of a line end, so that one was data
            self.body += b"\r"
            self.bare.add(b"\r")
        if octet == b"\r":
            self.place = Place.DOT_CR if self.place is Place.DOT else Place.CR
        elif octet == b"." and self.place is Place.BOL:
            self.place = Place.DOT
        else:
            self.body += octet
            self.place = Place.MID


def end_of_data_by_octet(wire: bytes) -> tuple[bytes, bytes, set[bytes]] | None:
    """`end_of_data`, by the machine."""
    machine = Machine()
    for at in range(len(wire)):
        machine.step(wire[at : at + 1])
        if machine.ended:
            return machine.body, wire[at + 1 :], machine.bare
    return None


def has_bare_newline(body: bytes) -> bool:
    """Whether a CR or LF stands in `body` outside a CR LF."""
    without_line_ends = body.replace(CRLF, b"")
    # Taking CR LF out may join a CR with an LF; both were bare, so the answer stays right.
    return b"\r" in without_line_ends or b"\n" in without_line_ends


def apply_policy(body: bytes, policy: str) -> bytes:
    """What the consumer reads of an unstuffed `body` under `bare_newline=policy`."""
    if policy in ("accept", "reject"):
        return body
    assert policy == "normalize"
    replaced = {b"\r\n": b"\r\n", b"\n": b"\r\n", b"\r": b" "}
    return re.sub(rb"\r\n|\n|\r", lambda found: replaced[found[0]], body)


def longest_line(body: bytes) -> int:
    """Octets of the longest line of an unstuffed body without its CR LF; the last may lack one."""
    return max(len(line) for line in body.split(CRLF))


class Facts(NamedTuple):
    """What the stream says of a body when it is complete."""

    body_octets: int
    bare_newline: bool
    has_nul: bool
    has_8bit: bool
    longest_line: int


def facts(body: bytes) -> Facts:
    """Facts of a whole unstuffed body (what is beyond `size` counts too)."""
    return Facts(
        body_octets=len(body),
        bare_newline=has_bare_newline(body),
        has_nul=b"\x00" in body,
        has_8bit=any(octet >= 0x80 for octet in body),
        longest_line=longest_line(body),
    )


def deliver(body: bytes, size: int, policy: str) -> tuple[bytes, bool]:
    """What the consumer gets of an unstuffed body under a `size` (0: none), and `size_exceeded`.

    The cut comes before the policy. Whether a CR that the cut has parted from its LF is made a
    space is nobody's business: such a message is refused.
    """
    if size and len(body) > size:
        return apply_policy(body[:size], policy), True
    return apply_policy(body, policy), False


# --- command lines: RFC 5321 §2.3.8, §4.5.3.1.4 --------------------------------------------------

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def command_lines(octets: bytes, limit: int, bare_lf: bool) -> list[bytes | str]:
    """The complete command lines without what ends them, or the name of what is wrong with each.

    bare_lf: LF alone ends a line too; else it ends everything. No line of AUTH, none without end.
    """
    found: list[bytes | str] = []
    *ended, _ = octets.split(b"\n")
    for text in ended:
        line = text.removesuffix(b"\r")
        if line == text and not bare_lf:
            return [*found, "BARE_LF"]
        if len(text) + 1 > limit:
            found.append("LINE_TOO_LONG")
        elif _CONTROL.search(line):
            found.append("CONTROL_CHARACTER")
        else:
            found.append(line.rstrip(b" \t"))
    return found


# --- UTF-8: RFC 6531 §3.3, and what no address or value may hold ---------------------------------

_NEVER = (
    range(0x80, 0xA0),  # C1
    range(0x200B, 0x200C),  # zero width space; 200C and 200D, the joiners, are used in names
    range(0x2028, 0x202A),  # line and paragraph separator
    range(0x202A, 0x202F),  # embeddings and overrides
    range(0x2060, 0x2061),  # word joiner
    range(0x2066, 0x206A),  # isolates
    range(0xFEFF, 0xFF00),  # byte order mark
)


def acceptable_utf8(octets: bytes) -> bool:
    """Well-formed UTF-8 (no overlong form, no surrogate) without the characters of `_NEVER`."""
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return not any(ord(char) in span for char in text for span in _NEVER)


# --- paths: RFC 5321 §4.1.2, §4.1.3, appendix C; RFC 6531 §3.3 -----------------------------------

_SPACE = b" \t"
_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]+"
_DOT_STRING = _ATOM + rb"(?:\." + _ATOM + rb")*"
_QUOTED = rb'"(?:[\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\x20-\x7e])*"'
_LOCAL_PART = rb"(?:" + _DOT_STRING + rb"|" + _QUOTED + rb")"
_LETTER = rb"[A-Za-z0-9\x80-\xff]"
_LABEL = _LETTER + rb"(?:[A-Za-z0-9\x80-\xff-]{0,61}" + _LETTER + rb")?"
_DOMAIN = _LABEL + rb"(?:\." + _LABEL + rb")*"
_LITERAL = rb"\[[A-Za-z0-9:.]*\]"
_ROUTE = rb"(?:@" + _DOMAIN + rb"(?:,@" + _DOMAIN + rb")*:)?"
_MAILBOX = rb"(" + _LOCAL_PART + rb")@(" + _DOMAIN + rb"|" + _LITERAL + rb")"

_STRICT_PATH = re.compile(rb"<" + _ROUTE + _MAILBOX + rb">")
# Beside the grammar: dots anywhere in a dot-string; in a domain "_", and a dot at its end.
_COMMON_LOCAL_PART = rb"(?:\.*" + _ATOM + rb"(?:\.+" + _ATOM + rb")*\.*|" + _QUOTED + rb")"
_COMMON_LETTER = rb"[A-Za-z0-9_\x80-\xff]"
_COMMON_LABEL = _COMMON_LETTER + rb"(?:[A-Za-z0-9_\x80-\xff-]{0,61}" + _COMMON_LETTER + rb")?"
_COMMON_DOMAIN = _COMMON_LABEL + rb"(?:\." + _COMMON_LABEL + rb")*\.?"
_COMMON_MAILBOX = rb"(" + _COMMON_LOCAL_PART + rb")@(" + _COMMON_DOMAIN + rb"|" + _LITERAL + rb")"
# Whatever has one "@".
_LENIENT_MAILBOX = rb"([^@<>\x00-\x20\x7f]+)@([^@<>\x00-\x20\x7f]+)"
_COMMON_PATH = re.compile(rb"<" + _ROUTE + _COMMON_MAILBOX + rb">")
_LENIENT_PATH = re.compile(rb"<" + _ROUTE + _LENIENT_MAILBOX + rb">")
_POSTMASTER = re.compile(rb"<([Pp][Oo][Ss][Tt][Mm][Aa][Ss][Tt][Ee][Rr])>")
_IPV4 = re.compile(rb"(0|[1-9][0-9]{0,2})" + rb"\.(0|[1-9][0-9]{0,2})" * 3)


def is_ipv4(text: bytes) -> bool:
    """Four decimal octets without leading zeros."""
    found = _IPV4.fullmatch(text)
    return found is not None and all(int(octet) <= 255 for octet in found.groups())


def is_ipv6(text: bytes) -> bool:
    """An IPv6 address (RFC 5321 §4.1.3), without a zone id; its `::` is two groups or more."""
    if b"%" in text or b"/" in text:
        return False
    groups = [group for group in text.split(b":") if group]
    if b"::" in text and len(groups) + (b"." in text) > 6:
        return False
    try:
        ipaddress.IPv6Address(text.decode("ascii"))
    except ValueError:
        return False
    return True


def is_domain(text: bytes) -> bool:
    """A Domain or an address-literal of at most 255 octets."""
    if len(text) > 255:
        return False
    if re.fullmatch(_LITERAL, text):
        inside = text[1:-1]
        if inside[:5].upper() == b"IPV6:":
            return is_ipv6(inside[5:])
        return is_ipv4(inside)
    return re.fullmatch(_DOMAIN, text) is not None


def is_mailbox(text: bytes, smtp_utf8: bool) -> bool:
    """A Mailbox by the grammar: no brackets, no route, no bare postmaster."""
    found = re.fullmatch(_MAILBOX, text)
    if found is None or not is_domain(found[2]):
        return False
    return text.isascii() or (smtp_utf8 and acceptable_utf8(text))


class Path(NamedTuple):
    """A path as the hooks see it, and the octets after it (empty, or beginning with a space)."""

    address: str
    local_part: str
    domain: str
    raw: str
    rest: bytes


STRICT, COMMON, LENIENT = range(3)  # what is taken beside the grammar


def _is_odd_domain(text: bytes, leniency: int) -> bool:
    """A domain that was matched by other than the grammar's expression."""
    if leniency == COMMON and re.fullmatch(_LITERAL, text):
        return is_domain(text)
    return len(text) <= 255


def _match_path(text: bytes, keyword: bytes, leniency: int) -> tuple[bytes, bytes, bytes] | None:
    """The path that begins `text` as (octets on the wire, local part, domain)."""
    if text.startswith(b"<>") and keyword == b"FROM":
        return b"<>", b"", b""
    found = _POSTMASTER.match(text)
    if found is not None and keyword == b"TO":
        return found[0], found[1], b""
    found = _STRICT_PATH.match(text)
    if found is not None and is_domain(found[2]):
        return found[0], found[1], found[2]
    for level, pattern in ((COMMON, _COMMON_PATH), (LENIENT, _LENIENT_PATH)):
        found = pattern.match(text)
        if leniency >= level and found is not None and _is_odd_domain(found[2], level):
            return found[0], found[1], found[2]
    return None


def _match_bare_path(
    text: bytes, keyword: bytes, leniency: int
) -> tuple[bytes, bytes, bytes] | None:
    """The same for a path without brackets: it ends at the first space, and has no route."""
    word = re.split(rb"[ \t]", text, maxsplit=1)[0]
    if not word or word.startswith((b"<", b"@")):
        return None
    if word.startswith(b'"'):  # the rest of a quoted string may stand after the space
        leniency = COMMON
    matched = _match_path(b"<" + word + b">", keyword, leniency)
    if matched is None or matched[0] != b"<" + word + b">":
        return None
    return word, matched[1], matched[2]


def parse_path(
    argument: bytes, keyword: bytes, smtp_utf8: bool = False, leniency: int = STRICT
) -> Path | str:
    """The argument of MAIL (`keyword` b"FROM") or RCPT (b"TO"): a Path, "syntax" or "utf8".

    "utf8" is for a path in which nothing is wrong but that this transaction has no SMTPUTF8.
    """
    if argument[: len(keyword)].upper() != keyword:
        return "syntax"
    before, colon, text = argument[len(keyword) :].partition(b":")
    if not colon or before.strip(_SPACE):
        return "syntax"
    text = text.lstrip(_SPACE)
    matched = _match_path(text, keyword, leniency)
    if matched is None and leniency != STRICT:
        matched = _match_bare_path(text, keyword, leniency)
    if matched is None:
        return "syntax"
    raw, local_part, domain = matched
    rest = text[len(raw) :]
    if not raw.startswith(b"<"):
        raw = b"<" + raw + b">"
    if rest and rest[:1] not in (b" ", b"\t"):
        return "syntax"
    if rest.lstrip(_SPACE).startswith(b"<"):  # a second path
        return "syntax"
    if len(raw) > 256 or not acceptable_utf8(raw):
        return "syntax"
    if not raw.isascii() and not smtp_utf8:
        return "utf8"
    mailbox = local_part + b"@" + domain if domain else local_part
    address, local, host, whole = (x.decode() for x in (mailbox, local_part, domain, raw))
    return Path(address, local, host, whole, rest)


# --- parameters: RFC 5321 §4.1.2, RFC 3461 §4, RFC 3030 §2 ---------------------------------------

MAX_PARAMETERS = 64
_PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x3c\x3e-\x7e\x80-\xff]+))?")
_XTEXT = re.compile(rb"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e\x80-\xff]|\+[0-9A-F]{2})*")


def _words(rest: bytes) -> list[bytes]:
    return [word for word in rest.replace(b"\t", b" ").split(b" ") if word]


def split_parameters(rest: bytes, smtp_utf8: bool = False) -> list[tuple[str, str | None]]:
    """(KEYWORD, value or None) from left to right; ("", None) for the first that is malformed,
    and for the 65th, and then no more."""
    parameters: list[tuple[str, str | None]] = []
    for word in _words(rest):
        found = _PARAMETER.fullmatch(word)
        good = found is not None and len(parameters) < MAX_PARAMETERS
        if not word.isascii():
            good = good and smtp_utf8 and acceptable_utf8(word)
        if found is None or not good:
            return [*parameters, ("", None)]
        value = found[2]
        parameters.append((found[1].decode().upper(), None if value is None else value.decode()))
    return parameters


def has_parameter(argument: bytes, command: bytes, keyword: bytes, leniency: int = STRICT) -> bool:
    """Whether `keyword`, with or without a value, stands after the path of a good argument."""
    path = parse_path(argument, command, smtp_utf8=True, leniency=leniency)
    if isinstance(path, str):
        return False
    return any(word.partition(b"=")[0].upper() == keyword.upper() for word in _words(path.rest))


def decode_xtext(value: str, smtp_utf8: bool = False) -> str | None:
    """xtext, decoded once; None if malformed, or if the result holds what no value may hold."""
    octets = value.encode("utf-8", "surrogatepass")
    if _XTEXT.fullmatch(octets) is None:
        return None
    decoded = re.sub(rb"\+(..)", lambda found: bytes([int(found[1], 16)]), octets)
    if any(octet < 0x20 or octet == 0x7F for octet in decoded):
        return None
    if not decoded.isascii() and not (smtp_utf8 and acceptable_utf8(decoded)):
        return None
    return decoded.decode()


def parse_bdat_argument(argument: bytes) -> tuple[int, bool] | None:
    """(size, last) of `size [LAST]`; None if malformed."""
    found = re.fullmatch(rb"([0-9]{1,20})(?:[ \t]([Ll][Aa][Ss][Tt]))?", argument)
    if found is None:
        return None
    return int(found[1]), found[2] is not None


def parse_hostname_token(argument: bytes) -> str | None:
    """The argument of EHLO, HELO, LHLO, lower-cased: one token of printable ASCII."""
    found = re.fullmatch(rb"[\x21-\x7e]{1,255}", argument)
    return None if found is None else argument.decode().lower()
