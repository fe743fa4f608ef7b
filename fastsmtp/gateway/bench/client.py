"""One connection: greets, sends messages as long as the schedule gives some, and leaves.

In: replies of a server that may send anything, and may stop or close at any moment. Out: commands
and messages, and the figures of what happened. Nothing that the server does raises out of here.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import ClassVar, Final, NamedTuple, cast

from fastsmtp.gateway.bench.figures import Figures
from fastsmtp.gateway.bench.plan import Plan
from fastsmtp.gateway.bench.schedule import Schedule
from fastsmtp.gateway.bench.script import DATA, END, QUIT, RSET, STARTTLS, Script
from fastsmtp.reply_reader import BadReply, ReplyReader

__all__ = ["Client", "Work", "reason_of"]

CLOSING: Final = 421  # the server closes the connection, RFC 5321 §3.8
GO_ON: Final = 354
UNLIMITED: Final = 2**62  # messages per connection
LINGER: Final = 1.0  # seconds that a server has to close the connection after its 221
UNASKED: Final = "a reply that no command asked for"

# What is awaited, and its name in the text of an error.
LABELS: Final = {
    "connect": "the greeting",
    "ehlo": "the reply to EHLO",
    "starttls": "the reply to STARTTLS",
    "mail": "the reply to MAIL",
    "rcpt": "the reply to RCPT",
    "data": "the reply to DATA",
    "end": "the reply to the message",
    "rset": "the reply to RSET",
    "quit": "the reply to QUIT",
}


class Work(NamedTuple):
    """What all clients of a run share. tls: for STARTTLS."""

    plan: Plan
    script: Script
    figures: Figures
    schedule: Schedule
    tls: ssl.SSLContext | None = None


class Client(asyncio.Protocol):
    """`ended` is set when the connection is over. features: of the last reply to EHLO. is_useful:
    it has finished a message, or left in good order.
    """

    def __init__(self, work: Work, began: float) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.features: frozenset[str] = frozenset()
        self.is_useful = False
        self._is_greeted = False  # ready to send
        self._plan, self._script, self._figures, self._schedule, self._tls = work
        self._began = self._since = began  # since: the last progress that the server made
        self._replies = ReplyReader()
        self._awaited: deque[str] = deque(("connect",))
        self._most = self._plan.per_connection or UNLIMITED
        self._sent = 0
        self._is_pipelining = False
        self._group = ("mail", *("rcpt" for _ in self._script.rcpts), "data")
        self._is_over = self._is_leaving = self._is_paused = False
        self._upgrade: asyncio.Task[None] | None = None
        # of the message under way
        self._in_message = False
        self._started = self._ended_at = 0.0
        self._is_open = False  # MAIL was accepted
        self._accepted = self._delivered = self._rcpts = 0
        self._is_expected = False  # what refuses it
        self._pieces: Iterator[bytes] | None = None
        self._ahead: float | None = None  # when the next message was due, if it has its commands

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        if transport.get_extra_info("ssl_object") is None:
            # With 0 a write goes out at once, and is paused as long as anything of it is left.
            self._transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        now = perf_counter()
        replies = self._replies
        try:
            replies.feed(data)
            while not self._is_over and (code := replies.next_code()):
                self._since = now
                self._on_reply(code, now)
        except BadReply as error:
            self._break(f"{error}, where {self._where()} was due" if self._awaited else str(error))

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._since = now = perf_counter()
        if self._pieces is not None:
            self._write_pieces(self._pieces)
        elif self._awaited and self._awaited[0] == "end":
            self._ended_at = now

    def connection_lost(self, exc: Exception | None) -> None:
        how = "closed" if exc is None else "broken"
        if self._awaited and not self._is_leaving:
            self._break(f"connection {how} by the server before {self._where()}")
        self._is_over = True
        self._schedule.forget(self)
        if not self.ended.done():
            self.ended.set_result(None)

    # The run calls these.

    def wake(self) -> None:
        """Send the next message, or leave."""
        self._next(perf_counter())

    def check(self, now: float) -> None:
        """Give up when the server has made no progress for too long."""
        if self._is_leaving and not self._awaited:
            if now - self._since > LINGER:
                self._transport.abort()
        elif (self._awaited or not self._replies.is_empty) and (
            now - self._since > self._plan.timeout
        ):
            stuck = self._pieces is not None or self._is_paused
            due = self._where() if self._awaited else "the rest of a reply"
            what = "no more of a message is read" if stuck else f"{due} did not come"
            self._break(f"{what} within {self._plan.timeout:g} s")

    def cut(self) -> None:
        """End the connection at once."""
        if self._is_leaving:
            self._transport.abort()
        else:
            self._break("cut at the end of the run")

    # Replies.

    def _on_reply(self, code: int, now: float) -> None:
        if not self._awaited:
            self._figures.count_reply("unasked", code)
            if code != CLOSING:
                raise BadReply(UNASKED)
            self._close()
            return
        stage = self._awaited[0]
        self._figures.count_reply(stage, code)
        if code < 400 and code // 100 != (3 if stage == "data" else 2):
            raise BadReply(f"the reply {code}")
        self._awaited.popleft()
        if code == CLOSING:
            self._on_closing(stage)
        else:
            self._handlers[stage](self, code, now)

    def _on_closing(self, stage: str) -> None:
        if self._in_message:
            self._refuse(stage, CLOSING)
            self._count_message(perf_counter())
            self._give_back()
        elif not self._is_greeted:
            self._count_connection(stage, CLOSING)
        self._close()

    def _on_connect(self, code: int, now: float) -> None:
        if code >= 400:
            self._refuse_connection("connect", code)
            return
        self._figures.connect.add(now - self._began)
        self._ask("ehlo", self._script.greeting)

    def _on_ehlo(self, code: int, now: float) -> None:
        if code >= 400:
            self._refuse_connection("ehlo", code)
            return
        lines = self._replies.lines[1:]
        words = (line[4:].split(maxsplit=1) for line in lines)
        self.features = frozenset(each[0].decode("latin-1").upper() for each in words if each)
        if self._tls is not None:
            if "STARTTLS" not in self.features:
                raise BadReply("no STARTTLS in the reply to EHLO")
            self._ask("starttls", STARTTLS)
            return
        self._is_pipelining = self._plan.pipelining and "PIPELINING" in self.features
        self._is_greeted = True
        self._next(now)

    def _on_starttls(self, code: int, now: float) -> None:
        if code >= 400:
            self._refuse_connection("starttls", code)
        elif not self._replies.is_empty:
            raise BadReply("octets after the reply to STARTTLS")
        else:
            self._upgrade = asyncio.get_running_loop().create_task(self._start_tls(now))

    async def _start_tls(self, began: float) -> None:
        plain = cast(asyncio.Transport, self._transport)
        context, self._tls = self._tls, None
        assert context is not None
        try:
            transport = await asyncio.get_running_loop().start_tls(
                *(plain, self, context),
                server_hostname=self._plan.target.host or None,
                ssl_handshake_timeout=self._plan.timeout,
            )
            assert transport is not None
        except (OSError, RuntimeError) as error:  # RuntimeError: of uvloop, it is closed already
            self._break(f"TLS failed: {reason_of(error)}")
        else:
            self._transport = transport
            self._figures.tls.add(perf_counter() - began)
            self._ask("ehlo", self._script.greeting)
        finally:
            if self._transport is plain:
                # The loops differ in whether they say so themselves.
                plain.abort()
                self.connection_lost(None)

    def _on_mail(self, code: int, now: float) -> None:
        self._is_open = code < 400
        if not self._is_open:
            self._refuse("mail", code)
        if self._is_pipelining:
            return
        if self._is_open:
            self._ask("rcpt", self._script.rcpts[0])
        else:
            self._message_over(now)

    def _on_rcpt(self, code: int, now: float) -> None:
        self._rcpts += 1
        if code < 400:
            self._accepted += 1
        elif self._is_open:
            self._figures.recipients_refused += 1
            self._refuse("rcpt", code)
        if self._is_pipelining:
            return
        if self._rcpts < len(self._script.rcpts):
            self._ask("rcpt", self._script.rcpts[self._rcpts])
        elif self._accepted:
            self._ask("data", DATA)
        else:
            self._ask("rset", RSET)

    def _on_data(self, code: int, now: float) -> None:
        if code == GO_ON:
            if self._accepted:
                self._send_message()
            else:  # an empty message, for which there is nobody: RFC 2920 §3.1
                self._ask("end", END)
            return
        if self._accepted:
            self._refuse("data", code)
        if self._is_open:
            self._ask("rset", RSET)
        else:
            self._message_over(now)

    def _on_end(self, code: int, now: float) -> None:
        if self._pieces is not None:
            raise BadReply(f"the reply {code} before the end of the message")
        if code < 400:
            self._delivered += 1 if self._plan.target.lmtp else self._accepted
        elif self._accepted:
            self._refuse("end", code)
        if not self._awaited or self._awaited[0] != "end":
            self._message_over(now)

    def _on_rset(self, code: int, now: float) -> None:
        self._message_over(now)

    def _on_quit(self, code: int, now: float) -> None:
        """The server closes now; if it does not, `check` ends the connection."""

    _handlers: ClassVar[dict[str, Callable[[Client, int, float], None]]] = {
        "connect": _on_connect,
        "ehlo": _on_ehlo,
        "starttls": _on_starttls,
        "mail": _on_mail,
        "rcpt": _on_rcpt,
        "data": _on_data,
        "end": _on_end,
        "rset": _on_rset,
        "quit": _on_quit,
    }

    # Messages.

    def _next(self, now: float) -> None:
        """Begin a message, or wait until one is due, or leave."""
        if not self._replies.is_empty:
            return  # a 421 that came with the last reply; anything else is wrong
        due = self._schedule.take(now) if self._sent < self._most else None
        if due is not None:
            self._begin(due)
            if self._is_pipelining:
                self._awaited.extend(self._group)
                self._transport.write(self._script.envelope)
            else:
                self._ask("mail", self._script.mail)
        elif self._sent < self._most and not self._schedule.is_over:
            self._schedule.wait(self)
        else:
            self._is_leaving = self.is_useful = True
            self._ask("quit", QUIT)

    def _begin(self, due: float) -> None:
        self._sent += 1
        self._in_message = True
        self._started = due
        self._is_open = self._is_expected = False
        self._accepted = self._delivered = self._rcpts = 0

    def _ask(self, stage: str, command: bytes) -> None:
        if not self._replies.is_empty:
            raise BadReply(UNASKED)
        self._awaited.append(stage)
        self._since = perf_counter()
        self._transport.write(command)

    def _send_message(self) -> None:
        """Write the message and, if the server takes them, the commands of the next one."""
        if not self._replies.is_empty:
            raise BadReply(UNASKED)
        replies = self._accepted if self._plan.target.lmtp else 1
        self._awaited.extend(("end",) * replies)
        self._since = self._ended_at = now = perf_counter()
        after = b""
        if self._is_pipelining and self._sent < self._most:
            self._ahead = self._schedule.take(now)
            if self._ahead is not None:
                after = self._script.envelope
                self._awaited.extend(self._group)
        if self._script.is_small:
            self._transport.write(self._script.whole(after))
        else:
            self._pieces = self._script.pieces(after)
            self._write_pieces(self._pieces)

    def _write_pieces(self, pieces: Iterator[bytes]) -> None:
        while not (self._is_paused or self._transport.is_closing()):
            piece = next(pieces, None)
            if piece is None:
                self._pieces = None
                self._ended_at = perf_counter()
                return
            self._transport.write(piece)

    def _message_over(self, now: float) -> None:
        self._count_message(now)
        if self._ahead is None:
            self._next(now)
        else:
            self._begin(self._ahead)
            self._ahead = None

    def _count_message(self, now: float) -> None:
        figures = self._figures
        self._in_message = False
        self.is_useful = True
        if self._delivered:
            figures.accepted += 1
            figures.recipients_accepted += self._delivered
            figures.octets += self._script.octets
            figures.end.add(now - self._ended_at)
        else:
            figures.refused += 1
        if self._delivered or self._is_expected:
            figures.message.add(now - self._started)

    def _refuse(self, stage: str, code: int) -> None:
        self._is_expected = code in self._plan.expected
        lines = self._replies.lines
        self._figures.count_refusal(stage, code, lines, expected=self._is_expected)

    def _give_back(self) -> None:
        if self._ahead is not None:
            self._ahead = None
            self._schedule.give_back()

    # The end.

    def _refuse_connection(self, stage: str, code: int) -> None:
        self._count_connection(stage, code)
        self._close()

    def _count_connection(self, stage: str, code: int) -> None:
        self._figures.connections_failed += 1
        self._figures.count_refusal(stage, code, self._replies.lines, expected=False)

    def _close(self) -> None:
        self._is_over = True
        self._awaited.clear()
        self._transport.close()

    def _break(self, text: str) -> None:
        """Count what is under way as failed, and end the connection."""
        if self._is_over:
            return
        if self._in_message:
            self._in_message = False
            self._figures.failed += 1
            self._give_back()
        elif not self._is_greeted:
            self._figures.connections_failed += 1
        self._figures.count_error(text)
        self._is_over = True
        self._awaited.clear()
        if self._upgrade is None or self._upgrade.done():
            self._transport.abort()
        else:
            self._upgrade.cancel()

    def _where(self) -> str:
        return LABELS[self._awaited[0]]


def reason_of(error: BaseException) -> str:
    """Return why a connection or a handshake failed, in a few words."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no reason given").replace("_", " ").lower()
    if isinstance(error, TimeoutError):
        return "no answer in time"
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number).lower() if number else str(error) or type(error).__name__
