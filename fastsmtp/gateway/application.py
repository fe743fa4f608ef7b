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
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

from fastsmtp.gateway.config import DEFAULT_LISTEN, Config, Kind, Listener, parse_listener
from fastsmtp.gateway.log import LogWriter
from fastsmtp.gateway.start import StartError, listen, logging_to, run_on_loop
from fastsmtp.gateway.workers.inherited import inherited
from fastsmtp.gateway.workers.sockets import SocketsOfListeners, inherited_for
from fastsmtp.gateway.workers.worker import Worker
from fastsmtp.running import was_raised_at_start
from fastsmtp.server import SMTPServer

__all__ = ["NoApplication", "check_name", "load", "places", "serve"]

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


def places(server: SMTPServer, listeners: tuple[Listener, ...]) -> tuple[Listener, ...]:
    """Return the addresses for `server`, by default the gateway's. Raises ValueError for an address
    whose protocol the server does not have.
    """
    lmtp = server.options.lmtp
    default = f"lmtp:{DEFAULT_LISTEN}" if lmtp else DEFAULT_LISTEN
    listeners = listeners or (parse_listener(default),)
    for listener in listeners:
        if listener.kind is Kind.SUBMISSION:
            raise ValueError(
                f"--listen: {listener} is for the gateway; give the server needs_upgrade=True"
            )
        if lmtp and listener.kind is not Kind.LMTP:
            raise ValueError(f"--listen: {listener} is for SMTP, and the server has lmtp=True")
        if listener.kind is Kind.LMTP and not lmtp:
            raise ValueError(f"--listen: {listener} is for a server that has lmtp=True")
    return listeners


def serve(config: Config, worker: Worker | None = None) -> int:
    """Serve the application of `config` until a signal ends it; return the exit status.

    worker: what this process is, if it has a parent. Raises NoApplication, ValueError for an
    address that the server cannot have, StartError.
    """
    server = load(config.application)
    listeners = places(server, config.listeners)
    number = 0 if worker is None else worker.number
    with logging_to(LogWriter(number), verbose=config.verbose) as writer:
        if worker is None:
            serving = server.serve_until_stopped(_begin(server, listeners, writer))
        else:
            serving = _serve_as(worker, server, listeners)
        is_clean = run_on_loop(serving, writer)
        if worker is None:
            writer.say("ended")
    return EXIT_CLEAN if is_clean else EXIT_FAILED


async def _begin(server: SMTPServer, listeners: tuple[Listener, ...], writer: LogWriter) -> None:
    found = inherited()
    for address in await _listen_on_all(server, inherited_for(listeners, found)):
        writer.say(f"listening on {address}")
    found.tell_ready()


async def _listen_on_all(server: SMTPServer, given: SocketsOfListeners) -> list[Listener]:
    try:
        return [place for each, sockets in given for place in await listen(server, each, sockets)]
    except Exception as error:
        if not was_raised_at_start(error):
            raise
        raise StartError(f"the start of the application has failed: {_line_of(error)}") from error


async def _serve_as(worker: Worker, server: SMTPServer, listeners: tuple[Listener, ...]) -> bool:
    """Serve until the parent orders the end; return whether every clean-up has succeeded."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    worker.obey(loop, [server], stop, server.hurry)

    async def begin() -> None:
        await _listen_on_all(server, worker.sockets(listeners))
        worker.ready()

    return await server.serve_until_stopped(begin(), handle_signals=False, stop=stop)
