"""SIGHUP without a parent process: certificates and users are read again, other changes are named.

In: what is running. Out: nothing but log lines; if something is wrong, what was there stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Final, TypeVar

from fastsmtp.blocking import call_in_thread
from fastsmtp.gateway.certificates import Certificate, explained, read_certificate
from fastsmtp.gateway.config import SCHEMA, TLS_OPTIONS, Config, ConfigError, Loaded
from fastsmtp.gateway.log import logger
from fastsmtp.gateway.logins import Logins
from fastsmtp.gateway.servers import Servers
from fastsmtp.gateway.users import Users, UsersError, read_users
from fastsmtp.networks import Networks

__all__ = ["Refresher", "users_of"]

T = TypeVar("T")

# Keys whose file may be another one, but cannot be given or taken away without a restart.
_KEPT: Final = ("cert", "client_ca", "users")


def users_of(config: Config) -> Users:
    """Read the users file, and log warnings about it. Blocks; raises UsersError."""
    users = read_users(config.users)
    if users.is_open:
        logger.warning("others can read or change %s: chmod 600 it", config.users)
    if not len(users):
        logger.warning("%s has no users: nobody can log in", config.users)
    return users


class Refresher:
    """certificate: None for no TLS; logins: None for none. again: reads the configuration again."""

    def __init__(
        self,
        loaded: Loaded,
        servers: Servers,
        certificate: Certificate | None,
        logins: Logins | None,
    ) -> None:
        self._loaded = loaded
        self._servers = servers
        self._certificate = certificate
        self._logins = logins
        self._traced = loaded.config.trace

    async def refresh(self) -> None:
        """Read everything again that can be replaced while the server runs."""
        # In a thread, so that a slow disk does not stall every client.
        try:
            fresh = await _in_thread(self._loaded.again)
        except ConfigError as error:
            logger.error("SIGHUP: the configuration stays as it was: %s", error)
            return
        config, waiting = _applied(self._loaded, fresh)
        has_files = self._certificate is not None and not self._certificate.self_made
        if waiting:
            logger.warning(
                "SIGHUP: changed values need a restart, or --workers: %s", ", ".join(waiting)
            )
        elif not has_files and self._logins is None and config.trace == self._traced:
            logger.info("SIGHUP: there is nothing to reload")
        self._refresh_trace(config.trace)
        if has_files:
            await self._refresh_certificate(config)
        if self._logins is not None:
            await self._refresh_users(self._logins, config)

    def _refresh_trace(self, networks: Networks) -> None:
        if networks != self._traced:
            self._servers.trace(networks)
            self._traced = networks
            shown = ", ".join(networks) or "nobody"
            logger.info("SIGHUP: clients that are traced from now on: %s", shown)

    async def _refresh_certificate(self, config: Config) -> None:
        try:
            certificate = await _in_thread(lambda: read_certificate(config))
            assert certificate is not None
            self._servers.update(certificate)
        except (ValueError, OSError) as error:
            logger.error("SIGHUP: the certificate stays as it was: %s", explained(error, config))
            return
        logger.info("SIGHUP: %s", certificate.origin)

    async def _refresh_users(self, logins: Logins, config: Config) -> None:
        try:
            logins.users = await _in_thread(lambda: users_of(config))
        except UsersError as error:
            logger.error("SIGHUP: the users stay as they were: %s", error)
            return
        logger.info("SIGHUP: %d users from %s", len(logins.users), config.users)


def _applied(loaded: Loaded, fresh: Loaded) -> tuple[Config, list[str]]:
    """Return the running configuration with what can be replaced in it, and the keys of other
    changes.
    """
    running, config = loaded.config, fresh.config
    changed = loaded.changed(fresh)
    kept = [key for key in _KEPT if bool(getattr(running, key)) != bool(getattr(config, key))]
    waiting = [key for key in changed if not SCHEMA[key].reloads or key in kept]
    fields = {
        key: getattr(config, key)
        for key in changed
        if key not in waiting and not SCHEMA[key].in_options
    }
    others = {key: value for key, value in running.options.items() if key not in TLS_OPTIONS}
    tls = {key: value for key, value in config.options.items() if key in TLS_OPTIONS}
    return replace(running, **fields, options=MappingProxyType(others | tls)), waiting


async def _in_thread(call: Callable[[], T]) -> T:
    """Return the result of `call`, or raise its exception; nothing waits for it at exit."""
    outcome = await call_in_thread(asyncio.get_running_loop(), call, "fastsmtp-files")
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
