"""The connection: an asyncio protocol between a transport and a dialogue.

In: reads, end of file, loss, room to write. Out: one write per read, and pauses. How it writes,
ends, and keeps time: `_connection.output`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, cast

from fastsmtp._connection.greeting_stage import Prelude, is_known
from fastsmtp._connection.names import take_names
from fastsmtp._connection.proxy_stage import Introduction
from fastsmtp._connection.server_interface import Server
from fastsmtp._connection.tls_stage import SecureLink
from fastsmtp._failures import Place
from fastsmtp._hooks.callback import Answer
from fastsmtp._hooks.coroutine_driver import drive
from fastsmtp._hooks.tasks import STALL, HookTasks, warn_of_stall
from fastsmtp._net.epoll_transport import SocketTransport
from fastsmtp._net.turns import Turns
from fastsmtp._net.write_progress import WriteWatch
from fastsmtp._smtp.protocol import SMTPProtocol
from fastsmtp._tls.contexts import ListenerTLS
from fastsmtp.replies import Reply
from fastsmtp.session import Session
from fastsmtp.stream import DataStream

__all__ = ["Connection"]

_STALL: float = STALL


class Connection(SecureLink):
    """One client. It is the host of its dialogue. tls: that of its listener."""

    def __init__(
        self,
        server: Server,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float] = time.monotonic,
        tls: ListenerTLS | None = None,
    ) -> None:
        turns = server.turns or Turns(loop, now)
        SecureLink.__init__(self, loop, now, turns, tls or server.tls.default)
        self._server = server
        tables = server.tables
        policy = tables.policy
        self.session = Session(lmtp=policy.lmtp, secure=policy.secured)
        self._protocol = SMTPProtocol(tables, self.session, self, now(), turns)
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._counted_address = ""  # what `admit_host` has counted
        self._entry = None  # takes the octets before the dialogue
        self._introduction: Introduction | None = None  # the PROXY header is still to come
        self._started = False  # the hook on_connect was reached, so on_close is due
        self._refused = False
        self._prelude: Prelude | None = None
        self._tasks: HookTasks | None = None
        self._watch = cast("WriteWatch", None)
        self._hook_begins = False  # the coroutine of `on_data`, in the next turn of the loop

    # The transport's calls.

    def connection_made(self, transport: asyncio.BaseTransport | SocketTransport) -> None:
        """Take the addresses, then a place among the server's connections."""
        self._use(transport, self._server.timers)
        self._watch = WriteWatch(self._transport, self._server.tables.options.write_timeout)
        session = self.session
        unix = take_names(self._transport, session)
        protocol = self._protocol
        protocol.client_is(session.remote_address, unix)
        refusal = self._server.registry.admit(self)
        if refusal is not None:
            self._refuse(refusal)
            return
        balancers = self._server.tables.options.use_proxy
        if balancers and protocol.trusts(balancers):
            self._await_header()
        else:
            self._let_in(None if unix else session.remote_address)

    def data_received(self, data: bytes) -> None:
        """Take what was read: to the dialogue, or to what stands before it."""
        self._reads += 1
        if self._refused or self._protocol.is_closing():
            return  # lingering: read and dropped
        if self._entry is None:
            self._receive(data)
        else:
            self._entry(data)

    def _receive(self, data: bytes) -> None:
        """Feed the dialogue; what it has to say goes out in one write."""
        if not self._is_direct:
            self._receive_in_turn(data)
            return
        protocol = self._protocol
        now = self._now()
        try:
            protocol.receive(data, now, self._watch.unsent())
        finally:
            self._after(now)

    def eof_received(self) -> bool:
        """The client sends no more; it may still be reading (RFC 5321 §3.8)."""
        self._eof = self._input_over = True
        self._reads += 1
        if self._protocol.securing:
            self._cut_handshake(self._why_cut())
        elif not self._holds_input():
            self._end_input()
        return True

    def _end_input(self) -> None:
        if self._refused or self._protocol.closing:
            self._close()
        elif self._started:
            now = self._now()
            try:
                self._protocol.receive_eof(now)
            finally:
                self._after(now)
        elif not self._protocol.holds_input():
            self._transport.abort()  # nothing was said, and nothing will be

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; hooks that are at work may still end."""
        if self._lost:
            return
        self._lost = True
        self._flow.let_go()
        if self._overdue:
            self._overdue = False
            self._grace = 0
        self._watch.check_at = self._close_at = inf
        self._stop_preparing()
        self._entry = self._introduction = None
        now = self._now()
        try:
            if exc is not None:
                self._protocol.socket_failed(exc)
        finally:
            self._dialogue_lost(now)

    def _dialogue_lost(self, now: float) -> None:
        try:
            self._protocol.disconnect(now)
        finally:
            if self._tasks:
                # Hooks of a client that is gone have this long, then they are cancelled.
                self._cancel_at = now + self._server.tables.options.data_hook_timeout
            self._end_if_done()

    def pause_writing(self) -> None:
        """The client does not take our replies: neither reading nor execution goes on."""
        self._protocol.block()

    def resume_writing(self) -> None:
        """The client has taken enough."""
        self._protocol.unblock(self._now())
        self.wake()

    # The dialogue's calls.

    def start_task(
        self, coroutine: Coroutine[Any, Any, Any], answer: Answer, stream: DataStream | None
    ) -> bool:
        """Run the coroutine of a hook; False: it begins in the next turn of the loop."""
        if self._loop.get_task_factory() is None:
            drive(coroutine, self._loop, answer, self, stream)
            return True
        self._hook_tasks().start(coroutine, answer)
        self._hook_begins = stream is not None
        return False

    def keep_task(self, task: asyncio.Task[Any], answer: Answer) -> None:
        """The coroutine of `answer` goes on as `task`."""
        self._hook_tasks().keep(task, answer)

    def _hook_tasks(self) -> HookTasks:
        if self._tasks is None:
            now = self._other_clock or time.monotonic
            self._tasks = HookTasks(self._loop, now, self._end_if_done)
        return self._tasks

    def orphan_task(self, answer: Answer) -> None:
        """Nobody waits for `answer` any more; its coroutine has `data_hook_timeout` to end."""
        if self._tasks is not None:
            deadline = self._now() + self._server.tables.options.data_hook_timeout
            self._tasks.orphan(answer, deadline)
            if deadline < self._timer_at:
                self._arm(deadline)

    def cancel_task(self, answer: Answer) -> None:
        """Cancel the coroutine of `answer`, if it has one."""
        if answer.driver is not None:
            answer.driver.begin()
        if self._tasks is not None:
            self._tasks.cancel(answer)
            if self._tasks.abandon_at < self._timer_at:
                self._arm(self._tasks.abandon_at)

    def connected(self) -> None:
        """The client is about to be greeted."""
        self._server.connected(self)

    def report(self, error: BaseException, place: Place) -> None:
        """A hook, TLS, or the socket inside a transaction has failed."""
        self._server.report(error, place)

    def wall_time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    # The server's calls.

    def shut_down(self) -> None:
        """The server is closing; RFC 5321 §3.8 asks for a 421."""
        if self._refused or self._lost or self._protocol.closing:
            return
        if self._introduction is not None:
            self._refuse_in_silence()
            return
        if self._protocol.securing:
            self._cut_handshake(None)
            return
        now = self._now()
        self._protocol.shut_down(now, spares_hook=self in self._server.registry.callers)
        self._after(now)

    def runs(self, task: asyncio.Task[Any]) -> bool:
        """Whether `task` is that of a hook of this connection."""
        return self._tasks is not None and task in self._tasks

    def has_hook_at_work(self) -> bool:
        """Whether a hook of this connection has not ended, or not answered, yet."""
        return bool(self._tasks) or self._protocol.is_asking()

    @property
    def counted_address(self) -> str:
        """The address that counts for `max_clients_per_host`; "" when none does."""
        return self._counted_address

    def client_name(self) -> str:
        """Return the client as a log line shows it."""
        return self._protocol.client()

    @property
    def lingers(self) -> bool:
        """All is done and said; only the client's own end is waited for."""
        return (
            self._close_at != inf
            and not self._tasks
            and not self._protocol.has_open_message()
            and self._transport.get_write_buffer_size() == 0
        )

    def abort(self, reason: str = "shutdown") -> None:
        """Cut the connection now. Open bodies are aborted, by which their hooks end."""
        self._protocol.abort(reason)
        if not self._lost:
            self._drop_unread()
            self._transport.abort()

    def give_up(self) -> None:
        """Cancel the hooks that are still at work, and wait for no answer any more."""
        self._protocol.give_up()
        if self._tasks is not None:
            self._tasks.cancel_all()
        self._end_if_done()

    # Before the greeting.

    def _refuse(self, refusal: Reply) -> None:
        self._refused = True
        # Under implicit TLS nothing can be said before the handshake, and nothing is waited for.
        if not self._tls.implicit:
            self._write(refusal.wire, self._now())
            if self._server.registry.may_linger():
                self._close()
                return
        self._drop_unread()
        self._transport.close()

    def _refuse_in_silence(self) -> None:
        self._refused = True
        self._entry = self._introduction = None
        self._close()

    def _await_header(self) -> None:
        """The peer is a balancer: what it says comes before all else."""
        self._introduction = Introduction(
            self.session, self._protocol, self._introduced, self._refuse_in_silence
        )
        self._entry = self._introduction.receive
        self._protocol.await_balancer(self._now())
        self._arm(self._protocol.deadline())

    def _introduced(self, address: str | None, rest: bytes) -> None:
        self._entry = self._introduction = None
        self._protocol.stop_clock()
        self._let_in(address)
        if rest:
            self.data_received(rest)

    def _expired(self, now: float) -> None:
        if self._introduction is None:
            super()._expired(now)
        else:
            self._introduction.time_out()
            self._rearm()

    def _let_in(self, address: str | None) -> None:
        """Count the client among those of its host. address: the effective one, None: not
        counted.
        """
        if address:
            refusal = self._server.registry.admit_host(self, address)
            if refusal is not None:
                self._refuse(refusal)
                return
            self._counted_address = address
        if self._tls.implicit:
            self._begin_tls()
        else:
            self._prepare()

    def _prepare(self) -> None:
        address = self.session.remote_address
        self.session.client_hostname = f"[{address}]" if address else "localhost"
        delay = self._server.tables.options.greet_delay
        known, name = is_known(self._loop, self._server.lookup, address)
        if known and not delay:
            self._prepared(name)
            return
        self._prelude = Prelude(self._prepared)
        self._prelude.begin(self._loop, self._server.lookup, address, delay)

    def _prepared(self, name: str | None) -> None:
        self._prelude = None
        if name is not None:
            self.session.client_hostname = name
        self._start()

    def _stop_preparing(self) -> None:
        if self._prelude is not None:
            self._prelude.cancel()
            self._prelude = None

    def _start(self) -> None:
        self._started = True
        protocol = self._protocol
        now = self._now()
        try:
            protocol.start(self.session.client_hostname, now)
            if self._input_over:
                protocol.receive_eof(now)
        finally:
            self._after(now)

    # Output, flow and the end.

    def _after(self, began: float) -> None:
        """Look at what the dialogue wants now. began: when it was entered."""
        protocol = self._protocol
        now = self._now()
        if now - began > _STALL:
            warn_of_stall(now - began, self)
        octets = protocol.take_output(now)
        if octets and not self._lost:
            self._write(octets, now)
        if self._lost:
            self._end_if_done()
            return
        if not protocol.settled() or not self._reading:
            if protocol.is_closing():
                self._close()
                return
            if protocol.securing and self._pump is None:
                self._begin_tls()  # the 220 is written
            if protocol.wants_input is not self._reading:
                self._set_reading(not self._reading)
            if protocol.wants_turn():
                if self._hook_begins:
                    self._hook_begins = False
                    self._loop.call_soon(self._go_on_later)  # after its first step
                else:
                    self._flow.go_on_later()
        deadline = protocol.deadline()
        if deadline < self._timer_at:
            self._arm(deadline)

    def _end_if_done(self) -> None:
        if not self._lost or self._ended:
            return
        if self._protocol.finished and not self._tasks:
            self._end()
        else:
            self._rearm()

    def _end(self) -> None:
        """All hooks have ended: `on_close`, and out. A coroutine of it holds no place."""
        self._ended = True
        self._disarm()
        self._timer_at = -inf  # nothing is armed any more
        self._cancel_at = inf
        hook = self._server.tables.hooks.on_close if self._started else None
        self._started = False
        try:
            if hook is not None:
                self._server.registry.call_on_close(self._loop, hook, self)
        finally:
            self._release()

    def _release(self) -> None:
        """Break the circles, so that nothing of this connection waits for the collector."""
        self._tasks = self._entry = self._pump = None
        self._protocol.release()
        self._server.registry.finished(self)
