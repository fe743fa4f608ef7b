"""Counters of one connection: what is counted, the limit of each, and what takes a count back.

A strike returns True when it is one too many; its 421 then stands in place of the reply. None of
them is cleared by RSET, a greeting command or STARTTLS. RFC 5321 §7.8.
"""

from __future__ import annotations

from typing import Final

from fastsmtp._smtp.policy import Policy

__all__ = ["Counters"]

REFUSAL_LINES: Final = 10  # refused recipients of one connection that have a line in the log each


class Counters:
    """Strikes since the connection began, or since the last accepted message.

    unlogged: refused recipients that have no line in the log; below zero, lines that are left.
    """

    __slots__ = (
        "_policy",
        "auth_failures",
        "errors",
        "junk",
        "messages",
        "unauthenticated",
        "unlogged",
        "unrecognized",
    )

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.unrecognized = 0
        self.unauthenticated = 0
        self.errors = 0
        self.junk = 0
        self.auth_failures = 0
        self.messages = 0
        self.unlogged = -REFUSAL_LINES

    def strike_unrecognized(self) -> bool:
        """An unknown or disabled verb."""
        self.unrecognized += 1
        return self.unrecognized >= self._policy.max_unrecognized_commands > 0

    def strike_unauthenticated(self) -> bool:
        """A line while authentication is required and missing."""
        self.unauthenticated += 1
        return self.unauthenticated >= self._policy.max_allowed_unauthenticated_commands > 0

    def strike_error(self) -> bool:
        """A refusal that is the client's doing."""
        self.errors += 1
        return self.errors >= self._policy.max_errors > 0

    def strike_junk(self) -> bool:
        """A command that brings no message nearer."""
        self.junk += 1
        return self.junk >= self._policy.max_junk_commands > 0

    def strike_auth_failure(self) -> bool:
        """A failed authentication; nothing takes it back."""
        self.auth_failures += 1
        return self.auth_failures >= self._policy.max_auth_failures > 0

    def message_done(self, accepted: bool, is_tiny: bool) -> None:
        """A message has its final reply. A client that delivers mail starts anew.

        is_tiny: it has too few octets to be a message, so it is junk, whatever became of it.
        """
        if is_tiny:
            self.junk += 1
        if accepted:
            self.messages += 1
            self.unrecognized = self.errors = 0
            if not is_tiny:
                self.junk = 0

    def too_much_junk(self) -> bool:
        """Tiny messages have reached the limit: each had its reply, the next one is refused."""
        return self.junk >= self._policy.max_junk_commands > 0

    def too_many_messages(self, limit: int) -> bool:
        """`limit` messages were accepted already; 0: there is no limit."""
        return 0 < limit <= self.messages
