"""The servers of the gateway: one for all listeners of a kind that have the same options.

In: a `Config`, and the parts that all servers share. Raised: `StartError` for options that do not
work.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from fastsmtp.delivery import Delivery, Entry
from fastsmtp.descriptors import max_lingering
from fastsmtp.gateway.certificates import Certificate, explained, log_client
from fastsmtp.gateway.config import TLS_OPTIONS, Config, Kind, Listener
from fastsmtp.gateway.log import logger
from fastsmtp.gateway.logins import Logins
from fastsmtp.gateway.receiver import Discarding, Receiver, Rules
from fastsmtp.gateway.start import StartError
from fastsmtp.log_text import client_word
from fastsmtp.networks import Networks
from fastsmtp.server import SMTPServer

__all__ = ["FOR_USERS", "Servers"]

FOR_USERS: Final = (Kind.SMTPS, Kind.SUBMISSION)

# Descriptors that are not for clients: listeners, the loop's own, a directory for each disk thread,
# and some spare ones. Lingering refused clients come on top.
RESERVED_FILES: Final = 48
FILES_PER_CLIENT: Final = 2  # its socket and the file of its message
MAX_FILES: Final = 65_536  # if the system's limit is infinite or very high

# What the listeners of one server have in common.
_Group: TypeAlias = tuple[Kind, tuple[tuple[str, object], ...]]


class Servers:
    """The servers of one run. certificate: None for no TLS; logins: None for none.
    log: gets an entry for a message that a rule discards.
    """

    def __init__(
        self,
        config: Config,
        delivery: Delivery,
        certificate: Certificate | None,
        logins: Logins | None,
        log: Callable[[Entry], object],
    ) -> None:
        self._config = config
        self._delivery = delivery
        rules = Rules(config)
        self._early = delivery.sink.early_hooks(delivery.refusal)
        self._receiver = Receiver(rules, self._early.get("on_rcpt_to"))
        self._on_data: Delivery | Discarding = delivery
        if rules.discards:
            self._on_data = Discarding(rules, delivery, config.name, log)
        self._certificate = certificate
        self._logins = logins
        listeners = {_group_of(each): each for each in config.listeners}
        max_clients = _allow_clients(len(listeners), config.max_clients)
        try:
            self._servers = {
                group: self._server(listener, max_clients) for group, listener in listeners.items()
            }
        except (ValueError, OSError) as error:  # all options but those of TLS were checked
            raise StartError(explained(error, config)) from error

    def __iter__(self) -> Iterator[SMTPServer]:
        return iter(self._servers.values())

    def of(self, listener: Listener) -> SMTPServer:
        """Return the server for a listener of the configuration."""
        return self._servers[_group_of(listener)]

    def update(self, certificate: Certificate) -> None:
        """Use another certificate for new handshakes. Raises ValueError or OSError."""
        for (_, options), server in self._servers.items():
            # All servers get the same octets: if one context fails, the first one does.
            own = {name: value for name, value in options if name in TLS_OPTIONS}
            server.update_secure_context(**{**certificate.options, **own})

    def trace(self, networks: Networks) -> None:
        """Trace clients in `networks` that connect from now on, and no others."""
        for server in self:
            server.trace(networks)

    async def close(self) -> None:
        """Close all servers, as their options say."""
        await asyncio.gather(*(server.close() for server in self._servers.values()))

    def _server(self, listener: Listener, max_clients: int) -> SMTPServer:
        config, kind = self._config, listener.kind
        options: dict[str, Any] = {
            "name": config.name,
            **config.options,
            **({} if self._certificate is None else self._certificate.options),
            **listener.options,
            "lmtp": kind is Kind.LMTP,
            "max_clients": max_clients,
            "secure": kind is Kind.SMTPS,
            "needs_upgrade": kind is Kind.SUBMISSION,
        }
        if self._logins is not None and kind in FOR_USERS:
            options["auth_methods"] = config.auth_methods
            options["on_auth"] = self._logins.on_auth
        else:
            # Without logins: other servers deliver their mail here.
            options["auth_optional"] = True
            options["disabled_commands"] = {*options.get("disabled_commands", ()), "AUTH"}
        if not config.maildir and not config.spool:
            # Without the machine that takes the mail, clients had better try another server.
            options["on_connect"] = self._delivery.on_connect
        server = SMTPServer(
            on_mail_from=self._early.get("on_mail_from", self._delivery.on_mail_from),
            on_rcpt_to=self._receiver.on_rcpt_to,
            on_data=self._on_data,
            on_close=self._early.get("on_close"),
            **options,
        )
        if config.client_ca:
            server.on_secure = log_client
        if config.verbose:
            server.on("connect", _log_connection)
        return server


def _group_of(listener: Listener) -> _Group:
    return listener.kind, tuple(sorted(listener.options.items()))


def _allow_clients(servers: int, wanted: int) -> int:
    """Raise the limit on open files as far as allowed; return how many clients a server can have.

    wanted: for all servers, 0 for as many as possible. The engine leaves a fifth of the limit to
    hooks. Ours open a file for each message, and without a descriptor a message has to be refused.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if limit > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    else:
        limit = soft
    reserved = RESERVED_FILES + servers * max_lingering()
    possible = (limit - reserved) // FILES_PER_CLIENT
    if wanted > possible:
        logger.warning(
            "max_clients is %d, but the limit on open files, %d, allows %d", wanted, limit, possible
        )
    return max(1, min(wanted or possible, possible) // servers)


def _log_connection(client: Mapping[str, object]) -> None:
    logger.debug(
        "connected id=%s client=%s",
        client["id"],
        client_word(str(client["client_hostname"]), str(client["remote_address"])),
    )
