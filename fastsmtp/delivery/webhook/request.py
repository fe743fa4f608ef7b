"""The request for one message: its headers, its body, its signature."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import Final, NamedTuple

from fastsmtp.delivery.record import Record, encode_envelope
from fastsmtp.delivery.webhook.form import form_of
from fastsmtp.delivery.webhook.signing import Signer

__all__ = ["ENVELOPE", "FORMS", "Request", "request_of"]

FORMS: Final = ("raw", "multipart")
ENVELOPE: Final = "Fastsmtp-Envelope"  # the header of the form "raw"
_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,128}")


class Request(NamedTuple):
    """What is posted."""

    headers: dict[str, str]
    body: bytes


def request_of(record: Record, seconds: int, *, form: str, signer: Signer) -> Request:
    """Return the request for a message; the same id for each try. seconds: Unix time of this one.

    Blocks: it reads a stored body, and takes a message apart for a form. Raises OSError.
    """
    message, envelope = _content_of(record)
    id = record.id if _ID.fullmatch(record.id) else sha256(record.id.encode()).hexdigest()
    headers = {"Webhook-Id": id, "Webhook-Timestamp": str(seconds)}
    if form == "multipart":
        headers["Content-Type"], content = form_of(message, json.loads(envelope))
    else:
        headers["Content-Type"], content = "message/rfc822", message
        headers[ENVELOPE] = envelope.decode("ascii")
        if signer:
            # The signature of the request covers the body alone.
            headers[f"{ENVELOPE}-Signature"] = signer.sign(id, seconds, envelope)
    if signer:
        headers["Webhook-Signature"] = signer.sign(id, seconds, content)
    return Request(headers, content)


def _content_of(record: Record) -> tuple[bytes, bytes]:
    """Return the message, and its envelope as JSON."""
    envelope = encode_envelope(record).rstrip(b"\n")
    if isinstance(record.body, bytes):
        return record.headers + record.body, envelope
    members = json.loads(envelope)
    del members["body"]  # its name in a store of ours
    with record.body.open() as file:
        message = record.headers + file.read()
    return message, json.dumps(members, separators=(",", ":")).encode("ascii")
