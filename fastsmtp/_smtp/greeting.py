"""The answer to EHLO and LHLO: the service extensions, one a line, in a fixed order.

A row is a text for all connections, or a function of the dialogue that returns "" if the extension
is not offered on this connection. RFC 5321 §4.1.1.1.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fastsmtp._smtp.auth import usable_mechanisms
from fastsmtp._smtp.dialogue import Dialogue
from fastsmtp._smtp.parameters import binarymime_offered, chunking_offered, smtputf8_offered
from fastsmtp._smtp.server_tables import EhloLine
from fastsmtp._smtp.xclient import xclient_offer, xforward_offer
from fastsmtp.options import Options

__all__ = ["ehlo_lines"]


def ehlo_lines(options: Options) -> list[EhloLine]:
    """Return the lines of the answer to EHLO under `options`, one per extension."""
    size = options.size
    offers: list[tuple[EhloLine, bool]] = [
        ("PIPELINING", not options.hide_pipelining),
        ("8BITMIME", not options.hide_8bitmime),
        ("SMTPUTF8", smtputf8_offered(options)),
        ("ENHANCEDSTATUSCODES", not options.hide_enhancedstatuscodes),
        ("DSN", not options.hide_dsn),
        ("CHUNKING", chunking_offered(options)),
        ("BINARYMIME", binarymime_offered(options)),
        (_auth, "AUTH" not in options.disabled_commands),
        (_starttls, not options.hide_starttls),
        (_requiretls, not options.hide_requiretls),
        (f"SIZE {size}" if size and not options.hide_size else "SIZE", True),
        (_limits(options), bool(_limits(options)) and not options.hide_limits),
        ("MT-PRIORITY", not options.hide_mt_priority),
        ("DELIVERBY", not options.hide_deliverby),
        (_futurerelease, not options.hide_futurerelease),
        ("RRVS", not options.hide_rrvs),
        (xclient_offer, _trusted_for(options, "XCLIENT")),
        (xforward_offer, _trusted_for(options, "XFORWARD")),
    ]
    return [line for line, offered in offers if offered]


def _limits(options: Options) -> str:
    """RFC 9422 §3."""
    limits = {"RCPTMAX": options.max_recipients, "MAILMAX": options.max_messages}
    words = [f"{keyword}={value}" for keyword, value in limits.items() if value]
    return f"LIMITS {' '.join(words)}" if words else ""


def _auth(dialogue: Dialogue) -> str:
    """The mechanisms that can be used now, none after authentication: RFC 4954 §3, §4."""
    names = [] if dialogue.authenticated else usable_mechanisms(dialogue)
    return f"AUTH {' '.join(names)}" if names else ""


def _starttls(dialogue: Dialogue) -> str:
    """Not offered inside TLS: RFC 3207 §4.2."""
    return "STARTTLS" if dialogue.tables.starttls_available and not dialogue.secure else ""


def _requiretls(dialogue: Dialogue) -> str:
    """Offered inside TLS only: RFC 8689 §2."""
    return "REQUIRETLS" if dialogue.secure else ""


def _trusted_for(options: Options, verb: str) -> bool:
    """Whether this verb may be offered to any client."""
    networks = options.use_xclient if verb == "XCLIENT" else options.use_xforward
    return bool(networks) and verb not in options.disabled_commands


def _futurerelease(dialogue: Dialogue) -> str:
    """The longest hold, and the date it ends at from now on: RFC 4865 §4."""
    longest = dialogue.options.future_release_max
    until = datetime.fromtimestamp(dialogue.host.wall_time(), UTC) + timedelta(seconds=longest)
    return f"FUTURERELEASE {longest} {until:%Y-%m-%dT%H:%M:%SZ}"
