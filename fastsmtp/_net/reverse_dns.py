"""Reverse lookup: the client's name, if it has one. Bounded in time, in number and in memory.

In: an address. Out: a host name that is safe to show, or None. RFC 5321 §3.6 does not demand the
name; it is for people. So if a name is not likely to come soon, there is none:

* There is one question per address, however many of its clients wait or leave meanwhile.
* A question keeps its place until the resolver is done with it, even if no client waits for it.
* Answers are cached, and failures too, for a shorter time.
* After several slow failures in a row, the resolver is not used for a while.
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

LOOKUP_TIMEOUT: Final = 1.5  # seconds; a longer delay of the greeting would be noticeable
MAX_IN_FLIGHT: Final = 64  # questions at a time; beyond it a client has no name
MAX_PER_HOST: Final = 4  # of them for addresses of one IPv6 /64, which may all be unanswered
CACHE_SIZE: Final = 4096  # addresses
CACHE_SECONDS: Final = 300.0
FAILURE_SECONDS: Final = 60.0  # for a failure: a client that returns soon need not wait again
SLOW: Final = 0.5  # seconds: a failure that takes longer counts as slow
MAX_SLOW: Final = 5  # slow failures in a row before a pause
PAUSE: Final = 30.0  # seconds without questions to the resolver
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
    """Return the name in a resolver's answer; raises what that object raises."""
    if isinstance(found, BaseException):
        raise found
    if found is None or isinstance(found, str):
        return cleaned_name(found)
    if hasattr(found, "name"):  # a result of aiodns
        return cleaned_name(found.name)
    return cleaned_name(found[0]) if found else None


class _Question:
    """One question to the resolver. over: its answer is not waited for any more."""

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
    """Return the lookup for the names of clients, None if `options` disable it.

    Raises ValueError when the resolver is not usable.
    """
    return None if options.disable_reverse_lookup else ReverseLookup(options.resolver, now)


class ReverseLookup:
    """Names by address, of one server.

    resolver: the option `resolver`. now: a clock for the age of answers, in seconds. Raises
    ValueError when the resolver is not usable.
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
        self._busy: set[_Question] = set()  # the resolver has not answered these
        self._slow = 0
        self._paused_until = 0.0

    def known(self, loop: asyncio.AbstractEventLoop, address: str) -> tuple[bool, str | None]:
        """Return (whether there is nothing to wait for, name). The name may be missing because it
        cannot be looked up now.
        """
        if loop is not self._loop:  # answers on the former loop may never come
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
        after any error of the resolver the name is None. For addresses that `known` does not know.
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
        """Do not call `on_name` any more. The question continues, for later clients."""
        question = self._asked.get(address)
        if question is not None:
            question.waiting.pop(on_name, None)

    async def close(self) -> None:
        """Cancel everything: no more calls, no more questions."""
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
        if not self._is_ours:  # ours end by themselves, and their answers may still be useful
            assert question.future is not None
            question.future.cancel()

    def _answered(self, question: _Question, found: Any) -> None:
        try:
            name = _name_in(found)
        except BaseException as error:  # of the resolver, or of the object in its answer
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
        """Do not give the answer of this question to clients that come later."""
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
