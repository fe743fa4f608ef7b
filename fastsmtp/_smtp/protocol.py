"""The SMTP and LMTP engine of one connection, without a socket, an event loop or a clock.

How it works
============

`SMTPProtocol` is a state machine without input and output of its own. The connection calls it with
octets and the time (`receive`), and then takes the results: octets to write (`take_output`), the
time at which it wants to be called again (`deadline`), whether it wants more input (`wants_input`)
and whether it wants to close (`is_closing`). Nothing happens between two calls, and no input of a
client makes a call raise. So a test can play any dialogue in one process, octet by octet, and set
the time as it likes.

**The pump.** `receive` feeds the parser and runs `_pump`, a loop that asks for the next event until
there is none. An event is a command, a piece of a message body, the end of a body or chunk, or a
fault. The parser never runs ahead: whether the next octets are a command or a body depends on our
reply to the last command, so a handler sets what comes next before the pump asks again.

**A command** is looked up by its verb, a small number, in three tables of the same length, which
are made of the rows in `command_table`:

    flags[verb] & watch       is there a rare check to make first? (`preconditions`)
    refusals[verb][state]     the reply if the command may not come in this state, or None
    handlers[verb]            else this is called, with the octets after the verb

`watch` is a mask that says which flags matter at the moment, for instance none of those about
authentication once the client has authenticated. In the usual case one AND and one index decide.

**The state** is a small number (`states.State`), and the column of that table. It says how far the
transaction has come, nothing else. What else is remembered is a field of `Dialogue`, grouped there
by how long it lives: for the connection, from one greeting to the next, or for one transaction.
Each group is reset in one place.

**Replies** leave through `Dialogue.reply`. It counts errors of the client, which may turn the reply
into a 421 that ends the connection, and queues the octets. Replies are therefore in the order of
the commands, and all that one read causes go out in one write.

**Hooks.** A handler calls a hook and looks at its `Answer`. If the hook has answered already, the
handler goes on as after any other call. If not, it stores the answer and the function that goes on
with it (`wait`), and sets `halted`, which stops the pump. No command is executed and no reply sent
before the answer is there, so pipelined commands stay in order. When it comes, the answer calls
`wake`; the connection calls `advance`, and that calls the stored function and the pump. An answer
that comes after its deadline, or after the end of the connection, has no effect. Only `on_data`
runs beside the pump, because its message must still be read.

**What stops the pump**, apart from an empty parser:

    halted            a hook is at work, a handshake is due, or the connection is closing
    clock.lagging     the consumer of the message does not keep up: the client is not read
    blocked           the client does not read our replies
    more              the budget of this turn is used up; the rest waits for another turn

In each of these cases the rest of the input stays in the parser, and `wants_input` is False as
long as it is there. So one connection never holds much more than one read.

**Time.** One deadline runs at a time, that of what is waited for: a command line, the octets of a
body, or an answer (`deadline.Clock`). `expire` is called when it has passed.

**The end.** `close` sets the state CLOSING: nothing is executed any more, and the connection closes
after the queued replies. `shut_down` does so with a 421 at the next moment at which a client may
get one. `disconnect` reports that the client is gone: an open message is aborted and hooks that are
no longer needed are cancelled, but a complete message still gets its hook's answer. `release`
breaks the reference cycles at the very end.

RFC 5321, RFC 2033. The drawings in docs/internals.md show the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastsmtp import replies
from fastsmtp._counts.families import stage_number
from fastsmtp._failures import describe
from fastsmtp._hooks.callback import NO_ANSWER, WAITING, Answer, Host
from fastsmtp._log import logger
from fastsmtp._pace import UNHURRIED, Pace
from fastsmtp._parser import END_OF_DATA, Command, Fault
from fastsmtp._smtp.data import MailData
from fastsmtp._smtp.dialogue import Dialogue
from fastsmtp._smtp.mail_rcpt import log_unlogged
from fastsmtp._smtp.nobody import NOBODY
from fastsmtp._smtp.outcomes import is_observed, tell_refused, tell_untold
from fastsmtp._smtp.preconditions import answer_fault, check_preconditions
from fastsmtp._smtp.server_tables import ServerTables
from fastsmtp._smtp.simple_verbs import connect
from fastsmtp._smtp.starttls import go_on_inside
from fastsmtp._smtp.states import State
from fastsmtp.session import Session
from fastsmtp.stream import release_stream

__all__ = ["SMTPProtocol"]

COMMANDS_PER_TURN: Final = 512  # commands of one connection before others are served
# This many octets of an argument count as one more command, because the octets cause the work:
# 64 KiB of the worst parameters are a turn, a quarter of what asyncio reads at once.
OCTETS_OF_A_COMMAND: Final = 128
OUT_HIGH_WATER: Final = 64 * 1024  # octets of replies before they have to be written

_OPENING: int = int(State.OPENING)
_IDLE: int = stage_number("idle")
_MESSAGE: int = stage_number("message")
_COMMANDS_PER_TURN: int = COMMANDS_PER_TURN
_OCTETS_OF_A_COMMAND: int = OCTETS_OF_A_COMMAND
_OUT_HIGH_WATER: int = OUT_HIGH_WATER
_END_OF_DATA = END_OF_DATA


class SMTPProtocol(Dialogue):
    """The dialogue of one connection, from the hook `on_connect` to the last reply."""

    def __init__(
        self, tables: ServerTables, session: Session, host: Host, now: float, pace: Pace = UNHURRIED
    ) -> None:
        Dialogue.__init__(self, tables, session, host, now, pace)
        self.blocked = False  # the client does not read our replies
        self.unsent = 0  # octets of earlier replies that it has not read
        self._eof = False
        self.started = False  # the hook on_connect was reached, so on_close is due
        self.watch_lines()
        self.mail_data = self._mail_data = MailData(self)

    def tell_refused(self, recipient: int | None) -> None:
        """Emit the event `transaction` for a refusal, if one listens."""
        if is_observed(self):
            tell_refused(self, recipient)

    # For the connection, which uses only these methods and writes no field.

    def client_is(self, address: str, is_unix: bool) -> None:
        """Set the peer of the socket. address: "" if unknown."""
        self.is_unix = is_unix
        self.remote_address = address
        self.peer = "unix" if is_unix else address or "unknown"
        if self.tables.tracing is not None:
            self.find_trace()

    def client_comes_through(self, address: str, *, is_balancer: bool) -> None:
        """Set the client that the peer, a balancer, has named. address: "" if it named none; then
        the client does not inherit the trust in the balancer. is_balancer: the client is the
        balancer itself, as for a health check.
        """
        self.is_unix = False
        self.remote_address = address
        self.via = "" if is_balancer else f" via {self.peer}"
        self.find_trace()
        self.clock.stop()

    def await_balancer(self, now: float) -> None:
        """The peer is a balancer and has to send its PROXY header."""
        self.clock.now = now
        self.clock.await_answer(self.options.proxy_timeout)

    def stop_clock(self) -> None:
        """Run without a deadline."""
        self.clock.stop()

    def deadline(self) -> float:
        """Return when `expire` is due, infinity for never."""
        return self.clock.deadline

    @property
    def opening(self) -> bool:
        """Whether our greeting has not been sent yet."""
        return self.state == _OPENING

    @property
    def wants_input(self) -> bool:
        """Whether another read is wanted; False bounds the memory of one connection."""
        return not (
            self.more
            or self.blocked
            or self.clock.lagging
            or (self.halted and self.parser.buffered > 0)
        )

    def wants_turn(self) -> bool:
        """Whether input is left that can be processed in another turn of the loop."""
        return self.more and not self.blocked

    def holds_input(self) -> bool:
        """Whether some input is not processed yet."""
        return self.parser.buffered > 0

    def settled(self) -> bool:
        """Whether the dialogue only waits for the client, the usual case after a read."""
        return not (self.halted or self.more or self.blocked or self.clock.lagging)

    @property
    def finished(self) -> bool:
        """Whether the client is gone and no complete message waits for its hook's answer."""
        return self.lost and not self.has_open_message()

    def has_open_message(self) -> bool:
        """Whether a complete message waits for its hook's answer."""
        message = self._mail_data.message
        return message is not None and message.at_end and message.answer.state == WAITING

    def is_asking(self) -> bool:
        """Whether a hook has not answered yet."""
        message = self._mail_data.message
        return self.waiting is not None or (message is not None and message.answer.state == WAITING)

    def start(self, client_hostname: str, now: float) -> None:
        """Begin the dialogue: call `on_connect`, then greet."""
        self.clock.now = now
        self.client_hostname = client_hostname
        self.started = True
        self._run(self._connect)

    def begin_handshake(self, now: float) -> None:
        """Begin implicit TLS, RFC 8314 §3."""
        self.clock.now = now
        self.await_handshake()

    def tls_failed(self, error: BaseException) -> None:
        """TLS has failed: close without a reply."""
        self.securing = False
        if self.trace is not None:
            self.trace.note(self, f"TLS has failed: {describe(error)}")
        self.report(error, "tls")
        self.close()

    def secured(self, tls: Any, now: float) -> None:
        """The handshake is done. tls: its facts, as passed to `on_secure`."""
        self.clock.now = now
        self.clock.stop()
        self.securing = False
        self.secure = True
        self.tls = tls
        self.watch_lines()
        session = self.session
        session.secure = True
        session.servername = tls.servername
        session.tls_options = facts = tls.options()
        if self.trace is not None:
            self.trace.note(self, f"{facts['version']} {facts['standard_name']}")
        if self.state != _OPENING:
            self._run(lambda: go_on_inside(self))

    def receive(self, octets: bytes, now: float, unsent: int = 0) -> None:
        """Take the octets of a read and process them as far as possible. unsent: octets of earlier
        replies that the client has not read.
        """
        self.clock.now = now
        self.unsent = unsent
        self.parser.feed(octets)
        if self.state == _OPENING and self.options.greet_delay and octets:
            if self.trace is not None:
                self.trace.note(self, f"{len(octets)} octets before the greeting")
            self.reply(self.tables.early_talker)
            return
        self._run(None)

    def keep(self, octets: bytes, now: float) -> None:
        """Take the octets of a read, and process them in the next turn."""
        if self.state == _OPENING:  # it causes no work
            self.receive(octets, now)
            return
        self.clock.now = now
        self.parser.feed(octets)
        self.more = True

    def receive_eof(self, now: float) -> None:
        """The client has sent FIN; complete commands are still answered (RFC 5321 §3.8)."""
        self._eof = True
        if self.trace is not None:
            self.trace.note(self, "the client has sent its last octet")
        self.advance(now)

    def advance(self, now: float, unsent: int = 0) -> None:
        """Continue, with a late answer, remaining input, or room for output."""
        self.clock.now = now
        self.unsent = unsent
        late, self.late = self.late, None
        if self.caught_up:
            self.caught_up = False
            self.clock.end_lag(self.parser.payload_octets)
        if late is None:
            self._run(None)
        else:
            self._run(lambda: self._take_late(late))

    def block(self) -> None:
        """The client does not read our replies: stop reading and executing."""
        self.blocked = True

    def unblock(self, now: float) -> None:
        """The client has read our replies: its time for the next command begins."""
        self.clock.now = now
        self.blocked = False
        if self.securing or self.is_closing():
            return
        if self.waiting is None and not self.clock.lagging:
            self.clock.stand()

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        self.clock.now = now
        if self.late is None:
            self._run(self._expire)
        else:
            self.advance(now)  # the answer came in time

    def shut_down(self, now: float, spares_hook: bool = False) -> None:
        """The server is closing: 421 now if the client waits for no reply, else after its reply.

        spares_hook: do not cancel a hook whose answer is no longer needed.
        """
        self.clock.now = now
        self.stopping = True
        if self.state == _OPENING:
            self._give_up_waiting(cancels=not spares_hook)
            self.reply(self.tables.closing_at_greeting)
        else:
            self.stop_if_asked()

    def disconnect(self, now: float, reason: str = "disconnected") -> None:
        """The connection is lost: abort an open message, cancel hooks that are no longer needed."""
        self.clock.now = now
        self.lost = True
        self.busy = True
        try:
            self.mail_data.abort(reason)
            self.close()
            if self.counters.unlogged > 0:
                log_unlogged(self)
            tell_untold(self)
            if self.trace is not None:
                self.trace.end(self)
            message = self._mail_data.message
            if message is None or self.waiting is not message.answer:
                self._give_up_waiting()
            else:
                self.clock.await_answer(self.options.data_hook_timeout)
        finally:
            self.busy = False

    def socket_failed(self, error: Exception) -> None:
        """A reset inside a transaction is an event `error`. After our last reply it is
        ignored, since many clients leave after QUIT without reading the 221.
        """
        if self.trace is not None:
            self.trace.note(self, f"the socket has failed: {describe(error)}")
        if self.is_closing():
            return
        if self.transaction.envelope is not None:
            self.report(error, "socket")
        elif logger.shows_debug:  # otherwise the session id need not be made
            logger.debug("%s: %s", self, error)

    def abort(self, reason: str) -> None:
        """The connection is cut: abort an open body, which ends its hook."""
        self.mail_data.abort(reason)

    def give_up(self) -> None:
        """Stop waiting for the answer to a message whose client is gone."""
        message = self._mail_data.message
        if self.lost and message is not None:
            message.answer.expire()

    def release(self) -> None:
        """The connection and its hooks have ended: break reference cycles."""
        if self._mail_data.message is not None:
            # A hook may keep the stream, even without having read it.
            release_stream(self._mail_data.message.stream)
        self.mail_data.reset()
        self.waiting = self.late = self.attempt = None
        self.host = NOBODY
        self._mail_data.release()
        self._mail_data = None  # type: ignore[assignment]  # not used after the end

    def take_output(self, now: float) -> bytes:
        """Return the octets to write; the deadline of the next command starts now."""
        out = self.out
        if not out:
            return b""
        self.clock.now = now
        octets = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self.out_octets = 0
        if self.trace is not None:
            self.trace.output(self, octets)
        if not self.halted:
            self.clock.await_command()
        return octets

    # The pump.

    def _run(self, first: Callable[[], None] | None) -> None:
        self.busy = True
        try:
            if first is not None:
                first()
            self.more = False
            if not self.halted and not self.blocked:
                self._pump()
            if self.clock.receiving:
                self.clock.received(self.parser.payload_octets)
                if self.parser.size_exceeded:
                    self._mail_data.notice_size()
            if self._eof and self.settled():
                self.mail_data.abort("disconnected")
                self.close()
        finally:
            self.busy = False

    def _pump(self) -> None:
        """Process the octets that were fed. The first command is always executed; the pace is
        checked only before another one.
        """
        parser = self.parser
        mail_data = self._mail_data
        budget = _COMMANDS_PER_TURN
        # With a lagging consumer, the rest waits in the parser. `more`: a hook has to begin first.
        while not (self.halted or self.clock.lagging or self.more):
            if (
                budget <= 0
                or self.out_octets + self.unsent > _OUT_HIGH_WATER
                or (budget < _COMMANDS_PER_TURN and parser.buffered and self._pace.is_over())
            ):
                self.more = True
                return
            event = parser.next_event()
            if event is None:
                return
            if type(event) is Command:
                command = event
                budget -= 1 + len(command.argument) // _OCTETS_OF_A_COMMAND
                verb = command.verb
                flags = self.tables.flags[verb]
                self.begin_command(self.tables.stages[verb], command.argument)
                refusals = self.tables.refusals[verb]
                if flags & self.watch and check_preconditions(self, command, refusals, flags):
                    continue
                refusal = refusals[self.state]
                if refusal is None:
                    self.tables.handlers[verb](self, command.argument)
                else:
                    self.reply(refusal)
                if self.stopping:
                    self.stop_if_asked()
            elif type(event) is bytes:
                mail_data.piece(event)
            elif event is _END_OF_DATA:
                mail_data.end_of_data()
            elif type(event) is Fault:
                answer_fault(self, event)
            else:
                mail_data.end_of_chunk()

    def _connect(self) -> None:
        connect(self)

    def _take_late(self, answer: Answer) -> None:
        if answer is self.waiting:
            self.waiting = None
            self.halted = self.is_closing()
            if answer.hook != "on_data":  # that is measured in the end
                self.measure(answer)
        if not self.is_closing():
            answer.then(self, answer)
            self.stop_if_asked()
        message = self._mail_data.message
        if self.is_closing() or message is None or message.answer is not answer:
            answer.forget()

    def _give_up_waiting(self, cancels: bool = True) -> None:
        """Stop waiting for an answer: it will have no effect."""
        answer, self.waiting = self.waiting, None
        if answer is not None:
            answer.expire()
            if cancels:
                self.host.cancel_task(answer)

    def _expire(self) -> None:
        answer, self.waiting = self.waiting, None
        mail_data = self._mail_data
        if answer is None:
            if self.clock.lagging:
                mail_data.hook_timed_out()
            elif self.blocked or self.more:
                self.clock.stand()  # the command is not late because of the client
            else:
                mail_data.abort("timeout")
                self.stage = _IDLE if mail_data.message is None else _MESSAGE
                self.reply(replies.TIMEOUT)
            return
        self.halted = self.is_closing()
        if mail_data.message is not None and mail_data.message.answer is answer:
            mail_data.hook_timed_out()
            return
        answer.report(TimeoutError(NO_ANSWER % answer.hook))
        answer.expire()
        answer.failed = True
        self.measure(answer)
        self.host.cancel_task(answer)
        answer.then(self, answer)
        self.stop_if_asked()
