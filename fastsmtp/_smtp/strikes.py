"""Counters of one connection: what is counted, the limit of each, and what resets it.

A strike returns True when the limit is reached; then 421 replaces the reply. RSET, a greeting
command and STARTTLS reset none of them. RFC 5321 §7.8.
"""

from __future__ import annotations

from typing import Final

from fastsmtp._smtp.policy import Policy

__all__ = ["Counters"]

REFUSAL_LINES: Final = 10  # refused recipients of one connection that are logged one by one


class Counters:
    """Strikes since the connection began, or since the last accepted message.

    unlogged: refused recipients that were not logged; below zero, log lines that are left.
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

    def count_by(self, policy: Policy) -> None:
        """Take the limits of `policy` from now on."""
        self._policy = policy

    def strike_unrecognized(self) -> bool:
        """An unknown or disabled verb."""
        self.unrecognized += 1
        return self.unrecognized >= self._policy.max_unrecognized_commands > 0

    def strike_unauthenticated(self) -> bool:
        """A line while authentication is required and missing."""
        self.unauthenticated += 1
        return self.unauthenticated >= self._policy.max_allowed_unauthenticated_commands > 0

    def strike_error(self) -> bool:
        """A refusal that counts against the client."""
        self.errors += 1
        return self.errors >= self._policy.max_errors > 0

    def strike_junk(self) -> bool:
        """A command that makes no progress (NOOP, RSET, VRFY …)."""
        self.junk += 1
        return self.junk >= self._policy.max_junk_commands > 0

    def strike_auth_failure(self) -> bool:
        """A failed authentication; this counter is never reset."""
        self.auth_failures += 1
        return self.auth_failures >= self._policy.max_auth_failures > 0

    def message_done(self, accepted: bool, is_tiny: bool) -> None:
        """A message got its final reply. An accepted message resets the counters.

        is_tiny: it is too short for a real message, so it counts as junk even if it was accepted.
        """
        if is_tiny:
            self.junk += 1
        if accepted:
            self.messages += 1
            self.unrecognized = self.errors = 0
            if not is_tiny:
                self.junk = 0

    def too_much_junk(self) -> bool:
        """Whether tiny messages have reached the limit: the next command is refused."""
        return self.junk >= self._policy.max_junk_commands > 0

    def too_many_messages(self, limit: int) -> bool:
        """Whether `limit` messages were accepted already; 0: no limit."""
        return 0 < limit <= self.messages
