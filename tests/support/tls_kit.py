"""TLS for tests: certificates made once per run, a client in memory, and clients over sockets.

with Wire(**certified()) as wire:
    client = MemoryClient(wire)
    assert client.starttls() == "220 2.0.0"
    client.handshake()
    assert client.codes(b"EHLO c.example\\r\\n") == ["250"]
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

import trustme
from clients import Client
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from scenario import DEFAULTS, EH, codes

from fastsmtp._tls.contexts import ServerTLS
from fastsmtp._tls.pump import Pump
from fastsmtp.options import parse_options
from fastsmtp.testing import Wire

KINDS = ("implicit", "STARTTLS")
# Objects of which a failed reload must leave none.
WATCHED = ("SSLContext", "_SSLContext", "LenientContext", "Contexts", "_Material", "ListenerTLS")


class Pair(NamedTuple):
    """A certificate with its key, as PEM."""

    cert: bytes
    key: bytes


@cache
def _authority(name: str) -> trustme.CA:
    return trustme.CA(organization_name=name)


def authority(name: str = "ours") -> trustme.CA:
    """The authority of that name; one for the whole run."""
    return _authority(name)


def pair(*names: str, ca: str = "ours") -> Pair:
    """A certificate for `names`, srv.test by default; one for the whole run."""
    return _pair(names or ("srv.test", "127.0.0.1"), ca)


@cache
def _pair(names: tuple[str, ...], ca: str) -> Pair:
    return issue(*names, ca=ca)


def issue(*names: str, ca: str = "ours") -> Pair:
    """A new certificate for `names`."""
    issued = authority(ca).issue_cert(*names)
    return Pair(
        b"".join(blob.bytes() for blob in issued.cert_chain_pems), issued.private_key_pem.bytes()
    )


def ca_pem(ca: str = "ours") -> bytes:
    """The certificate of an authority."""
    return authority(ca).cert_pem.bytes()


def certified(*names: str, **options: Any) -> dict[str, Any]:
    """Options of a server with a certificate."""
    own = pair(*names)
    return {**DEFAULTS, "cert": own.cert, "key": own.key, **options}


def client_context(*, ca: str | None = "ours", own: Any = None, **versions: Any) -> ssl.SSLContext:
    """A client that trusts `ca`, or with None any server. own: a trustme certificate to show."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        authority(ca).configure_trust(context)
    if own is not None:
        own.configure_cert(context)
    if "highest" in versions:
        context.maximum_version = versions["highest"]
    if "lowest" in versions:
        context.minimum_version = versions["lowest"]
    return context


def server_pump(**options: Any) -> Pump:
    """The server's end of TLS without a connection."""
    own = pair()
    given = {"cert": own.cert, "key": own.key}
    found = ServerTLS(parse_options(options if "ssl_context" in options else given | options))
    contexts = found.default.contexts
    assert contexts is not None
    return Pump(contexts.choose)


def server_context(curve: str | None = None) -> ssl.SSLContext:
    """A context for a server; curve: the only one that it takes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("srv.test").configure_cert(context)
    if curve is not None:
        context.set_ecdh_curve(curve)
    return context


TLS12: dict[str, Any] = {"highest": ssl.TLSVersion.TLSv1_2}


class MemoryTLS:
    """The client's end of TLS without any wire: octets in, octets out."""

    def __init__(
        self,
        context: ssl.SSLContext | None = None,
        server_name: str | None = "srv.test",
        session: ssl.SSLSession | None = None,
    ) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        context = context or client_context()
        self.tls = context.wrap_bio(
            self._in, self._out, server_hostname=server_name, session=session
        )
        self.done = False  # the handshake is
        self.ended = False  # the server has sent close_notify

    def shake(self, octets: bytes = b"") -> bytes:
        """Take `octets` of the server, and return what to send to it."""
        self._in.write(octets)
        try:
            self.tls.do_handshake()
            self.done = True
        except ssl.SSLWantReadError:
            pass
        return self._out.read()

    def encrypt(self, octets: bytes) -> bytes:
        """Return records with `octets`."""
        for start in range(0, len(octets), 16384):
            self.tls.write(octets[start : start + 16384])
        return self._out.read()

    def decrypt(self, octets: bytes) -> bytes:
        """Return what records of the server say."""
        self._in.write(octets)
        pieces = []
        try:
            while piece := self.tls.read(65536):
                pieces.append(piece)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # both have said that they end
            self.ended = True
        return b"".join(pieces)

    def close_notify(self) -> bytes:
        """Return the record that says that nothing more will come."""
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass
        return self._out.read()


class MemoryClient:
    """A client on a `Wire`. `plain` has what the server sent in clear."""

    def __init__(self, wire: Wire, **tls: Any) -> None:
        self.wire = wire
        self._tls = tls
        self.tls: MemoryTLS | None = None
        self.plain = b""
        self._heard = b""  # what came inside TLS with the handshake

    def greet(self) -> str:
        """Say EHLO in clear, and STARTTLS; returns the reply to STARTTLS."""
        self.plain += self.wire.send(EH)
        return self.starttls()

    def starttls(self, line: bytes = b"STARTTLS\r\n") -> str:
        """Say STARTTLS; returns its reply."""
        self.wire.receive()
        answer = self.wire.send(line)
        self.plain += answer
        return codes(answer)[-1]

    def handshake(self, cuts: int = 0, before: bytes = b"") -> MemoryTLS:
        """Go through the handshake; cuts: octets of each segment, 0 for whole flights. before: sent
        in clear, in one stream with the first flight.
        """
        self.tls = MemoryTLS(**self._tls)
        flight = before + self.tls.shake()
        while flight:
            answer = self.wire.send(*cut(flight, cuts))
            flight = self.tls.shake(answer) if answer else b""
        if self.tls.done:
            self._heard = self.tls.decrypt(b"")
        return self.tls

    def say(self, octets: bytes, cuts: int = 0) -> bytes:
        """Send through TLS, and return what is said through TLS."""
        assert self.tls is not None
        return self.tls.decrypt(self.wire.send(*cut(self.tls.encrypt(octets), cuts)))

    def hear(self) -> bytes:
        """What the server has said through TLS since the last look."""
        assert self.tls is not None
        heard, self._heard = self._heard, b""
        return heard + self.tls.decrypt(self.wire.receive())

    def advance(self, seconds: float) -> bytes:
        """Let time pass, and return what is said through TLS."""
        assert self.tls is not None
        heard = self.hear()
        return heard + self.tls.decrypt(self.wire.advance(seconds))

    def codes(self, octets: bytes) -> list[str]:
        """The codes of the replies to `octets`."""
        return codes(self.say(octets))


def cut(octets: bytes, size: int) -> Sequence[bytes]:
    """`octets` in pieces of `size`, whole for 0."""
    if not size:
        return [octets]
    return [octets[at : at + size] for at in range(0, len(octets), size)]


class TLSClient(Client):
    """A client over a socket that can do TLS."""

    @classmethod
    async def implicit(
        cls, address: Any, context: ssl.SSLContext | None = None, name: str = "srv.test"
    ) -> TLSClient:
        """Connect to a port where TLS comes first."""
        reader, writer = await asyncio.open_connection(
            *address, ssl=context or client_context(), server_hostname=name
        )
        return cls(reader, writer)

    async def upgrade(
        self, context: ssl.SSLContext | None = None, name: str | None = "srv.test"
    ) -> None:
        """Do the handshake after a 220."""
        await self.writer.start_tls(context or client_context(), server_hostname=name)

    @classmethod
    async def upgraded(
        cls, address: Any, context: ssl.SSLContext | None = None, name: str = "srv.test"
    ) -> TLSClient:
        """Connect, EHLO, STARTTLS, handshake, EHLO."""
        client = await cls.greeted(address)
        assert isinstance(client, cls)
        assert await client.ask(b"STARTTLS\r\n") == "220 2.0.0"
        await client.upgrade(context, name)
        assert await client.ask(EH) == "250"
        return client


def made(key: Any = None, days: int = 30) -> Pair:
    """A self-signed certificate whose time ends in `days`."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "old")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    builder = builder.not_valid_before(now - timedelta(days=90))
    builder = builder.not_valid_after(now + timedelta(days=days))
    kind = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA384()
    return Pair(
        builder.sign(key, kind).public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def der(own: Pair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(own.cert.decode().partition("-----END CERTIFICATE-----")[0]
                                    + "-----END CERTIFICATE-----\n")  # fmt: skip


def cuts(octets: bytes, dice: random.Random, sizes: list[int]) -> list[bytes]:
    pieces = []
    while octets:
        size = dice.choice(sizes)
        pieces.append(octets[:size])
        octets = octets[size:]
    return pieces


def met(kind: str, on_secure: Any, **options: Any) -> tuple[Wire, MemoryClient]:
    """A connection after its handshake."""
    wire = Wire(**certified(secure=kind == "implicit", on_secure=on_secure, **options))
    client = MemoryClient(wire)
    if kind == "STARTTLS":
        assert client.greet() == "220 2.0.0"
    client.handshake()
    return wire, client
