"""Data that all connections of one server share: computed once, read on every command.

Rows of the command table, parameters, limits, texts with the server's name, the EHLO list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from fastsmtp import replies
from fastsmtp._counts.families import cell, stage_number
from fastsmtp._counts.tally import Tally
from fastsmtp._hooks.binding import Hooks
from fastsmtp._hooks.stalls import Stalls
from fastsmtp._smtp.parameters import mail_parameters, rcpt_parameters
from fastsmtp._smtp.policy import Policy
from fastsmtp.options import Options, check_together
from fastsmtp.repeats import Repeats
from fastsmtp.replies import Reply

__all__ = ["EhloLine", "Row", "ServerTables"]

# How many answers to HELO, and to EHLO, are cached, one per client name and choice of lines:
# rendering one costs more than the rest of a greeting.
MAX_REPLIES: Final = 1024
# How many choices of options for sessions are cached: making one costs as much as a hundred
# connections.
MAX_CHOICES: Final = 64

_OTHER: Final = stage_number("other")

# A line of the answer to EHLO; if it depends on the connection, a function of its dialogue.
EhloLine: TypeAlias = str | Callable[[Any], str]


_LIMITS: Final = (
    (replies.TOO_MANY_UNRECOGNIZED, "max_unrecognized_commands"),
    (replies.TOO_MANY_UNAUTHENTICATED, "max_allowed_unauthenticated_commands"),
    (replies.TOO_MANY_ERRORS, "max_errors"),
    (replies.TOO_MANY_JUNK, "max_junk_commands"),
    (replies.TOO_MANY_AUTH_FAILURES, "max_auth_failures"),
    (replies.TOO_MANY_RECIPIENTS, "max_recipients"),
    (replies.TOO_MANY_MESSAGES, "max_messages"),
    (replies.LINE_TOO_LONG, "max_command_length"),
    (replies.LINE_ENDLESS, "max_command_length"),
    (replies.AUTH_LINE_TOO_LONG, "max_command_length"),
    (replies.TOO_MUCH_DATA, "size"),
    (replies.TIMEOUT, "timeout"),
)


class Row(NamedTuple):
    """One command.

    handler: called with the dialogue and the argument; None if the verb is refused in every state,
    or answered before. refusals: the reply by state, None if the verb is allowed. flags: of `Flag`.
    stage: under which its replies are counted, as a number of `stage_number`.
    """

    handler: Callable[[Any, bytes], None] | None
    refusals: tuple[Reply | None, ...]
    flags: int
    stage: int = _OTHER


class ServerTables:
    """The service that one set of options and hooks gives to each connection.

    rows: the command table, indexed by verb. ehlo_lines: of the answer to EHLO. tls: there is a
    certificate. tally: where the service counts. remake: makes the tables for other options.
    observer: the events of the server, None without one; `is_observed` tells whether `transaction`
    has a listener. base: None, or for the tables of a session those of the server. tracing: a
    `Tracing`, None: no client is traced.
    """

    def __init__(
        self,
        options: Options,
        hooks: Hooks,
        rows: Sequence[Row],
        ehlo_lines: Sequence[EhloLine],
        tls: bool,
        tally: Tally,
        remake: Callable[[Options], ServerTables],
    ) -> None:
        self.options = options
        self.hooks = hooks
        self.tally = tally
        self.stalls = Stalls(tally)
        self.warnings = Repeats()
        self.observer: Any = None
        self.base: ServerTables | None = None
        self.tracing: Any = None
        self.policy = Policy(options)
        self.starttls_available = tls and "STARTTLS" not in options.disabled_commands
        # As columns, each indexed by verb.
        self.handlers, self.refusals, self.flags, self.stages = zip(*rows, strict=True)
        self.mail_parameters = mail_parameters(options)
        self.rcpt_parameters = rcpt_parameters(options)
        self.too_large = replies.TOO_LARGE.formatted(options.size)
        self._make_texts(options)
        self._helo_replies: dict[str, Reply] = {}
        self._ehlo_lines = ehlo_lines
        self._ehlo_replies: dict[tuple[str, ...], Reply] = {}
        self._remake = remake
        self._of_sessions: dict[tuple[tuple[str, Any], ...], ServerTables] = {}

    def for_session(self, changed: Mapping[str, Any]) -> ServerTables:
        """Return the tables of a session for which some options are `changed`; recent ones are
        cached. Raises ValueError for options that exclude each other.
        """
        key = tuple(sorted(changed.items()))
        tables = self._of_sessions.get(key)
        if tables is None:
            options = self.options.replaced(**changed)
            check_together(options)
            tables = self._remake(options)
            tables.observer, tables.base = self.observer, self
            tables.stalls, tables.warnings = self.stalls, self.warnings
            if len(self._of_sessions) >= MAX_CHOICES:
                self._of_sessions.clear()
            self._of_sessions[key] = tables
        return tables

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
        # The cell of each reply that a limit causes.
        self.limits = {
            reply: cell("limits_total", limit)
            for reply, limit in (
                *_LIMITS,
                (self.early_talker, "greet_delay"),
                (self.too_large, "size"),
            )
        }
        response = options.helo_response
        self._helo_response = response if response.startswith("%s") else f"{name} {response}"

    def helo_reply(self, client_hostname: str) -> Reply:
        """The answer to HELO, which names the client; recent ones are cached."""
        reply = self._helo_replies.get(client_hostname)
        if reply is None:
            if len(self._helo_replies) >= MAX_REPLIES:
                self._helo_replies.clear()
            reply = Reply(250, None, self.helo_text(client_hostname))
            self._helo_replies[client_hostname] = reply
        return reply

    def ehlo_reply(self, dialogue: Any) -> Reply:
        """The answer to EHLO or LHLO of this client in its current state."""
        name = dialogue.client_hostname
        lines = (
            name,
            *[one if isinstance(one, str) else one(dialogue) for one in self._ehlo_lines],
        )
        return self.ehlo_reply_of(lines)

    def keywords(self, dialogue: Any) -> tuple[str, ...]:
        """The lines of that answer after the first one."""
        lines = [one if isinstance(one, str) else one(dialogue) for one in self._ehlo_lines]
        return tuple(filter(None, lines))

    def ehlo_reply_of(self, lines: tuple[str, ...]) -> Reply:
        """The answer to EHLO or LHLO for the name of a client and keywords, of which empty ones are
        left out; recent ones are cached.
        """
        reply = self._ehlo_replies.get(lines)
        if reply is None:
            text = "\n".join([self.helo_text(lines[0]), *filter(None, lines[1:])])
            if len(self._ehlo_replies) >= MAX_REPLIES:
                self._ehlo_replies.clear()
            reply = self._ehlo_replies[lines] = Reply(250, None, text)
        return reply

    def helo_text(self, client_hostname: str) -> str:
        """The first line of the answer to HELO and EHLO; it begins with our name (RFC 5321
        §4.1.1.1).
        """
        values = iter((self.options.name, client_hostname))
        first, *parts = self._helo_response.split("%s")
        return first + "".join([next(values, "") + part for part in parts])
