"""Which recipients the gateway accepts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastsmtp import Address
from fastsmtp.errors import SMTPError
from fastsmtp.gateway.config import domain_key
from fastsmtp.session import Session

__all__ = ["Receiver"]


class Receiver:
    """The hook `on_rcpt_to`. domains: the `domain_key`s of accepted domains; empty: all."""

    def __init__(self, domains: frozenset[str]) -> None:
        self._domains = domains

    def on_rcpt_to(
        self, address: Address, session: Session, callback: Callable[[Exception | None], Any]
    ) -> None:
        """Accept recipients of our domains, and Postmaster without a domain (RFC 5321 §4.5.1)."""
        domain = address.domain
        if not self._domains or not domain or domain_key(domain) in self._domains:
            callback(None)
            return
        callback(SMTPError("No such recipient here, relay denied", 550, "5.1.1"))
