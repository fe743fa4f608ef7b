"""`SMTP`: the options of a server, and what hooks of a handler get as `server`.

There is one for each connection, as there; the first one also says which options the engine has.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final

from fastsmtp.compat.aiosmtpd.checks import COLLECTED, hooks_of, mechanisms_of, refuse_methods
from fastsmtp.compat.aiosmtpd.results import MISSING, AuthResult, LoginPassword, auth_mechanism
from fastsmtp.compat.aiosmtpd.session import Envelope, Session

__all__ = ["MISSING", "SMTP", "AuthResult", "Envelope", "LoginPassword", "Session"]
__all__ += ["auth_mechanism"]

EVERY_NETWORK: Final = ("0.0.0.0/0", "::/0", "unix")
SIZE: Final = 2**25  # 32 MiB, the default there


class SMTP:
    """The settings of aiosmtpd's class of this name, for the engine.

    handler: an object with `handle_…` methods. The keywords are those of aiosmtpd. Raises TypeError
    and ValueError for a handler, a subclass or a setting that cannot run here.
    """

    lmtp = False
    local_part_limit = 0  # characters, 0 for no limit
    line_length_limit = 1001  # octets with CRLF, RFC 5321 §4.5.3.1.6

    def __init__(
        self,
        handler: Any,
        *,
        data_size_limit: int | None = SIZE,
        enable_SMTPUTF8: bool = False,  # noqa: N803
        decode_data: bool = False,
        hostname: str | None = None,
        ident: str | None = None,
        tls_context: ssl.SSLContext | None = None,
        require_starttls: bool = False,
        timeout: float = 300,
        auth_required: bool = False,
        auth_require_tls: bool = True,
        auth_exclude_mechanism: Iterable[str] | None = None,
        auth_callback: Callable[[str, bytes, bytes], bool] | None = None,
        command_call_limit: int | dict[str, int] | None = None,
        authenticator: Callable[..., AuthResult] | None = None,
        proxy_protocol_timeout: float | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        refuse_methods(self, SMTP)
        self.event_handler, self.hooks = handler, hooks_of(handler)
        self.keeps_name = bool(self.hooks.keys() & {"HELO", "EHLO"})  # of the client, in its hooks
        self.data_size_limit = data_size_limit
        self.enable_SMTPUTF8 = enable_SMTPUTF8
        self.decode_data = decode_data
        self.hostname, self.ident = hostname or "", ident
        self.tls_context = tls_context
        self.require_starttls = tls_context is not None and require_starttls
        self.timeout = timeout
        self.needs_login, self.needs_tls_for_login = auth_required, auth_require_tls
        self.accepts_password, self.authenticator = auth_callback, authenticator
        self.proxy_protocol_timeout = proxy_protocol_timeout
        self.loop = loop
        self.mechanisms = mechanisms_of(self, handler)
        self.offered = self._offered(set(auth_exclude_mechanism or ()))
        self._check(command_call_limit)
        self.session, self.envelope = self._create_session(), self._create_envelope()
        self.responses: list[bytes] = []  # of a client, for `challenge_auth`

    def _offered(self, excluded: set[str]) -> list[str]:
        """Only mechanisms that can succeed."""
        asks = self.authenticator or self.accepts_password or "AUTH" in self.hooks
        usual = ("PLAIN", "LOGIN") if asks else ()
        names = {*usual, *self.mechanisms} - excluded
        return [name for name in COLLECTED if name in names]

    def _check(self, command_call_limit: object) -> None:
        if command_call_limit is not None:
            raise TypeError(
                "command_call_limit cannot be set: the engine has limits of its own, max_errors and"
                " max_junk_commands of SMTPServer; leave it out"
            )
        if self.needs_login and not self.offered:
            raise ValueError("auth_required needs an authenticator, or nobody could send")
        if self.proxy_protocol_timeout is not None and "PROXY" not in self.hooks:
            raise TypeError(
                f"{type(self.event_handler).__name__} has no handle_PROXY, so that"
                " proxy_protocol_timeout would refuse every connection"
            )

    def _create_session(self) -> Session:
        return Session(self.loop)

    def _create_envelope(self) -> Envelope:
        return Envelope()

    def begin_session(self, peer: tuple[str, int] | str) -> None:
        """Have a new session: at the start, and after STARTTLS."""
        self.loop = asyncio.get_running_loop()
        self.session = self._create_session()
        self.session.peer = peer

    def begin_transaction(self) -> None:
        """Have a new envelope."""
        self.envelope = self._create_envelope()

    def options(self) -> dict[str, Any]:
        """Return the options of `fastsmtp.SMTPServer` that mean the same."""
        given: dict[str, Any] = {
            "lmtp": self.lmtp,
            "size": self.data_size_limit or 0,
            "name": self.hostname or None,
            "banner": self.ident,
            "socket_timeout": self.timeout,
            "needs_upgrade": self.require_starttls,
            "auth_optional": not self.needs_login,
            "allow_insecure_auth": not self.needs_tls_for_login,
            "lenient_address_parsing": "common",
            # Replies go out as a handler writes them; in LMTP there have to be such codes.
            "hide_enhancedstatuscodes": not self.lmtp,
            "hide_dsn": True,
            "hide_requiretls": True,
            "hide_smtputf8": not self.enable_SMTPUTF8,
            "hide_8bitmime": self.decode_data and not self.enable_SMTPUTF8,
        }
        if self.offered:
            given["auth_methods"] = self.offered
        else:
            given["disabled_commands"] = ["AUTH"]
        if self.tls_context is not None:
            given["ssl_context"] = self.tls_context
        if self.proxy_protocol_timeout is not None:
            given |= {"use_proxy": EVERY_NETWORK, "proxy_timeout": self.proxy_protocol_timeout}
        return given

    async def challenge_auth(
        self, challenge: str | bytes, encode_to_b64: bool = True, log_client_response: bool = False
    ) -> bytes:
        """Return the next response of the client, which the engine has already asked for.

        The arguments have no effect. Raises RuntimeError for more responses than the mechanism has.
        """
        if not self.responses:
            raise RuntimeError("challenge_auth: the mechanism has no further response")
        return self.responses.pop(0)

    async def push(self, status: str | bytes) -> None:
        """Raise RuntimeError: the engine sends one reply for each command."""
        raise RuntimeError("server.push cannot run: return the reply from the hook instead")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Raise RuntimeError: this is no protocol of asyncio."""
        if isinstance(transport, asyncio.Transport):
            transport.abort()
        raise RuntimeError(
            "SMTP is not a protocol for loop.create_server: give it to UnthreadedController, or"
            " make the server with server_of(lambda: SMTP(handler)) and await server.listen(port)"
        )
