"""The parts of a message (RFC 2045 to 2047), found within bounds, whatever the message contains.

Not by Python's `email`: it calls itself for each level of nesting, and takes minutes for a message
of millions of parts. Here nothing recurses, and each octet is looked at once per level.
"""

from __future__ import annotations

import binascii
import codecs
import re
import string
from collections.abc import Iterator
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from encodings.aliases import aliases
from typing import Final, NamedTuple

__all__ = ["Part", "TooComplex", "fields_of", "leaves_of", "text_of", "unencoded"]

MAX_DEPTH: Final = 16
MAX_PARTS: Final = 500
TOP_HEADERS: Final = 256 * 1024  # octets of the headers of the message
PART_HEADERS: Final = 8 * 1024  # and of those of a part
LONGEST_VALUE: Final = 8 * 1024  # characters of a value that is decoded
LONGEST_TYPE: Final = 1024  # characters of Content-Type and the like; `email` is quadratic in it
LONGEST_PADDING: Final = 256  # octets after a boundary on its line
MAX_MARKS: Final = 4 * MAX_PARTS  # of what looks like a boundary of one part
SLICE: Final = 256 * 1024  # octets that are decoded at a time: other threads run in between

_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_FOLDED: Final = re.compile(rb"\r?\n(?=[ \t])")
_EQUALS_SIGN: Final = ord("=")
_NOT_BASE64: Final = bytes({*range(256)} - {*f"{string.ascii_letters}{string.digits}+/".encode()})
_CHARSETS: Final = re.compile(
    r"utf-(?:8|16|16-be|16-le|32)|ascii|iso8859-\d+|cp\d+|koi8-[rtu]|gb2312|gbk|gb18030|hz|big5"
    r"|big5hkscs|shift_jis\w*|euc_\w+|iso2022_\w+|johab|tis-620|mac-\w+"
)
# Python keeps every name that was ever looked up, so only known ones are.
_KNOWN: Final = frozenset({*aliases, *aliases.values()})


class TooComplex(Exception):
    """A message with more parts or levels than are looked for."""


class Part(NamedTuple):
    """One part that has no parts. type: in small letters. charset, filename, content_id: "" without
    one. is_attachment: its Content-Disposition says so. encoding: its Content-Transfer-Encoding.
    octets: as they are encoded.
    """

    type: str
    charset: str
    filename: str
    content_id: str
    is_attachment: bool
    encoding: str
    octets: memoryview


class _Region(NamedTuple):
    start: int
    end: int
    depth: int


def leaves_of(octets: bytes) -> Iterator[Part]:
    """Yield the parts of a message in their order. Raises TooComplex."""
    regions = [_Region(0, len(octets), 0)]
    count = 0
    while regions:
        region = regions.pop()
        count += 1
        if count > MAX_PARTS:
            raise TooComplex(f"it has more than {MAX_PARTS} parts")
        fields, start = fields_of(octets, region.start, region.end)
        described = _described(fields)
        boundary = _parameter(described, "boundary").rstrip()
        if described.get_content_maintype() != "multipart" or not boundary:
            yield _part(described, fields, memoryview(octets)[start : region.end])
            continue
        if region.depth == MAX_DEPTH:
            raise TooComplex(f"it has more than {MAX_DEPTH} levels of parts")
        inner = _split(octets, start, region.end, boundary, MAX_PARTS - count)
        regions += [_Region(*each, region.depth + 1) for each in reversed(inner)]


def fields_of(octets: bytes, start: int = 0, end: int | None = None) -> tuple[dict[str, str], int]:
    """Return the header fields there, by their names in small letters, the first of each name; and
    where the body begins.
    """
    end = len(octets) if end is None else end
    for nothing in (b"\r\n", b"\n"):
        if octets.startswith(nothing, start, end):
            return {}, start + len(nothing)
    bound = min(end, start + (PART_HEADERS if start else TOP_HEADERS))
    blank = _BLANK_LINE.search(octets, start, bound)
    if blank is not None:
        return _parsed(octets[start : blank.start()]), blank.end()
    return ({}, start) if bound < end else (_parsed(octets[start:end]), end)


def _parsed(block: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in _FOLDED.sub(b"", block).split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon:
            key = name.strip().decode("ascii", "replace").lower()
            fields.setdefault(key, value.strip().decode("utf-8", "replace"))
    return fields


def _described(fields: dict[str, str]) -> Message:
    """Return the fields of MIME as an object of `email`, which knows their parameters."""
    described = Message()
    for name, instead in (
        ("content-type", "application/octet-stream"),
        ("content-disposition", "attachment"),
    ):
        if name in fields:
            described[name] = fields[name] if len(fields[name]) <= LONGEST_TYPE else instead
    return described


def _parameter(described: Message, name: str, field: str = "content-type") -> str:
    try:
        value = described.get_param(name, "", field)
    except TypeError:  # `email` sorts pieces with a number and without one (RFC 2231)
        return ""
    if isinstance(value, str):
        return value
    charset, _, encoded = value  # RFC 2231
    return text_of(encoded.encode("latin-1", "replace"), charset or "")


def _part(described: Message, fields: dict[str, str], octets: memoryview) -> Part:
    name = _parameter(described, "filename", "content-disposition") or _parameter(described, "name")
    return Part(
        described.get_content_type(),
        _parameter(described, "charset"),
        text_of_field(name),
        fields.get("content-id", "").strip("<>"),
        described.get_content_disposition() == "attachment",
        fields.get("content-transfer-encoding", "").lower(),
        octets,
    )


def _split(octets: bytes, start: int, end: int, boundary: str, most: int) -> list[tuple[int, int]]:
    """Return where the parts of a multipart body begin and end (RFC 2046 §5.1.1)."""
    mark = b"--" + boundary.encode("utf-8", "surrogateescape")
    found: list[tuple[int, int]] = []
    began = -1
    after = start
    for _ in range(MAX_MARKS):
        at = _find(octets, mark, after, end)
        if at < 0:
            return [*found, (began, end)] if began >= 0 else found  # cut off
        after = at + len(mark)
        is_last = octets.startswith(b"--", after, end)
        rest = octets[after + 2 * is_last : min(end, after + LONGEST_PADDING)]
        padding, newline, _ = rest.partition(b"\n")
        is_line = bool(newline) or after + LONGEST_PADDING >= end
        if (at != start and octets[at - 1 : at] != b"\n") or not is_line or padding.strip():
            continue  # it only looks like one
        if began >= 0:
            before = at - 2 if octets[at - 2 : at] == b"\r\n" else at - 1
            found.append((began, max(began, before)))
        if is_last or len(found) > most:
            return found
        began = after = min(after + len(padding) + 1, end)
    raise TooComplex(f"a part has more than {MAX_MARKS} boundaries")


def _find(octets: bytes, mark: bytes, start: int, end: int) -> int:
    """Return where `mark` is, -1: nowhere. In slices, so that other threads run in between."""
    while start < end:
        at = octets.find(mark, start, min(end, start + SLICE + len(mark)))
        if at >= 0:
            return at
        start += SLICE
    return -1


def unencoded(part: Part) -> bytes:
    """Return the octets of a part without its transfer encoding (RFC 2045 §6)."""
    if part.encoding == "base64":
        return _of_base64(part.octets)
    if part.encoding == "quoted-printable":
        return _of_quoted_printable(part.octets)
    return bytes(part.octets)


def _of_base64(octets: memoryview) -> bytes:
    pieces, left = [], b""
    for start in range(0, len(octets), SLICE):
        data, padding, _ = bytes(octets[start : start + SLICE]).partition(b"=")
        left += data.translate(None, _NOT_BASE64)
        whole = len(left) - len(left) % 4
        pieces.append(binascii.a2b_base64(left[:whole]))
        left = left[whole:]
        if padding:  # the end (RFC 2045 §6.8)
            break
    if len(left) > 1:
        pieces.append(binascii.a2b_base64(left + b"=" * (4 - len(left))))
    return b"".join(pieces)


def _of_quoted_printable(octets: memoryview) -> bytes:
    pieces, start = [], 0
    whole = bytes(octets)
    while start < len(whole):
        end = start + SLICE
        if end < len(whole):
            # Not within "=41", nor between "=" and the end of its line.
            end -= next((back for back in (1, 2) if whole[end - back] == _EQUALS_SIGN), 0)
        pieces.append(binascii.a2b_qp(whole[start:end]))
        start = end
    return b"".join(pieces)


def text_of(octets: bytes, charset: str) -> str:
    """Return octets as text; what is not of the character set becomes U+FFFD. A character set that
    is not one of text counts as UTF-8.
    """
    known = re.sub(r"[^a-z0-9]+", "_", charset[:80].lower())
    name = codecs.lookup(known).name if known in _KNOWN else ""
    # ASCII is what senders claim whose text is UTF-8.
    is_text = name != "ascii" and _CHARSETS.fullmatch(name) is not None
    decoder = codecs.getincrementaldecoder(name if is_text else "utf-8")("replace")
    pieces = [decoder.decode(octets[at : at + SLICE]) for at in range(0, len(octets), SLICE)]
    return "".join([*pieces, decoder.decode(b"", True)])


def text_of_field(value: str) -> str:
    """Return a value without the encoding of RFC 2047."""
    if "=?" not in value:
        return value
    try:
        chunks = decode_header(value[:LONGEST_VALUE])
    except (HeaderParseError, ValueError, LookupError):
        return value
    return "".join(
        chunk if isinstance(chunk, str) else text_of(chunk, charset or "utf-8")
        for chunk, charset in chunks
    )
