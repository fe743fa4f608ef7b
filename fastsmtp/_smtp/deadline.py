"""The deadline of one dialogue: which timeout applies, and when it expires.

In: the time, what the dialogue waits for, and octets of body. Out: `deadline`, a time on the same
clock, or infinity. There are no timers here; the connection has one and reads `deadline` when it
fires. RFC 5321 §4.5.3.2.
"""

from __future__ import annotations

from math import inf

from fastsmtp._smtp.policy import Policy

__all__ = ["Clock"]


class Clock:
    """Times in seconds; the caller of the dialogue sets `now`."""

    __slots__ = (
        "_credit",
        "_payload_seen",
        "_policy",
        "deadline",
        "lagging",
        "line_timeout",
        "now",
        "receiving",
    )

    def __init__(self, policy: Policy, now: float) -> None:
        self.now = now
        self.deadline = inf
        self._policy = policy
        self.line_timeout = self._policy.socket_timeout  # of the next line: a command or AUTH's
        self.receiving = False  # octets of a body or chunk are due
        self.lagging = False  # the consumer lags, so nothing is read from the client
        self._credit = self._policy.data_timeout
        self._payload_seen = 0

    def run_by(self, policy: Policy) -> None:
        """Take the timeouts of `policy` from now on."""
        self._policy = policy
        self.line_timeout = self._policy.socket_timeout

    def stop(self) -> None:
        """Run without a deadline."""
        self.deadline = inf
        self.receiving = self.lagging = False

    def await_command(self) -> None:
        """Our last reply is written: the whole next command has `socket_timeout`, the answer to a
        334 `auth_timeout`; octets do not extend it.
        """
        if not self.receiving and not self.lagging:
            self.deadline = self.now + self.line_timeout

    def stand(self) -> None:
        """The client does not read our replies, so we do not read either: only `write_timeout`
        applies.
        """
        spell = self._policy.data_timeout if self.receiving else self.line_timeout
        self.deadline = self.now + spell

    def await_answer(self, timeout: float) -> None:
        """Wait for the answer of a hook, for `timeout` seconds."""
        self.deadline = self.now + timeout

    def begin_body(self) -> None:
        """A new body begins with the full time credit."""
        self._credit = self._policy.data_timeout

    def begin_receiving(self, payload: int) -> None:
        """Octets of body are due. payload: octets of body so far, over the whole connection."""
        self.receiving = True
        self._payload_seen = payload
        if not self.lagging:
            self.deadline = self.now + self._credit

    def received(self, payload: int) -> None:
        """Octets of body add time, a second per `min_data_rate` octets, up to `data_timeout`."""
        if payload == self._payload_seen:
            return
        gained = (payload - self._payload_seen) / self._policy.min_data_rate
        self._payload_seen = payload
        most = self._policy.data_timeout
        if self.lagging:
            self._credit = min(self._credit + gained, most)
        else:
            self.deadline = min(self.deadline + gained, self.now + most)

    def end_receiving(self, payload: int) -> None:
        """The body or chunk is complete; the rest of the credit is kept for the next chunk."""
        if self.receiving:
            self.received(payload)
            self.receiving = False
            if not self.lagging:
                self._credit = max(0.0, self.deadline - self.now)

    def begin_lag(self) -> None:
        """Pause the client's credit while we do not read; the hook's deadline runs."""
        if self.receiving:
            self._credit = max(0.0, self.deadline - self.now)
        self.lagging = True
        self.deadline = self.now + self._policy.data_hook_timeout

    def end_lag(self, payload: int) -> None:
        """The consumer has caught up: the client's credit runs down again."""
        self.lagging = False
        if self.receiving:
            self.begin_receiving(payload)
        else:
            self.await_command()
