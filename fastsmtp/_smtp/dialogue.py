"""The state of one dialogue and its calls of hooks: the object of the verb handlers.

In: questions to hooks, from the handlers. Out: calls of hooks, and a state that only
`_smtp.protocol` drives. Its replies are those of `_smtp.reply_queue`. RFC 5321 §3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastsmtp import replies
from fastsmtp._counts.families import ASKED, cell, stage_number
from fastsmtp._failures import Place
from fastsmtp._hooks.callback import WAITING, Answer, Host, ends_process, new_answer
from fastsmtp._hooks.stalls import STALL
from fastsmtp._native import thread_ident
from fastsmtp._pace import Pace
from fastsmtp._parser import Parser
from fastsmtp._smtp.deadline import Clock
from fastsmtp._smtp.reply_queue import ReplyQueue
from fastsmtp._smtp.server_tables import ServerTables
from fastsmtp._smtp.states import DEMANDED, WATCHED, Flag, State, Transaction
from fastsmtp._smtp.tracing import Trace
from fastsmtp.errors import MessageAborted
from fastsmtp.networks import Networks
from fastsmtp.replies import Reply
from fastsmtp.session import Session, set_envelope

__all__ = ["Dialogue", "Intake"]

type_then = Callable[["Dialogue", Answer], None]

# Plain ints: these are compared for every command.
_CONNECTED: int = int(State.CONNECTED)
_GREETED: int = int(State.GREETED)
_OPENING: int = int(State.OPENING)
_CLOSING: int = int(State.CLOSING)
_WAITING: int = WAITING
_STALL: float = STALL
_SHUTTING_DOWN: Reply = replies.SHUTTING_DOWN
_ACCEPTED: int = cell("messages_total", "accepted")
_REFUSED: int = cell("messages_total", "refused")
_IDLE: int = stage_number("idle")
_ASKED: Final = {name: cell("hook_seconds", name) for name in ASKED}
_FAILURES: Final = {name: cell("hook_failures_total", name) for name in ASKED}


class Intake:
    """The interface of the content side of a dialogue; `_smtp.data.MailData` implements it."""

    message: object | None

    def abort(self, reason: str) -> None:
        """The body will never be complete."""
        raise NotImplementedError

    def reset(self) -> None:
        """The transaction has ended: forget its state."""
        raise NotImplementedError


class Dialogue(ReplyQueue):
    """Fields by how long they live, and the questions to hooks."""

    mail_data: Intake

    def __init__(
        self, tables: ServerTables, session: Session, host: Host, now: float, pace: Pace
    ) -> None:
        # connection
        ReplyQueue.__init__(self, tables, session)
        # Below, fields are read instead of the arguments, because fields have C types.
        self.options = self.policy.options
        self.hooks = self.tables.hooks
        self.host = host
        self._pace = pace
        self.clock = Clock(self.policy, now)
        self.parser = Parser(self.policy.max_command_length)
        self.busy = False
        self.stopping = False
        self.lost = False
        self.halted = True  # the pump has to stop: a hook is at work, or the end has come
        self.more = False  # input is left for the next turn of the loop
        self.first_line = True
        self.watch = 0
        self.waiting: Answer | None = None
        self.late: Answer | None = None
        self.caught_up = False  # the consumer has caught up; the clock learns it in `advance`
        self.parted = False  # the client has sent QUIT, and waits only for its 221
        self._thread = thread_ident()
        self.began = now
        self.content_at = -1.0  # when content was processed at last
        self.told = 0  # refused commands, for the event `transaction`
        self._transactions = 1
        self.announced = False  # the event `connect` was emitted
        self.peer = ""  # the peer of the socket, for the log
        self.trace: Trace | None = None  # of its wire, None for most clients
        self._meet()

    def _meet(self) -> None:
        """Set all that is known of the client before its first command."""
        # connection
        self.client_hostname = self.session.client_hostname
        self.remote_address = self.session.remote_address  # the effective one; "" is in no network
        self.via = ""  # for the log: the balancer between that address and us
        self.is_unix = False  # the client is connected by a UNIX socket
        self.secure = self.policy.secured
        # Facts of TLS that ends here (a `TLSSocket`), None without a handshake.
        self.tls: Any = None
        self.securing = False  # a handshake is in progress: no replies, and its deadline runs
        self.xclient: dict[str, Any] | None = None  # attributes of XCLIENT, None without one
        # greeting
        self.state: int = _OPENING
        self.extended = False
        self.authenticated = False
        self.attempt: Any = None  # the current exchange of AUTH
        self.user_from_xclient = False  # the user is that of LOGIN=, not of AUTH
        self.xforward: dict[str, Any] | None = None  # likewise of XFORWARD, until the next reset
        # transaction
        self.transaction = Transaction()

    def serve_by(self, tables: ServerTables) -> None:
        """Serve this session by `tables` from now on: before its greeting only."""
        ReplyQueue.serve_by(self, tables)
        self.options = self.policy.options
        self.clock.run_by(self.policy)
        self.watch_lines()

    def is_closing(self) -> bool:
        """Whether the connection closes after the queued output, with nothing more executed."""
        return self.state == _CLOSING

    def close(self) -> None:
        """Execute nothing more; the connection closes after the queued output."""
        self.state = _CLOSING
        self.halted = True
        self.more = False
        self.attempt = None
        self.clock.stop()
        self.parser.clear()
        self.mail_data.abort("disconnected")

    # Hooks. `ask` is for hooks that are called once per connection or less. The others save a call:
    # `asked` that of `then`, if MAIL or RCPT is answered at once; `ask_without_subject` that of a
    # lambda that drops the subject of `on_connect`; `make_answer` and `call` that of `wait` for
    # `on_data`, whose answer is made before its stream and is awaited only at the end.

    def make_answer(self, name: str, then: type_then) -> Answer:
        """Return the `callback` for one call of hook `name`."""
        return new_answer(self, name, then, self._thread)

    def ask(self, name: str, hook: Any, subject: object, then: type_then) -> None:
        """Call a hook of one argument besides session and callback, and continue with `then` when
        it has answered.
        """
        answer = self.asked(name, hook, subject, then)
        if answer is not None:
            then(self, answer)
            answer.forget()

    def asked(self, name: str, hook: Any, subject: object, then: type_then) -> Answer | None:
        """Call a hook of one argument, and return its answer; None: it is still at work, and `then`
        gets its answer later.
        """
        answer = new_answer(self, name, then, self._thread)
        answer.began = self._pace.now()
        self.call(hook, subject, answer)
        if answer.state != _WAITING:
            if self.measure(answer) > _STALL:
                self.tell_stall(answer.began, name)
            return answer
        self.wait(answer, self.policy.hook_timeout)
        return None

    def ask_without_subject(self, name: str, hook: Any, then: type_then) -> None:
        """Call a hook of session and callback only, and continue when it has answered."""
        answer = new_answer(self, name, then, self._thread)
        answer.began = self._pace.now()
        try:
            returned = hook(self.session, answer)
            if returned is not None:
                answer.settle_plain(returned)
        except BaseException as error:
            self.raised(answer, error)
        if answer.state == _WAITING:
            self.wait(answer, self.policy.hook_timeout)
        else:
            if self.measure(answer) > _STALL:
                self.tell_stall(answer.began, name)
            then(self, answer)
            answer.forget()

    def time(self) -> float:
        """Return the time of the clock that measures hooks."""
        return self._pace.now()

    def measure(self, answer: Answer) -> float:
        """A hook has answered, or its time is over: count how long the client has waited for it,
        and return that.
        """
        seconds = self._pace.now() - answer.began
        self.tally.observe(_ASKED[answer.hook], seconds)
        if answer.error is not None or answer.failed:
            if not isinstance(answer.error, MessageAborted):  # that is the engine's
                self.refused_by = answer.hook
        return seconds

    def tell_stall(self, began: float, who: str) -> None:
        """A call of foreign code has perhaps held the loop since `began`."""
        self.tables.stalls.tell(began, self._pace.now(), who, self)

    def holder(self, began: float) -> str:
        """Return the name of the hook that has held the loop since `began` without an answer, or
        while it took its message; "" if it was none.
        """
        waiting = self.waiting
        if waiting is not None and waiting.began >= began:
            return waiting.hook
        return "on_data" if self.mail_data.message or self.content_at >= began else ""

    def call(self, hook: Any, subject: object, answer: Answer) -> None:
        """Call a hook of one argument; an exception becomes its answer."""
        try:
            returned = hook(subject, self.session, answer)
            if returned is not None:
                answer.settle_plain(returned)
        except BaseException as error:
            self.raised(answer, error)

    def raised(self, answer: Answer, error: BaseException) -> None:
        """A hook, which is foreign code, has raised."""
        answer.fail(error)
        if ends_process(error):
            self.close()  # the process ends: close this connection properly
            raise error

    def wait(self, answer: Answer, timeout: float) -> None:
        """Halt until `answer` is set, at most `timeout` seconds."""
        self.waiting = answer
        self.halted = True
        self.clock.await_answer(timeout)

    def wake(self, answer: Answer) -> None:
        """A hook has answered outside of its call."""
        self.late = answer
        self.host.wake()

    def report(self, error: BaseException, stage: str) -> None:
        """Report to the log or the event `error`, never to the client."""
        failures = _FAILURES.get(stage)
        if failures is not None:
            self.tally.add(failures)
        address = self.remote_address or self.peer
        self.host.report(error, Place(self.session.id, stage, address, self.client()))

    def __str__(self) -> str:
        """Session and client, the beginning of a log line."""
        return f"{self.session.id}: {self.client()}"

    def client(self) -> str:
        """The client for a log line: its address, with the balancer if there is one."""
        known = self.remote_address or self.via
        return (self.remote_address or "-") + self.via if known else self.peer

    def stop_if_asked(self) -> None:
        """While the server is closing: 421 as soon as no reply, body or chunk is pending."""
        if (
            self.stopping
            and self.waiting is None
            and not self.clock.receiving
            and self.mail_data.message is None
            and not self.is_closing()
            and not self.securing
        ):
            self.stage = _IDLE
            self.reply(_SHUTTING_DOWN)

    def begin_receiving(self) -> None:
        """Octets of a body or chunk are due."""
        self.clock.begin_receiving(self.parser.payload_octets)

    def end_receiving(self) -> None:
        """The body or chunk is complete."""
        self.clock.end_receiving(self.parser.payload_octets)
        if self.trace is not None:
            self.trace.content(self, self.parser.payload_octets)

    def end_lag(self) -> None:
        """The consumer has caught up: reading continues."""
        if self.busy:
            self.clock.end_lag(self.parser.payload_octets)
        elif not self.lost:
            self.caught_up = True
            self.host.wake()

    # Transitions.

    def greet(self) -> None:
        """Greet the client, which may then send commands."""
        self.state = _CONNECTED
        self.halted = False
        if self.policy.has_lf_commands:  # evaluated again after XCLIENT has changed the client
            self.parser.lf_ends_lines = self.trusts(self.options.allow_bare_lf_commands)
        if not self._speaks_for_others():
            self.announce()
        self.reply(self.tables.greeting)

    def _speaks_for_others(self) -> bool:
        """Whether the client may still give the address of another one."""
        if not self.policy.speaks_for_others:
            return False
        options = self.options
        if self.xclient is not None and "ADDR" in self.xclient:
            return False
        return self.trusts(options.use_xclient) or self.trusts(options.use_xforward)

    def announce(self) -> None:
        """Emit the event `connect`, once, when the client is known."""
        if not self.announced:
            self.announced = True
            self.host.connected()

    def greeted(self, verb: str, name: str) -> None:
        """HELO, EHLO or LHLO was accepted, which acts like RSET."""
        self._drop_transaction()
        self.state = _GREETED
        self.extended = verb != "HELO"
        self.session.opening_command = verb
        if self.xclient is None or "HELO" not in self.xclient:
            self.session.host_name_appears_as = name

    def watch_lines(self) -> None:
        """Recompute which flags force the slow path: the first line, required TLS and AUTH."""
        watch = WATCHED
        if self.first_line or self.trace is not None:
            watch |= Flag.LINE
        if self.policy.auth_required and not self.authenticated:
            watch |= DEMANDED
        if self.policy.needs_upgrade and not self.secure:
            watch |= Flag.NEEDS_TLS
        self.watch = watch

    def find_trace(self) -> None:
        """The client is known, or another one than before: trace it if the server traces it."""
        tracing, before = self.tables.tracing, self.trace
        if tracing is not None and self.trusts(tracing.networks):
            self.trace = before or Trace(tracing)
            self.trace.note(self, "the client is another one" if before else "connected")
        elif before is not None:
            before.note(self, "the client is another one, which is not traced")
            self.trace = None
        self.watch_lines()

    def authenticate(self, user: object) -> None:
        """The client is `user` from now on, and has met the demand for authentication."""
        self.session.user = user
        self.authenticated = True
        self.counters.unauthenticated = 0
        self.watch_lines()

    def forget_user(self) -> None:
        """The client is not authenticated any more."""
        self.session.user = None
        self.authenticated = False
        self.watch_lines()

    def reset_greeting(self) -> None:
        """Go back to the state after our greeting; forget the client's commands (RFC 3207 §4.2)."""
        self.mail_data.abort("reset")
        self.forget_transaction()
        self.state = _CONNECTED
        self.extended = False
        if self.policy.auth_required:
            self.watch |= DEMANDED  # even if the user stays
        session = self.session
        session.opening_command = ""
        session.host_name_appears_as = ""
        session.error = None
        self.forget_forwarded()
        self.user_from_xclient = False
        if self.xclient is not None:
            for name in ("HELO", "PROTO", "LOGIN"):
                self.xclient.pop(name, None)
            session.xclient = dict(self.xclient)

    def await_handshake(self) -> None:
        """Wait for a TLS handshake: after the queued output nothing is plaintext."""
        self.securing = True
        self.halted = True
        self.clock.await_answer(self.options.tls_handshake_timeout)

    def resume(self) -> None:
        """Continue without a reply: the client's next command is due."""
        self.halted = False
        self.clock.await_command()

    def trusts(self, networks: Networks) -> bool:
        """Whether the client is in one of `networks`."""
        return networks.unix if self.is_unix else networks.match(self.remote_address)

    def newline_policy(self) -> str:
        """The value of `bare_newline` for this client."""
        if self.transaction.binary:
            return "accept"
        policy = self.policy
        if policy.has_exclusions and self.trusts(self.options.bare_newline_exclusions):
            return "accept"
        return policy.bare_newline

    def message_done(self, accepted: bool, is_tiny: bool) -> None:
        """The final reply to a message is queued. is_tiny: it is too short for a real message."""
        self.counters.message_done(accepted, is_tiny)
        self.count_transaction(accepted)
        self.end_transaction()

    def count_transaction(self, accepted: bool) -> None:
        """Count a message that got its final reply."""
        self.tally.add(_ACCEPTED if accepted else _REFUSED)
        self._transactions += 1
        self.session.transaction = self._transactions

    def end_transaction(self) -> None:
        """End the transaction: forget its state, and abort an open body."""
        self._drop_transaction()
        if self.xforward is not None:
            self.forget_forwarded()
        if self.state != _CLOSING:
            self.state = _GREETED

    def _drop_transaction(self) -> None:
        self.mail_data.abort("reset")
        self.forget_transaction()

    def forget_forwarded(self) -> None:
        """Forget the attributes of XFORWARD, which apply to one message."""
        self.xforward = None
        self.session.xforward = None

    def forget_transaction(self) -> None:
        """Begin with a new transaction object, and an envelope that is made on first access."""
        self.transaction = Transaction()
        set_envelope(self.session, None)
        self.mail_data.reset()
