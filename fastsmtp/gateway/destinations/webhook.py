"""The sink of https:// and http://, and its table `webhook`."""

from __future__ import annotations

from typing import Any

from fastsmtp.delivery.webhook import Webhook
from fastsmtp.gateway.config import Config
from fastsmtp.gateway.destinations.bodies import bodies_of
from fastsmtp.gateway.destinations.files import given_secret, given_text

__all__ = ["webhook_of"]

# Keys that are arguments of `Webhook` as they are.
_AS_GIVEN = ("form", "parallel", "timeout")


def webhook_of(config: Config) -> Webhook:
    """Return the sink, not started. Raises OSError, ImportError, and ValueError that names the
    key.
    """
    table = config.tables["webhook"]
    bodies = bodies_of(config)
    given: dict[str, Any] = {key: table[key] for key in _AS_GIVEN if key in table}
    try:
        headers = dict(table.get("headers", ()))
        authorization = given_secret(table, "authorization")
        if authorization is not None:
            headers["Authorization"] = authorization
        return Webhook(
            config.deliver.url,
            secret=given_secret(table, "secret"),
            previous_secret=given_secret(table, "previous_secret"),
            headers=headers,
            ca=given_text(table, "ca"),
            proxy=table.get("proxy") or None,
            deadline=config.handoff_deadline,
            bodies=bodies,
            **given,
        )
    except ValueError as error:
        raise ValueError(f"webhook: {error}") from error
