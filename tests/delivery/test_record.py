"""Records: the encoded form and back, damage, and the fingerprint."""

from __future__ import annotations

import io
import json
from typing import BinaryIO

import pytest

from fastsmtp.delivery import (
    Client,
    Recipient,
    Record,
    encode_envelope,
    encode_record,
    parse_record,
)

BODY = b"Subject: hello\r\n\r\nnul \x00 and \xff\r\n"
HEADERS = b"Return-Path: <anne@x.example>\r\n"


class Kept:
    """A body in a file."""

    def __init__(self, path: str, size: int, sha256: str) -> None:
        self.path, self.size, self.sha256 = path, size, sha256

    def open(self) -> BinaryIO:
        return io.BytesIO(b"")


def record(**changed: object) -> Record:
    values: dict[str, object] = {
        "headers": HEADERS,
        "client": Client("192.0.2.1", "mx.x.example", "mx\udcff", "ESMTPS", "TLSv1.3 X", "anne"),
        "smtp_utf8": True,
        "body_type": "8bitmime",
        "ret": "HDRS",
        "envid": "an id",
        "lmtp": True,
        "received": 1700000000.25,
        "node": "mail.example.org",
    }
    recipients = (
        Recipient("bob@example.org", ("SUCCESS", "DELAY"), "rfc822;bob@x"),
        Recipient("jürgen@example.org"),
    )
    return Record("abc-1", "anne@x.example", recipients, BODY, **(values | changed))  # type: ignore[arg-type]


def fields(each: Record) -> dict[str, object]:
    names = [name for name in Record.__slots__ if name != "_sha256"]
    return {name: getattr(each, name) for name in names} | {"sha256": each.sha256}


def test_a_record_is_the_same_after_encoding_and_parsing() -> None:
    assert fields(parse_record(encode_record(record()))) == fields(record())


def test_a_record_without_hashes_is_the_same_and_smaller() -> None:
    octets = encode_record(record(), hashes=False)
    assert fields(parse_record(octets)) == fields(record())
    assert parse_record(octets).fingerprint == record().fingerprint
    assert b"fingerprint" not in octets
    assert len(octets) < len(encode_record(record()))


def test_a_body_in_a_file_keeps_its_hash_in_a_record_without_others() -> None:
    large = record()
    large.set_body(Kept("/somewhere/b-1", 5_000_000, "ab" * 32))
    found = parse_record(encode_record(large, hashes=False), Kept)
    assert found.sha256 == "ab" * 32


def test_the_octets_of_the_message_are_untouched_at_the_end() -> None:
    assert encode_record(record()).endswith(HEADERS + BODY)


def test_a_reader_in_any_language_needs_the_first_line_and_json() -> None:
    octets = encode_record(record())
    line, _, rest = octets.partition(b"\n")
    word, version, envelope, message, _ = line.split()
    assert (word, version) == (b"fastsmtp-record", b"1")
    assert json.loads(rest[: int(envelope)])["rcpt_to"][0]["address"] == "bob@example.org"
    assert len(rest) == int(envelope) + int(message)


def test_a_body_in_a_file_is_named_and_looked_up() -> None:
    kept = Kept("/somewhere/b-1", 5_000_000, "ab" * 32)
    large = record()
    large.set_body(kept)
    octets = encode_record(large)
    assert octets.endswith(HEADERS)
    found = parse_record(octets, Kept)
    assert isinstance(found.body, Kept)
    assert (found.body.path, found.size, found.sha256) == ("b-1", 5_000_000, "ab" * 32)
    assert found.fingerprint == large.fingerprint
    with pytest.raises(ValueError, match="lies in a file"):
        parse_record(octets)


def test_every_octet_that_is_damaged_is_noticed() -> None:
    octets = encode_record(record())
    for place in range(len(octets)):
        damaged = bytearray(octets)
        damaged[place] ^= 0x04
        with pytest.raises(ValueError, match="record"):
            parse_record(bytes(damaged))


def test_every_cut_is_noticed() -> None:
    octets = encode_record(record())
    for length in range(len(octets)):
        with pytest.raises(ValueError, match="record"):
            parse_record(octets[:length])


def test_a_record_of_a_newer_version_is_an_error_that_names_it() -> None:
    octets = encode_record(record()).replace(b"record 1 ", b"record 2 ", 1)
    with pytest.raises(ValueError, match="version 2; this program knows 1"):
        parse_record(octets)


def test_members_that_this_version_does_not_know_are_ignored() -> None:
    octets = encode_record(record(headers=b""))
    envelope = json.loads(octets.split(b"\n")[1]) | {"traceparent": "00-1-1-01"}
    from binascii import crc32

    text = json.dumps(envelope).encode() + b"\n"
    sum_ = crc32(text + BODY)
    head = f"fastsmtp-record 1 {len(text)} {len(BODY)} {sum_:08x}\n".encode()
    assert parse_record(head + text + BODY).id == "abc-1"


def test_an_envelope_without_what_it_needs_is_a_value_error() -> None:
    from binascii import crc32

    for text in (b"{}\n", b"[]\n", b"x\n", b'{"headers": 0, "rcpt_to": [1]}\n'):
        head = f"fastsmtp-record 1 {len(text)} 0 {crc32(text):08x}\n".encode()
        with pytest.raises(ValueError):
            parse_record(head + text)


def test_the_fingerprint_is_of_sender_recipients_and_body_only() -> None:
    one = record()
    other = record(headers=b"", received=1.0, lmtp=False)
    other.id = "xyz-7"
    assert one.fingerprint == other.fingerprint
    for changed in (
        Record("abc-1", "", one.rcpt_to, BODY),
        Record("abc-1", one.mail_from, one.rcpt_to[:1], BODY),
        Record("abc-1", one.mail_from, one.rcpt_to, BODY + b"."),
    ):
        assert changed.fingerprint != one.fingerprint


def test_a_new_body_brings_its_own_size_and_hash() -> None:
    each = record()
    before = each.sha256
    each.set_body(b"other")
    assert each.size == 5
    assert each.sha256 != before


@pytest.mark.parametrize("hashes", [True, False])
def test_the_envelope_alone_is_that_of_the_encoded_form(hashes: bool) -> None:
    octets = encode_record(record(), hashes=hashes)
    envelope = encode_envelope(record(), hashes, record().fingerprint)
    assert octets.partition(b"\n")[2] == envelope + HEADERS + BODY
