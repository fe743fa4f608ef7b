"""A run: connections that are opened again and again until the schedule is over."""

from __future__ import annotations

import asyncio
import resource
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from fastsmtp.gateway.bench.client import Client, Work, reason_of
from fastsmtp.gateway.bench.connecting import client_context, connect
from fastsmtp.gateway.bench.figures import Figures
from fastsmtp.gateway.bench.plan import Plan
from fastsmtp.gateway.bench.schedule import Schedule
from fastsmtp.gateway.bench.script import Script
from fastsmtp.gateway.bench.target import Address, BenchError, addresses

__all__ = ["Outcome", "Run"]

CONNECTING: Final = 64  # at the same time: more overflow the queue of many servers
CHECK_SECONDS: Final = 0.25
DRAIN_SECONDS: Final = 5.0  # for the messages under way, after an interrupt
FIRST_PAUSE: Final = 0.05  # seconds after a connection that was of no use; doubled each time
MAX_PAUSE: Final = 1.0
# The run ends when so many connections in a row were of no use, for each that is kept.
FAILURES: Final = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run was. seconds: from its first message to its last; cpu: seconds of this process.

    octets: of each message. is_pipelining: the server offers it, and the plan wants it.
    ended_early: why the run ended before its time, "" if it did not.
    """

    plan: Plan
    address: str
    figures: Figures
    octets: int
    is_pipelining: bool
    seconds: float
    cpu: float
    ended_early: str


class Run:
    """One run of a plan. began: of `time.perf_counter`, 0.0 before the first message."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.figures = Figures()
        self.began = 0.0
        self.schedule = Schedule(plan)
        self._script = Script(plan)
        self._implicit = client_context() if plan.target.tls else None
        self._starttls = client_context() if plan.starttls else None
        self._clients: set[Client] = set()
        self._opening: set[asyncio.Task[object]] = set()
        self._turns = asyncio.Semaphore(CONNECTING)
        self._useless = 0  # connections in a row
        self._ended_early = ""
        self._stopped_at = 0.0
        self._task: asyncio.Task[object] | None = None

    async def perform(self) -> Outcome:
        """Send all messages; raises BenchError if the server cannot be used at all.

        `stop` before the first message cancels the task that runs this.
        """
        self._task = asyncio.current_task()
        watching = asyncio.ensure_future(self._watch())
        try:
            address, features = await self._try_addresses()
            cpu = _cpu()
            self.began = perf_counter()
            self.schedule.begin()
            await self._send_all(address)
            seconds = perf_counter() - self.began
            cpu = _cpu() - cpu
        finally:
            watching.cancel()
            self.schedule.stop()
            self._cut()
        return Outcome(
            plan=self.plan,
            address=address.text,
            figures=self.figures,
            octets=self._script.octets,
            is_pipelining=self.plan.pipelining and "PIPELINING" in features,
            seconds=seconds,
            cpu=cpu,
            ended_early=self._ended_early,
        )

    def stop(self) -> None:
        """Let the messages under way end, for a while; the second time, end at once."""
        if not self.began and self._task is not None:
            self._task.cancel()
        if self._ended_early:
            self._cut()
        self._end("interrupted")

    def _end(self, why: str) -> None:
        if not self._ended_early:
            self._ended_early = why
            self._stopped_at = perf_counter()
            self.schedule.stop()

    def _cut(self) -> None:
        for client in list(self._clients):
            client.cut()
        for task in self._opening:
            task.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now = perf_counter()
            if self._stopped_at and now - self._stopped_at > DRAIN_SECONDS:
                self._cut()
            for client in list(self._clients):
                client.check(now)

    async def _try_addresses(self) -> tuple[Address, frozenset[str]]:
        """Return the first address on which the server greets, and the features that it offers."""
        reasons = []
        for address in await addresses(self.plan.target, anywhere=self.plan.anywhere):
            figures, schedule = Figures(), Schedule(self.plan)
            schedule.stop()  # so the client greets and leaves
            work = Work(self.plan, self._script, figures, schedule, self._starttls)
            client = await self._use_connection(work, address)
            if client is not None and client.is_useful:
                return address, client.features
            replies = [f"{code} {each.text}" for (_, code), each in figures.refusals.items()]
            reasons.append(f"{address.text}: {'; '.join([*replies, *figures.errors])}")
        raise BenchError("; ".join(reasons))

    async def _send_all(self, address: Address) -> None:
        work = Work(self.plan, self._script, self.figures, self.schedule, self._starttls)
        slots = [
            asyncio.ensure_future(self._keep_connected(work, address))
            for _ in range(self.plan.connections)
        ]
        await asyncio.wait(slots)
        for slot in slots:
            if not slot.cancelled():
                slot.result()

    async def _keep_connected(self, work: Work, address: Address) -> None:
        """Open one connection after another until no more messages start."""
        pause = FIRST_PAUSE
        while not self.schedule.is_over:
            client = await self._use_connection(work, address)
            if client is not None and client.is_useful:
                pause, self._useless = FIRST_PAUSE, 0
                continue
            self._useless += 1
            if self._useless >= FAILURES * self.plan.connections:
                self._end(f"gave up: {self._useless} connections in a row were of no use")
            if not self.schedule.is_over:
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE)

    async def _use_connection(self, work: Work, address: Address) -> Client | None:
        """Open a connection and wait for its end; None if it cannot be opened."""
        task = asyncio.current_task()
        assert task is not None
        self._opening.add(task)
        try:
            async with self._turns:
                client = await connect(work, address, self._implicit)
        except OSError as error:
            work.figures.connections_failed += 1
            work.figures.count_error(f"cannot connect: {reason_of(error)}")
            return None
        finally:
            self._opening.discard(task)
        self._clients.add(client)
        try:
            await client.ended
        finally:
            self._clients.discard(client)
        return client


def _cpu() -> float:
    """The CPU time of this process in seconds, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
