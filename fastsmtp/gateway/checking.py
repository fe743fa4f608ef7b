"""What `fastsmtp check` looks at: a row of CHECKS for each part of the configuration.

In: a configuration. Out: a `Finding` for each item. Nothing is changed, and nothing is served: a
port is bound and let go at once, a Maildir or a spool that does not exist is not made.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias

from fastsmtp.delivery import deliver
from fastsmtp.delivery.errors import reason_of
from fastsmtp.delivery.maildir import Maildir
from fastsmtp.delivery.spool.directory import SpoolDirectory, SpoolError
from fastsmtp.delivery.spool.family import directories
from fastsmtp.gateway import application
from fastsmtp.gateway.certificates import NO_LIBRARY, CertificateError, read_certificate
from fastsmtp.gateway.config import Config, Listener
from fastsmtp.gateway.destinations import DestinationError, promise_of
from fastsmtp.gateway.log import logger
from fastsmtp.gateway.logins import MissingPackage, hasher
from fastsmtp.gateway.privileges import Account, account_of, drop, warning_of_root
from fastsmtp.gateway.refreshing import users_of
from fastsmtp.gateway.servers import Servers
from fastsmtp.gateway.socket_holders import holder_of_path, holder_of_port
from fastsmtp.gateway.start import StartError
from fastsmtp.gateway.users import UsersError
from fastsmtp.gateway.versions import namesake

__all__ = ["CHECKS", "Check", "Finding", "findings"]


class Finding(NamedTuple):
    """One line of the result. is_fine: the server would start with it."""

    is_fine: bool
    text: str


Check: TypeAlias = Callable[[Config], Iterator[Finding]]


def findings(config: Config) -> Iterator[Finding]:
    """Check everything; what is only worth a warning is fine, with the warning as its text."""
    warnings = _Warnings()
    logger.addHandler(warnings)
    try:
        for check in CHECKS:
            yield from check(config)
            yield from (Finding(True, f"warning: {text}") for text in warnings.taken())
    finally:
        logger.removeHandler(warnings)


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._texts.append(record.getMessage())

    def taken(self) -> list[str]:
        texts, self._texts = self._texts, []
        return texts


def _distribution(_config: Config) -> Iterator[Finding]:
    if version := namesake():
        yield Finding(
            False,
            f"fastsmtp {version}, another project, is installed here too, and overwrites files: "
            "uninstall it, then pip install --force-reinstall fastsmtp-engine",
        )


def _application(config: Config) -> Iterator[Finding]:
    if not config.application:
        return
    try:
        application.check_name(config.application)
        server = application.load(config.application)
        application.places(server, config.listeners)
    except (ValueError, StartError) as error:
        yield Finding(False, str(error))
    else:
        yield Finding(True, f"application {config.application}")


def _tls(config: Config) -> Iterator[Finding]:
    """Check certificates, and the options of the servers that use them."""
    if config.application:
        return
    try:
        certificate = read_certificate(config)
        delivery = deliver(Maildir(config.maildir))
        Servers(config, delivery, certificate, None, lambda entry: None)
    except (CertificateError, StartError) as error:
        yield Finding(False, str(error))
    else:
        yield Finding(True, f"no TLS: {NO_LIBRARY}" if certificate is None else certificate.origin)


def _users(config: Config) -> Iterator[Finding]:
    if not config.users:
        return
    try:
        hasher()
        users = users_of(config)
    except (UsersError, MissingPackage) as error:
        yield Finding(False, str(error))
    else:
        yield Finding(True, f"{len(users)} users in {config.users}")


# --- addresses ---


def _listeners(config: Config) -> Iterator[Finding]:
    for listener in config.listeners:
        if listener.path:
            yield _unix(str(listener), listener.path)
        else:
            yield from _tcp(listener, config)


def _admin(config: Config) -> Iterator[Finding]:
    admin = config.admin
    if admin is not None and admin.path:
        yield _unix(f"admin {admin}", admin.path)
    elif admin is not None:
        for finding in _tcp(Listener(host=admin.host, port=admin.port), config):
            yield Finding(finding.is_fine, f"admin {finding.text}")


def _tcp(listener: Listener, config: Config) -> Iterator[Finding]:
    try:
        found = socket.getaddrinfo(
            listener.host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "no such host"
        yield Finding(False, f"{listener}: {reason}")
        return
    for family, _, _, _, address in dict.fromkeys(found):
        place = Listener(host=str(address[0]), port=listener.port, kind=listener.kind)
        try:
            _bind(family, address, stay_root=config.stay_root or bool(config.user))
        except StartError as error:
            yield Finding(False, f"{place}: {error}")
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            fault = Finding(False, f"{place}: {reason_of(error)}")
            yield _in_use(place, family) if in_use else fault
        else:
            yield Finding(True, f"{place} is free")


def _bind(family: socket.AddressFamily, address: tuple[object, ...], *, stay_root: bool) -> None:
    """Bind without listening: no client can reach this socket, and another process can listen.

    Raises OSError, and StartError if root would serve there without saying so.
    """
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        warning_of_root([sock], stay_root=stay_root)


def _in_use(place: Listener, family: socket.AddressFamily) -> Finding:
    words, is_ours = holder_of_port(family, place.host, place.port)
    return Finding(is_ours, f"{place} is in use by {words}")


def _unix(name: str, path: str) -> Finding:
    if not os.path.lexists(path):
        folder = os.path.dirname(os.path.abspath(path))
        if not os.access(folder, os.W_OK | os.X_OK):
            return Finding(False, f"{name}: cannot be made in {folder}")
        return Finding(True, f"{name} is free")
    if not _is_socket(path):
        return Finding(False, f"{name}: a file is there that is not a socket")
    holder = holder_of_path(path)
    if holder is None:
        return Finding(True, f"{name}: the socket of a dead process, which is replaced")
    return Finding(holder.is_ours, f"{name} is in use by {holder.words}")


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:  # a link to nothing
        return False


# --- directories ---


def _promise(config: Config) -> Iterator[Finding]:
    if config.application:
        return
    try:
        yield from (Finding(True, line) for line in promise_of(config))
    except DestinationError as error:
        yield Finding(False, str(error))


def _maildir(config: Config) -> Iterator[Finding]:
    if not config.maildir or config.application:
        return
    for path in (config.maildir, *(f"{config.maildir}/{name}" for name in ("tmp", "new", "cur"))):
        if (fault := _fault_of_directory(path)) is not None:
            yield Finding(False, f"Maildir {config.maildir}: {fault}")
            return
    is_new = not os.path.isdir(config.maildir)
    yield Finding(True, f"Maildir {config.maildir}" + (" will be made" if is_new else ""))


def _spool(config: Config) -> Iterator[Finding]:
    if not config.spool:
        return
    if not os.path.lexists(config.spool):
        fault = _fault_of_directory(config.spool)
        text = f"spool {config.spool}"
        yield Finding(
            fault is None, f"{text} will be made" if fault is None else f"{text}: {fault}"
        )
        return
    try:
        parts = directories(config.spool)
    except OSError as error:
        yield Finding(False, f"spool {config.spool}: {reason_of(error)}")
        return
    for _, path in parts:  # one for each process that has ever used it
        try:
            SpoolDirectory(path).check(create=True)  # it exists
        except SpoolError as error:
            yield Finding(False, str(error))
        except OSError as error:
            yield Finding(False, f"spool {path}: {reason_of(error)}")
        else:
            yield Finding(True, f"spool {path}")


def _fault_of_directory(path: str) -> str | None:
    """Return why this process cannot write to a directory, or make it; None if it can."""
    there = path
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        return f"{there} is not a directory"
    # With the rights that count when files are made, those of the effective user.
    if not os.access(
        there, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
    ):
        return f"no permission to write to {there}"
    return None


# --- as the user of the service ---


def _directories(config: Config) -> Iterator[Finding]:
    """Check the directories with the rights that the service will have."""
    try:
        account = account_of(config.user, config.group)
    except StartError as error:
        yield Finding(False, str(error))
        return
    if account is None or os.geteuid() != 0:
        yield from _of_this_user(config)
    else:
        yield from _as_account(account, config)


def _of_this_user(config: Config) -> Iterator[Finding]:
    found = [*_maildir(config), *_spool(config)]
    yield from found
    if all(each.is_fine for each in found):
        yield from _promise(config)


def _as_account(account: Account, config: Config) -> list[Finding]:
    """Check the directories in a child process, which becomes the user."""
    ours, its = os.pipe()
    process = os.fork()
    if process == 0:
        found = [Finding(False, f"cannot check the directories as {account}")]
        try:
            drop(account)
            found = list(_of_this_user(config))
        except StartError as error:
            found = [Finding(False, str(error))]
        finally:
            with open(its, "w") as file:
                json.dump(found, file)
            os._exit(0)
    os.close(its)
    with open(ours) as file:
        text = file.read()
    os.waitpid(process, 0)
    return [Finding(*each) for each in json.loads(text)]


CHECKS: Final[tuple[Check, ...]] = (
    _distribution,
    _application,
    _tls,
    _users,
    _listeners,
    _admin,
    _directories,
)
