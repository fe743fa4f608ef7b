"""Which listener a socket is for that was open before this program began.

In: the listeners of the configuration, and the addresses and names of such sockets. Out: the
listeners that are served. Raised: `StartError`.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from fastsmtp.gateway.config import DEFAULT_LISTEN, Kind, Listener, parse_listener
from fastsmtp.gateway.start import StartError
from fastsmtp.gateway.workers.inherited import Address, Inherited, name_of
from fastsmtp.gateway.workers.names import Names, infos_of
from fastsmtp.log_text import clean

__all__ = ["Activation"]

# What FileDescriptorName= of a socket unit may say.
KINDS: Final = {
    "smtp": Kind.SMTP,
    "smtps": Kind.SMTPS,
    "submission": Kind.SUBMISSION,
    "lmtp": Kind.LMTP,
}
NAMES: Final = {kind: name for name, kind in KINDS.items()}


class Activation:
    """The sockets that a service manager has opened, as they were at the start."""

    def __bool__(self) -> bool:
        return bool(self._names)

    def __init__(self, found: Inherited) -> None:
        self.names: Names = {}  # hosts that were looked up before
        self._names = dict(found.names)
        self._for_both = {
            address for address, (sock, *_) in found.sockets.items() if _takes_both(sock)
        }
        # An older process of ours has served another configuration.
        self._is_handed_over = found.is_handed_over

    def served(
        self, listeners: Sequence[Listener], *, is_start: bool = True
    ) -> tuple[Listener, ...]:
        """Return what is served.

        A socket that no listener is for is one more listener, of the kind that its name says. A
        listener whose socket is that of another one is left out, and so is the default one.
        is_start: a listener without a socket is an error. Raises StartError.
        """
        if not self._names:
            return tuple(listeners)
        served: dict[Listener, None] = {}
        covered: set[Listener] = {parse_listener(DEFAULT_LISTEN)}
        for address, name in self._names.items():
            matching = [each for each in listeners if self._is_for(address, each)]
            covered.update(matching)
            listener = _exact(address, matching or [_named(address, name)])
            _check_kinds(address, name, [listener, *matching])
            served[listener] = None
        missing = [each for each in listeners if each not in covered]
        if missing and is_start and not self._is_handed_over:
            raise StartError(
                f"the service manager has opened sockets, and none for --listen {missing[0]}:"
                " add it to the socket unit, or leave it out here"
            )
        return (*served, *missing)

    def _is_for(self, address: Address, listener: Listener) -> bool:
        if isinstance(address, str) or listener.path:
            return bool(listener.path) and os.path.abspath(listener.path) == address
        host, port = address
        if port != listener.port:
            return False
        hosts = _addresses(listener.host, self.names)
        return host in hosts or (address in self._for_both and "0.0.0.0" in hosts)


def _exact(address: Address, matching: Sequence[Listener]) -> Listener:
    """Return the listener for a socket; that of IPv4 becomes that of both versions, which the
    socket takes.
    """
    if isinstance(address, str) or address[0] != "::":
        return matching[0]
    exact = [each for each in matching if each.host == "::"]
    return exact[0] if exact else replace(matching[0], host="::")


def _takes_both(sock: socket.socket) -> bool:
    """Whether a socket is for every address of IPv6 and of IPv4."""
    return (
        sock.family == socket.AF_INET6
        and sock.getsockname()[0] == "::"
        and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    )


def _check_kinds(address: Address, name: str, listeners: Iterable[Listener]) -> None:
    """Raise StartError if a socket is said to have two protocols."""
    said = {NAMES[each.kind]: f"--listen {each}" for each in listeners}
    if name in KINDS:
        said.setdefault(name, f"its name, {name}")
    if len(said) > 1:
        raise StartError(
            f"the open socket for {clean(name_of(address))} has two protocols:"
            f" by {' and by '.join(said.values())}"
        )


def _named(address: Address, name: str) -> Listener:
    """Return the listener that the name of a socket means."""
    if name not in KINDS:
        named = f"its name is {clean(name)}" if name else "it has no name"
        raise StartError(
            f"there is an open socket for {clean(name_of(address))} (LISTEN_FDS), which no --listen"
            f" names, and {named}: FileDescriptorName= takes {', '.join(KINDS)}"
        )
    kind = KINDS[name]
    if isinstance(address, str):
        return Listener(path=address, kind=kind)
    listener = Listener(host=address[0], port=address[1], kind=kind)
    try:
        parse_listener(str(listener))
    except ValueError as error:  # LMTP on port 25
        raise StartError(str(error)) from error
    return listener


def _addresses(host: str, names: Names) -> set[str]:
    """Return the addresses of a host in their usual form. Waits for the resolver if it is not in
    `names`.
    """
    with suppress(ValueError):
        return {str(ipaddress.ip_address(host))}
    try:
        return {str(address[0]) for _, address in infos_of(host, names)}
    except OSError:
        return set()
