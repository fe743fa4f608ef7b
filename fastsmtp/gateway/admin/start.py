"""The start of the admin listener: in the process that serves, or in one of its own.

With a parent it has a process of its own, which only reads the pages that all workers write: so it
cannot hold up mail, whatever its clients do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from fastsmtp.delivery.errors import reason_of
from fastsmtp.gateway.admin.address import AdminAddress
from fastsmtp.gateway.admin.pages import Page, Pages
from fastsmtp.gateway.start import StartError
from fastsmtp.gateway.workers.worker import Worker
from fastsmtp.running import loop_factory
from fastsmtp.transactions import Outcome

if TYPE_CHECKING:
    from fastsmtp.gateway.admin.http import Admin

__all__ = ["Metrics", "check_admin", "serve_admin", "start_admin"]

MEASURE: Final = 1.0  # seconds between two looks at what is not counted where it happens


def check_admin(address: AdminAddress | None) -> None:
    """Raise StartError if the listener is wanted and its library is missing."""
    if address is None:
        return
    try:
        import aiohttp  # noqa: F401
    except ModuleNotFoundError as error:
        raise StartError("--admin needs aiohttp: pip install 'fastsmtp-engine[admin]'") from error


async def start_admin(address: AdminAddress, pages: Pages, *, takes_over: bool = False) -> Admin:
    """Listen and serve on this loop until it is closed. Raises StartError.

    takes_over: the address may be that of the program that this one replaces.
    """
    from fastsmtp.gateway.admin.http import Admin

    admin = Admin(address, pages, takes_over=takes_over)
    try:
        await admin.start()
    except OSError as error:
        await admin.close()
        raise StartError(f"--admin: cannot listen on {address}: {reason_of(error)}") from error
    return admin


def serve_admin(address: AdminAddress, pages: Pages, worker: Worker) -> int:
    """Serve in this process until the parent ends it; return the exit status. Raises StartError."""

    async def serve() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        worker.obey(loop, [], stop, stop.set)
        admin = await start_admin(address, pages, takes_over=True)
        worker.ready(where=str(admin.address))
        await stop.wait()
        await admin.close()

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve())
    return 0


class Metrics:
    """What a process that serves counts and shows. worker: what it is, if it has a parent, which
    then shows it. say: logs where it is shown.
    """

    def __init__(
        self, address: AdminAddress | None, worker: Worker | None, say: Callable[[str], object]
    ) -> None:
        self._address = address
        self._pages: Pages | None = None
        if worker is None:
            self._pages = Pages(1)
            self.page: Page = self._pages.take()
        else:
            self.page = worker.page
        self._say = say
        self._admin: Admin | None = None
        self._measure: Callable[[], object] = _nothing
        self._handle: asyncio.TimerHandle | None = None

    def tell_to(self, log: Callable[[Outcome], object]) -> Callable[[Outcome], None]:
        """Return a listener of the event `transaction`: it logs, and keeps refusals."""

        def tell(outcome: Outcome) -> None:
            log(outcome)
            if outcome.result == "refused":
                self.page.recent.add(outcome.fields())

        return tell

    async def begin(self, measure: Callable[[], object]) -> None:
        """Begin to show, and to call `measure`, which sets gauges, once a second. Raises
        StartError.
        """
        if self._address is not None and self._pages is not None:
            self._admin = await start_admin(self._address, self._pages)
            self._say(f"metrics and state on {self._admin.address}")
        self._measure = measure
        self._look()

    async def end(self) -> None:
        """Show no more."""
        if self._handle is not None:
            self._handle.cancel()
        if self._admin is not None:
            await self._admin.close()

    def _look(self) -> None:
        self._measure()
        self._handle = asyncio.get_running_loop().call_later(MEASURE, self._look)


def _nothing() -> None:
    pass
