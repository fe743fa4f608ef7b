"""The keys of the tables `webhook` and `bodies`, and their lines in the example file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastsmtp.gateway.config.values import (
    FILE,
    MASK,
    NUMBER,
    PROMISE,
    SECONDS,
    SECRET,
    TEXT,
    ValueKind,
    WrongValue,
)

__all__ = ["BODIES", "BODIES_EXAMPLE", "WEBHOOK", "WEBHOOK_EXAMPLE"]


def _headers(value: list[str]) -> tuple[tuple[str, str], ...]:
    found = []
    for text in value:
        name, colon, content = text.partition(":")
        if not colon or not name.strip():
            raise WrongValue("it takes texts of the form 'Name: value'")
        found.append((name.strip(), content.strip()))
    return tuple(found)


def _masked_headers(value: list[str]) -> list[str]:
    return [f"{text.partition(':')[0]}: {MASK}" for text in value]


HEADERS: Final = ValueKind(
    "a list of texts of the form 'Name: value'",
    list[str],
    _headers,
    is_list=True,
    mask=_masked_headers,
)

WEBHOOK: Final[Mapping[str, ValueKind]] = {
    "secret": SECRET,
    "secret_file": FILE,
    "previous_secret": SECRET,
    "previous_secret_file": FILE,
    "authorization": SECRET,
    "authorization_file": FILE,
    "headers": HEADERS,
    "form": TEXT,
    "ca": FILE,
    "proxy": SECRET,
    "parallel": NUMBER,
    "timeout": SECONDS,
}
WEBHOOK_EXAMPLE: Final = """\
# [webhook]
# secret_file = "/etc/fastsmtp/webhook.secret"  # whsec_ and base64; or secret
# form = "raw"                                  # or "multipart"
# authorization_file = "/etc/fastsmtp/webhook.authorization"
"""

BODIES: Final[Mapping[str, ValueKind]] = {
    "url": TEXT,
    "orphan_age": SECONDS,
    "endpoint": TEXT,
    "region": TEXT,
    "access_key_id": TEXT,
    "secret_access_key": SECRET,
    "secret_access_key_file": FILE,
    "ca": FILE,
    "uploads": NUMBER,
    "timeout": SECONDS,
    "promise": PROMISE,
}
BODIES_EXAMPLE: Final = """\
# [bodies]
# url = "file:/var/lib/fastsmtp/bodies"  # or "s3://bucket/prefix"
# endpoint = "https://s3.example.org"
# access_key_id = "gateway"
# secret_access_key_file = "/etc/fastsmtp/s3.secret"
"""
