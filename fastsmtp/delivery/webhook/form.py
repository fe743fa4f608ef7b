"""A message as a form (multipart/form-data, RFC 7578), with the fields of inbound-parse services.

A message that cannot be taken apart within bounds is sent whole, as its own attachment.
"""

from __future__ import annotations

import json
import secrets
from typing import Any, Final

from fastsmtp.delivery.webhook.mime import (
    Part,
    TooComplex,
    fields_of,
    leaves_of,
    text_of,
    text_of_field,
    unencoded,
)

__all__ = ["form_of"]

# Fields of the form that are header fields of the message.
_FIELDS: Final = ("from", "to", "cc", "subject", "message-id", "date")
_TEXTS: Final = {"text/plain": "text", "text/html": "html"}


def form_of(message: bytes, envelope: dict[str, Any]) -> tuple[str, bytes]:
    """Return Content-Type and body of a request with `message`. Blocks for large ones.

    envelope: of the record; members "from" and "to" are added to it.
    """
    fields, body_at = fields_of(message)
    texts: dict[str, str] = {"text": "", "html": ""}
    attachments: list[Part] = []
    remark = ""
    try:
        for part in leaves_of(message):
            field = _TEXTS.get(part.type)
            if field is None or part.is_attachment or part.filename:
                attachments.append(part)
            else:
                texts[field] += text_of(unencoded(part), part.charset)
    except (TooComplex, ValueError, LookupError) as error:
        remark = str(error)
        texts = dict.fromkeys(texts, "")
        whole = memoryview(message)
        attachments = [Part("message/rfc822", "", "message.eml", "", True, "", whole)]
    to = [each["address"] for each in envelope["rcpt_to"]]
    form = _Form()
    form.add("headers", message[:body_at].decode("utf-8", "replace"))
    for name in _FIELDS:
        form.add(name, text_of_field(fields.get(name, "")))
    for name, text in texts.items():
        form.add(name, text)
    form.add("sender_ip", envelope["client"]["address"])
    form.add("envelope", _json({"from": envelope["mail_from"], "to": to} | envelope))
    form.add("charsets", _json(dict.fromkeys(("from", "to", "cc", "subject", *texts), "UTF-8")))
    form.add("parse_error", remark)
    _add_attachments(form, attachments)
    return form.content_type, form.body()


def _add_attachments(form: _Form, attachments: list[Part]) -> None:
    names = [f"attachment{number}" for number in range(1, len(attachments) + 1)]
    form.add("attachments", str(len(names)))
    info = {
        name: {
            "filename": part.filename,
            "type": part.type,
            "charset": part.charset,
            "content-id": part.content_id,
        }
        for name, part in zip(names, attachments, strict=True)
    }
    form.add("attachment-info", _json(info))
    ids = {part.content_id: name for name, part in zip(names, attachments, strict=True)}
    form.add("content-ids", _json({id: name for id, name in ids.items() if id}))
    for name, part in zip(names, attachments, strict=True):
        form.add_file(name, part.filename or name, part.type, unencoded(part))


class _Form:
    def __init__(self) -> None:
        # 128 random bits: nobody can write a message that contains it.
        self._boundary = f"fastsmtp-{secrets.token_hex(16)}"
        self._pieces: list[bytes] = []

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self._boundary}"

    def add(self, name: str, text: str) -> None:
        self._add(f'name="{name}"', text.encode("utf-8", "replace"))

    def add_file(self, name: str, filename: str, type: str, octets: bytes) -> None:
        type = type if type.isascii() and type.isprintable() else "application/octet-stream"
        about = f'name="{name}"; filename="{_quoted(filename)}"\r\nContent-Type: {type}'
        self._add(about, octets)

    def body(self) -> bytes:
        return b"".join([*self._pieces, f"--{self._boundary}--\r\n".encode()])

    def _add(self, about: str, octets: bytes) -> None:
        head = f"--{self._boundary}\r\nContent-Disposition: form-data; {about}\r\n\r\n"
        self._pieces += (head.encode("utf-8", "replace"), octets, b"\r\n")


def _quoted(name: str) -> str:
    """Return a file name as browsers send it: without path, control characters and quotes."""
    last = name.replace("\\", "/").rpartition("/")[2]
    shown = "".join(c if c.isprintable() else "_" for c in last[-255:])
    return shown.replace('"', "%22")


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
