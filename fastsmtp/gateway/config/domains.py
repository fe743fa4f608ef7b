"""Domains as the configuration has them, and the form by which they are compared."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

__all__ = ["domain_key", "parse_domain"]

MAX_DOMAIN: Final = 255  # octets, RFC 5321 §4.5.3.1.2

# RFC 5321 §4.1.2: Domain, and the two address literals that the engine accepts.
_DOMAIN: Final = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_LITERAL: Final = re.compile(r"\[(?:([0-9.]+)|[Ii][Pp][Vv]6:([0-9A-Fa-f:.]+))\]")


def parse_domain(text: str) -> str:
    """Check a domain or address literal and return its `domain_key`; a final dot is dropped.

    Raises ValueError.
    """
    literal = _LITERAL.fullmatch(text)
    if literal is not None:
        try:
            ipaddress.ip_address(literal[1] or literal[2])
        except ValueError:
            raise ValueError(f"{text!r:.80} is not an address literal") from None
        return domain_key(text)
    key = domain_key(text.removesuffix("."))
    if len(key) > MAX_DOMAIN or not _DOMAIN.fullmatch(key):
        raise ValueError(f"{text!r:.80} is not a domain; it takes names such as example.org")
    return key


def domain_key(domain: str) -> str:
    """Return the form by which domains are compared: lower case, internationalised labels as
    A-labels.

    A domain without such a form, which cannot be configured, is only lower-cased.
    """
    if domain.isascii():
        return domain.lower()
    return ".".join(map(_label_key, domain.split(".")))


def _label_key(label: str) -> str:
    """A U-label as its A-label. Labels that the codec would rewrite, such as a full-width dot or a
    sharp s, are different names, so they stay unchanged.
    """
    lower = label.lower()
    try:
        key = lower.encode("idna")
        return key.decode("ascii") if key.decode("idna") == lower else lower
    except UnicodeError:
        return lower
