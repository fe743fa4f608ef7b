r"""`Record`: one accepted message with its envelope; and the form in which stores keep it.

The encoded form is a line, the envelope as JSON, and the message as it is:

    fastsmtp-record 1 <octets of envelope> <octets of message> <CRC-32 of both, 8 hex digits>\n

The envelope ends with LF. The message is our trace headers followed by the octets that the client
sent; if the envelope names a file with the body, it is the headers alone. A reader ignores unknown
members of the envelope; a change that old readers would misunderstand gets a new number in the
first line.
"""

from __future__ import annotations

import json
import re
from binascii import crc32
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from json.encoder import encode_basestring_ascii as _quote
from typing import Any, BinaryIO, Final, NamedTuple, Protocol

__all__ = [
    "Client",
    "Recipient",
    "Record",
    "StoredBody",
    "encode_envelope",
    "encode_record",
    "parse_record",
]

_HEAD: Final = re.compile(rb"fastsmtp-record (\d{1,9}) (\d{1,15}) (\d{1,15}) ([0-9a-f]{8})\n")
_VERSION: Final = 1
CACHED: Final = 1024  # clients whose JSON is kept: about half a KiB each
_WORDS: Final = ("false", "true")


class StoredBody(Protocol):
    """A body that is stored outside of its record, because it is larger than a sink's `max_record`.

    path: of the file; its last part is the body's name in the sink that has made it. size: octets.
    sha256: of these octets, in hexadecimal digits.
    """

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...

    def open(self) -> BinaryIO:
        """Return the octets, as received, as a file to read. Blocks; raises OSError.

        That of a Maildir has CRLF for each bare LF that `bare_newline="accept"` has let in.
        """


class Recipient(NamedTuple):
    """An accepted recipient. notify, orcpt: RFC 3461 §4.1, §4.2; () and None: not given."""

    address: str
    notify: tuple[str, ...] = ()
    orcpt: str | None = None


class Client(NamedTuple):
    """The client that has sent a message.

    address: IP address, "" on a UNIX socket. name: host name that was looked up, "" without one.
    helo: its argument of HELO or EHLO. protocol: the `with` of a Received header (RFC 3848). tls:
    version and cipher suite, such as "TLSv1.3 TLS_AES_256_GCM_SHA384", "" in plaintext. user: of
    the login, "" without one.
    """

    address: str = ""
    name: str = ""
    helo: str = ""
    protocol: str = "SMTP"
    tls: str = ""
    user: str = ""


class Record:
    """One message on its way into a sink.

    id: of the session, "-", number of the transaction. headers: our own trace headers, with CRLF,
    before the body. body: the octets that the client sent (RFC 5322, CRLF), or where a sink has
    stored them. size: their number. mail_from: "" for the null path. ret, envid: RFC 3461 §4.3,
    §4.4. body_type: "7bit", "8bitmime" or "binarymime". lmtp: whether each recipient gets an answer
    of its own. received: Unix time in seconds. node: name of this server.
    """

    __slots__ = (
        "_sha256",
        "body",
        "body_type",
        "client",
        "envid",
        "headers",
        "id",
        "lmtp",
        "mail_from",
        "node",
        "rcpt_to",
        "received",
        "ret",
        "size",
        "smtp_utf8",
    )

    def __init__(
        self,
        id: str,
        mail_from: str,
        rcpt_to: tuple[Recipient, ...],
        body: bytes | StoredBody = b"",
        *,
        headers: bytes = b"",
        client: Client = Client(),  # noqa: B008 - it cannot be changed
        smtp_utf8: bool = False,
        body_type: str = "7bit",
        ret: str | None = None,
        envid: str | None = None,
        lmtp: bool = False,
        received: float = 0.0,
        node: str = "",
    ) -> None:
        self.id = id
        self.mail_from = mail_from
        self.rcpt_to = rcpt_to
        self.headers = headers
        self.client = client
        self.smtp_utf8 = smtp_utf8
        self.body_type = body_type
        self.ret = ret
        self.envid = envid
        self.lmtp = lmtp
        self.received = received
        self.node = node
        self.set_body(body)

    def set_body(self, body: bytes | StoredBody) -> None:
        """Give the record its body, and the size of it."""
        self.body = body
        self.size = len(body) if isinstance(body, bytes) else body.size
        self._sha256 = "" if isinstance(body, bytes) else body.sha256

    @property
    def sha256(self) -> str:
        """SHA-256 of the body in hexadecimal digits; computed on first access."""
        if not self._sha256:
            assert isinstance(self.body, bytes)
            self._sha256 = sha256(self.body).hexdigest()
        return self._sha256

    @property
    def fingerprint(self) -> str:
        """Equal for messages that a client has sent twice: SHA-256, in hexadecimal digits, of
        sender, recipients and `sha256`, each in UTF-8 and followed by LF.
        """
        words = (self.mail_from, *[each.address for each in self.rcpt_to], self.sha256, "")
        return sha256("\n".join(words).encode("utf-8", "surrogatepass")).hexdigest()

    def __repr__(self) -> str:
        return f"<Record {self.id}, {self.size} octets for {len(self.rcpt_to)} recipients>"


def encode_record(record: Record, *, hashes: bool = True) -> bytes:
    """Return the encoded form for storage; a body in a file stays there, and is named.

    hashes: with fingerprint and SHA-256 of the body. For a large message they cost more than all
    the rest; a reader of the record can compute them again.
    """
    body = record.body
    envelope = encode_envelope(record, hashes)
    message = record.headers + body if isinstance(body, bytes) else record.headers
    sum_ = crc32(message, crc32(envelope))
    head = f"fastsmtp-record {_VERSION} {len(envelope)} {len(message)} {sum_:08x}\n"
    return b"".join((head.encode("ascii"), envelope, message))


def encode_envelope(record: Record, hashes: bool = True, fingerprint: str = "") -> bytes:
    """Return the envelope of the encoded form alone: JSON in ASCII, and LF. fingerprint: that of
    the record, if it was computed already.
    """
    # Written out, because an encoder takes three times as long.
    body = record.body
    recipients = ",".join([_recipient(each) for each in record.rcpt_to])
    more = ""
    if hashes:
        more = f',"fingerprint":"{fingerprint or record.fingerprint}","sha256":"{record.sha256}"'
    elif not isinstance(body, bytes):
        more = f',"sha256":{_quote(body.sha256)}'
    if not isinstance(body, bytes):
        more += f',"body":{_quote(body.path.rpartition("/")[2])}'
    return (
        f'{{"id":{_quote(record.id)},"node":{_quote(record.node)},"received":{record.received!r},'
        f'"client":{_client(record.client)},"mail_from":{_quote(record.mail_from)},'
        f'"ret":{_quote_or_null(record.ret)},"envid":{_quote_or_null(record.envid)},'
        f'"rcpt_to":[{recipients}],"smtp_utf8":{_WORDS[record.smtp_utf8]},'
        f'"body_type":{_quote(record.body_type)},"lmtp":{_WORDS[record.lmtp]},'
        f'"headers":{len(record.headers)},"size":{record.size}{more}}}\n'
    ).encode("ascii")


@lru_cache(CACHED)
def _client(client: Client) -> str:
    address, name, helo, protocol, tls, user = map(_quote, client)
    return (
        f'{{"address":{address},"name":{name},"helo":{helo},"protocol":{protocol},'
        f'"tls":{tls},"user":{user}}}'
    )


def _recipient(recipient: Recipient) -> str:
    notify = ",".join([_quote(word) for word in recipient.notify])
    return (
        f'{{"address":{_quote(recipient.address)},"notify":[{notify}],'
        f'"orcpt":{_quote_or_null(recipient.orcpt)}}}'
    )


def _quote_or_null(text: str | None) -> str:
    return "null" if text is None else _quote(text)


def parse_record(
    octets: bytes, stored: Callable[[str, int, str], StoredBody] | None = None
) -> Record:
    """Return the record that `encode_record` has encoded.

    stored: called as `stored(name, size, sha256)` for a body in a file. Raises ValueError for
    octets that are damaged, cut off, of a newer version, or name a file without `stored`.
    """
    envelope, message = _split(octets)
    try:
        return _record(json.loads(envelope), message, stored)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the envelope of a record lacks {error}") from error


def _split(octets: bytes) -> tuple[bytes, bytes]:
    head = _HEAD.match(octets)
    if head is None:
        raise ValueError("no record begins here")
    version, envelope, message = map(int, head.groups()[:3])
    if version > _VERSION:
        raise ValueError(f"a record of version {version}; this program knows {_VERSION}")
    start = head.end()
    if len(octets) != start + envelope + message:
        raise ValueError(f"a record of {start + envelope + message} octets has {len(octets)}")
    if crc32(memoryview(octets)[start:]) != int(head[4], 16):
        raise ValueError("the check sum of a record is wrong")
    return octets[start : start + envelope], octets[start + envelope :]


def _record(
    members: dict[str, Any],
    message: bytes,
    stored: Callable[[str, int, str], StoredBody] | None,
) -> Record:
    body: bytes | StoredBody = message[members["headers"] :]
    if "body" in members:
        if stored is None:
            raise ValueError("the body of a record lies in a file")
        body = stored(members["body"], members["size"], members["sha256"])
    recipients = [
        Recipient(each["address"], tuple(each["notify"]), each["orcpt"])
        for each in members["rcpt_to"]
    ]
    client = members["client"]
    return Record(
        members["id"],
        members["mail_from"],
        tuple(recipients),
        body,
        headers=message[: members["headers"]],
        client=Client(**{name: client[name] for name in Client._fields}),
        node=members["node"],
        **{name: members[name] for name in _PLAIN},
    )


_PLAIN: Final = ("smtp_utf8", "body_type", "ret", "envid", "lmtp", "received")
