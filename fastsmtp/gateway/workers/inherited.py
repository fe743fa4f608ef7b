"""Listening sockets that were open before this program began: those of systemd's socket activation,
or of the parent process that this one takes over from (`sd_listen_fds(3)`).

In: LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES of the environment, which are removed. Out: sockets by
the address they are bound to, in the order in which they were given. Programs that this process
starts do not get them.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from fastsmtp.gateway.start import StartError
from fastsmtp.log_text import clean

__all__ = [
    "FIRST",
    "IS_READY",
    "NAMED_SOCKET",
    "READY",
    "SOCKET",
    "SPOOL",
    "Address",
    "Inherited",
    "address_of",
    "inherited",
    "name_of",
    "variables",
]

Address: TypeAlias = tuple[str, int] | str  # of TCP, or the path of a UNIX socket

FIRST: Final = 3  # the number of the first descriptor
READY: Final = "fastsmtp-ready"  # the name of the descriptor on which to report readiness
SOCKET: Final = "fastsmtp-socket"  # the name of those that a parent hands over
NAMED_SOCKET: Final = f"{SOCKET}."  # before the name that a service manager has given to one
SPOOL: Final = "fastsmtp-spool"  # the name of the lock of the server on its spool
IS_READY: Final = b"ready\n"
FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
NUMBER: Final = re.compile(r"[0-9]{1,4}")
NAMES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@dataclass
class Inherited:
    """sockets: by address. names: of those that a service manager has opened, by address; "" is no
    name. is_handed_over: they are from a parent that will end, not from a service manager.

    ready: the descriptor on which that parent awaits a word, spool: its lock on the spool; -1 if
    there is none.
    """

    sockets: dict[Address, list[socket.socket]] = field(default_factory=dict)
    names: dict[Address, str] = field(default_factory=dict)
    is_handed_over: bool = False
    ready: int = -1
    spool: int = -1

    def take(self, host: str, port: int) -> list[socket.socket]:
        """Return and remove the sockets of an address of TCP; port 0: of any port of that host."""
        for address in self.sockets:
            if isinstance(address, tuple) and address[0] == host and port in (0, address[1]):
                return self.sockets.pop(address)
        return []

    def tell_ready(self) -> None:
        """Tell the parent that this process takes over from, if there is one, that it can end. One
        that has ended in the meantime needs no word.
        """
        if self.ready >= 0:
            with suppress(OSError), os.fdopen(self.ready, "wb", buffering=0) as end:
                end.write(IS_READY)
            self.ready = -1

    def check_used(self) -> None:
        """Raise StartError if there is a socket that nobody has taken."""
        for address in self.sockets:
            raise StartError(
                f"there is an open socket for {name_of(address)} (LISTEN_FDS), which no --listen"
                " names: clients that connect to it would wait for ever"
            )


def inherited(
    environ: MutableMapping[str, str] = os.environ,
) -> Inherited:
    """Return what this process has got, and remove the variables that say so. Raises StartError for
    a descriptor that is not a socket to listen on.
    """
    given = {name: environ.pop(name, "") for name in NAMES}
    found = Inherited()
    if given["LISTEN_PID"] != str(os.getpid()):  # they are for the process that has started us
        return found
    if not NUMBER.fullmatch(given["LISTEN_FDS"]):
        raise StartError(f"LISTEN_FDS is {given['LISTEN_FDS']!r}: it takes a number")
    count = int(given["LISTEN_FDS"])
    names = given["LISTEN_FDNAMES"].split(":") if given["LISTEN_FDNAMES"] else [""] * count
    if len(names) != count:
        raise StartError(f"LISTEN_FDNAMES has {len(names)} names, and LISTEN_FDS is {count}")
    for descriptor, name in enumerate(names, FIRST):
        if name == READY:
            os.set_inheritable(descriptor, False)
            found.ready = descriptor
            continue
        if name == SPOOL:
            os.set_inheritable(descriptor, False)
            found.spool = descriptor
            continue
        sock = _listening(descriptor)
        address = address_of(sock)
        found.sockets.setdefault(address, []).append(sock)
        if name == SOCKET:
            found.is_handed_over = True
        else:
            found.is_handed_over |= name.startswith(NAMED_SOCKET)
            own = name.removeprefix(NAMED_SOCKET)
            if (other := found.names.setdefault(address, own)) != own:
                raise StartError(
                    f"the open sockets for {clean(name_of(address))} have two names,"
                    f" {clean(other) or 'none'} and {clean(own) or 'none'}: give them one"
                )
    return found


def variables(names: list[str]) -> Mapping[str, str]:
    """Return the variables for a process that gets descriptors with these names, from FIRST on; it
    sets LISTEN_PID itself.
    """
    return {"LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}


def _listening(descriptor: int) -> socket.socket:
    what = f"LISTEN_FDS: descriptor {descriptor}"
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
        is_connected = sock.type == socket.SOCK_STREAM and _is_connected(sock)
        is_listening = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError as error:
        reason = "is not open" if error.errno == errno.EBADF else "is not a socket"
        raise StartError(f"{what} {reason}") from error
    if is_connected:
        raise StartError(f"{what} is the connection of a client: the socket unit needs Accept=no")
    if sock.family not in FAMILIES or sock.type != socket.SOCK_STREAM or not is_listening:
        raise StartError(f"{what} is not a listening stream socket: use ListenStream=")
    return sock


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def address_of(sock: socket.socket) -> Address:
    """Return where a socket listens."""
    name = sock.getsockname()
    if isinstance(name, bytes):  # of Linux's abstract namespace
        return os.fsdecode(name)
    return name if isinstance(name, str) else (name[0], name[1])


def name_of(address: Address) -> str:
    """Return an address as --listen takes it."""
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
