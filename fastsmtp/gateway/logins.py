"""Logins: the hook `on_auth`, and the checking of passwords, which is slow by design.

A check takes a tenth of a second of a core and 64 MiB, so a few threads do it, and a limited number
of checks may wait; `turns` decides which one is next. If all places are taken, the client gets 454
and can try again later. The threads leave a core to the event loop and have a lower priority.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final

from fastsmtp import Auth
from fastsmtp.blocking import call_in_thread
from fastsmtp.errors import SMTPError
from fastsmtp.gateway.log import logger
from fastsmtp.gateway.turns import Full, Turns
from fastsmtp.gateway.users import Users, prepared
from fastsmtp.log_text import clean, client_word
from fastsmtp.networks import host_key
from fastsmtp.session import Session

if TYPE_CHECKING:
    import argon2

__all__ = ["Checker", "Logins", "MissingPackage", "Overloaded", "hasher"]

MAX_THREADS: Final = 4  # each takes the memory that its hash demands
NICE: Final = 10  # lower priority than the event loop, in case they share a core


def check_threads(cores: int | None = None) -> int:
    """Return how many checks may run at a time, with one core left to the event loop."""
    if cores is None:
        cores = len(_own_cores()) or os.cpu_count() or 1
    return max(1, min(MAX_THREADS, cores - 1))


def _own_cores() -> set[int]:
    """Return the cores that this thread may run on, an empty set if the system cannot tell."""
    return set(os.sched_getaffinity(0)) if sys.platform == "linux" else set()


def step_back() -> None:
    """Leave a core to the event loop, and lower the priority: of the thread of a check, and of the
    threads that argon2 starts in it, one for each lane of a hash.
    """
    if sys.platform != "linux":  # elsewhere these are properties of the process
        return
    cores = _own_cores()
    with suppress(OSError):
        if len(cores) > 1:
            os.sched_setaffinity(0, cores - {min(cores)})
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


class MissingPackage(Exception):
    """argon2 is not installed; the text is one line for the user."""


class Overloaded(Exception):
    """The largest number of waiting checks is reached."""


class BadHash(Exception):
    """A hash cannot be checked: it is malformed, or there is not enough memory for it."""


def hasher() -> argon2.PasswordHasher:
    """Return the object that makes and checks hashes, with the costs of RFC 9106 §4. Raises
    MissingPackage.
    """
    try:
        # Not at the top: it comes with an extra, and a server without users does not need it.
        import argon2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "argon2":
            raise
        raise MissingPackage(
            "the package argon2-cffi is missing; install it with:"
            " pip install 'fastsmtp-engine[server]'"
        ) from None
    return argon2.PasswordHasher()


class _Check:
    """One password and one hash. found: whether they match, or why that is unknown."""

    __slots__ = ("found", "host", "is_possible", "password", "record")

    def __init__(
        self,
        host: str,
        record: str,
        password: bytes,
        is_possible: bool,
        found: asyncio.Future[bool | Exception],
    ) -> None:
        self.host = host
        self.record = record
        self.password = password
        self.is_possible = is_possible
        self.found = found

    def finish(self, found: bool | Exception) -> None:
        """Set the result, unless the caller was cancelled."""
        if not self.found.done():
            self.found.set_result(found)


class Checker:
    """Checks passwords in a bounded number of threads; the process does not wait for them at exit.

    threads: how many at a time. turns: the queue. now: a clock, in seconds. Raises MissingPackage.
    """

    def __init__(
        self,
        threads: int | None = None,
        turns: Turns[_Check] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hasher = hasher()
        self._idle = check_threads() if threads is None else threads
        self._turns: Turns[_Check] = Turns() if turns is None else turns
        self._now = now
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def matches(
        self, record: str, password: bytes, host: str = "", is_possible: bool = True
    ) -> bool:
        """Whether `record` is the hash of `password` and the login `is_possible`; if it is not, the
        check is done all the same, so that the time is equal. Raises Overloaded, BadHash.

        host: the client's `host_key`. If the caller is cancelled before the check has begun, it is
        not done.
        """
        loop = asyncio.get_running_loop()
        check = _Check(host, record, password, is_possible, loop.create_future())
        if self._closed:
            raise Overloaded
        try:
            victim = self._turns.add(host, check, self._now())
        except Full:
            raise Overloaded from None
        if victim is not None:
            victim.finish(Overloaded())
        self._begin(loop)
        try:
            found = await check.found
        finally:
            self._turns.remove(host, check)
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """Start no more checks. Running ones end by themselves, or with the process."""
        self._closed = True
        self._disarm()
        for check in self._turns.clear():
            check.finish(Overloaded())

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin as many checks as may begin now, and set a timer for delayed ones."""
        self._disarm()
        while self._idle and (check := self._turns.take(self._now())) is not None:
            self._idle -= 1
            try:
                run = partial(self._run, check.record, check.password)
                outcome = call_in_thread(loop, run, "fastsmtp-login")
            except RuntimeError:  # no thread can be started
                self._end(check, Overloaded())
                continue
            outcome.add_done_callback(partial(self._ended, loop, check))
        ready_at = self._turns.ready_at()
        if self._idle and ready_at < inf:
            wait = max(0.0, ready_at - self._now())
            self._timer = loop.call_later(wait, self._begin, loop)

    def _ended(
        self,
        loop: asyncio.AbstractEventLoop,
        check: _Check,
        outcome: asyncio.Future[bool | BaseException],
    ) -> None:
        found = outcome.result()
        if isinstance(found, bool):
            self._end(check, found and check.is_possible)
        else:
            self._end(check, found if isinstance(found, Exception) else BadHash(repr(found)))
        if not self._closed:
            self._begin(loop)

    def _end(self, check: _Check, found: bool | Exception) -> None:
        self._idle += 1
        self._turns.ended(check.host, self._now(), failed=found is False)
        check.finish(found)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self, record: str, password: bytes) -> bool:
        """Check a password; runs in a thread."""
        import argon2

        step_back()
        try:
            return self._hasher.verify(record, password)
        except argon2.exceptions.VerifyMismatchError:
            return False
        except (argon2.exceptions.Argon2Error, argon2.exceptions.InvalidHashError) as error:
            raise BadHash(str(error)) from None


class Logins:
    """The hook `on_auth`. users: may be replaced at any time; later logins use the new ones."""

    def __init__(self, users: Users, checker: Checker) -> None:
        self.users = users
        self._checker = checker

    async def on_auth(self, auth: Auth, session: Session) -> dict[str, str] | None:
        """Accept a user with the right password: PLAIN and LOGIN, which send it."""
        record, exists = self.users.find(auth.username)
        password = prepared(auth.password or "")
        # A user may not act as another one.
        is_own = auth.authzid in (None, "", auth.username)
        try:
            # Even if the answer is no already: all answers must take the same time.
            matches = await self._checker.matches(
                record,
                (password or "").encode(),
                host_key(session.remote_address),
                is_possible=exists and is_own and password is not None,
            )
        except Overloaded:
            _log("postponed", auth, session)
            raise SMTPError("Too many logins at this time, try again later", 454, "4.7.0") from None
        except BadHash as error:
            logger.error(
                "the hash of %s cannot be checked: %s: id=%s client=%s",
                clean(auth.username),
                error,
                session.id,
                client_word("", session.remote_address),
            )
            raise SMTPError("This login cannot be checked now", 454, "4.7.0") from None
        if not matches:
            _log("refused", auth, session)
            return None
        return {"user": prepared(auth.username) or auth.username}

    def close(self) -> None:
        """Start no more checks."""
        self._checker.close()


def _log(what: str, auth: Auth, session: Session) -> None:
    logger.info(
        "login %s id=%s user=%s client=%s method=%s",
        what,
        session.id,
        clean(auth.username),
        client_word("", session.remote_address),
        auth.method,
    )
