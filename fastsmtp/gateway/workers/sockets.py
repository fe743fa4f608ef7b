"""The listening sockets, which the parent opens and keeps: a worker that ends loses no client.

In: the listeners of a configuration, and how many workers (slots) there are. Out: for each slot its
sockets. A port has one socket per slot (SO_REUSEPORT); a UNIX socket, and one that was inherited
without SO_REUSEPORT, is shared by all.

The first socket of a port listens before it gets SO_REUSEPORT, so that the system refuses a port
that any other process listens on, even one of the same user with the same option. An address that
overlaps one of ours, such as 127.0.0.1 and 0.0.0.0, takes clients from it: its sockets are only
bound here, and new workers listen on them, in their order, when they can serve.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from fastsmtp.delivery.errors import reason_of
from fastsmtp.gateway.config import Listener
from fastsmtp.gateway.privileges import Account
from fastsmtp.gateway.start import StartError
from fastsmtp.gateway.workers.inherited import Address, Inherited, address_of
from fastsmtp.gateway.workers.names import Infos, Names, infos_of
from fastsmtp.gateway.workers.steering import refuse_new, steer
from fastsmtp.unix_sockets import bind_unix

__all__ = [
    "Place",
    "Sockets",
    "SocketsOfListeners",
    "SocketsOfSlot",
    "inherited_for",
    "places_of",
]

# host, port, path, and how many listeners with the same text stand before it: port 0 may come
# several times.
Place: TypeAlias = tuple[str, int, str, int]
SocketsOfSlot: TypeAlias = dict[Place, list[socket.socket]]
SocketsOfListeners: TypeAlias = Sequence[tuple[Listener, Sequence[socket.socket]]]

BACKLOG: Final = 1024
PORT_ATTEMPTS: Final = 16  # free ports of one address that another one may not have free
_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def places_of(listeners: Iterable[Listener]) -> dict[Place, Listener]:
    """Return the listeners by what tells their sockets apart, which is not the protocol."""
    places: dict[Place, Listener] = {}
    for listener in listeners:
        place, number = (listener.host, listener.port, listener.path), 0
        while (*place, number) in places:
            number += 1
        places[(*place, number)] = listener
    return places


@dataclass
class _Group:
    """The sockets of one address, in the order of the slots; is_shared: one, for all of them.

    path: of a UNIX socket that was made here.
    """

    sockets: list[socket.socket]
    is_shared: bool = False
    path: str = ""

    def of(self, slot: int) -> socket.socket:
        return self.sockets[0 if self.is_shared else slot]

    def widen(self) -> None:
        """Open the socket of one more slot. Raises OSError."""
        first = self.sockets[0]
        sock = _joining(first.family, first.getsockname(), v6_only=_is_v6_only(first))
        self.sockets.append(sock)
        if first.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.listen(BACKLOG)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


@dataclass
class Sockets:
    """All listening sockets of a parent. inherited: those that were open before it began. owner:
    whom the parent becomes after the first `open`, None if it stays as it is. names: hosts that
    were looked up before; `open` waits for the resolver where others are needed.
    """

    slots: int = 0
    groups: dict[Place, list[_Group]] = field(default_factory=dict)
    inherited: Inherited = field(default_factory=Inherited)
    owner: Account | None = None
    names: Names = field(default_factory=dict)

    def open(self, listeners: Iterable[Listener], slots: int = 1) -> None:
        """Open what is not open yet, all of it or nothing. Raises StartError.

        slots: how many there are at the start; more, if more were inherited.
        """
        opened: dict[Place, list[_Group]] = {}
        try:
            # Any free port comes last: what was inherited for a certain port is taken by then.
            wanted = sorted(places_of(listeners).items(), key=lambda each: not any(each[0][1:3]))
            for place, listener in wanted:
                if place not in self.groups:
                    opened[place] = self._groups_of(listener)
            mine = [group for groups in opened.values() for group in groups]
            if not self.slots:
                self.slots = max([slots, *(len(group.sockets) for group in mine)])
            self._fill(mine)
        except BaseException:
            for groups in opened.values():
                _close(groups)
            raise
        self.groups |= opened

    def _fill(self, groups: list[_Group]) -> None:
        for group in groups:
            try:
                while not group.is_shared and len(group.sockets) < self.slots:
                    group.widen()
            except OSError as error:
                name = group.sockets[0].getsockname()
                raise StartError(f"cannot listen on {name}: {reason_of(error)}") from error

    def _groups_of(self, listener: Listener) -> list[_Group]:
        try:
            if listener.path:
                return [self._unix_group(listener.path)]
            infos = infos_of(listener.host, self.names)
            for attempt in range(PORT_ATTEMPTS):
                try:
                    return self._tcp_groups(infos, listener.port)
                except OSError as error:
                    is_last = attempt == PORT_ATTEMPTS - 1
                    if listener.port or error.errno != errno.EADDRINUSE or is_last:
                        raise
        except OSError as error:
            reason = reason_of(error)
            if error.errno == errno.EACCES and self.owner is not None:
                reason += ", since root became the user: a restart can do it"
            raise StartError(f"cannot listen on {listener}: {reason}") from error
        raise AssertionError("the last attempt returns or raises")

    def _unix_group(self, path: str) -> _Group:
        found = self.inherited.sockets.pop(path, None)
        if found is not None:
            return _Group(found, is_shared=True)
        sock = bind_unix(path)
        if self.owner is not None:
            os.lchown(path, self.owner.uid, self.owner.gid)
        sock.listen(BACKLOG)
        return _Group([sock], is_shared=True, path=path)

    def _tcp_groups(self, infos: Infos, port: int) -> list[_Group]:
        groups: list[_Group] = []
        missing: OSError | None = None
        try:
            for family, (host, _, *more) in infos:
                if found := self.inherited.take(host, port):
                    groups.append(_Group(found, is_shared=not _is_reusable(found[0])))
                    continue
                try:
                    sock = self._first(family, (host, port, *more))
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    missing = error
                    continue
                groups.append(_Group([sock]))
                port = sock.getsockname()[1]
            if missing is not None and not groups:
                raise missing
        except BaseException:
            _close(groups)
            raise
        return groups

    def _first(self, family: int, address: tuple[Any, ...]) -> socket.socket:
        """Return the first socket of an address. Raises OSError."""
        try:
            return _listening(family, address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not self._has_port(family, address[1]):
                raise
        return _joining(family, address)

    def _has_port(self, family: int, port: int) -> bool:
        return any(
            first.family == family and first.getsockname()[1] == port
            for group in self._of_slots()
            for first in group.sockets[:1]
        )

    def of(self, slot: int) -> SocketsOfSlot:
        """Return the sockets of one slot."""
        return {place: self._of_place(place, slot) for place in self.groups}

    def all(self) -> SocketsOfSlot:
        """Return the sockets of all slots."""
        return {
            place: [sock for group in groups for sock in group.sockets]
            for place, groups in self.groups.items()
        }

    def addresses(self, places: Iterable[Place], *, are_shared: bool = True) -> list[Address]:
        """Return the addresses of these places. are_shared: those that all slots share, too."""
        return [
            address_of(group.sockets[0])
            for place in places
            for group in self.groups[place]
            if are_shared or not group.is_shared
        ]

    def shared_ports(self) -> list[Address]:
        """Return the addresses of TCP whose one socket all slots share."""
        return [
            address_of(group.sockets[0])
            for groups in self.groups.values()
            for group in groups
            if group.is_shared and group.sockets[0].family != socket.AF_UNIX
        ]

    # Slots.

    def widen(self) -> None:
        """Open the sockets of one more slot, the last one. Raises StartError."""
        widened: list[_Group] = []
        try:
            for group in self._of_slots():
                group.widen()
                widened.append(group)
        except OSError as error:
            for group in widened:
                group.sockets.pop().close()
            reason = reason_of(error)
            if error.errno in (errno.EACCES, errno.EADDRINUSE):  # a port that is open already
                reason = "another user opened the port, as root before --user: a restart can do it"
            raise StartError(f"cannot listen for one more worker: {reason}") from error
        self.slots += 1

    def narrow_to(self, slots: int) -> None:
        """Close the sockets of all slots but the first. In this order: the kernel puts the last
        socket of a port in place of one that is closed.
        """
        while self.slots > slots:
            self.slots -= 1
            for group in self._of_slots():
                group.sockets.pop().close()

    def steer(self, slots: int, salt: int | None) -> None:
        """Give new connections to the first `slots` slots; see `steering`. Raises OSError."""
        for group in self._of_slots():
            steer(group.sockets[0], slots, salt=salt)

    def _of_slots(self) -> Iterator[_Group]:
        return (each for groups in self.groups.values() for each in groups if not each.is_shared)

    # Their end.

    def refuse_new(self, places: Iterable[Place]) -> None:
        """Let no new client into the queues of these places."""
        for group in (each for place in places for each in self.groups[place]):
            if group.path:
                _unlink(group.path)
                group.path = ""
            for sock in group.sockets:
                with contextlib.suppress(OSError):  # an older kernel: the client gets a reset
                    if sock.family != socket.AF_UNIX:
                        refuse_new(sock)

    def close(self, places: Iterable[Place] | None = None) -> None:
        """Close these places, None: all of them."""
        for place in list(self.groups) if places is None else places:
            groups = self.groups.pop(place)
            for group in groups:
                if group.path:
                    _unlink(group.path)
            _close(groups)

    def take_over(self) -> None:
        """Be the owner of what was inherited from another parent, which can end now."""
        if self.inherited.is_handed_over:
            for place, groups in self.groups.items():
                for group in groups:
                    if address_of(group.sockets[0]) not in self.inherited.names:
                        group.path = place[2]
        self.inherited.tell_ready()

    def leave(self) -> None:
        """Close all: another process goes on with them, and the files of UNIX sockets stay."""
        for group in (each for groups in self.groups.values() for each in groups):
            group.path = ""
        self.close()

    def abandon_all_but(self, slot: int, places: Iterable[Place]) -> None:
        """Close what a worker does not serve: other slots, and other places."""
        kept = {id(sock) for place in places for sock in self._of_place(place, slot)}
        for group in (each for groups in self.groups.values() for each in groups):
            for sock in group.sockets:
                if id(sock) not in kept:
                    sock.close()

    def _of_place(self, place: Place, slot: int) -> list[socket.socket]:
        return [group.of(slot) for group in self.groups.get(place, ())]


def inherited_for(listeners: Iterable[Listener], found: Inherited) -> SocketsOfListeners:
    """Return listeners with the sockets for them, in a process without a parent that has inherited
    some: these, and new ones. Raises StartError.
    """
    places = places_of(listeners)
    sockets = Sockets(inherited=found)
    sockets.open(places.values())
    found.check_used()
    everything = sockets.all()
    return [(listener, everything[place]) for place, listener in places.items()]


def _close(groups: Iterable[_Group]) -> None:
    for group in groups:
        group.close()


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _is_reusable(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


def _is_v6_only(sock: socket.socket) -> bool:
    """Return whether a socket of IPv6 has only that; one of systemd may have IPv4 too."""
    if sock.family != socket.AF_INET6:
        return True
    return bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def _listening(family: int, address: tuple[Any, ...]) -> socket.socket:
    """Return the first socket of an address, which listens. Raises OSError."""
    sock = _bound(family, address)
    try:
        # The system takes a program only with this option.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _keep_alone(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        sock.listen(BACKLOG)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _joining(family: int, address: tuple[Any, ...], *, v6_only: bool = True) -> socket.socket:
    """Return a socket that is bound beside others of the same port. Raises OSError."""
    return _bound(family, address, v6_only=v6_only, reuse_port=True)


def _bound(
    family: int, address: tuple[Any, ...], *, v6_only: bool = True, reuse_port: bool = False
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6_only)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _keep_alone(sock: socket.socket) -> None:
    """Have `sock` get all clients until `steer` says otherwise: those that join it have no worker
    at first, and perhaps never.
    """
    with contextlib.suppress(OSError):  # an older kernel
        steer(sock, 1, salt=None)
