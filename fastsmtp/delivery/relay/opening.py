"""Makes a connection ready for MAIL: connect, TLS, greeting, EHLO, login, XCLIENT.

Raised: `OpeningFailed`, whose text is one line that names what to change where that is known.
`Refused` when the next hop was told of a client and does not want it: that says nothing of others.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final

from fastsmtp.delivery.relay.commands import Offers
from fastsmtp.delivery.relay.connection import HopConnection, Origin
from fastsmtp.delivery.relay.login import Login
from fastsmtp.delivery.relay.next_hop import NextHop, Patience
from fastsmtp.delivery.relay.replies import HopLost, HopReply, OpeningFailed, refusal_of

__all__ = ["Opening"]

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_HELO: Final = re.compile("[!-~]{1,255}")
_LOCAL: Final = _SIGNATURE + b"\x20\x00\x00\x00"  # no client to tell of


class Opening:
    """Opens connections to one next hop."""

    def __init__(self, hop: NextHop, patience: Patience) -> None:
        self._hop = hop
        self._place = str(hop)
        self._patience = patience
        self._login = Login(hop.user, hop.password)

    async def open(self, origin: Origin | None = None) -> HopConnection:
        """Return a connection that is ready for MAIL; raises OpeningFailed, and Refused.

        origin: the client whose mail it is for, if the next hop is to know.
        """
        connection: HopConnection | None = None
        try:
            async with asyncio.timeout(self._patience.connect):
                connection = await self._connected()
                await self._introduce(connection, origin)
        except BaseException as error:
            if connection is not None:
                connection.fail("it could not be made ready")
            if isinstance(error, (OSError, TimeoutError, HopLost, OpeningFailed)):
                is_crowded = isinstance(error, OpeningFailed) and error.is_crowded
                raise OpeningFailed(
                    self._reason(error), _setting(error), is_crowded=is_crowded
                ) from error
            raise
        return connection

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, HopLost):
            return str(error)
        return f"{self._place}: {self._cause(error)}"

    def _cause(self, error: BaseException) -> str:
        hop = self._hop
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted ({error.verify_message}): "
                "set ca, server_name or verify"
            )
        if isinstance(error, ssl.SSLError):
            return f"TLS has failed ({error.reason or error}): is tls = {hop.tls!r} right?"
        if isinstance(error, TimeoutError):
            return f"it is not ready after {self._patience.connect:g} seconds"
        if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
            return os.strerror(error.errno)
        return str(error) or type(error).__name__

    async def _connected(self) -> HopConnection:
        hop, loop = self._hop, asyncio.get_running_loop()
        if hop.path:
            return (await loop.create_unix_connection(self._new, hop.path))[1]
        return (await loop.create_connection(self._new, hop.host, hop.port))[1]

    def _new(self) -> HopConnection:
        return HopConnection(self._place)

    async def _introduce(self, connection: HopConnection, origin: Origin | None) -> None:
        hop = self._hop
        if hop.forward == "proxy":
            connection.origin = origin
            connection.send(proxy_header(origin), replies=0)
        if hop.tls == "implicit":
            await self._start_tls(connection)
        greeting = await self._reply(connection, "the connection")
        self._demand(connection, greeting, 220, "as greeting")
        await self._say_hello(connection)
        if hop.tls == "starttls":
            if "STARTTLS" not in connection.offers.keywords:
                raise OpeningFailed(
                    'it does not offer STARTTLS: set tls to "implicit" or "off"', "tls"
                )
            reply = await self._ask(connection, "STARTTLS")
            if reply.code != 220:
                raise OpeningFailed(f"it answered to STARTTLS: {reply}")
            await self._start_tls(connection)
            await self._say_hello(connection)
        if hop.user:
            offered = connection.offers.keywords.get("AUTH", [])
            await self._login.run(offered, lambda line: self._ask(connection, line, "AUTH"))
        if hop.forward == "xclient":
            await self._tell_client(connection, origin)

    async def _start_tls(self, connection: HopConnection) -> None:
        assert self._hop.context is not None
        await connection.start_tls(self._hop.context, self._hop.server_name)

    async def _say_hello(self, connection: HopConnection) -> None:
        origin = connection.origin
        # What follows is the conversation of a client that the next hop was told of.
        name = self._hop.name
        if origin is not None and _HELO.fullmatch(origin.helo):
            name = origin.helo
        verb = "LHLO" if self._hop.lmtp else "EHLO"
        reply = await self._ask(connection, f"{verb} {name}")
        if reply.code in (500, 502) and not self._hop.lmtp:  # RFC 5321 §3.2
            verb = "HELO"
            reply = await self._ask(connection, f"{verb} {name}")
        self._demand(connection, reply, 250, f"to {verb}")
        connection.offers = Offers(reply.lines if verb != "HELO" else ())

    async def _tell_client(self, connection: HopConnection, origin: Origin | None) -> None:
        """XCLIENT, after which the conversation begins anew with its greeting."""
        known = connection.offers.keywords.get("XCLIENT")
        if known is None:
            raise OpeningFailed(
                'it does not offer XCLIENT: set forward to "proxy" or remove it', "forward"
            )
        if origin is None:
            return
        attributes = " ".join(f"{name}={value}" for name, value in xclient(origin) if name in known)
        connection.origin = origin
        reply = await self._ask(connection, f"XCLIENT {attributes}")
        self._demand(connection, reply, 220, "to XCLIENT")
        await self._say_hello(connection)

    async def _ask(self, connection: HopConnection, line: str, what: str = "") -> HopReply:
        connection.send(f"{line}\r\n".encode())
        return await self._reply(connection, what or line.partition(" ")[0])

    async def _reply(self, connection: HopConnection, what: str) -> HopReply:
        return await connection.reply(self._patience.connect, what)

    def _demand(self, connection: HopConnection, reply: HopReply, code: int, where: str) -> None:
        if reply.code == code:
            return
        if connection.origin is not None and reply.code >= 400:
            raise refusal_of(reply, self._place)  # of this client, not of all
        raise OpeningFailed(f"it answered {where}: {reply}", is_crowded=reply.closes)


def _setting(error: BaseException) -> str:
    """Return the setting that is to blame for an error, "" for none."""
    if isinstance(error, OpeningFailed):
        return error.setting
    if isinstance(error, ssl.SSLCertVerificationError):
        return "ca"
    return "tls" if isinstance(error, ssl.SSLError) else ""


def proxy_header(origin: Origin | None) -> bytes:
    """Return the PROXY header, version 2, for a client; without one, that of a connection of our
    own. A port or address of this server that is not known is 0.
    """
    if origin is None:
        return _LOCAL
    source, target = _packed(origin.address), _packed(origin.local_address)
    if not source:
        return _LOCAL
    if len(target) != len(source):
        target = bytes(len(source))
    body = source + target + struct.pack("!HH", origin.port, origin.local_port)
    family = 0x11 if len(source) == 4 else 0x21
    return _SIGNATURE + struct.pack("!BBH", 0x21, family, len(body)) + body


def _packed(address: str) -> bytes:
    try:
        return ip_address(address).packed
    except ValueError:
        return b""


def xclient(origin: Origin) -> Iterator[tuple[str, str]]:
    """Yield the attributes of XCLIENT; one that is not known has the value [UNAVAILABLE]."""
    address = origin.address
    values = {
        "ADDR": f"IPV6:{address}" if ":" in address else address,
        "NAME": origin.name,
        "PORT": str(origin.port or ""),
        "HELO": origin.helo,
        "PROTO": "SMTP" if origin.protocol == "SMTP" else "ESMTP",
        "LOGIN": origin.user,
    }
    for name, value in values.items():
        yield name, _attribute(value) if value else "[UNAVAILABLE]"


def _attribute(value: str) -> str:
    """Return a value in xtext (RFC 3461 §4), which XCLIENT uses."""
    return "".join(
        chr(octet) if 33 <= octet <= 126 and octet not in b"+=" else f"+{octet:02X}"
        for octet in value.encode("utf-8", "replace")
    )
