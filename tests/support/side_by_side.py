"""The engine and the model, driven by the same commands: what they answer and hold must be equal.

Hooks answer as `outcome` says: "450" is given at once and without having read, "550" and "421" at
the end of a body, "raise" raises, "late" keeps the callback for `answer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from model import Model
from model_tables import BODIES, LINES, SIZE, ModelReply, State
from scenario import COUNTERS_OFF, DEFAULTS, parse_replies
from shared_loop import shared_loop, uncaught

from fastsmtp.errors import MessageAborted, SMTPError
from fastsmtp.testing import Wire

OUTCOMES = ("accept", "450", "550", "421", "raise")  # of each hook
CLOSE_TIMEOUT = 10.0
# Longer than each clock that may run: commands, hooks, hooks of a message, the credit of a body.
CLOCKS = {
    "": 301,
    "connect": 31,
    "_mail": 31,
    "_rcpt": 31,
    "body": 181,
    "message": 241,
    "chunk": 241,
}

_BODY_BEGINS = b"Begin: 1\r\n"


def replies_in(octets: bytes) -> list[ModelReply]:
    """Code and enhanced code of each reply."""
    return [ModelReply(reply.code, reply.enhanced or "") for reply in parse_replies(octets)]


class SideBySide:
    """One connection of the engine, and a model of it. Each method does one thing to both."""

    def __init__(self, start: str = "accept", **options: Any) -> None:
        self.options = {"lmtp": False, "bare_newline": "reject", **options}
        self.model = Model(
            lmtp=self.options["lmtp"],
            policy=self.options["bare_newline"],
            max_recipients=self.options.get("max_recipients", 1000),
            max_messages=self.options.get("max_messages", 0),
        )
        self.outcome = start
        self.callback: Callable[..., object] | None = None
        self.stale: list[Callable[..., object]] = []
        self.reads = 0  # 1 if on_data reads its body, which is not so when it answers at once
        self.ends: list[str] = []  # how that body ended for its consumer
        self.answered_early = False
        self.log: list[object] = [self.options, start]  # for the message of a failure
        self.closes = 0
        self.closing: asyncio.Task[None] | None = None
        hooks = {
            "on_connect": self._on_connect,
            "on_mail_from": self._on_address,
            "on_rcpt_to": self._on_address,
            "on_data": self._on_data,
            "on_close": self._on_close,
        }
        self.wire = Wire(
            loop=shared_loop(),
            **{
                **DEFAULTS,
                **COUNTERS_OFF,
                **hooks,
                "size": SIZE,
                "hide_binarymime": False,
                "close_timeout": CLOSE_TIMEOUT,
                **self.options,
            },
        )
        self.wire.server.on("error", lambda error: None)  # hooks fail on purpose
        self._compare(self.model.start(start), self.wire.receive())

    # --- hooks ---

    def _answer(self, callback: Callable[..., object], outcome: str) -> None:
        if outcome == "accept":
            callback()
        elif outcome == "raise":
            callback("nonsense")  # later than in the call there is no caller to raise to
        elif outcome == "list":
            callback(None, [SMTPError("not this one", response_code=550), "ok"])
        else:
            callback(SMTPError("not this one", response_code=int(outcome)))

    def _on_connect(self, session: Any, callback: Callable[..., object]) -> None:
        self._on_address(None, session, callback)

    def _on_address(self, address: Any, session: Any, callback: Callable[..., object]) -> None:
        assert not self.closes
        assert self.callback is None
        if self.outcome == "raise":
            raise RuntimeError("a hook that fails")
        if self.outcome == "late":
            self.callback = callback
        else:
            self._answer(callback, self.outcome)

    def _on_data(self, stream: Any, session: Any, callback: Callable[..., object]) -> None:
        assert session.envelope.rcpt_to
        outcome = self.outcome
        self.ends = []
        self.answered_early = False
        self.reads = 0 if outcome in ("450", "raise") else 1
        if not self.reads:
            self._on_address(None, session, callback)
            return
        if outcome == "late":
            self.callback = callback

        def on_end(error: MessageAborted | None) -> None:
            self.ends.append("" if error is None else error.reason)
            if outcome == "late":
                return
            if error is not None and outcome == "accept":
                callback(error)
            else:
                self._answer(callback, outcome)

        stream.consume(lambda piece: None, on_end)

    def _on_close(self, session: Any) -> None:
        self.closes += 1

    # --- steps ---

    def command(self, name: str, outcome: str = "accept", body: str = "plain") -> None:
        """One line of the tables, with what belongs after it."""
        self.outcome = outcome
        self.log += [name, outcome, body]
        line, octets = LINES[name], BODIES[body].octets
        is_open = self._is_body_open()
        expected = self.model.command(name, outcome, body)
        if line.verb == "BDAT" and not line.fault:
            last = b" LAST" if name == "BDAT LAST" else b""
            written = self.wire.send(b"BDAT %d%s\r\n%s" % (len(octets), last, octets))
        else:
            written = self.wire.send(line.octets + b"\r\n")
            if expected[:1] == [ModelReply(354)]:
                assert replies_in(written) == [ModelReply(354)]
                written += self.wire.send(octets + b".\r\n")
        self._compare(expected, written)
        if is_open and (line.verb != "BDAT" or line.fault):
            if self.model.closed:
                self._body_ended("disconnected")
            elif self.model.state is not State.BDAT:
                self._body_ended("reset")

    def open_data(self, outcome: str = "accept") -> None:
        """DATA, and the beginning of a body."""
        self.outcome = outcome
        self.log += ["body begins", outcome]
        expected = self.model.open_data(outcome)
        written = self.wire.send(b"DATA\r\n")
        self._compare(expected, written + self.wire.send(_BODY_BEGINS))

    def end_data(self, body: str) -> None:
        """The rest of that body, and the dot line."""
        self.log += ["body ends", body]
        expected = self.model.end_data(body)
        self._compare(expected, self.wire.send(BODIES[body].octets + b".\r\n"))

    def answer(self, outcome: str) -> None:
        """The late hook answers; its message may still be on its way."""
        self.log += ["late answer", outcome]
        callback, self.callback = self.callback, None
        assert callback is not None
        if self.model.pending in ("connect", "_mail", "_rcpt", "message", "chunk"):
            expected = self.model.answer(outcome)
        else:
            # The hook has begun to read: what it accepts before the end is not the message.
            self.model.data_outcome = "raise" if outcome == "accept" else outcome
            self.answered_early = True
            expected = []
        self._answer(callback, outcome)
        self._compare(expected, self.wire.advance(0))

    def clock(self) -> None:
        """The next clock comes due."""
        self.log.append("clock")
        stage, is_open = self.model.pending, self._is_body_open()
        if self.model.closing:  # `close_timeout` comes first
            self.model.leave()
            self._compare([], self.wire.advance(CLOSE_TIMEOUT + 2))
        else:
            expected = self.model.clock()
            self._compare(expected, self.wire.advance(CLOCKS[stage]))
        if is_open:
            self._body_ended("shutdown" if self.model.closing else "timeout")

    def shutdown(self) -> None:
        """The server closes."""
        self.log.append("shutdown")
        expected = self.model.shutdown()
        self.closing = self.wire.loop.create_task(self.wire.server.close())
        self._compare(expected, self.wire.advance(0))

    def half_close(self) -> None:
        """The client sends FIN, and still reads."""
        self.log.append("FIN")
        is_open = self._is_body_open()
        expected = self.model.half_close()
        self._compare(expected, self.wire.eof())
        if is_open:
            self._body_ended("disconnected")

    def leave(self) -> None:
        """The client resets the connection."""
        self.log.append("reset")
        stage, is_open = self.model.pending, self._is_body_open()
        self.model.leave()
        self.wire.reset()
        self._let_finish(stage)
        self._compare([], self.wire.advance(0))
        if is_open:
            self._body_ended("disconnected")

    def _let_finish(self, stage: str) -> None:
        """A hook that has a complete message may finish, though its answer is not read."""
        if stage in ("message", "chunk") and self.callback is not None:
            assert self.closes == 0
            self.callback()
            self.callback = None
            self.wire.loop.advance()

    def finish(self) -> None:
        """The end of a test: what answers after its time has no effect, and nothing is left."""
        if not self.model.closed:
            self.leave()
        for callback in self.stale:
            callback()
        assert self.wire.advance(0) == b""
        assert self.closes == 1
        if self.closing is not None:
            self.wire.advance(1)
            assert self.closing.done(), self.log
        assert not uncaught, uncaught

    # --- what must be equal ---

    def _is_body_open(self) -> bool:
        between_chunks = self.model.state is State.BDAT and not self.model.pending
        return between_chunks or self.model.pending == "body"

    def _body_ended(self, reason: str) -> None:
        if self.answered_early:
            reason = "answered"
        assert self.ends == self.reads * [reason], f"{reason}, {self.ends}: {self.log}"

    def _compare(self, expected: list[ModelReply], written: bytes) -> None:
        model, wire = self.model, self.wire
        got = replies_in(written)
        self.log.append(tuple(tuple(reply) for reply in got))
        assert got == expected, f"expected {expected}: {self.log}"
        assert wire.closed == model.closed, f"closed is not {model.closed}: {self.log}"
        is_waited_for = model.pending or model.data_outcome == "late"
        if self.callback is not None and (model.closed or not is_waited_for):
            self.stale.append(self.callback)
            self.callback = None
        if not model.closed:
            assert self.closes == 0
            self._compare_session()
            return
        if not wire.transport.closed:
            assert wire.eof() == b""
        assert self.closes == 1, f"on_close was called {self.closes} times: {self.log}"

    def _compare_session(self) -> None:
        model, session = self.model, self.wire.session
        envelope = session.envelope
        expected = {
            "opening_command": model.greeted_with,
            "host_name_appears_as": "c.example" if model.greeted_with else "",
            "transaction": model.transaction,
            "error": model.error,
            "recipients": model.recipients,
            "has a sender": model.state >= State.MAIL,
        }
        found = {
            "opening_command": session.opening_command,
            "host_name_appears_as": session.host_name_appears_as,
            "transaction": session.transaction,
            "error": (session.error or "")[: len(model.error)],
            "recipients": len(envelope.rcpt_to),
            "has a sender": envelope.mail_from is not None,
        }
        if model.state >= State.MAIL:
            expected |= {"body": model.line.body_type, "utf8": model.line.smtp_utf8}
            found |= {"body": envelope.body_type, "utf8": envelope.smtp_utf8}
        assert found == expected, f"{found}, expected {expected}: {self.log}"
