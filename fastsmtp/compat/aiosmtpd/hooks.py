"""The hooks of the engine that call those of a handler, and the server that has them.

A hook of a handler accepts by a 2xx and refuses by a 4xx or 5xx. Whatever else it does, as to
raise, to return None or text without a code, is a failure: the client gets 451 and tries again, and
nothing is acknowledged.
"""

from __future__ import annotations

import inspect
import ssl
from collections.abc import Callable
from typing import Any, Final

from fastsmtp import (
    Address,
    Auth,
    AuthResponse,
    ClientGreeting,
    DataStream,
    SMTPError,
    SMTPServer,
)
from fastsmtp import (
    Session as EngineSession,
)
from fastsmtp.compat.aiosmtpd import authenticating
from fastsmtp.compat.aiosmtpd.results import MISSING
from fastsmtp.compat.aiosmtpd.session import ProxyData
from fastsmtp.compat.aiosmtpd.smtp import SMTP
from fastsmtp.compat.aiosmtpd.statuses import accepted, refusal
from fastsmtp.hook_types import LifespanFactory, LMTPAnswer

__all__ = ["server_of"]

KEY: Final = "fastsmtp.compat.aiosmtpd"  # in `data` of the engine's session


def server_of(
    factory: Callable[[], SMTP],
    *,
    ssl_context: ssl.SSLContext | None = None,
    lifespan: LifespanFactory | None = None,
) -> SMTPServer:
    """Return a server whose connections each have an `SMTP` of `factory`.

    The first one says which options it has. ssl_context: for TLS from the first octet on.
    Raises TypeError and ValueError for what cannot run.
    """
    first = factory()
    if not isinstance(first, SMTP):
        raise TypeError(f"the factory returned {type(first)}, not an SMTP of this package")
    options = first.options()
    if ssl_context is not None:
        if first.tls_context not in (None, ssl_context):
            raise ValueError("ssl_context and tls_context are two contexts: give one of them")
        options |= {"ssl_context": ssl_context, "secure": True, "needs_upgrade": False}
    hooks = Hooks(factory, is_tls_implicit=ssl_context is not None)
    for name in ("on_connect", "on_secure", "on_mail_from", "on_rcpt_to", "on_data"):
        options[name] = getattr(hooks, name)
    if first.offered:
        options["on_auth"] = hooks.on_auth
    if first.hooks.keys() & {"HELO", "EHLO"}:
        options["on_helo"] = hooks.on_helo
    if "VRFY" in first.hooks:
        options["on_vrfy"] = hooks.on_vrfy
    made = SMTPServer(lifespan=lifespan, **options)
    hooks.name = made.options.name
    return made


class Hooks:
    """The hooks of the engine. factory: makes the `SMTP` of a connection."""

    def __init__(self, factory: Callable[[], SMTP], *, is_tls_implicit: bool) -> None:
        self._factory = factory
        self._is_tls_implicit = is_tls_implicit
        self.name = ""  # of the server in its greeting

    async def on_connect(self, session: EngineSession) -> None:
        """Make what the hooks of this connection get; ask `handle_PROXY`."""
        server = self._factory()
        server.hostname = self.name
        server.begin_session(peer_of(session))
        session.data[KEY] = server
        if server.proxy_protocol_timeout is None:
            return
        facts = session.proxy
        if facts is None:
            raise SMTPError("Connection refused", 554)
        ends = facts["source"], facts["destination"]
        data = ProxyData(facts["version"], facts["command"], *ends)
        server.session.proxy_data = data
        answer = await called(server, "PROXY", data)
        if answer is MISSING or not answer:
            raise SMTPError("Connection refused", 554)

    async def on_secure(self, socket: Any, session: EngineSession) -> None:
        """Forget the session after STARTTLS, and ask `handle_STARTTLS`."""
        server: SMTP = session.data[KEY]
        if not self._is_tls_implicit:
            server.begin_session(peer_of(session))
            server.begin_transaction()
        server.session.ssl = {
            "peercert": socket.peer_certificate,
            "cipher": (socket.name, socket.version),
        }
        hook = server.hooks.get("STARTTLS")
        if hook is not None and not self._is_tls_implicit:
            if not await awaited(hook(server, server.session, server.envelope)):
                raise SMTPError("handle_STARTTLS has refused the connection")

    async def on_helo(self, greeting: ClientGreeting, session: EngineSession) -> list[str] | None:
        """Ask `handle_HELO` or `handle_EHLO`, which keeps the name in the session."""
        server: SMTP = session.data[KEY]
        server.begin_transaction()
        server.session.extended_smtp = greeting.command != "HELO"
        if greeting.command == "HELO":
            status = await called(server, "HELO", greeting.name)
            if status is not MISSING:
                accepted("handle_HELO", status)
                return None
        elif "EHLO" in server.hooks:
            words = [server.hostname, *greeting.keywords]
            responses = [*(f"250-{word}" for word in words), "250 HELP"]
            return keywords_of(await called(server, "EHLO", greeting.name, responses))
        server.session.host_name = greeting.name
        return None

    async def on_vrfy(self, query: str, session: EngineSession) -> str | None:
        """Ask `handle_VRFY`. A reply without a mailbox tells nothing, as 252 does."""
        server = up_to_date(session)
        status = await called(server, "VRFY", query.strip("<>"))
        text = "" if status is MISSING else accepted("handle_VRFY", status)
        return text if "<" in text else None

    async def on_auth(self, auth: Auth, session: EngineSession) -> AuthResponse:
        """Ask `handle_AUTH`, the method of the mechanism, or the authenticator."""
        server = up_to_date(session)
        if auth.authzid not in ("", auth.username):
            raise SMTPError("5.7.8 Only as yourself", 535)
        return await authenticating.answer(server, auth)

    async def on_mail_from(self, address: Address, session: EngineSession) -> None:
        """Begin an envelope, and ask `handle_MAIL`."""
        server = up_to_date(session)
        if not server.session.host_name:  # a hook has accepted the greeting, and not kept the name
            raise SMTPError("Error: send HELO first", 503)
        server.begin_transaction()
        envelope = server.envelope
        envelope.smtp_utf8 = session.envelope.smtp_utf8
        mailbox, options = checked(server, address), options_of(address)
        status = await called(server, "MAIL", mailbox, options)
        if status is MISSING:
            envelope.mail_from = mailbox
            envelope.mail_options.extend(options)
        else:
            accepted("handle_MAIL", status)

    async def on_rcpt_to(self, address: Address, session: EngineSession) -> None:
        """Ask `handle_RCPT`."""
        server = up_to_date(session)
        envelope = server.envelope
        if not envelope.mail_from:  # handle_MAIL has accepted, and not kept the sender
            raise SMTPError("Error: need MAIL command", 503)
        mailbox, options = checked(server, address), options_of(address)
        status = await called(server, "RCPT", mailbox, options)
        if status is MISSING:
            envelope.rcpt_tos.append(mailbox)
            envelope.rcpt_options.extend(options)
        else:
            accepted("handle_RCPT", status)

    async def on_data(
        self, stream: DataStream, session: EngineSession
    ) -> str | list[LMTPAnswer] | None:
        """Fill the envelope, and ask `handle_DATA`, or `process_message` of an old handler."""
        server = up_to_date(session)
        if not server.envelope.rcpt_tos:  # handle_RCPT has accepted, and kept no recipient
            raise SMTPError("Error: need RCPT command", 503)
        body = await stream.read()
        if (stream.longest_line or 0) + 2 > server.line_length_limit:
            raise SMTPError("Error: a line of the message is too long", 500)
        server.envelope.original_content = body
        server.envelope.content = decoded(server, body) if server.decode_data else body
        try:
            status = await called(server, "DATA")
            if status is MISSING:
                status = await processed(server)
        finally:
            server.begin_transaction()
        if status is MISSING:
            return "OK"
        if server.lmtp:
            return of_recipients(status, len(session.envelope.rcpt_to))
        return accepted("handle_DATA", status) or None


def peer_of(session: EngineSession) -> tuple[str, int] | str:
    """Return the client as aiosmtpd names it."""
    return (session.remote_address, session.remote_port) if session.remote_address else ""


def up_to_date(session: EngineSession) -> SMTP:
    """Return the `SMTP` of a connection, with the facts of the last greeting."""
    server: SMTP = session.data[KEY]
    if not server.keeps_name:
        server.session.host_name = session.host_name_appears_as or None
        server.session.extended_smtp = session.opening_command in ("EHLO", "LHLO")
    return server


def keywords_of(responses: Any) -> list[str]:
    """Return the extensions in the answer of `handle_EHLO`, a list of lines of which the first one
    names the server. Raises SMTPError for a refusal, TypeError and ValueError for anything else.
    """
    if not isinstance(responses, list | tuple) or not responses:
        raise TypeError(f"handle_EHLO returned {type(responses)}, not a list of lines")
    texts = [accepted("handle_EHLO", line) for line in responses]
    return [text for text in texts[1:] if text]


async def awaited(answer: Any) -> Any:
    """Return the answer of a hook, whether it is a coroutine function or a plain one."""
    return await answer if inspect.isawaitable(answer) else answer


async def called(server: SMTP, command: str, *arguments: object) -> Any:
    """Call a hook of the handler, MISSING if it has none. What it raises goes to its
    `handle_exception`, whose answer can only refuse.
    """
    hook = server.hooks.get(command)
    if hook is None:
        return MISSING
    try:
        return await awaited(hook(server, server.session, server.envelope, *arguments))
    except SMTPError:
        raise
    except Exception as error:
        describe = server.hooks.get("exception")
        if describe is None:
            raise
        raise refusal("handle_exception", await awaited(describe(error))) from error


async def processed(server: SMTP) -> Any:
    """Call `process_message`, as handlers had it for smtpd; it accepts by None too."""
    process = getattr(server.event_handler, "process_message", None)
    if process is None:
        return MISSING
    envelope = server.envelope
    arguments = (server.session.peer, envelope.mail_from, envelope.rcpt_tos, envelope.content)
    status = await awaited(process(*arguments))
    return MISSING if status is None else status


def checked(server: SMTP, address: Address) -> str:
    """Return the mailbox as hooks get it, `<>` for the null sender."""
    if 0 < server.local_part_limit < len(address.local_part):
        raise SMTPError("5.1.3 Error: malformed address", 553)
    return address.address or "<>"


def options_of(address: Address) -> list[str]:
    """Return the parameters of MAIL or RCPT as words in upper case."""
    return [
        (name if value is True else f"{name}={value}").upper()
        for name, value in address.args.items()
    ]


def decoded(server: SMTP, body: bytes) -> str:
    """Return the body as text; without SMTPUTF8 it has to be ASCII."""
    if server.enable_SMTPUTF8:
        return body.decode("utf-8", "surrogateescape")
    try:
        return body.decode("ascii")
    except UnicodeDecodeError:
        raise SMTPError("Error: strict ASCII mode", 500) from None


def of_recipients(status: Any, count: int) -> list[LMTPAnswer]:
    """Return the answer for each recipient of a message by LMTP (RFC 2033 §4.2)."""
    lines = status.splitlines() if isinstance(status, str) else []
    single = len(lines) == count and not any(line[3:4] == "-" for line in lines)
    answers: list[LMTPAnswer] = []
    for line in lines if single else [status] * count:
        try:
            answers.append(accepted("handle_DATA", line) or None)
        except SMTPError as error:
            answers.append(error)
    return answers
