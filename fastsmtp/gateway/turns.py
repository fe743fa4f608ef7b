"""The queue of password checks: places, a share for each host, delays.

In: jobs, each of a host, and the time. Out: which job is next, and which one has lost its place.
Nothing runs here; the caller has the threads and the clock. A host is an IPv4 address or an IPv6
/64, as in `host_key`.

* A host has few places, and one check at a time, so that it cannot use up the turns of others.
* The hosts take turns: a host waits for at most one check of each other host.
* After some failures a host waits before its next check, longer each time, up to a low limit. The
  delay is independent of the user, because it would show which users exist.
* When all places are taken, the host with the most of them loses its newest to one with fewer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from itertools import islice
from math import inf
from typing import Final, Generic, TypeVar

__all__ = ["Full", "Turns"]

MAX_PLACES: Final = 64  # checks begun or waiting: some seconds of work, far from `hook_timeout`
MAX_PER_HOST: Final = 8  # of them for one host; each may wait for MAX_DELAY: 24 of the 30 seconds
FREE_FAILURES: Final = 3  # as many as one connection may have: typing errors cause no delay
FIRST_DELAY: Final = 0.5  # seconds after the next failure; doubled with each further one
MAX_DELAY: Final = 3.0
FORGET: Final = 600.0  # seconds after the last failure of a host
MAX_HOSTS: Final = 4096  # hosts whose failures are remembered

T = TypeVar("T", bound=Hashable)


class Full(Exception):
    """All places are taken."""


class _Host(Generic[T]):
    __slots__ = ("failures", "forgotten_at", "ready_at", "running", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[T] = deque()
        self.running = 0
        self.failures = 0
        self.ready_at = -inf  # when its next check may begin
        self.forgotten_at = -inf

    @property
    def places(self) -> int:
        return len(self.waiting) + self.running


class Turns(Generic[T]):
    """The queue. Times are seconds on the caller's clock."""

    def __init__(self, places: int = MAX_PLACES, per_host: int = MAX_PER_HOST) -> None:
        self._places = places
        self._per_host = per_host
        self._taken = 0
        self._hosts: dict[str, _Host[T]] = {}  # in the order of their last failures
        self._ring: deque[str] = deque()  # waiting hosts, in the order of their turns

    def add(self, key: str, job: T, now: float) -> T | None:
        """Give `job` of the host `key` a place; returns the job that has lost its place to it.

        Raises Full when all places are taken.
        """
        host = self._hosts.get(key)
        if host is None:
            self._forget(now)
            host = self._hosts[key] = _Host()
        if host.places >= self._per_host:
            raise Full
        victim = self._make_room(key, host) if self._taken >= self._places else None
        if not host.waiting:
            self._ring.append(key)
        host.waiting.append(job)
        self._taken += 1
        return victim

    def remove(self, key: str, job: T) -> bool:
        """Remove a waiting job from the queue; False: it has had its turn."""
        host = self._hosts.get(key)
        if host is None or job not in host.waiting:
            return False
        host.waiting.remove(job)
        self._taken -= 1
        if not host.waiting:
            self._ring.remove(key)
        self._drop_needless(key)
        return True

    def take(self, now: float) -> T | None:
        """Return the next job, None if no job may begin now."""
        for _ in range(len(self._ring)):
            key = self._ring[0]
            host = self._hosts[key]
            self._ring.rotate(-1)
            if host.running or now < host.ready_at:
                continue
            job = host.waiting.popleft()
            host.running += 1
            if not host.waiting:
                self._ring.pop()  # the host was moved from the front to the end
            return job
        return None

    def ended(self, key: str, now: float, failed: bool) -> None:
        """The check of a host has ended. failed: the password was wrong."""
        host = self._hosts[key]
        host.running -= 1
        self._taken -= 1
        if not failed:
            self._drop_needless(key)
            return
        host.failures = host.failures + 1 if now < host.forgotten_at else 1
        more = host.failures - FREE_FAILURES
        if more > 0:
            host.ready_at = now + min(FIRST_DELAY * 2.0 ** min(more - 1, 10), MAX_DELAY)
        host.forgotten_at = now + FORGET
        del self._hosts[key]
        self._hosts[key] = host

    def ready_at(self) -> float:
        """Return when the first delayed host may have its turn, infinity for never."""
        hosts = (self._hosts[key] for key in self._ring)
        return min((host.ready_at for host in hosts if not host.running), default=inf)

    def clear(self) -> list[T]:
        """Remove all waiting jobs from the queue, and return them."""
        jobs = [job for key in self._ring for job in self._hosts[key].waiting]
        for key in self._ring:
            self._hosts[key].waiting.clear()
        self._ring.clear()
        self._taken -= len(jobs)
        return jobs

    def _make_room(self, key: str, newcomer: _Host[T]) -> T:
        """Remove and return the newest job of the host with the most jobs; of several such hosts,
        of the one with the most failures.
        """
        victim = max(self._ring, key=self._weight, default=None)
        if victim is None or self._weight(victim) <= (newcomer.places + 1, newcomer.failures):
            self._drop_needless(key)
            raise Full
        host = self._hosts[victim]
        job = host.waiting.pop()
        self._taken -= 1
        if not host.waiting:
            self._ring.remove(victim)
        self._drop_needless(victim)
        return job

    def _weight(self, key: str) -> tuple[int, int]:
        host = self._hosts[key]
        return host.places, host.failures

    def _drop_needless(self, key: str) -> None:
        host = self._hosts[key]
        if not host.places and not host.failures:
            del self._hosts[key]

    def _forget(self, now: float) -> None:
        """Forget the oldest failures: expired ones, and hosts beyond MAX_HOSTS."""
        # Among the first hosts, no more can have a place than there are places.
        oldest = list(islice(self._hosts.items(), self._places + 2))
        for key, host in oldest:
            if not host.places and (now >= host.forgotten_at or len(self._hosts) >= MAX_HOSTS):
                del self._hosts[key]
