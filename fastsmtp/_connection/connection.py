"""The connection: an asyncio protocol between a transport and a dialogue.

In: reads, end of file, loss, room to write. Out: one write per read, and pauses. The stage handles
the events (`_connection.stages`), `_connection.output` writes and ends the connection,
`_connection.deadline_timer` keeps time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextvars import Context
from math import inf
from typing import Any, cast

from fastsmtp._connection.arrival import arrive, let_in, prepare, shake_hands
from fastsmtp._connection.deadline_timer import DeadlineTimer
from fastsmtp._connection.output import Output
from fastsmtp._connection.server_state import ServerState
from fastsmtp._connection.stages import GONE, LINGERING, LOST, TALKING, Stage, Talking, held
from fastsmtp._counts.families import cell
from fastsmtp._failures import Place
from fastsmtp._hooks.callback import Answer
from fastsmtp._hooks.coroutine_driver import drive
from fastsmtp._hooks.stalls import STALL
from fastsmtp._hooks.tasks import HookTasks
from fastsmtp._interpreter import IS_KNOWN
from fastsmtp._log import logger
from fastsmtp._native import forks
from fastsmtp._net.epoll_transport import SocketTransport
from fastsmtp._net.turns import Continuation, Flow, Receiver, Turns
from fastsmtp._smtp.protocol import SMTPProtocol
from fastsmtp._tls.contexts import ListenerTLS
from fastsmtp._tls.facts import TLSSocket
from fastsmtp.session import Session
from fastsmtp.stream import DataStream

__all__ = ["Connection"]

_ENTERED, _INSIDE = 1, 2  # of `Turns.enter`: `leave` is due; a visit is under way
_STALL: float = STALL
_RECEIVED: int = cell("received_bytes_total")
_TALKING: Stage = TALKING
_GONE: Stage = GONE
_LINGERING: Stage = LINGERING


class Connection(Receiver):
    """One client. It is the host of its dialogue. tls: that of its listener.

    context: contextvars for calls of hooks, None: the loop provides them. reads: how often octets
    have arrived.
    """

    _flow: Flow  # its share of the turns
    _stage: Stage

    def __init__(
        self,
        server: ServerState,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float] = time.monotonic,
        tls: ListenerTLS | None = None,
    ) -> None:
        self.server = server
        self.loop = loop
        self._turns = self.server.turns or Turns(loop, now)
        self.tls = tls or self.server.tls.default
        self.context: Context | None = None
        tables = self.server.tables
        self._tally = self.server.tables.tally
        self.session = Session(lmtp=tables.policy.lmtp, secure=tables.policy.secured)
        self.protocol = SMTPProtocol(tables, self.session, self, now(), self._turns)
        self.timer = DeadlineTimer(self, self.protocol, loop, now)
        self.output = cast("Output", None)  # before there is a transport
        self._stage = _GONE
        self.talking: Talking = TALKING  # the stage of the dialogue
        self._tasks: HookTasks | None = None
        self.counted_host = ""  # the registry's
        self._forks = forks()  # of this process: a forked child must not use the connection
        self.reads = 0
        self._is_direct = False  # our own transport, which calls us in turns; a loop's at each read
        self._woken = False  # a hook or room for output has waked us outside of a turn
        self._hook_begins = False  # the coroutine of `on_data` begins in the next turn of the loop
        self._lost = False
        self._ended = False

    # The transport's calls.

    def connection_made(self, transport: asyncio.BaseTransport | SocketTransport) -> None:
        """Make the parts that depend on the transport, then begin the steps to the dialogue."""
        if isinstance(transport, SocketTransport):
            self.context = transport.context
            self.timer.use(self.server.timers)
            self._flow = transport
            self._is_direct = True
        else:
            self._flow = Continuation(self._turns, self)
        timeout = self.server.options.write_timeout
        self.output = Output(transport, self.timer, timeout, self._tally)
        arrive(self)

    def data_received(self, data: bytes) -> None:
        """Pass the octets of a read to the dialogue, or to the current stage."""
        self.reads += 1
        self._tally.add(_RECEIVED, len(data))
        if self._stage is _TALKING:
            self.receive(data)
        else:
            held(self._stage).octets(self, data)

    def eof_received(self) -> bool:
        """The client has sent FIN; it may still be reading (RFC 5321 §3.8)."""
        self.reads += 1
        self.output.at_eof = True
        held(self._stage).eof(self)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is lost; hooks may still be running."""
        if self._lost:
            return
        self._lost = True
        self._flow.let_go()
        if self.timer.overdue:
            self.timer.end_grace()
        self.output.lost()
        self.enter(LOST)
        now = self.timer.now()
        try:
            if exc is not None:
                self.protocol.socket_failed(exc)
        finally:
            try:
                self.protocol.disconnect(now)
            finally:
                if self._tasks:
                    # Hooks of a lost client have this much time, then they are cancelled.
                    self._tasks.cancel_at = now + self.server.tables.options.data_hook_timeout
                self._end_if_done()

    def pause_writing(self) -> None:
        """The client does not read our replies."""
        self.protocol.block()

    def resume_writing(self) -> None:
        """The client has read enough of them."""
        self.protocol.unblock(self.timer.now())
        self.wake()

    def go_on(self) -> None:
        """Our turn has come: do the remaining work."""
        if self._lost:
            return
        if self.protocol.wants_turn() or self._woken:
            self._advance()
        talking = self.talking  # held, as `held` does
        talking.go_on(self)
        if self.timer.overdue:
            self.timer.go_on()

    # The stages' calls; `stages.Client` and `tls_stage.SecureClient` say what each is for.

    def receive(self, data: bytes) -> None:
        """Feed the dialogue; its output goes out in one write.

        A transport of the loop reads for all connections that have input: octets that come when the
        turn is over are kept, and the next read waits.
        """
        protocol = self.protocol
        now = self.timer.now()
        entered = _INSIDE if self._is_direct else self._turns.enter(self._flow)
        try:
            if entered:
                protocol.receive(data, now, self.output.unsent())
            else:
                protocol.keep(data, now)
        finally:
            self._after(now)
            if entered == _ENTERED:
                self._turns.leave(self._flow)

    def receive_eof(self) -> None:
        now = self.timer.now()
        try:
            self.protocol.receive_eof(now)
        finally:
            self._after(now)

    def holds_input(self) -> bool:
        return self.talking.holds_input() or self.protocol.holds_input()

    def input_ended(self) -> None:
        held(self._stage).eof(self)

    def set_reading(self, reading: bool) -> None:
        if reading and self.talking.holds_input():
            self.talking.wait_for_turn(self)  # before the next read
        elif not reading or self._stage.may_read():
            self.output.set_reading(reading)

    def go_on_later(self) -> None:
        self._flow.go_on_later()

    def introduced(self, address: str | None, rest: bytes) -> None:
        let_in(self, address)
        if rest:
            self.data_received(rest)

    def secured(self, inside: Talking, facts: TLSSocket) -> None:
        is_first = self.protocol.opening
        self.talking = inside
        self.enter(inside)
        now = self.timer.now()
        self.protocol.secured(facts, now)
        if is_first:
            prepare(self)
        else:
            self._after(now)

    def start(self, name: str | None, input_over: bool = False) -> None:
        if name is not None:
            self.session.client_hostname = name
        self.enter(self.talking)
        now = self.timer.now()
        try:
            self.protocol.start(self.session.client_hostname, now)
            if input_over:
                self.protocol.receive_eof(now)
        finally:
            self._after(now)

    def expire(self, now: float) -> None:
        try:
            self.protocol.expire(now)
        finally:
            self._after(now)

    def say_closing(self) -> None:
        if self.protocol.is_closing():
            return
        now = self.timer.now()
        self.protocol.shut_down(now, spares_hook=self in self.server.registry.callers)
        self._after(now)

    def close(self) -> None:
        self.enter(_LINGERING)
        self.protocol.stop_clock()
        self.output.finish(self.timer.now(), self.protocol.parted)

    def cut(self) -> None:
        self.enter(_GONE)
        self.output.transport.abort()

    def enter(self, stage: Stage) -> None:
        self._stage.leave()
        self._stage = stage

    # The dialogue's calls; `_hooks.callback.Host` says what each is for.

    def wake(self) -> None:
        if self.loop.is_closed():
            raise RuntimeError("the event loop of this connection is closed")
        if forks() != self._forks:
            return  # a hook that ends in a forked child: the client is the parent's
        entered = 0 if self._lost else self._turns.enter(self._flow)
        if not entered and not self._lost:
            self._woken = True
            self._flow.go_on_later()
            return
        try:
            self._advance()
        finally:
            if entered == _ENTERED:
                self._turns.leave(self._flow)

    def _advance(self) -> None:
        now = self.timer.now()
        self._woken = False
        try:
            self.protocol.advance(now, 0 if self._lost else self.output.unsent())
        finally:
            self._after(now)

    def start_task(
        self, coroutine: Coroutine[Any, Any, Any], answer: Answer, stream: DataStream | None
    ) -> bool:
        if IS_KNOWN and self.loop.get_task_factory() is None:
            drive(coroutine, self.loop, answer, self, stream)
            return True
        has_begun = self._hook_tasks().start(coroutine, answer)
        self._hook_begins = stream is not None and not has_begun
        return has_begun

    def keep_task(self, task: asyncio.Task[Any], answer: Answer) -> None:
        """The coroutine of `answer` continues as `task`."""
        self._hook_tasks().keep(task, answer)

    def _hook_tasks(self) -> HookTasks:
        if self._tasks is None:
            self._tasks = HookTasks(self.loop, self.timer.clock, self._end_if_done)
        return self._tasks

    def orphan_task(self, answer: Answer) -> None:
        """`answer` is not needed any more; its coroutine has `data_hook_timeout` to end."""
        if self._tasks is not None:
            deadline = self.timer.now() + self.server.tables.options.data_hook_timeout
            self._tasks.orphan(answer, deadline)
            self.timer.need(deadline)

    def cancel_task(self, answer: Answer) -> None:
        if answer.driver is not None:
            answer.driver.begin()
        if self._tasks is not None:
            self._tasks.cancel(answer)
            self.timer.need(self._tasks.abandon_at)

    def connected(self) -> None:
        self.server.connected(self)

    def report(self, error: BaseException, place: Place) -> None:
        self.server.report(error, place)

    def wall_time(self) -> float:
        return time.time()

    # The server's calls; `registry.Registered` says what each is for.

    def shut_down(self) -> None:
        held(self._stage).server_closing(self)

    def runs(self, task: asyncio.Task[Any]) -> bool:
        return self._tasks is not None and task in self._tasks

    def has_hook_at_work(self) -> bool:
        return bool(self._tasks) or self.protocol.is_asking()

    def client_name(self) -> str:
        return self.protocol.client()

    @property
    def lingers(self) -> bool:
        return (
            self.output.close_at != inf
            and not self._tasks
            and not self.protocol.has_open_message()
            and self.output.unsent() == 0
        )

    def abort(self, reason: str = "shutdown") -> None:
        self.protocol.abort(reason)
        if not self._lost:
            self.output.drop_unread()
            self.output.transport.abort()

    def give_up(self) -> None:
        self.protocol.give_up()
        if self._tasks is not None:
            self._tasks.cancel_all()
        self._end_if_done()

    # The timer's calls; `deadline_timer.Owner` says what each is for.

    def on_deadline(self) -> None:
        self.timer.fired()

    def next_look(self) -> float:
        tasks = inf if self._tasks is None else self._tasks.deadline
        return min(self.output.check_at, self.output.close_at, tasks)

    def look(self, now: float) -> None:
        left_behind = [] if self._tasks is None else self._tasks.look(now)
        if left_behind:
            names = ", ".join(left_behind)
            logger.error("%s: cancelled, but does not end, and is abandoned: %s", self, names)
            self._end_if_done()
        if self.output.is_stalled(now):
            logger.debug("%s: the client takes no output", self)
            self.output.transport.abort()
        self.output.end_linger(now)

    def expire_in_turn(self, now: float) -> bool:
        entered = _INSIDE if self._lost else self._turns.enter(self._flow)
        if not entered:
            self._flow.go_on_later()
            return False
        self.timer.end_grace()
        try:
            held(self._stage).expired(self, now)
        finally:
            self.timer.renew()
            if entered == _ENTERED:
                self._turns.leave(self._flow)
        return True

    def __str__(self) -> str:
        """Session and client, the beginning of a log line."""
        return str(self.protocol)

    def __repr__(self) -> str:
        return f"<Connection {self}>"  # in the loop's log after an exception of the protocol

    # After each call of the dialogue, and at the end.

    def _after(self, began: float) -> None:
        """Do what the dialogue needs now. began: when it was entered."""
        protocol = self.protocol
        now = self.timer.now()
        if now - began > _STALL:
            self.server.tables.stalls.tell(began, now, protocol.holder(began), self)
        octets = protocol.take_output(now)
        if self._lost:
            self._end_if_done()
            return
        output = self.output
        if octets:
            output.write(octets, now)
        if not protocol.settled() or not output.is_reading:
            if protocol.is_closing():
                self.close()
                return
            if protocol.securing and output.pump is None:
                shake_hands(self)  # the 220 is written
            if protocol.wants_input is not output.is_reading:
                self.set_reading(not output.is_reading)
            if protocol.wants_turn():
                if self._hook_begins:
                    self._hook_begins = False
                    self.loop.call_soon(self.go_on_later)  # after its first step
                else:
                    self._flow.go_on_later()
        self.timer.need(protocol.deadline())

    def _end_if_done(self) -> None:
        if not self._lost or self._ended:
            return
        if self.protocol.finished and not self._tasks:
            self._end()
        else:
            self.timer.renew()

    def _end(self) -> None:
        """All hooks have ended: call `on_close` and end. A coroutine of it takes no place."""
        self._ended = True
        self.timer.stop()
        hook = self.server.tables.hooks.on_close if self.protocol.started else None
        try:
            if hook is not None:
                self.server.registry.call_on_close(self.loop, hook, self, self.timer.clock)
        finally:
            # Break reference cycles: the connection is freed without the garbage collector.
            self._tasks = self.output.pump = None
            self.talking = TALKING
            self.protocol.release()
            self.server.registry.finished(self)
