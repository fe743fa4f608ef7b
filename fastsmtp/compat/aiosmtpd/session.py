"""What hooks of a handler are given: the session, the envelope, and the facts of a PROXY header."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

__all__ = ["Envelope", "ProxyData", "Session"]


class Session:
    """The facts of one connection. The server brings `host_name` and `extended_smtp` up to date
    before each hook; a new object takes its place after STARTTLS (RFC 3207 §4.2).

    peer: (address, port), "" for a UNIX socket. ssl: facts of TLS, None outside of it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.peer: tuple[str, int] | str | None = None
        self.ssl: dict[str, Any] | None = None
        self.host_name: str | None = None
        self.extended_smtp = False
        self.loop = loop
        self.proxy_data: ProxyData | None = None
        self.login_data: Any = None
        self.auth_data: Any = None
        self.authenticated: bool | None = None


class Envelope:
    """One mail transaction. A handler may rewrite all of it, `rcpt_tos` too.

    content: what `decode_data` says, octets or text. original_content: the octets, in any case.
    """

    def __init__(self) -> None:
        self.mail_from: str | None = None
        self.mail_options: list[str] = []
        self.smtp_utf8 = False
        self.content: bytes | str | None = None
        self.original_content: bytes | None = None
        self.rcpt_tos: list[str] = []
        self.rcpt_options: list[str] = []


class ProxyData(NamedTuple):
    """The header of a load balancer. The ends are (address, port), None if it did not say."""

    version: int
    command: str
    source: tuple[str, int] | None
    destination: tuple[str, int] | None

    @property
    def src_addr(self) -> str | None:
        """The address of the client."""
        return self.source[0] if self.source else None

    @property
    def src_port(self) -> int | None:
        """The port of the client."""
        return self.source[1] if self.source else None

    @property
    def dst_addr(self) -> str | None:
        """The address that the client has connected to."""
        return self.destination[0] if self.destination else None

    @property
    def dst_port(self) -> int | None:
        """The port that the client has connected to."""
        return self.destination[1] if self.destination else None
