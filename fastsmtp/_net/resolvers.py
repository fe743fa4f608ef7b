"""The resolvers for the name of an address: aiodns if it is installed, else the system's.

In: an address. Out: a future for the resolver's answer. `places` is the number of questions that a
resolver takes at a time.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from fastsmtp._log import logger
from fastsmtp.blocking import call_in_thread

__all__ = ["AsyncResolver", "SystemResolver", "is_no_name", "resolver_of"]

MAX_QUERIES: Final = 64  # questions to a resolver that costs a descriptor and little memory
MAX_THREADS: Final = 16  # threads that wait for the system's resolver
# A lost packet is sent again, and the next server is asked, before the client stops waiting.
QUERY_TIMEOUT: Final = 0.5  # seconds of the first try; c-ares doubles it
QUERY_TRIES: Final = 2  # per server

_NO_NAME: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
_NO_HOST: Final = frozenset({1, 4})  # HOST_NOT_FOUND and NO_DATA of <netdb.h>

_MISSING: Final = "the package aiodns is missing: pip install 'fastsmtp-engine[dns]'"


def resolver_of(option: Any) -> Callable[[str], Any]:
    """Return the resolver of the option `resolver`.

    Raises ValueError when the option demands aiodns and aiodns is not usable.
    """
    if option == "system":
        return SystemResolver()
    if option is not None and option != "aiodns":
        return option  # type: ignore[no-any-return]  # a function, by the kind of the option
    try:
        return AsyncResolver()
    except Exception as error:  # it may be installed and broken, or of a version that fails
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == "aiodns"
        reason = _MISSING if is_missing else f"the package aiodns cannot be loaded: {error}"
        if option == "aiodns":
            raise ValueError(f"option 'resolver' takes 'aiodns', but {reason}") from None
        if not is_missing:
            logger.warning("names of clients are looked up by the system: %s", reason)
        return SystemResolver()


class SystemResolver:
    """The resolver of the C library, which blocks: each question has a thread. A question may take
    any time, and cannot be cancelled.
    """

    places = MAX_THREADS

    def __call__(self, address: str) -> asyncio.Future[Any]:
        """Ask for the name. An error becomes the value of the future."""
        loop = asyncio.get_running_loop()
        return call_in_thread(loop, lambda: _system_name(address), "fastsmtp-lookup")

    async def close(self) -> None:
        """Do nothing: waiting threads end by themselves, or with the process."""


def _system_name(address: str) -> str:
    return socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0]


class AsyncResolver:
    """The name servers of /etc/resolv.conf, and /etc/hosts, by aiodns: no thread waits.

    options: of `aiodns.DNSResolver`. Raises what the import of aiodns raises.
    """

    places = MAX_QUERIES

    def __init__(self, **options: Any) -> None:
        # Not at the top: it comes with an extra.
        import aiodns

        self._make: Callable[..., Any] = aiodns.DNSResolver
        self._options = {"timeout": QUERY_TIMEOUT, "tries": QUERY_TRIES, **options}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._resolver: Any = None
        self._failed = False

    def __call__(self, address: str) -> asyncio.Future[Any]:
        """Ask for the name, the attribute `name` of the result. Raises what aiodns raises."""
        loop = asyncio.get_running_loop()
        if self._resolver is None or loop is not self._loop:
            self._start(loop)
        found: asyncio.Future[Any] = self._resolver.gethostbyaddr(address)
        return found

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the resolver, which needs a loop; so its errors appear only here."""
        try:
            self._resolver = self._make(loop=_OpenLoop(loop), **self._options)
        except Exception as error:
            if not self._failed:
                self._failed = True
                logger.warning("names of clients cannot be looked up: aiodns: %s", error)
            raise
        self._loop = loop

    async def close(self) -> None:
        """Cancel all questions; the descriptors are closed soon after."""
        resolver, self._resolver = self._resolver, None
        if resolver is not None:
            await resolver.close()


class _OpenLoop:
    """The loop for aiodns. Answers come from a thread of c-ares, perhaps after the loop is closed:
    this is not an error, but would print a traceback on stderr.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def call_soon_threadsafe(self, *arguments: Any, **keywords: Any) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(*arguments, **keywords)


def is_no_name(error: BaseException) -> bool:
    """Whether `error` means that the address has no name, which is an answer, not a failure."""
    code = error.args[0] if error.args else None
    if isinstance(error, socket.gaierror):
        return code in _NO_NAME
    if isinstance(error, socket.herror):
        return code in _NO_HOST
    library: Any = sys.modules.get("aiodns")  # if it is not loaded, this is not its error
    if library is None or not isinstance(error, library.error.DNSError):
        return False
    return code in (library.error.ARES_ENOTFOUND, library.error.ARES_ENODATA)
