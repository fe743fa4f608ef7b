"""The state of one dialogue, its door, and its waiting: what the handlers of verbs work on.

In: replies and questions to hooks, from the handlers. Out: octets in a queue, calls of hooks, a
state that only `_smtp.protocol` drives. Every reply leaves through `reply`. RFC 5321 §3.3, §4.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastsmtp import replies
from fastsmtp._failures import Place
from fastsmtp._hooks.callback import WAITING, Answer, Asker, Host, ends_process, new_answer
from fastsmtp._log import logger
from fastsmtp._native import thread_ident
from fastsmtp._parser import Parser
from fastsmtp._smtp.deadline import Clock
from fastsmtp._smtp.server_tables import ServerTables
from fastsmtp._smtp.states import DEMANDED, WATCHED, Flag, State, Transaction
from fastsmtp._smtp.strikes import Counters
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
_TOO_MANY_ERRORS: Reply = replies.TOO_MANY_ERRORS
_SHUTTING_DOWN: Reply = replies.SHUTTING_DOWN


class Intake:
    """What a dialogue asks of the side where content comes in; `_smtp.data.MailData` is it."""

    message: object | None

    def abort(self, reason: str) -> None:
        """There will be no true end."""
        raise NotImplementedError

    def reset(self) -> None:
        """The transaction has ended: nothing of it is left."""
        raise NotImplementedError


class Dialogue(Asker):
    """Fields by how long they live, replies, and the questions to hooks."""

    mail_data: Intake

    def __init__(self, tables: ServerTables, session: Session, host: Host, now: float) -> None:
        # connection
        # The fields are read again where the arguments would do: C knows their types.
        self.tables = tables
        self.policy = self.tables.policy
        self.options = self.policy.options
        self.hooks = self.tables.hooks
        self.session = session
        self.host = host
        self.clock = Clock(self.policy, now)
        self.parser = Parser(self.policy.max_command_length)
        self.counters = Counters(self.policy)
        self.busy = False
        self.stopping = False
        self.lost = False
        self.halted = True  # the pump may not go on: a hook is at work, or the end has come
        self.more = False  # input is left for the next turn of the loop
        self.first_line = True
        self.watch = 0
        self.waiting: Answer | None = None
        self.late: Answer | None = None
        self.caught_up = False  # the consumer has; told when the time is known
        self.parted = False  # the client has said QUIT, and waits for nothing but its 221
        self.out: list[bytes] = []
        self.out_octets = 0
        self._enhanced = self.policy.enhanced
        self._thread = thread_ident()
        self._transactions = 1
        self.announced = False  # the event `connect` was emitted
        self.peer = ""  # who is at the other end of the socket, for the log
        self._meet()

    def _meet(self) -> None:
        """What the client is and says, before it has said anything."""
        # connection
        self.client_hostname = self.session.client_hostname
        self.remote_address = self.session.remote_address  # the effective one; "" is in no network
        self.via = ""  # what the log says of a balancer behind that address
        self.is_unix = False  # the client is at the other end of a UNIX socket
        self.secure = self.policy.secured
        # Facts of TLS that ends here (a `TLSSocket`), None before a handshake and without one.
        self.tls: Any = None
        self.securing = False  # a handshake is under way: nothing is said, and the clock is its
        self.xclient: dict[str, Any] | None = None  # what XCLIENT said, None while it said nothing
        # greeting
        self.state: int = _OPENING
        self.extended = False
        self.authenticated = False
        self.attempt: Any = None  # the exchange of AUTH that is under way
        self.user_from_xclient = False  # the user is that of LOGIN=, not of AUTH
        self.xforward: dict[str, Any] | None = None  # likewise of XFORWARD, until the next reset
        # transaction
        self.transaction = Transaction()

    def is_closing(self) -> bool:
        """Nothing more is read or executed; what is to be written ends the connection."""
        return self.state == _CLOSING

    # The door: every reply leaves here.

    def reply(self, reply: Reply) -> None:
        """Queue one reply, or the 421 that takes its place."""
        if reply.code >= 400:
            reply = self._refused(reply)
        self._queue(reply)

    def _queue(self, reply: Reply) -> None:
        octets = reply.wire if self._enhanced else reply.plain
        self.out.append(octets)
        self.out_octets += len(octets)
        if reply.code == 421:
            self.close()

    def refuse(self, reply: Reply, is_strike: bool) -> None:
        """Queue a refusal that the caller logs; is_strike: it counts as an error of the client."""
        if is_strike and self.counters.strike_error():
            reply = _TOO_MANY_ERRORS
        self._keep_error(reply)
        self._queue(reply)

    def reply_group(self, group: list[Reply]) -> None:
        """Queue the final replies of one message, which count as one error (RFC 2033 §4.2)."""
        if len(group) == 1:
            self.reply(group[0])
            return
        refused = [reply for reply in group if reply.code >= 400]
        # An accepted recipient must hear so: a 421 in place of all replies would have its mail
        # sent again.
        strikes = [reply for reply in refused if self._counts(reply)]
        if strikes and len(refused) == len(group) and self.counters.strike_error():
            self.reply(_TOO_MANY_ERRORS)
            return
        if refused:
            self._note(refused[-1])
        closes = False
        for reply in group:
            octets = reply.wire if self._enhanced else reply.plain
            self.out.append(octets)
            self.out_octets += len(octets)
            closes = closes or reply.code == 421
        if closes:
            self.close()

    def reply_and_close(self, reply: Reply) -> None:
        """Queue the last reply of this connection."""
        self.reply(reply)
        self.close()

    def _refused(self, reply: Reply) -> Reply:
        """Count an error, which may turn it into the last one."""
        if self._counts(reply) and self.counters.strike_error():
            reply = _TOO_MANY_ERRORS
        self._note(reply)
        return reply

    def _counts(self, reply: Reply) -> bool:
        """Whether this error is the client's. What may succeed later is not, nor is a failure of
        ours: every 4xx is one or the other.
        """
        return reply.code >= 500

    def _note(self, reply: Reply) -> None:
        self._keep_error(reply)
        if logger.shows_debug:
            logger.debug("%s: %s", self, self.session.error)

    def _keep_error(self, reply: Reply) -> None:
        octets = reply.wire if self._enhanced else reply.plain
        self.session.error = octets.decode()[:-2].replace("\r\n", " ")

    def close(self) -> None:
        """Nothing is executed any more; the connection closes behind what is queued."""
        self.state = _CLOSING
        self.halted = True
        self.more = False
        self.attempt = None
        self.clock.stop()
        self.parser.clear()
        self.mail_data.abort("disconnected")

    # Waiting. `ask` is for hooks that a connection meets once or never. The others save a call:
    # `asked` that of `then` where MAIL or RCPT is answered at once; `ask_without_subject` that of
    # a lambda that drops the subject of `on_connect`; `make_answer` and `call` apart one more of
    # `wait` for `on_data`, whose answer is there before its stream and is waited for at the end.

    def make_answer(self, name: str, then: type_then) -> Answer:
        """Return the `callback` for one call of hook `name`."""
        return new_answer(self, name, then, self._thread)

    def ask(self, name: str, hook: Any, subject: object, then: type_then) -> None:
        """Call a hook of one argument beside session and callback, and go on when it has
        answered.
        """
        answer = self.asked(name, hook, subject, then)
        if answer is not None:
            then(self, answer)
            answer.forget()

    def asked(self, name: str, hook: Any, subject: object, then: type_then) -> Answer | None:
        """Call a hook of one argument, and return its answer; None: it is still at work, and what
        it answers goes to `then`.
        """
        answer = new_answer(self, name, then, self._thread)
        self.call(hook, subject, answer)
        if answer.state != _WAITING:
            return answer
        self.wait(answer, self.policy.hook_timeout)
        return None

    def ask_without_subject(self, name: str, hook: Any, then: type_then) -> None:
        """Call a hook that takes session and callback only, and go on when it has answered."""
        answer = new_answer(self, name, then, self._thread)
        try:
            returned = hook(self.session, answer)
            if returned is not None:
                answer.settle_plain(returned)
        except BaseException as error:
            self.raised(answer, error)
        if answer.state == _WAITING:
            self.wait(answer, self.policy.hook_timeout)
        else:
            then(self, answer)
            answer.forget()

    def call(self, hook: Any, subject: object, answer: Answer) -> None:
        """Call a hook of one argument; what it raises becomes its answer."""
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
            self.close()  # the process is to end: this connection too, and cleanly
            raise error

    def wait(self, answer: Answer, timeout: float) -> None:
        """Go no further before `answer` is there; `timeout` in seconds."""
        self.waiting = answer
        self.halted = True
        self.clock.await_answer(timeout)

    def wake(self, answer: Answer) -> None:
        """A hook has answered outside of its call."""
        self.late = answer
        self.host.wake()

    def report(self, error: BaseException, stage: str) -> None:
        """Tell the log or the event `error`, never the client."""
        address = self.remote_address or self.peer
        self.host.report(error, Place(self.session.id, stage, address, self.client()))

    def __str__(self) -> str:
        """Session and client, with which a line of the log begins."""
        return f"{self.session.id}: {self.client()}"

    def client(self) -> str:
        """Who the client is, for a log line: its address, with the balancer if there is one."""
        known = self.remote_address or self.via
        return (self.remote_address or "-") + self.via if known else self.peer

    def stop_if_asked(self) -> None:
        """While the server is closing: 421 as soon as no reply, body or chunk is under way."""
        if (
            self.stopping
            and self.waiting is None
            and not self.clock.receiving
            and self.mail_data.message is None
            and not self.is_closing()
            and not self.securing
        ):
            self.reply(_SHUTTING_DOWN)

    def begin_receiving(self) -> None:
        """Octets of a body or chunk are due."""
        self.clock.begin_receiving(self.parser.payload_octets)

    def end_receiving(self) -> None:
        """The body or chunk is complete."""
        self.clock.end_receiving(self.parser.payload_octets)

    def end_lag(self) -> None:
        """The consumer has caught up: the client is read again."""
        if self.busy:
            self.clock.end_lag(self.parser.payload_octets)
        elif not self.lost:
            self.caught_up = True
            self.host.wake()

    # The course of things.

    def greet(self) -> None:
        """Greet the client: from now on it may speak."""
        self.state = _CONNECTED
        self.halted = False
        if self.policy.has_lf_commands:  # asked again after XCLIENT: the client is another one
            self.parser.lf_ends_lines = self.trusts(self.options.allow_bare_lf_commands)
        if not self._speaks_for_others():
            self.announce()
        self.reply(self.tables.greeting)

    def _speaks_for_others(self) -> bool:
        """Whether the client may still say that it is another one."""
        if not self.policy.speaks_for_others:
            return False
        options = self.options
        if self.xclient is not None and "ADDR" in self.xclient:
            return False
        return self.trusts(options.use_xclient) or self.trusts(options.use_xforward)

    def announce(self) -> None:
        """Event `connect`, once: whose connection this is, is known."""
        if not self.announced:
            self.announced = True
            self.host.connected()

    def greeted(self, verb: str, name: str) -> None:
        """An accepted HELO, EHLO or LHLO, which acts as RSET."""
        self._drop_transaction()
        self.state = _GREETED
        self.extended = verb != "HELO"
        self.session.opening_command = verb
        if self.xclient is None or "HELO" not in self.xclient:
            self.session.host_name_appears_as = name

    def watch_lines(self) -> None:
        """Say what keeps a command off the short way: the first line, demands for TLS and AUTH."""
        watch = WATCHED
        if self.first_line:
            watch |= Flag.LINE
        if self.policy.auth_required and not self.authenticated:
            watch |= DEMANDED
        if self.policy.needs_upgrade and not self.secure:
            watch |= Flag.NEEDS_TLS
        self.watch = watch

    def authenticate(self, user: object) -> None:
        """The client is `user` from now on: what is demanded of strangers is not of it."""
        self.session.user = user
        self.authenticated = True
        self.counters.unauthenticated = 0
        self.watch_lines()

    def forget_user(self) -> None:
        """The client is nobody again."""
        self.session.user = None
        self.authenticated = False
        self.watch_lines()

    def reset_greeting(self) -> None:
        """Back to where our greeting was: the client has said nothing yet (RFC 3207 §4.2)."""
        self.mail_data.abort("reset")
        self.forget_transaction()
        self.state = _CONNECTED
        self.extended = False
        if self.policy.auth_required:
            self.watch |= DEMANDED  # whatever becomes of the user
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
        """From here on nothing is plaintext; what is queued is the last."""
        self.securing = True
        self.halted = True
        self.clock.await_answer(self.options.tls_handshake_timeout)

    def resume(self) -> None:
        """The client may go on; no reply of ours has told it so."""
        self.halted = False
        self.clock.await_command()

    def trusts(self, networks: Networks) -> bool:
        """Whether the client is in one of `networks`."""
        return networks.unix if self.is_unix else networks.match(self.remote_address)

    def newline_policy(self) -> str:
        """What to do with a bare CR or LF in this message."""
        if self.transaction.binary:
            return "accept"
        policy = self.policy
        if policy.has_exclusions and self.trusts(self.options.bare_newline_exclusions):
            return "accept"
        return policy.bare_newline

    def message_done(self, accepted: bool, is_tiny: bool) -> None:
        """The final reply to a message is queued. is_tiny: it has too few octets to be one."""
        self.counters.message_done(accepted, is_tiny)
        self.count_transaction()
        self.end_transaction()

    def count_transaction(self) -> None:
        """One more message has had its final reply."""
        self._transactions += 1
        self.session.transaction = self._transactions

    def end_transaction(self) -> None:
        """Nothing of the transaction is left; an open body is aborted."""
        self._drop_transaction()
        if self.xforward is not None:
            self.forget_forwarded()
        if self.state != _CLOSING:
            self.state = _GREETED

    def _drop_transaction(self) -> None:
        self.mail_data.abort("reset")
        self.forget_transaction()

    def forget_forwarded(self) -> None:
        """What XFORWARD said was about one message."""
        self.xforward = None
        self.session.xforward = None

    def forget_transaction(self) -> None:
        """A new transaction object, and an envelope that is made when somebody looks."""
        self.transaction = Transaction()
        set_envelope(self.session, None)
        self.mail_data.reset()
