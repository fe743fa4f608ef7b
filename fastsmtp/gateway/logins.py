"""Who may log in: the hook `on_auth`, and the checking of passwords, which is made to be slow.

A check takes a tenth of a second of a core and 64 MiB, so it is done by a few threads, and only so
many wait for one. Whoever comes then hears 454 and tries again later. A client that leaves gives up
its place only when a thread comes to it, so leaving and coming back is no way to more of them.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from fastsmtp._log import clean, client_word
from fastsmtp._sasl import Auth
from fastsmtp.errors import SMTPError
from fastsmtp.gateway.log import logger
from fastsmtp.gateway.users import Users, prepared
from fastsmtp.session import Session

if TYPE_CHECKING:
    import argon2

__all__ = ["Checker", "Logins", "MissingPackage", "Overloaded", "hasher"]

CHECK_THREADS: Final = min(4, os.cpu_count() or 1)  # each takes the memory that its hash demands
MAX_CHECKS: Final = 64  # begun or waiting: some seconds of work, far from `hook_timeout`


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
    """One password against one hash, on its way to a thread."""

    __slots__ = ("_hasher", "_password", "_record", "_slots")

    def __init__(
        self,
        hasher: argon2.PasswordHasher,
        record: str,
        password: bytes,
        slots: threading.Semaphore,
    ) -> None:
        self._hasher = hasher
        self._record = record
        self._password: bytes | None = password
        self._slots = slots

    def abandon(self) -> None:
        """Nobody waits for it any more. What a thread has begun it ends."""
        self._password = None

    def run(self) -> bool | Exception:
        """Return whether it is the password, or why that is not known: as a value, for nobody may
        be there to catch it.
        """
        password, self._password = self._password, None
        try:
            return password is not None and self._matches(password)
        except Exception as error:
            return error
        finally:
            self._slots.release()

    def _matches(self, password: bytes) -> bool:
        import argon2

        try:
            return self._hasher.verify(self._record, password)
        except argon2.exceptions.VerifyMismatchError:
            return False
        except (argon2.exceptions.Argon2Error, argon2.exceptions.InvalidHashError) as error:
            raise BadHash(str(error)) from None


class Checker:
    """Checks passwords in a bounded number of threads. Raises MissingPackage."""

    def __init__(self, threads: int = CHECK_THREADS, checks: int = MAX_CHECKS) -> None:
        self._hasher = hasher()
        self._slots = threading.BoundedSemaphore(checks)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="fastsmtp-login")

    async def matches(self, record: str, password: bytes) -> bool:
        """Whether `record` is the hash of `password`. Raises Overloaded, BadHash."""
        if not self._slots.acquire(blocking=False):
            raise Overloaded
        check = _Check(self._hasher, record, password, self._slots)
        loop = asyncio.get_running_loop()
        try:
            future = loop.run_in_executor(self._threads, check.run)
        except RuntimeError:  # it was closed
            self._slots.release()
            raise Overloaded from None
        try:
            found = await asyncio.shield(future)
        except asyncio.CancelledError:
            check.abandon()
            raise
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """Wait for the checks that were begun."""
        self._threads.shutdown(wait=True)


class Logins:
    """The hook `on_auth`. users: may be replaced at any time, for the logins that follow."""

    def __init__(self, users: Users, checker: Checker) -> None:
        self.users = users
        self._checker = checker

    async def on_auth(self, auth: Auth, session: Session) -> dict[str, str] | None:
        """Take a user whose password is right: PLAIN and LOGIN, for these show it."""
        record, exists = self.users.find(auth.username)
        password = prepared(auth.password or "")
        try:
            # Also where the answer is no already, for no answer may come sooner than another.
            matches = await self._checker.matches(record, (password or "").encode())
        except Overloaded:
            _log("postponed", auth, session)
            raise SMTPError("Too many logins at this time, try again later", 454, "4.7.0") from None
        except BadHash as error:
            username = clean(auth.username)
            logger.error("id=%s: the hash of %s cannot be checked: %s", session.id, username, error)
            raise SMTPError("This login cannot be checked now", 454, "4.7.0") from None
        # Nobody may act for somebody else.
        is_other = auth.authzid not in (None, "", auth.username)
        if not matches or not exists or password is None or is_other:
            _log("refused", auth, session)
            return None
        return {"user": prepared(auth.username) or auth.username}

    def close(self) -> None:
        """Wait for what was begun."""
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
