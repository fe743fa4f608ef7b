"""Reverse lookup: the client's name, if it has one. Bounded in time, in number and in memory.

In: an address. Out: a host name that is safe to show, or None. RFC 5321 §3.6 asks for no such name;
it is for people. So whenever it is doubtful that a name comes soon, there is none:

* An address is asked for once, however many clients of it wait or leave meanwhile.
* A question holds its place until the resolver is done with it, whether or not anybody waits.
* Answers are remembered, and failures too, for a shorter time.
* A resolver that lets several clients in a row wait for nothing is left alone for a while.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from asyncio import CancelledError
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from fastsmtp._net.resolvers import AsyncResolver, SystemResolver, is_no_name, resolver_of
from fastsmtp.networks import host_key
from fastsmtp.options import Options

__all__ = ["ReverseLookup", "cleaned_name", "reverse_lookup"]

LOOKUP_TIMEOUT: Final = 1.5  # seconds; a greeting that comes later would be noticed
MAX_IN_FLIGHT: Final = 64  # questions at a time; beyond it a client has no name
MAX_PER_HOST: Final = 4  # of them for addresses of one IPv6 /64, which may all be without answer
CACHE_SIZE: Final = 4096  # addresses
CACHE_SECONDS: Final = 300.0
FAILURE_SECONDS: Final = 60.0  # for a failure: whoever comes back soon need not wait again
SLOW: Final = 0.5  # seconds from which on a failure has cost the client more than a name
MAX_SLOW: Final = 5  # slow failures in a row after which nobody is asked
PAUSE: Final = 30.0  # seconds in which nobody is asked
MAX_NAME: Final = 253  # octets, RFC 1035 §2.3.4

_NAME: Final = r"[A-Za-z0-9._-]+"

type_on_name = Callable[[str | None], object]


def cleaned_name(name: object) -> str | None:
    """Return a host name in lower case, None when it is not one or is too long."""
    if not name or not isinstance(name, str):
        return None
    name = name.rstrip(".")
    if len(name) > MAX_NAME or not re.fullmatch(_NAME, name):
        return None
    return name.lower()


def _name_in(found: Any) -> str | None:
    """Return the name in what a resolver has answered; raises whatever that object raises."""
    if isinstance(found, BaseException):
        raise found
    if found is None or isinstance(found, str):
        return cleaned_name(found)
    if hasattr(found, "name"):  # a result of aiodns
        return cleaned_name(found.name)
    return cleaned_name(found[0]) if found else None


class _Question:
    """One question to the resolver. over: nobody waits for its answer any more."""

    __slots__ = ("address", "began", "future", "host", "loop", "over", "timer", "waiting")

    def __init__(self, address: str, host: str, loop: asyncio.AbstractEventLoop) -> None:
        self.address = address
        self.host = host
        self.loop = loop
        self.began = loop.time()
        self.future: asyncio.Future[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.waiting: dict[type_on_name, None] = {}  # a set that keeps the order
        self.over = False


def reverse_lookup(options: Options, now: Callable[[], float]) -> ReverseLookup | None:
    """Return what looks up the names of clients, None where `options` asks for none.

    Raises ValueError when the resolver cannot be had.
    """
    return None if options.disable_reverse_lookup else ReverseLookup(options.resolver, now)


class ReverseLookup:
    """Names by address, of one server.

    resolver: the option `resolver`. now: seconds on the clock that answers grow old by. Raises
    ValueError when the resolver cannot be had.
    """

    def __init__(self, resolver: Any, now: Callable[[], float]) -> None:
        asked: Any = resolver_of(resolver)
        self._resolver = asked
        self._is_ours = isinstance(asked, AsyncResolver | SystemResolver)
        self._places: int = asked.places if self._is_ours else MAX_IN_FLIGHT
        self._now = now
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        # By address; failures by what `host_key` makes of it.
        self._cache: dict[str, tuple[float, str | None]] = {}
        self._asked: dict[str, _Question] = {}  # by address, as long as somebody may wait
        self._busy: set[_Question] = set()  # the resolver is at work for these
        self._slow = 0
        self._paused_until = 0.0

    def known(self, loop: asyncio.AbstractEventLoop, address: str) -> tuple[bool, str | None]:
        """Return (is there nothing to wait for, name). The name may be missing because it cannot
        be looked up now.
        """
        if loop is not self._loop:  # what another one was to tell us need never come
            self._loop = loop
            self._asked = {}
            self._busy = set()
        now = self._now()
        entry = self._cache.get(address)
        if entry is not None and now < entry[0]:
            return True, entry[1]
        if address in self._asked:
            return False, None
        return not self._may_ask(host_key(address), now), None

    def _may_ask(self, host: str, now: float) -> bool:
        entry = self._cache.get(host)
        if self._closed or now < self._paused_until or (entry is not None and now < entry[0]):
            return False
        if self._slow >= MAX_SLOW and self._asked:  # after a pause one client at a time waits
            return False
        if len(self._busy) >= self._places:
            return False
        return sum(one.host == host for one in self._busy) < MAX_PER_HOST

    def begin(self, address: str, on_name: type_on_name) -> None:
        """Call `on_name(name)` in a later turn of the loop, after LOOKUP_TIMEOUT at the latest;
        whatever goes wrong in the resolver, the name is None. For what `known` does not know.
        """
        question = self._asked.get(address)
        if question is not None:
            question.waiting[on_name] = None
            return
        assert self._loop is not None
        question = _Question(address, host_key(address), self._loop)
        question.waiting[on_name] = None
        self._asked[address] = question
        self._busy.add(question)
        self._ask(question)

    def abandon(self, address: str, on_name: type_on_name) -> None:
        """Do not call `on_name` any more. The question goes on, for the next client of its kind."""
        question = self._asked.get(address)
        if question is not None:
            question.waiting.pop(on_name, None)

    async def close(self) -> None:
        """Call everything off: nobody is called any more, and nothing is asked."""
        self._closed = True
        for question in list(self._busy):
            question.waiting.clear()
            self._end(question)
            if question.future is not None:
                question.future.cancel()
        if self._is_ours:
            await self._resolver.close()

    def _ask(self, question: _Question) -> None:
        try:
            found = self._resolver(question.address)
            if not inspect.isawaitable(found):
                self._busy.discard(question)
                self._answered(question, found)
                return
            question.future = asyncio.ensure_future(found, loop=question.loop)
        except BaseException as error:  # the resolver may be foreign code
            self._busy.discard(question)
            self._answered(question, error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            return
        question.timer = question.loop.call_later(LOOKUP_TIMEOUT, self._time_out, question)
        question.future.add_done_callback(partial(self._ended, question))

    def _ended(self, question: _Question, future: asyncio.Future[Any]) -> None:
        """The resolver is done, in time or not."""
        self._busy.discard(question)
        error = CancelledError() if future.cancelled() else future.exception()
        self._answered(question, future.result() if error is None else error)

    def _time_out(self, question: _Question) -> None:
        self._failed(question)
        if not self._is_ours:  # ours have an end, and what they find may still be of use
            assert question.future is not None
            question.future.cancel()

    def _answered(self, question: _Question, found: Any) -> None:
        try:
            name = _name_in(found)
        except BaseException as error:  # of the resolver, or of the object that it has answered
            if not is_no_name(error):
                self._failed(question)
                return
            name = None
        self._remember(question.address, name, CACHE_SECONDS)
        if not question.over:
            self._slow = 0
            self._paused_until = 0.0
            self._tell(question, name)

    def _failed(self, question: _Question) -> None:
        if question.over:
            return
        now = self._now()
        known = self._cache.get(question.host)
        is_news = known is None or known[0] <= now  # of one net only the first failure counts
        self._remember(question.host, None, FAILURE_SECONDS)
        self._tell(question, None)
        if is_news and question.loop.time() - question.began >= SLOW:
            self._slow += 1
            if self._slow >= MAX_SLOW:
                self._paused_until = now + PAUSE
                for other in list(self._asked.values()):
                    self._tell(other, None)

    def _tell(self, question: _Question, name: str | None) -> None:
        for on_name in question.waiting:
            question.loop.call_soon(on_name, name)
        self._end(question)

    def _end(self, question: _Question) -> None:
        """Whoever comes now is no longer told how this one ends."""
        question.over = True
        question.waiting = {}
        if self._asked.get(question.address) is question:
            del self._asked[question.address]
        if question.timer is not None:
            question.timer.cancel()
            question.timer = None

    def _remember(self, key: str, name: str | None, seconds: float) -> None:
        self._cache.pop(key, None)
        if len(self._cache) >= CACHE_SIZE:
            del self._cache[next(iter(self._cache))]
        self._cache[key] = (self._now() + seconds, name)
