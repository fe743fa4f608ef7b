"""The answer to EHLO and LHLO: the service extensions, one a line, in a fixed order.

A row is a text that all connections are told, or a function of the dialogue, which answers "" where
this one is not offered the extension. RFC 5321 §4.1.1.1.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from fastsmtp._auth import usable_mechanisms
from fastsmtp._exchange import Exchange
from fastsmtp._extensions import binarymime_offered, chunking_offered, smtputf8_offered
from fastsmtp._xclient import xclient_offer, xforward_offer
from fastsmtp.options import Options
from fastsmtp.replies import Reply

__all__ = ["EhloList"]

# Answers that are kept, one per client name and choice of lines: rendering one costs more than the
# rest of a greeting.
MAX_REPLIES: Final = 1024

type_row = str | Callable[[Exchange], str]


def _rows(options: Options) -> list[type_row]:
    size = options.size
    offers: list[tuple[type_row, bool]] = [
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
        (xclient_offer, _trusted_for(options, "XCLIENT")),
        (xforward_offer, _trusted_for(options, "XFORWARD")),
    ]
    return [row for row, offered in offers if offered]


def _limits(options: Options) -> str:
    """RFC 9422 §3."""
    limits = {"RCPTMAX": options.max_recipients, "MAILMAX": options.max_messages}
    words = [f"{keyword}={value}" for keyword, value in limits.items() if value]
    return f"LIMITS {' '.join(words)}" if words else ""


def _auth(dialogue: Exchange) -> str:
    """What could succeed now, and nothing once it has: RFC 4954 §3, §4."""
    names = [] if dialogue.authenticated else usable_mechanisms(dialogue)
    return f"AUTH {' '.join(names)}" if names else ""


def _starttls(dialogue: Exchange) -> str:
    """Never inside TLS: RFC 3207 §4.2."""
    return "STARTTLS" if dialogue.service.starttls_available and not dialogue.secure else ""


def _requiretls(dialogue: Exchange) -> str:
    """Inside TLS only: RFC 8689 §2."""
    return "REQUIRETLS" if dialogue.secure else ""


def _trusted_for(options: Options, verb: str) -> bool:
    """Whether there may be anybody who is offered this verb."""
    networks = options.use_xclient if verb == "XCLIENT" else options.use_xforward
    return bool(networks) and verb not in options.disabled_commands


def _futurerelease(dialogue: Exchange) -> str:
    """The longest hold, and the date it ends at from now on: RFC 4865 §4."""
    longest = dialogue.options.future_release_max
    until = datetime.fromtimestamp(dialogue.host.wall_time(), UTC) + timedelta(seconds=longest)
    return f"FUTURERELEASE {longest} {until:%Y-%m-%dT%H:%M:%SZ}"


class EhloList:
    """The answers of one service; first_line: makes their first line of the client's name."""

    def __init__(self, options: Options, first_line: Callable[[str], str]) -> None:
        self._rows = _rows(options)
        self._first_line = first_line
        self._replies: dict[tuple[str, ...], Reply] = {}

    def reply(self, dialogue: Exchange) -> Reply:
        """The answer to this client, as things stand now."""
        name = dialogue.client_hostname
        lines = (name, *[row if isinstance(row, str) else row(dialogue) for row in self._rows])
        reply = self._replies.get(lines)
        if reply is None:
            text = "\n".join([self._first_line(name), *filter(None, lines[1:])])
            if len(self._replies) >= MAX_REPLIES:
                self._replies.clear()
            reply = self._replies[lines] = Reply(250, None, text)
        return reply
