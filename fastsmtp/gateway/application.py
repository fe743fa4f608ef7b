"""The application of `fastsmtp serve`: found by name, made a server, served.

In: `module:attribute` (an `SMTPServer`, or a function that returns one) or `module`, whose
functions are the hooks. Out: a server, and the exit status. Raised: `NoApplication` for a name
without an application, `StartError` for a program that has failed, with the exception as its cause.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Coroutine, Iterable, Mapping
from types import ModuleType
from typing import Any, Final, TypeVar

from fastsmtp.gateway import held_signals
from fastsmtp.gateway.admin.start import Metrics
from fastsmtp.gateway.binding import Places, take_places
from fastsmtp.gateway.config import DEFAULT_LISTEN, Config, Kind, Listener, parse_listener
from fastsmtp.gateway.log import LogWriter, logger
from fastsmtp.gateway.service_manager import ServiceManager
from fastsmtp.gateway.start import StartError, listen, logging_to, run_on_loop, writer_of
from fastsmtp.gateway.workers.sockets import SocketsOfListeners
from fastsmtp.gateway.workers.worker import Worker
from fastsmtp.running import was_raised_at_start
from fastsmtp.server import SMTPServer

__all__ = ["NoApplication", "check_name", "load", "places", "serve"]

T = TypeVar("T")

EXIT_CLEAN: Final = 0
EXIT_FAILED: Final = 1

_TAKES: Final = "an SMTPServer, a function that returns one, or a module with hooks"
_LOGINS: Final = {"on_auth", "on_scram"}  # hooks for users who log in


class NoApplication(ValueError):
    """The name on the command line is not that of an application; the text is one line for the
    user.
    """


def check_name(name: str) -> None:
    """Raise NoApplication if `name` is not of the form `module` or `module:attribute`."""
    parts = name.split(":")
    if name.endswith(".py"):
        module = os.path.normpath(name).removesuffix(".py").replace("/", ".")
        raise NoApplication(f"{name} is a file: name its module, as in {module}:server")
    if len(parts) > 2 or not all(each.isidentifier() for part in parts for each in part.split(".")):
        raise NoApplication(f"{name!r} is not an application: give module:attribute, as app:server")


def load(name: str) -> SMTPServer:
    """Return the server of `name`, which has passed `check_name`."""
    module_name, colon, path = name.partition(":")
    module = _imported(module_name)
    if not colon:
        return _server_of_hooks(module)
    found: Any = module
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            raise NoApplication(f"{module_name} has no attribute {path}{_servers_in(module)}")
        found = getattr(found, attribute)
    if isinstance(found, SMTPServer):
        return found
    if isinstance(found, ModuleType):
        return _server_of_hooks(found)
    if not callable(found):
        raise NoApplication(f"{name} is of type {type(found).__name__}: it takes {_TAKES}")
    try:
        made = found()
    except Exception as error:
        raise StartError(f"{name}() has failed: {_line_of(error)}") from error
    if isinstance(made, SMTPServer):
        return made
    if inspect.iscoroutine(made):
        made.close()  # otherwise Python warns that it was never awaited
    raise NoApplication(f"{name}() returns a {type(made).__name__}: it takes {_TAKES}")


def _imported(name: str) -> ModuleType:
    """Import a module as `python -m` does: the working directory comes first."""
    directory = os.getcwd()
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise NoApplication(
                f"there is no module {error.name} in {directory}, or where Python looks for modules"
            ) from error
        raise StartError(f"{name} cannot be imported: {_line_of(error)}") from error
    except (Exception, SystemExit) as error:
        raise StartError(f"{name} cannot be imported: {_line_of(error)}") from error


def _server_of_hooks(module: ModuleType) -> SMTPServer:
    """Make a server of a module's functions `on_…`, its `options` and its `lifespan`."""
    name, names = module.__name__, vars(module)
    hooks = {key: hook for key, hook in names.items() if key.startswith("on_") and callable(hook)}
    servers = _servers_in(module)
    if servers:  # which has hooks and options of its own
        raise NoApplication(f"{name} is a module with a server{servers}: name it")
    if not hooks:
        raise NoApplication(f"{name} has no hooks, such as on_data, and no server")
    options = names.get("options", {})
    if not isinstance(options, Mapping):
        raise StartError(f"{name}.options is of type {type(options).__name__}: it takes a dict")
    # Without a hook for logins no client could log in, and every message would be refused.
    defaults = {"auth_optional": not _LOGINS & hooks.keys()}
    try:
        return SMTPServer(lifespan=names.get("lifespan"), **{**defaults, **options, **hooks})
    except Exception as error:
        raise StartError(f"{name} does not make a server: {_line_of(error)}") from error


def _servers_in(module: ModuleType) -> str:
    """Return the names of the servers in a module, as the end of a message, "" without any."""
    name = module.__name__
    found = [f"{name}:{key}" for key, one in vars(module).items() if isinstance(one, SMTPServer)]
    return f"; there is {', '.join(found)}" if found else ""


def _line_of(error: BaseException) -> str:
    """Return an exception as one line, with the place in the program."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen")  # the machinery of imports
    ]
    if isinstance(error, SyntaxError) or not frames:  # the text has the place
        return text
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})"


# --- serving ---


def serve(config: Config, worker: Worker | None = None) -> int:
    """Serve the application of `config` until a signal ends it; return the exit status.

    Its module is imported with the rights that the server keeps. worker: what this process is, if
    it has a parent. Raises NoApplication, ValueError for an address that the server cannot have,
    StartError.
    """
    _refuse_submission(config.listeners)
    manager = ServiceManager(os.environ)
    bound = take_places(config) if worker is None else _bound_by(worker, config)
    if bound is None:
        return EXIT_CLEAN
    with bound:
        bound.give_up_root()
        server = load(config.application)
        is_default = not config.listeners and bound.listeners == (parse_listener(DEFAULT_LISTEN),)
        listeners = places(server, () if is_default else bound.listeners)
        sockets = list(zip(listeners, (found for _, found in bound.sockets), strict=True))
        number = 0 if worker is None else worker.number
        with logging_to(writer_of(config, number), verbose=config.verbose) as writer:
            metrics = Metrics(config.admin, worker, writer.say)
            writer.tally = metrics.page.tally
            server.count_in(metrics.page.tally)
            server.on("transaction", metrics.tell_to(writer.tell))
            if config.trace:  # otherwise the program may have its own
                server.trace(config.trace)
            application = _Application(server, sockets)
            if worker is None:
                serving = application.run(manager, writer, bound)
            else:
                serving = application.run_for(worker)
            is_clean = run_on_loop(_shown(metrics, server, serving), writer)
            bound.remove_files()  # before the last line, which says that nothing is left
            if worker is None:
                writer.say("ended")
    return EXIT_CLEAN if is_clean else EXIT_FAILED


async def _shown(metrics: Metrics, server: SMTPServer, serving: Coroutine[Any, Any, T]) -> T:
    """Return the result of `serving`; meanwhile the metrics of the server are shown."""
    try:
        await metrics.begin(server.stats)
        return await serving
    finally:
        serving.close()  # it has not begun, if its metrics cannot be shown
        await metrics.end()


def _bound_by(worker: Worker, config: Config) -> Places:
    return Places(worker.sockets(config.listeners or (parse_listener(DEFAULT_LISTEN),)))


def places(server: SMTPServer, listeners: tuple[Listener, ...]) -> tuple[Listener, ...]:
    """Return the addresses for `server`, by default the gateway's. Raises ValueError for an address
    whose protocol the server does not have.
    """
    lmtp = server.options.lmtp
    default = f"lmtp:{DEFAULT_LISTEN}" if lmtp else DEFAULT_LISTEN
    listeners = listeners or (parse_listener(default),)
    _refuse_submission(listeners)
    for listener in listeners:
        if lmtp and listener.kind is not Kind.LMTP:
            raise ValueError(f"--listen: {listener} is for SMTP, and the server has lmtp=True")
        if listener.kind is Kind.LMTP and not lmtp:
            raise ValueError(f"--listen: {listener} is for a server that has lmtp=True")
    return listeners


def _refuse_submission(listeners: Iterable[Listener]) -> None:
    for listener in listeners:
        if listener.kind is Kind.SUBMISSION:
            raise ValueError(
                f"--listen: {listener} is for the gateway; give the server needs_upgrade=True"
            )


class _Application:
    """One run of a server."""

    def __init__(self, server: SMTPServer, sockets: SocketsOfListeners) -> None:
        self._server = server
        self._sockets = sockets
        self._phase = "starting"  # or where it serves, or ending

    async def run(self, manager: ServiceManager, writer: LogWriter, bound: Places) -> bool:
        """Serve until a signal; return whether every clean-up has succeeded."""
        loop = asyncio.get_running_loop()

        async def begin() -> None:
            held_signals.survive_those_for_parents(loop, logger.warning)
            held_signals.release()
            addresses = await self._listen()
            for address in addresses:
                writer.say(f"listening on {address}")
            if bound.warning:
                writer.say(bound.warning)
            self._phase = ", ".join(map(str, addresses))
            manager.ready(self._status())
            bound.tell_ready()

        def on_signal(name: str) -> None:
            if name != "SIGHUP":
                self._phase = "ending"
                manager.stopping(self._status())
            elif self._phase != "starting":
                manager.reloading()
                # The server has read its certificates before the next turn of the loop.
                loop.call_soon(lambda: manager.ready(self._status()))

        async with manager.watched(self._status):
            return await self._server.serve_until_stopped(begin(), on_signal=on_signal)

    async def run_for(self, worker: Worker) -> bool:
        """Serve until the parent orders the end; return whether every clean-up has succeeded."""
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        worker.obey(loop, [self._server], stop, self._server.hurry)

        async def begin() -> None:
            await self._listen()
            worker.ready(delivering="")

        return await self._server.serve_until_stopped(begin(), handle_signals=False, stop=stop)

    async def _listen(self) -> list[Listener]:
        try:
            return [
                address
                for listener, sockets in self._sockets
                for address in await listen(self._server, listener, sockets)
            ]
        except (Exception, SystemExit) as error:
            if not was_raised_at_start(error):
                raise
            reason = _line_of(error)
            raise StartError(f"the start of the application has failed: {reason}") from error

    def _status(self) -> str:
        return f"{self._phase}; clients: {len(self._server.connections)}"
