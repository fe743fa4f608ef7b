"""What is the same for all connections of one server: worked out once, read on every command.

Rows of the command table, parameters, limits, the texts that hold the server's name, the EHLO list.
RFC 5321 §4.1.1.1.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from fastsmtp import replies
from fastsmtp._commands import Row, command_rows
from fastsmtp._extensions import (
    binarymime_offered,
    chunking_offered,
    mail_parameters,
    rcpt_parameters,
    smtputf8_offered,
)
from fastsmtp._hooks import Hooks
from fastsmtp.options import Options
from fastsmtp.replies import Reply

__all__ = ["Service"]

# Octets that are dropped beyond `size` before a client is cut: enough to answer a mail that is a
# little too large.
MIN_DROPPED: Final = 10 * 1024 * 1024
# Answers to EHLO that are kept, one per client name: rendering one costs more than the rest of a
# greeting.
MAX_EHLO_REPLIES: Final = 1024


class Service:
    """The service that one set of options and hooks gives to each connection."""

    def __init__(self, options: Options, hooks: Hooks) -> None:
        self.options = options
        self.hooks = hooks
        self.enhanced = not options.hide_enhancedstatuscodes
        self.rows: tuple[Row, ...] = command_rows(options)
        self.mail_parameters = mail_parameters(options)
        self.rcpt_parameters = rcpt_parameters(options)
        self.drop_limit = options.size + max(options.size, MIN_DROPPED) if options.size else 0
        self.max_tried = 2 * options.max_recipients
        # With AUTH disabled nobody could ever satisfy the demand (RFC 4954 §6).
        self.auth_required = not options.auth_optional and "AUTH" not in options.disabled_commands
        self.too_large = replies.TOO_LARGE.formatted(options.size)
        self._make_texts(options)
        self._extensions = self._static_extensions(options)
        self._ehlo_replies: dict[str, Reply] = {}

    def _make_texts(self, options: Options) -> None:
        name = options.name
        greeting = (replies.GREETING_LMTP if options.lmtp else replies.GREETING).formatted(name)
        if options.banner:
            greeting = Reply(greeting.code, None, f"{greeting.text} {options.banner}")
        self.greeting = greeting
        self.early_talker = replies.EARLY_TALKER.formatted(name)
        self.connection_refused = replies.CONNECTION_REFUSED.formatted(name)
        self.not_available = replies.NOT_AVAILABLE.formatted(name)
        self.too_many_clients = replies.TOO_MANY_CLIENTS.formatted(name)
        self.too_many_from_host = replies.TOO_MANY_FROM_HOST.formatted(name)
        self.closing_at_greeting = replies.CLOSING_AT_GREETING.formatted(name)
        text = options.auth_required_message
        self.auth_required_reply = (
            Reply(530, "5.7.0", text) if text else replies.AUTHENTICATION_REQUIRED
        )
        response = options.helo_response
        self._helo_response = response if response.startswith("%s") else f"{name} {response}"

    def helo_text(self, client_hostname: str) -> str:
        """First line of the answer to HELO and EHLO; it begins with our name (RFC 5321
        §4.1.1.1).
        """
        values = iter((self.options.name, client_hostname))
        first, *parts = self._helo_response.split("%s")
        return first + "".join(next(values, "") + part for part in parts)

    @staticmethod
    def _static_extensions(options: Options) -> list[str]:
        size = options.size
        rows = [
            ("PIPELINING", not options.hide_pipelining),
            ("8BITMIME", not options.hide_8bitmime),
            ("SMTPUTF8", smtputf8_offered(options)),
            ("ENHANCEDSTATUSCODES", not options.hide_enhancedstatuscodes),
            ("DSN", not options.hide_dsn),
            ("CHUNKING", chunking_offered(options)),
            ("BINARYMIME", binarymime_offered(options)),
            ("REQUIRETLS", not options.hide_requiretls and options.secured),
            (f"SIZE {size}" if size and not options.hide_size else "SIZE", True),
        ]
        limits = [
            f"{keyword}={value}"
            for keyword, value in (
                ("RCPTMAX", options.max_recipients),
                ("MAILMAX", options.max_messages),
            )
            if value
        ]
        rows += [
            (f"LIMITS {' '.join(limits)}", bool(limits) and not options.hide_limits),
            ("MT-PRIORITY", not options.hide_mt_priority),
            ("DELIVERBY", not options.hide_deliverby),
        ]
        return [line for line, offered in rows if offered]

    def ehlo_reply(self, client_hostname: str, wall_time: Callable[[], float]) -> Reply:
        """The answer to EHLO and LHLO: the service extensions, one a line, in a fixed order."""
        reply = self._ehlo_replies.get(client_hostname)
        if reply is not None:
            return reply
        lines = [self.helo_text(client_hostname), *self._extensions]
        if not self.options.hide_futurerelease:
            longest = self.options.future_release_max
            until = datetime.fromtimestamp(wall_time(), UTC) + timedelta(seconds=longest)
            lines.append(f"FUTURERELEASE {longest} {until:%Y-%m-%dT%H:%M:%SZ}")
            return Reply(250, None, "\n".join(lines))
        if len(self._ehlo_replies) >= MAX_EHLO_REPLIES:
            self._ehlo_replies.clear()
        reply = self._ehlo_replies[client_hostname] = Reply(250, None, "\n".join(lines))
        return reply
