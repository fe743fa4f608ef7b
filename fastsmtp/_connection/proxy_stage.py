"""The first stage of a connection that comes from a load balancer: its PROXY header.

In: octets of a peer in `use_proxy`. Out: the facts of its client in session and dialogue, and the
octets after the header; or one line in the log if it is malformed. The reader is
`_wire.proxy_header`.
"""

from __future__ import annotations

from typing import Any, Final

from fastsmtp._connection.stages import Client, Stage
from fastsmtp._log import logger
from fastsmtp._smtp.protocol import SMTPProtocol
from fastsmtp._smtp.warnings import warn
from fastsmtp._wire.proxy_header import ProxyFault, ProxyHeader, ProxyReader
from fastsmtp.log_text import clean, escaped
from fastsmtp.session import Session

__all__ = ["ProxyHeaderWait"]

MAX_TEXT: Final = 512  # characters of one text of a header
MAX_SHOWN: Final = 160  # octets of a malformed header in a log line

# Types of TLVs whose value is text, with their names for the application.
_TEXTS: Final = {0x01: "alpn", 0x02: "authority", 0x30: "netns"}
_UNIQUE_ID: Final = 0x05
_SSL_TEXTS: Final = {
    0x21: "version",
    0x22: "cn",
    0x23: "cipher",
    0x24: "sig_alg",
    0x25: "key_alg",
}


class ProxyHeaderWait(Stage):
    """Reads the header of one connection; a peer without one gets no reply."""

    __slots__ = ("_protocol", "_reader", "_session")

    def __init__(self, session: Session, protocol: SMTPProtocol) -> None:
        self._session = session
        self._protocol = protocol
        self._reader = ProxyReader()

    def octets(self, client: Client, data: bytes) -> None:
        """Octets of the header, and what follows it."""
        found = self._reader.feed(data)
        if found is None:
            return
        if isinstance(found, ProxyHeader):
            client.introduced(self._learn(found), self._reader.rest)
            return
        shown = clean(self._reader.rest[:MAX_SHOWN].decode("latin-1"))
        self._log_fault(ProxyFault(found).name.lower().replace("_", " "), shown)
        client.close()

    def eof(self, client: Client) -> None:
        """The peer has left before the end of its header."""
        client.cut()

    def expired(self, client: Client, now: float) -> None:
        """`proxy_timeout` has passed."""
        self._log_fault("not complete in time", "")
        client.close()

    def server_closing(self, client: Client) -> None:
        """Close without a reply: perhaps there is no client yet."""
        client.close()

    def _log_fault(self, why: str, shown: str) -> None:
        peer = self._protocol.peer
        text = "no PROXY header from the balancer: %s %s"
        warn(self._protocol, ("PROXY", peer, why), text, why, shown)

    def _learn(self, header: ProxyHeader) -> str | None:
        """Apply the header; returns the address to count."""
        session = self._session
        protocol = self._protocol
        session.proxy = _facts(header, (session.remote_address, session.remote_port))
        if header.source is None or header.destination is None:
            address = None
        else:
            session.remote_address, session.remote_port = header.source
            session.local_address, session.local_port = header.destination
            address = session.remote_address
        protocol.client_comes_through(address or "", is_balancer=header.command == "LOCAL")
        if logger.shows_debug:
            client = protocol.client()
            logger.debug("%s: PROXY header: %s %s", session.id, header.command, client)
        return address


def _facts(header: ProxyHeader, peer: tuple[str, int]) -> dict[str, Any]:
    """`session.proxy`: the facts of the header, every text of it safe for a log."""
    facts: dict[str, Any] = {
        "version": header.version,
        "command": header.command,
        "peer": peer,
        "source": header.source,
        "destination": header.destination,
        "tlvs": header.tlvs,
    }
    for kind, value in header.tlvs:
        if kind in _TEXTS:
            facts[_TEXTS[kind]] = _text(value)
        elif kind == _UNIQUE_ID:
            facts["unique_id"] = value
    if header.ssl is not None:
        client, verify, within = header.ssl
        names = dict.fromkeys(_SSL_TEXTS.values())
        texts = {_SSL_TEXTS[kind]: _text(value) for kind, value in within if kind in _SSL_TEXTS}
        facts["ssl"] = {"client": client, "verify": verify, **names, **texts}
    return facts


def _text(value: bytes) -> str:
    r"""UTF-8 by its specification; a client may have chosen it, so other octets are escaped."""
    return escaped(value.decode("utf-8", "surrogateescape"), MAX_TEXT, plain=" ")
