"""Warnings at start: what the hooks that are set cannot satisfy, so that mail would be refused."""

from __future__ import annotations

from fastsmtp._auth import is_auth_possible
from fastsmtp._log import logger
from fastsmtp._service import Service

__all__ = ["warn_of_impossible_demands"]


def warn_of_impossible_demands(service: Service) -> None:
    """Log why no message could be taken as things are."""
    if service.rules.auth_required and not is_auth_possible(service):
        logger.warning(
            "authentication is required but no mechanism is usable: no mail will be accepted; "
            "set auth_optional=True, or disable AUTH"
        )
    elif service.hooks.on_data is None and not {"MAIL", "RCPT"} & service.options.disabled_commands:
        logger.warning(
            "the hook on_data is not set: senders and recipients will be accepted, and then every"
            " message refused with 451; set it before listen()"
        )
