"""The sinks of the gateway: a function for each, which makes it of a configuration.

The modules of a sink are imported only where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastsmtp.delivery import Sink
from fastsmtp.delivery.errors import reason_of
from fastsmtp.delivery.maildir import Maildir
from fastsmtp.delivery.nats import NATS
from fastsmtp.delivery.postgres import Postgres
from fastsmtp.gateway.config import Config
from fastsmtp.gateway.destinations.bodies import bodies_of
from fastsmtp.gateway.destinations.errors import DestinationError
from fastsmtp.gateway.destinations.relay import relay_of

__all__ = ["MAKERS", "sink_of"]


def _maildir(config: Config) -> Sink:
    return Maildir(config.maildir)


def _nats(config: Config) -> Sink:
    keys = config.tables["nats"]
    if not keys.get("stream"):
        raise ValueError("nats: stream is missing: the name of a stream of JetStream")
    bodies = bodies_of(config)
    return NATS(config.deliver.url, deadline=config.handoff_deadline, bodies=bodies, **keys)


def _webhook(config: Config) -> Sink:
    from fastsmtp.gateway.destinations.webhook import webhook_of

    return webhook_of(config)


def _postgres(config: Config) -> Sink:
    keys = config.tables["postgres"]
    bodies = bodies_of(config)
    return Postgres(config.deliver.url, deadline=config.handoff_deadline, bodies=bodies, **keys)


# Sink, as in `config.sinks.SCHEMES` -> what makes it.
MAKERS: Final[dict[str, Callable[[Config], Sink]]] = {
    "maildir": _maildir,
    "nats": _nats,
    "postgres": _postgres,
    "webhook": _webhook,
    "relay": relay_of,
}


def sink_of(config: Config) -> Sink:
    """Return the sink that `deliver` names, not started.

    Raises DestinationError for a URL or a table that does not make one, and a missing package.
    """
    try:
        return MAKERS[config.deliver.sink](config)
    except OSError as error:  # a file of a key, or of a certificate
        where = f" {error.filename}:" if error.filename else ""
        raise DestinationError(f"deliver {config.deliver}:{where} {reason_of(error)}") from error
    except (ValueError, ImportError) as error:
        raise DestinationError(f"deliver {config.deliver}: {error}") from error
