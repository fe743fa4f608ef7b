"""Rules for recipients: single ones, patterns, domains; and how addresses are compared with them.

A rule is `anne@example.org`, `sales-*@example.org` (`*` is any text, `?` one character),
`*@example.org` or `example.org` for a domain, `*.example.org` for its subdomains, or `*`. Case does
not count, in local parts either, and internationalised domains equal their A-labels.
"""

from __future__ import annotations

import re
from typing import Final

from fastsmtp.gateway.config.domains import parse_domain

__all__ = ["MAX_PATTERNS", "is_pattern", "local_key", "parse_rule", "split_rule"]

MAX_PATTERNS: Final = 1000  # of all rules: each recipient of a message is compared with all of them
MAX_LOCAL_PART: Final = 64  # octets, RFC 5321 §4.5.3.1.1

_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_WILD: Final = re.compile(r"[*?]")
# RFC 5321 §4.1.2, Dot-string, with the characters of RFC 6531 and of patterns.
_DOT_STRING: Final = re.compile(r"[^\s\x00-\x20\x7f\"(),:;<>@\[\\\]]+")


def parse_rule(text: str) -> str:
    """Return a rule as `local@domain`, in the form in which equal rules are equal.

    Raises ValueError.
    """
    local, _, domain = text.rpartition("@")
    if not local and text != "*" and not text.startswith("@"):
        local, domain = "*", text  # a domain alone
    elif text == "*":
        local = "*"
    key = _local_of_rule(text, local)
    return f"{key}@{_domain_of_rule(text, domain)}"


def _local_of_rule(text: str, local: str) -> str:
    quoted = _QUOTED.fullmatch(local) is not None
    # What a star in quotes means would be guessed in one of two ways.
    if _WILD.search(local) if quoted else not _DOT_STRING.fullmatch(local):
        raise _bad_rule(text)
    if len(local.encode("utf-8", "surrogatepass")) > MAX_LOCAL_PART:
        raise ValueError(f"{text!r:.80}: a local part has at most {MAX_LOCAL_PART} octets")
    return local_key(local)


def _domain_of_rule(text: str, domain: str) -> str:
    if domain == "*":
        return domain
    wildcard = "*." if domain.startswith("*.") else ""
    try:
        return wildcard + parse_domain(domain.removeprefix(wildcard))
    except ValueError:
        raise _bad_rule(text) from None


def _bad_rule(text: str) -> ValueError:
    return ValueError(
        f"{text!r:.80} is not a recipient; it takes anne@example.org, sales-*@example.org,"
        " example.org, *.example.org or *"
    )


def local_key(local_part: str) -> str:
    """Return the form by which local parts are compared: in lower case, without quotes."""
    quoted = _QUOTED.fullmatch(local_part)
    if quoted is not None:
        local_part = re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL)
    return local_part.lower()


def split_rule(rule: str) -> tuple[str, str]:
    """Return local part and domain of a parsed rule."""
    local, _, domain = rule.rpartition("@")
    return local, domain


def is_pattern(rule: str) -> bool:
    """Whether a parsed rule can match several local parts or domains, and is not a whole domain."""
    local, domain = split_rule(rule)
    return domain.startswith("*") or (local != "*" and _WILD.search(local) is not None)
