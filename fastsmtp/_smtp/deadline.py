"""The deadline of one dialogue: which clock runs, and until when.

In: the time, what is waited for, and octets of body. Out: `deadline`, a moment on the same clock,
or infinity. Nothing is armed here; the connection keeps one timer and looks at `deadline` when it
fires. RFC 5321 §4.5.3.2.
"""

from __future__ import annotations

from math import inf

from fastsmtp._smtp.policy import Policy

__all__ = ["Clock"]


class Clock:
    """Times in seconds; `now` is set by whoever enters the dialogue."""

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
        self.line_timeout = self._policy.socket_timeout  # of what is due, a command or AUTH's line
        self.receiving = False  # octets of a body or chunk are due
        self.lagging = False  # the consumer lags, so the client is not read
        self._credit = self._policy.data_timeout
        self._payload_seen = 0

    def stop(self) -> None:
        """Nothing is waited for."""
        self.deadline = inf
        self.receiving = self.lagging = False

    def await_command(self) -> None:
        """Our last reply is out: the whole next command has `socket_timeout`, the answer to a 334
        `auth_timeout`; octets do not extend it.
        """
        if not self.receiving and not self.lagging:
            self.deadline = self.now + self.line_timeout

    def stand(self) -> None:
        """The client does not take our replies, so it is not read: whether it takes any is the
        business of `write_timeout` alone.
        """
        spell = self._policy.data_timeout if self.receiving else self.line_timeout
        self.deadline = self.now + spell

    def await_answer(self, timeout: float) -> None:
        """A hook is at work."""
        self.deadline = self.now + timeout

    def begin_body(self) -> None:
        """A new body begins with the full credit."""
        self._credit = self._policy.data_timeout

    def begin_receiving(self, payload: int) -> None:
        """Octets of body are due. payload: octets of body so far, over the whole connection."""
        self.receiving = True
        self._payload_seen = payload
        if not self.lagging:
            self.deadline = self.now + self._credit

    def received(self, payload: int) -> None:
        """Octets of body buy time, `min_data_rate` of them a second, but never more than
        `data_timeout`.
        """
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
        """The body or chunk is complete; what is left of the credit is kept for the next chunk."""
        if self.receiving:
            self.received(payload)
            self.receiving = False
            if not self.lagging:
                self._credit = max(0.0, self.deadline - self.now)

    def begin_lag(self) -> None:
        """The client's credit stands while we do not read; the hook's clock runs."""
        if self.receiving:
            self._credit = max(0.0, self.deadline - self.now)
        self.lagging = True
        self.deadline = self.now + self._policy.data_hook_timeout

    def end_lag(self, payload: int) -> None:
        """The consumer has caught up: the client's clock runs again."""
        self.lagging = False
        if self.receiving:
            self.begin_receiving(payload)
        else:
            self.await_command()
