"""Who may log in: the hook `on_auth`, and the checking of passwords, which is made to be slow.

A check takes a tenth of a second of a core and 64 MiB, so it is done by a few threads, and only so
many wait for one; `turns` says whose turn it is. Whoever finds no place hears 454 and tries again
later. The threads leave a core to the event loop, and are less urgent than it.
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
NICE: Final = 10  # less urgent than the event loop, where the two have to share a core


def check_threads(cores: int | None = None) -> int:
    """Return how many checks may run at a time: a core is left to the event loop."""
    if cores is None:
        cores = len(_own_cores()) or os.cpu_count() or 1
    return max(1, min(MAX_THREADS, cores - 1))


def _own_cores() -> set[int]:
    """Return the cores that this thread may run on, none where nobody says."""
    return set(os.sched_getaffinity(0)) if sys.platform == "linux" else set()


def step_back() -> None:
    """Leave a core to the event loop, and be less urgent than it. For the thread of a check, and
    for those that argon2 starts from there, one for each lane of a hash.
    """
    if sys.platform != "linux":  # elsewhere a process has these, not a thread
        return
    cores = _own_cores()
    with suppress(OSError):
        if len(cores) > 1:
            os.sched_setaffinity(0, cores - {min(cores)})
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


class MissingPackage(Exception):
    """argon2 is not installed; the text is one line for the user."""


class Overloaded(Exception):
    """As many checks as may wait are waiting."""


class BadHash(Exception):
    """A hash cannot be checked: it is none, or there is not as much memory as it demands."""


def hasher() -> argon2.PasswordHasher:
    """Return what makes and checks hashes, with the costs of RFC 9106 §4. Raises MissingPackage."""
    try:
        # Not at the top: it comes with an extra, and a server without users does without it.
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
    """One password against one hash. found: whether it is the password, or why nobody knows."""

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

    def tell(self, found: bool | Exception) -> None:
        """End it, for whoever still waits."""
        if not self.found.done():
            self.found.set_result(found)


class Checker:
    """Checks passwords in a bounded number of threads, which nothing waits for at the end.

    threads: at a time. places: checks begun or waiting. now: seconds. Raises MissingPackage.
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
        """Whether `record` is the hash of `password` and the login `is_possible`; that it is not
        saves no work. Raises Overloaded, BadHash.

        host: what `host_key` has for the client. When the caller is cancelled before the check has
        begun, there is none.
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
            victim.tell(Overloaded())
        self._begin(loop)
        try:
            found = await check.found
        finally:
            self._turns.remove(host, check)
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """Check nothing any more. What was begun ends by itself, or with the process."""
        self._closed = True
        self._disarm()
        for check in self._turns.clear():
            check.tell(Overloaded())

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin as many checks as may begin now, and come back when there may be more."""
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
        check.tell(found)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self, record: str, password: bytes) -> bool:
        """The check itself, in a thread."""
        import argon2

        step_back()
        try:
            return self._hasher.verify(record, password)
        except argon2.exceptions.VerifyMismatchError:
            return False
        except (argon2.exceptions.Argon2Error, argon2.exceptions.InvalidHashError) as error:
            raise BadHash(str(error)) from None


class Logins:
    """The hook `on_auth`. users: may be replaced at any time, for the logins that follow."""

    def __init__(self, users: Users, checker: Checker) -> None:
        self.users = users
        self._checker = checker

    async def on_auth(self, auth: Auth, session: Session) -> dict[str, str] | None:
        """Take a user whose password is right: PLAIN and LOGIN, for these show it."""
        record, exists = self.users.find(auth.username)
        password = prepared(auth.password or "")
        # Nobody may act for somebody else.
        is_own = auth.authzid in (None, "", auth.username)
        try:
            # Also where the answer is no already, for no answer may come sooner than another.
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
        """Check nothing any more."""
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
