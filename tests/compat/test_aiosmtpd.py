"""The same handler on aiosmtpd and on its counterpart here, with the standard client.

A test without `package` is about what is different here, on purpose: docs/aiosmtpd.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import mailbox
import smtplib
import socket
import ssl
import warnings
from argparse import ArgumentParser
from base64 import b64encode
from collections.abc import Callable, Iterator
from email.message import Message as EmailMessage
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from free_ports import free_port

from fastsmtp.compat import aiosmtpd as ours

pytestmark = [
    # aiosmtpd leaves transports to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning"),
]
MESSAGE = b"Subject: hello\r\n\r\nBody\r\n"
HERE = "127.0.0.1"


@pytest.fixture(params=["aiosmtpd", "fastsmtp.compat.aiosmtpd"])
def package(request: pytest.FixtureRequest) -> SimpleNamespace:
    """The names of both packages, by the modules that programs import them from."""
    name: str = request.param
    pytest.importorskip(name)
    modules = ("controller", "handlers", "lmtp", "smtp")
    parts = {part: importlib.import_module(f"{name}.{part}") for part in modules}
    return SimpleNamespace(name=name, is_ours=name.startswith("fastsmtp"), **parts)


@contextlib.contextmanager
def served(package: Any, handler: object, **options: Any) -> Iterator[smtplib.SMTP]:
    """A client that has connected to a server with this handler; it may have left itself."""
    controller = package.controller.Controller(handler, HERE, free_port(), **options)
    controller.start()
    try:
        with smtplib.SMTP(controller.hostname, controller.port, timeout=60) as client:
            yield client
    finally:
        controller.stop()


def reply_to_mail(
    package: Any,
    handler: object,
    recipients: list[str] | None = None,
    body: bytes = MESSAGE,
    **options: Any,
) -> tuple[int, bytes]:
    """The reply to a message, after each step before it was accepted."""
    with served(package, handler, **options) as client:
        client.ehlo()
        assert client.mail("anne@x.example")[0] == 250
        for recipient in recipients or ["bob@example.org"]:
            assert client.rcpt(recipient)[0] == 250
        try:
            return client.data(body)
        except smtplib.SMTPDataError as error:  # the reply to DATA itself
            return error.smtp_code, bytes(error.smtp_error)


class Recorder:
    """Accepts, and keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.envelopes: list[dict[str, Any]] = []
        self.sessions: list[dict[str, Any]] = []

    async def handle_MAIL(self, server, session, envelope, address, options):  # noqa: N802
        self.calls.append(f"MAIL {address} {options}")
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        self.calls.append(f"RCPT {address} {options}")
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        self.calls.append("DATA")
        assert server.session is session
        assert server.envelope is envelope
        assert server.event_handler is self
        self.envelopes.append(dict(vars(envelope)))
        names = ("peer", "ssl", "host_name", "extended_smtp", "auth_data", "authenticated")
        self.sessions.append({name: getattr(session, name) for name in names})
        return "250 Kept"


class Keeper:
    """Has handle_DATA alone."""

    def __init__(self) -> None:
        self.envelopes: list[Any] = []

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        self.envelopes.append(envelope)
        return "250 OK"


def answering(status: object) -> object:
    """A handler whose handle_DATA returns this, or raises it."""

    class Answering:
        async def handle_DATA(self, server, session, envelope):  # noqa: N802
            if isinstance(status, Exception):
                raise status
            return status

    return Answering()


def test_hooks_are_called_in_order_with_the_same_arguments(package: Any) -> None:
    handler = Recorder()
    with served(package, handler) as client:
        client.ehlo("client.example")
        assert client.mail("anne@x.example", ["size=100", "BODY=8BITMIME"])[0] == 250
        assert client.rcpt("bob@example.org")[0] == 250
        assert client.rcpt("eve@example.org")[0] == 250
        assert client.data(MESSAGE) == (250, b"Kept")
    assert handler.calls == [
        "MAIL anne@x.example ['SIZE=100', 'BODY=8BITMIME']",
        "RCPT bob@example.org []",
        "RCPT eve@example.org []",
        "DATA",
    ]
    assert handler.envelopes == [
        {
            "mail_from": "anne@x.example",
            "mail_options": ["SIZE=100", "BODY=8BITMIME"],
            "smtp_utf8": False,
            "content": MESSAGE,
            "original_content": MESSAGE,
            "rcpt_tos": ["bob@example.org", "eve@example.org"],
            "rcpt_options": [],
        }
    ]
    (session,) = handler.sessions
    assert session.pop("peer")[0] == HERE
    assert session == {
        "ssl": None,
        "host_name": "client.example",
        "extended_smtp": True,
        "auth_data": None,
        "authenticated": None,
    }


def test_a_client_of_helo_is_not_extended(package: Any) -> None:
    handler = Recorder()
    with served(package, handler) as client:
        client.helo("old.example")
        client.sendmail("anne@x.example", "bob@example.org", MESSAGE)
    assert handler.sessions[0]["host_name"] == "old.example"
    assert handler.sessions[0]["extended_smtp"] is False


class Greeter(Keeper):
    """Refuses one name, and changes the list of extensions."""

    async def handle_HELO(self, server, session, envelope, hostname):  # noqa: N802
        if hostname == "bad.example":
            return "550 not you"
        session.host_name = hostname
        return "250 hello"

    async def handle_EHLO(self, server, session, envelope, hostname, responses):  # noqa: N802
        if hostname == "bad.example":
            return ["550 not you"]
        session.host_name = hostname
        assert responses[-1] == "250 HELP"
        assert all(line.startswith("250-") for line in responses[:-1])
        kept = [line for line in responses[:-1] if "8BITMIME" not in line]
        return [*kept, "250-XBATCH 7", "250 HELP"]


def test_a_handler_may_refuse_a_greeting_and_change_the_extensions(package: Any) -> None:
    handler = Greeter()
    with served(package, handler) as client:
        assert client.ehlo("bad.example") == (550, b"not you")
        assert client.helo("bad.example") == (550, b"not you")
        assert client.mail("anne@x.example")[0] == 503
        assert client.ehlo("good.example")[0] == 250
        assert client.esmtp_features["xbatch"] == "7"
        assert not client.has_extn("8bitmime")
        assert client.has_extn("smtputf8")
        assert client.mail("anne@x.example")[0] == 250
        assert client.helo("other.example")[0] == 250
        assert client.rcpt("bob@example.org")[0] == 503  # the greeting has ended the transaction
        client.ehlo("good.example")
        client.sendmail("anne@x.example", ["bob@example.org"], MESSAGE)


def test_a_greeting_of_the_old_form_gives_the_last_line(package: Any) -> None:
    class Old(Keeper):
        async def handle_EHLO(self, server, session, envelope, hostname):  # noqa: N802
            session.host_name = hostname
            return "250 XLAST"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs deprecates it
        with served(package, Old()) as client:
            client.ehlo("good.example")
            assert client.has_extn("xlast")
            assert client.has_extn("smtputf8")
            assert client.mail("anne@x.example")[0] == 250


def test_a_greeting_whose_name_is_not_kept_is_none(package: Any) -> None:
    class Forgetful(Keeper):
        async def handle_HELO(self, server, session, envelope, hostname):  # noqa: N802
            return "250 hello"

    with served(package, Forgetful()) as client:
        assert client.helo("good.example")[0] == 250
        assert client.mail("anne@x.example")[0] == 503


@pytest.mark.parametrize("status", ["252 Cannot VRFY", "250 Bob <bob@example.org>", "550 nobody"])
def test_a_handler_answers_vrfy(package: Any, status: str) -> None:
    asked: list[str] = []

    class Verifier(Keeper):
        async def handle_VRFY(self, server, session, envelope, address):  # noqa: N802
            asked.append(address)
            return status

    with served(package, Verifier()) as client:
        client.ehlo("good.example")
        code, text = client.verify("<bob@example.org>")
        assert code == int(status[:3])
        assert code == 252 or text == status[4:].encode()
    assert asked == ["bob@example.org"]


def test_the_last_smtp_of_a_controller_is_its_attribute(package: Any) -> None:
    controller = package.controller.Controller(Keeper(), HERE, free_port())
    controller.start()
    try:
        with smtplib.SMTP(controller.hostname, controller.port, timeout=60) as client:
            client.ehlo("good.example")
            client.mail("anne@x.example")
            assert controller.smtpd.envelope.mail_from == "anne@x.example"
            assert controller.smtpd.session.host_name == "good.example"
    finally:
        controller.stop()


def test_an_envelope_is_filled_without_hooks_and_new_for_each_message(package: Any) -> None:
    handler = Keeper()
    with served(package, handler) as client:
        client.sendmail("anne@x.example", "bob@example.org", MESSAGE)
        client.mail("dropped@x.example")
        client.rset()
        client.sendmail("eve@x.example", "joe@example.org", MESSAGE)
    first, second = handler.envelopes
    assert (first.mail_from, first.rcpt_tos) == ("anne@x.example", ["bob@example.org"])
    assert (second.mail_from, second.rcpt_tos) == ("eve@x.example", ["joe@example.org"])


def test_the_null_sender_has_the_same_name(package: Any) -> None:
    handler = Recorder()
    with served(package, handler) as client:
        client.sendmail("", "bob@example.org", MESSAGE)
    assert handler.envelopes[0]["mail_from"] == "<>"


def test_a_handler_may_rewrite_the_recipients(package: Any) -> None:
    class Rewriting(Keeper):
        async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
            envelope.rcpt_tos += [address.lower(), "archive@example.org"]
            return "250 OK"

    handler = Rewriting()
    with served(package, handler) as client:
        client.sendmail("anne@x.example", "BOB@example.org", MESSAGE)
    assert handler.envelopes[0].rcpt_tos == ["bob@example.org", "archive@example.org"]


@pytest.mark.parametrize("status", ["550 no", "452 4.2.2 later", b"554 octets"])
def test_a_refusal_of_each_hook_goes_out_as_it_is(package: Any, status: Any) -> None:
    class Refusing(Keeper):
        at = "MAIL"

        async def handle_MAIL(self, server, session, envelope, address, options):  # noqa: N802
            envelope.mail_from = address
            return status if self.at == "MAIL" else "250 OK"

        async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
            envelope.rcpt_tos.append(address)
            return status if self.at == "RCPT" else "250 OK"

        async def handle_DATA(self, server, session, envelope):  # noqa: N802
            return status

    code, _, text = (status if isinstance(status, bytes) else status.encode()).partition(b" ")
    handler = Refusing()
    with served(package, handler) as client:
        client.ehlo()
        assert client.mail("anne@x.example") == (int(code), text)
        client.rset()
        handler.at = "RCPT"
        client.mail("anne@x.example")
        assert client.rcpt("bob@example.org") == (int(code), text)
        client.rset()
        handler.at = "DATA"
        client.mail("anne@x.example")
        client.rcpt("bob@example.org")
        assert client.data(MESSAGE) == (int(code), text)


def test_a_reply_of_several_lines_goes_out_as_it_is(package: Any) -> None:
    code, text = reply_to_mail(package, answering("554-one\r\n554 two"))
    assert (code, text) == (554, b"one\ntwo")


@pytest.mark.parametrize("status", [None, ValueError("secret")], ids=["none", "raises"])
def test_a_message_whose_hook_fails_is_not_acknowledged(package: Any, status: Any) -> None:
    code, text = reply_to_mail(package, answering(status))
    assert code == (451 if package.is_ours else 500)
    assert b"secret" not in text or not package.is_ours


@pytest.mark.parametrize("status", ["OK", "", "99 x", "354 go on", 250, True, ["250 OK"]])
def test_an_answer_that_is_no_reply_acknowledges_nothing_here(status: object) -> None:
    code, _ = reply_to_mail(ours_as_package(), answering(status))
    assert code == 451


def ours_as_package() -> Any:
    modules = ("controller", "handlers", "smtp", "lmtp")
    return SimpleNamespace(
        **{name: importlib.import_module(f"{ours.__name__}.{name}") for name in modules}
    )


def test_handle_exception_gives_the_reply_of_a_hook_that_raises(package: Any) -> None:
    class Describing:
        async def handle_DATA(self, server, session, envelope):  # noqa: N802
            raise KeyError("no such box")

        async def handle_exception(self, error):
            return f"454 a {type(error).__name__}"

    code, text = reply_to_mail(package, Describing())
    assert (code, text) == (454, b"a KeyError")


def test_handle_exception_cannot_acknowledge_what_has_failed_here() -> None:
    class Hiding:
        async def handle_DATA(self, server, session, envelope):  # noqa: N802
            raise KeyError

        async def handle_exception(self, error):
            return "250 OK"

    code, _ = reply_to_mail(ours_as_package(), Hiding())
    assert code == 451


def test_a_hook_that_keeps_no_sender_leaves_rcpt_out_of_order(package: Any) -> None:
    class Forgetting(Keeper):
        async def handle_MAIL(self, server, session, envelope, address, options):  # noqa: N802
            return "250 OK"

    with served(package, Forgetting()) as client:
        client.ehlo()
        assert client.mail("anne@x.example")[0] == 250
        assert client.rcpt("bob@example.org")[0] == 503


def test_a_hook_that_keeps_no_recipient_leaves_data_out_of_order(package: Any) -> None:
    class Forgetting(Keeper):
        async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
            return "250 OK"

    handler = Forgetting()
    code, _ = reply_to_mail(package, handler)
    assert code == 503
    assert handler.envelopes == []


def test_decode_data_gives_text_and_keeps_the_octets(package: Any) -> None:
    handler = Keeper()
    body = "Subject: grüße\r\n\r\nx\r\n".encode()
    with served(package, handler, decode_data=True) as client:
        client.sendmail("anne@x.example", "bob@example.org", body)
    (envelope,) = handler.envelopes
    assert (envelope.content, envelope.original_content) == (body.decode(), body)


def test_without_smtputf8_decoded_data_has_to_be_ascii(package: Any) -> None:
    options = {"decode_data": True, "enable_SMTPUTF8": False}
    assert reply_to_mail(package, Keeper(), body="ü".encode(), **options)[0] == 500


def test_the_size_limit_refuses_at_mail(package: Any) -> None:
    with served(package, Keeper(), data_size_limit=100) as client:
        client.ehlo()
        assert client.esmtp_features["size"] == "100"
        assert client.mail("anne@x.example", ["SIZE=101"])[0] == 552


def test_a_long_line_and_a_long_local_part_are_refused(package: Any) -> None:
    class Strict(package.smtp.SMTP):
        local_part_limit = 5

    class StrictController(package.controller.Controller):
        def factory(self):
            return Strict(self.handler)

    controller = StrictController(Keeper(), HERE, free_port())
    controller.start()
    try:
        with smtplib.SMTP(HERE, controller.port, timeout=60) as client:
            client.ehlo()
            assert client.mail("longer@x.example")[0] == 553
            with pytest.raises(smtplib.SMTPDataError, match="500"):
                client.sendmail("anne@x.example", "bob@example.org", b"x" * 1002)
    finally:
        controller.stop()


def test_a_factory_is_called_for_each_connection(package: Any) -> None:
    made: list[Any] = []

    class Counting(package.controller.Controller):
        def factory(self):
            made.append(Keeper())
            return package.smtp.SMTP(made[-1], hostname="mx.example.org", ident="hello")

    controller = Counting(Keeper(), HERE, free_port())
    controller.start()
    try:
        before = len(made)
        for _ in range(2):
            with smtplib.SMTP(timeout=60) as client:
                greeting = client.connect(HERE, controller.port)[1]
                assert greeting.startswith(b"mx.example.org ")
                assert greeting.endswith(b"hello")
                client.sendmail("anne@x.example", "bob@example.org", MESSAGE)
    finally:
        controller.stop()
    assert [len(handler.envelopes) for handler in made[before:]] == [1, 1]


@pytest.mark.filterwarnings("ignore:Use handler.handle_DATA:DeprecationWarning")
@pytest.mark.parametrize("is_async", [False, True])
def test_process_message_of_an_old_handler_accepts_by_none(package: Any, is_async: bool) -> None:
    got: list[Any] = []

    class Old:
        def process_message(self, peer, sender, recipients, data):
            got.append((sender, recipients, data))

    class OldAsync:
        async def process_message(self, peer, sender, recipients, data):
            got.append((sender, recipients, data))

    with served(package, OldAsync() if is_async else Old()) as client:
        client.sendmail("anne@x.example", "bob@example.org", MESSAGE)
    assert got == [("anne@x.example", ["bob@example.org"], MESSAGE)]


# --- AUTH ---


def login_with(package: Any, handler: object, method: str, **options: Any) -> tuple[int, bytes]:
    """Log in as anne; the reply."""
    with served(package, handler, auth_require_tls=False, **options) as client:
        client.user, client.password = "anne", "secret"
        client.ehlo()
        try:
            code, text = client.auth(method.upper(), getattr(client, f"auth_{method}"))
        except smtplib.SMTPAuthenticationError as error:
            code, text = error.smtp_code, error.smtp_error
        assert isinstance(text, bytes)
        client.sendmail("anne@x.example", "bob@example.org", MESSAGE)
        return code, text


@pytest.mark.parametrize("method", ["plain", "login"])
def test_an_authenticator_decides_and_its_data_is_in_the_session(package: Any, method: str) -> None:
    asked: list[Any] = []

    def authenticator(server, session, envelope, mechanism, data):
        asked.append((mechanism, data.login, data.password))
        return package.smtp.AuthResult(success=True, auth_data=data)

    handler = Recorder()
    assert login_with(package, handler, method, authenticator=authenticator)[0] == 235
    assert asked == [(method.upper(), b"anne", b"secret")]
    assert handler.sessions[0]["authenticated"] is True
    assert tuple(handler.sessions[0]["auth_data"]) == (b"anne", b"secret")


@pytest.mark.parametrize("message", [None, "454 4.7.0 later"])
def test_a_refusal_of_an_authenticator_is_the_reply(package: Any, message: str | None) -> None:
    def authenticator(server, session, envelope, mechanism, data):
        return package.smtp.AuthResult(success=False, handled=False, message=message)

    handler = Recorder()
    code, _ = login_with(package, handler, "plain", authenticator=authenticator)
    assert code == (535 if message is None else 454)
    assert handler.sessions[0]["authenticated"] is None


@pytest.mark.parametrize("right", [True, False])
def test_an_auth_callback_decides(package: Any, right: bool) -> None:
    code, _ = login_with(package, Keeper(), "login", auth_callback=lambda *pair: right)
    assert code == (235 if right else 535)


def test_auth_required_refuses_mail_without_it(package: Any) -> None:
    options = {"auth_required": True, "auth_require_tls": False, "auth_callback": lambda *_: True}
    with served(package, Keeper(), **options) as client:
        client.ehlo()
        assert client.mail("anne@x.example")[0] == 530
        client.login("anne", "secret")
        assert client.mail("anne@x.example")[0] == 250


def test_a_mechanism_of_the_handler_gets_words_and_responses(package: Any) -> None:
    got: list[Any] = []

    class Own(Keeper):
        async def auth_LOGIN(self, server, args):  # noqa: N802
            name = await server.challenge_auth("name?") if len(args) == 1 else args[1]
            password = await server.challenge_auth("password?")
            got.append((name, password))
            return package.smtp.AuthResult(success=True, auth_data="anne")

    with served(package, Own(), auth_require_tls=False) as client:
        client.ehlo()
        client.docmd("AUTH", "LOGIN")
        client.docmd(b64encode(b"anne").decode())
        assert client.docmd(b64encode(b"secret").decode())[0] == 235
    assert got == [(b"anne", b"secret")]


def test_a_decorated_mechanism_has_its_own_name(package: Any) -> None:
    got: list[Any] = []

    class Own(Keeper):
        @package.smtp.auth_mechanism("xoauth2")
        async def auth_token(self, server, args):
            got.append(args)
            return package.smtp.AuthResult(success=False, handled=False)

    response = b64encode(b"user=anne@x.example\x01auth=Bearer t0ken\x01\x01").decode()
    handler = Own()
    if package.is_ours:
        options: dict[str, Any] = {"auth_exclude_mechanism": ["PLAIN", "LOGIN"]}
    else:
        options = {"auth_exclude_mechanism": ["PLAIN", "LOGIN"]}
        Own.auth_token.__auth_mechanism_name__ = "XOAUTH2"
    with served(package, handler, auth_require_tls=False, **options) as client:
        client.ehlo()
        assert client.esmtp_features["auth"].split() == ["XOAUTH2"]
        code = client.docmd("AUTH", f"XOAUTH2 {response}")[0]
        if package.is_ours:  # RFC 7628 §3.2.3: the error comes first
            assert code == 334
            code = client.docmd("")[0]
        assert code == 535
    assert got == [["XOAUTH2", response]]


def test_handle_auth_sees_the_words_and_may_leave_the_step(package: Any) -> None:
    got: list[Any] = []

    class Seeing(Keeper):
        async def handle_AUTH(self, server, session, envelope, args):  # noqa: N802
            got.append(args[0])
            return package.smtp.MISSING

    code, _ = login_with(package, Seeing(), "plain", auth_callback=lambda *pair: True)
    assert (code, got) == (235, ["PLAIN"])


def test_a_name_that_is_no_mechanism_is_an_error_of_the_decorator(package: Any) -> None:
    with pytest.raises(ValueError):
        package.smtp.auth_mechanism("not a name")


def test_no_repr_has_a_password(package: Any) -> None:
    pair = package.smtp.LoginPassword(b"anne", b"secret")
    result = package.smtp.AuthResult(success=True, auth_data=pair)
    assert "secret" not in f"{pair!r} {pair} {result!r}"


def test_acting_for_another_user_is_refused_here() -> None:
    response = b64encode(b"boss\0anne\0secret").decode()
    options: dict[str, Any] = {"auth_callback": lambda *pair: True, "auth_require_tls": False}
    with served(ours_as_package(), Keeper(), **options) as client:
        client.ehlo()
        assert client.docmd("AUTH", f"PLAIN {response}")[0] == 535


# --- TLS, LMTP, PROXY ---


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of the server, and of a client that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HERE).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def test_starttls_calls_its_hook_and_begins_a_new_session(package: Any, contexts: Any) -> None:
    called: list[bool] = []

    class Secured(Recorder):
        def handle_STARTTLS(self, server, session, envelope):  # noqa: N802
            called.append(session.ssl is not None)
            return True

    handler = Secured()
    with served(package, handler, tls_context=contexts[0], require_starttls=True) as client:
        client.ehlo("before.example")
        assert client.mail("anne@x.example")[0] == 530
        client.starttls(context=contexts[1])
        client.ehlo("after.example")
        client.sendmail("anne@x.example", "bob@example.org", MESSAGE)
    assert called == [True]
    assert handler.sessions[0]["host_name"] == "after.example"
    assert handler.sessions[0]["ssl"] is not None


def test_a_starttls_hook_that_refuses_lets_no_mail_through(package: Any, contexts: Any) -> None:
    class Refusing(Keeper):
        def handle_STARTTLS(self, server, session, envelope):  # noqa: N802
            return False

    handler = Refusing()
    with served(package, handler, tls_context=contexts[0]) as client:
        client.ehlo()
        client.starttls(context=contexts[1])
        with contextlib.suppress(smtplib.SMTPException, OSError):
            client.sendmail("anne@x.example", "bob@example.org", MESSAGE)
        client.close()
    assert handler.envelopes == []


def test_an_ssl_context_is_tls_from_the_first_octet(package: Any, contexts: Any) -> None:
    handler = Keeper()
    place = HERE, free_port()
    controller = package.controller.Controller(handler, *place, ssl_context=contexts[0])
    controller.start()
    try:
        with smtplib.SMTP_SSL(*place, context=contexts[1], timeout=60) as client:
            client.sendmail("anne@x.example", "bob@example.org", MESSAGE)
    finally:
        controller.stop()
    assert len(handler.envelopes) == 1


def lmtp_controller(package: Any, handler: object, path: Path) -> Any:
    class LMTPController(package.controller.UnixSocketController):
        def factory(self):
            return package.lmtp.LMTP(self.handler)

    return LMTPController(handler, str(path))


def test_lmtp_speaks_lhlo_on_a_unix_socket(package: Any, tmp_path: Path) -> None:
    handler = Keeper()
    controller = lmtp_controller(package, handler, tmp_path / "lmtp")
    controller.start()
    try:
        with smtplib.LMTP(str(tmp_path / "lmtp"), timeout=60) as client:
            assert client.docmd("EHLO", "client.example")[0] >= 500
            client.sendmail("anne@x.example", "bob@example.org", MESSAGE)
    finally:
        controller.stop()
    assert handler.envelopes[0].rcpt_tos == ["bob@example.org"]


@pytest.mark.parametrize(
    "status, refused",
    [("250 OK", set()), ("250 OK\r\n452 full", {"eve@x"}), ("250-a\r\n250 b", set())],
)
def test_lmtp_has_a_reply_for_each_recipient_here(
    tmp_path: Path, status: str, refused: set[str]
) -> None:
    controller = lmtp_controller(ours_as_package(), answering(status), tmp_path / "lmtp")
    controller.start()
    try:
        with smtplib.LMTP(str(tmp_path / "lmtp"), timeout=60) as client:
            client.ehlo()
            client.mail("anne@x")
            client.rcpt("bob@x")
            client.rcpt("eve@x")
            code, _ = client.data(MESSAGE)
            second, _ = client.getreply()
    finally:
        controller.stop()
    assert (code, second) == (250, 452 if refused else 250)


def test_handle_proxy_decides_on_the_connection(package: Any) -> None:
    got: list[Any] = []

    class Behind(Keeper):
        async def handle_PROXY(self, server, session, envelope, proxy_data):  # noqa: N802
            got.append((str(proxy_data.src_addr), int(proxy_data.src_port), session.proxy_data))
            return str(proxy_data.src_addr) == "192.0.2.1"

    port = free_port()
    controller = package.controller.Controller(Behind(), HERE, port, proxy_protocol_timeout=10)
    controller.start()
    try:
        for client in ("192.0.2.1", "192.0.2.2"):
            with socket.create_connection((HERE, port), timeout=60) as sock:
                sock.sendall(f"PROXY TCP4 {client} {HERE} 40000 25\r\n".encode())
                greeted = sock.recv(1000).startswith(b"220 ")
            assert greeted is (client == "192.0.2.1")
    finally:
        controller.stop()
    assert [each[:2] for each in got] == [("192.0.2.1", 40000), ("192.0.2.2", 40000)]
    assert all(each[2] is not None for each in got)


# --- controllers ---


def test_an_unthreaded_controller_listens_on_a_loop_of_the_program(package: Any) -> None:
    loop = asyncio.new_event_loop()
    handler = Keeper()
    controller = package.controller.UnthreadedController(handler, HERE, free_port(), loop=loop)
    controller.begin()

    def send() -> None:
        with smtplib.SMTP(HERE, controller.port, timeout=60) as client:
            client.sendmail("anne@x.example", "bob@example.org", MESSAGE)

    loop.run_until_complete(asyncio.wait_for(loop.run_in_executor(None, send), 60))
    loop.run_until_complete(controller.finalize())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    asyncio.set_event_loop(None)
    assert controller.ended.is_set()
    assert len(handler.envelopes) == 1


def test_an_unthreaded_controller_that_begins_again_keeps_its_server() -> None:
    loop = asyncio.new_event_loop()
    controller = ours.UnthreadedController(Keeper(), HERE, 0, loop=loop)
    controller.begin()
    server = controller.server
    with pytest.raises(AssertionError, match="already running"):
        controller.begin()
    assert controller.server is server
    other = ours.UnthreadedController(Keeper(), HERE, controller.port, loop=loop)
    for _ in range(2):
        with pytest.raises(OSError):
            other.begin()
    assert other.server is None
    controller.end()
    other.begin()
    other.end()
    assert asyncio.all_tasks(loop) == set()
    loop.close()


def test_a_port_in_use_is_an_error_of_the_start(package: Any) -> None:
    with socket.socket() as taken:
        taken.bind((HERE, 0))
        taken.listen()
        port = taken.getsockname()[1]
        controller = package.controller.Controller(Keeper(), HERE, port, ready_timeout=0.3)
        with pytest.raises(OSError):
            controller.start()
        with contextlib.suppress(Exception):
            controller.stop(no_assert=True)


def test_a_second_start_and_a_second_stop_are_assertions(package: Any) -> None:
    controller = package.controller.Controller(Keeper(), HERE, free_port())
    with pytest.raises(AssertionError):
        controller.stop()
    controller.start()
    with pytest.raises(AssertionError):
        controller.start()
    controller.stop()
    with pytest.raises(AssertionError):
        controller.stop()


def test_port_0_is_the_port_that_it_has_here_and_it_starts_again() -> None:
    handler = Keeper()
    controller = ours.Controller(handler, HERE, port=0)
    for _ in range(2):
        controller.start()
        with smtplib.SMTP(HERE, controller.port, timeout=60) as client:
            client.sendmail("anne@x.example", "bob@example.org", MESSAGE)
        controller.stop()
    assert len(handler.envelopes) == 2


# --- handlers ---


def test_debugging_prints_the_same(package: Any) -> None:
    stream = io.StringIO()
    with served(package, package.handlers.Debugging(stream)) as client:
        client.ehlo()
        client.mail("anne@x.example", ["SIZE=50"])
        client.rcpt("bob@example.org")
        client.data(MESSAGE)
    lines = stream.getvalue().splitlines()
    assert lines.pop(4).startswith(f"X-Peer: ('{HERE}', ")
    assert lines == [
        "---------- MESSAGE FOLLOWS ----------",
        "mail options: ['SIZE=50']",
        "",
        "Subject: hello",
        "",
        "Body",
        "------------ END MESSAGE ------------",
    ]


@pytest.mark.parametrize("base", ["Message", "AsyncMessage"])
@pytest.mark.parametrize("decode_data", [False, True])
def test_message_handlers_get_a_message_with_the_envelope(
    package: Any, base: str, decode_data: bool
) -> None:
    got: list[EmailMessage] = []

    class Plain(package.handlers.Message):
        def handle_message(self, message):
            got.append(message)

    class Coroutine(package.handlers.AsyncMessage):
        async def handle_message(self, message):
            got.append(message)

    if base == "Message":
        handler: Any = Plain()
    else:
        loop = asyncio.new_event_loop()
        handler = Coroutine(loop=loop)
        loop.close()
    with served(package, handler, decode_data=decode_data) as client:
        client.sendmail("anne@x.example", ["bob@x.example", "eve@x.example"], MESSAGE)
    (message,) = got
    assert message["X-Peer"].startswith(f"('{HERE}', ")
    assert message["X-MailFrom"] == "anne@x.example"
    assert message["X-RcptTo"] == "bob@x.example, eve@x.example"
    assert message.get_payload().splitlines() == ["Body"]


def test_a_mailbox_keeps_messages_until_its_reset(package: Any, tmp_path: Path) -> None:
    handler = package.handlers.Mailbox(tmp_path / "box")
    with served(package, handler) as client:
        client.sendmail("anne@x.example", "bob@example.org", MESSAGE)
        client.sendmail("eve@x.example", "bob@example.org", MESSAGE)
    stored = list(mailbox.Maildir(tmp_path / "box"))
    assert sorted(each["X-MailFrom"] for each in stored) == ["anne@x.example", "eve@x.example"]
    handler.reset()
    assert list(mailbox.Maildir(tmp_path / "box")) == []


def test_a_proxy_passes_a_message_on(package: Any) -> None:
    behind = Keeper()
    other = package.controller.Controller(behind, HERE, free_port())
    other.start()
    try:
        with served(package, package.handlers.Proxy(HERE, other.port)) as client:
            client.sendmail("anne@x.example", ["bob@x.example", "eve@x.example"], MESSAGE)
    finally:
        other.stop()
    (envelope,) = behind.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == (
        "anne@x.example",
        ["bob@x.example", "eve@x.example"],
    )
    assert envelope.content == b"Subject: hello\r\nX-Peer: 127.0.0.1\r\n\r\nBody\r\n"


def test_a_proxy_passes_a_refusal_back_here_and_loses_nothing() -> None:
    class Refusing(Keeper):
        async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
            if address.startswith("eve"):
                return "550 no eve"
            envelope.rcpt_tos.append(address)
            return "250 OK"

    behind = Refusing()
    other = ours.Controller(behind, HERE, port=0)
    other.start()
    package = ours_as_package()
    try:
        proxy = ours.Proxy(HERE, other.port)
        code, text = reply_to_mail(package, proxy, ["bob@x.example", "eve@x.example"])
    finally:
        other.stop()
    assert (code, text) == (550, b"no eve")
    assert behind.envelopes == []
    code, _ = reply_to_mail(package, ours.Proxy(HERE, other.port))
    assert code == 451


@pytest.mark.parametrize(
    "name, arguments, fails",
    [
        ("Debugging", [], False),
        ("Debugging", ["stdout"], False),
        ("Debugging", ["stderr"], False),
        ("Debugging", ["file"], True),
        ("Debugging", ["stdout", "stderr"], True),
        ("Sink", [], False),
        ("Sink", ["x"], True),
        ("Mailbox", ["BOX"], False),
        ("Mailbox", [], True),
        ("Mailbox", ["BOX", "x"], True),
    ],
)
def test_from_cli_takes_the_same_arguments(
    package: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    arguments: list[str],
    fails: bool,
) -> None:
    given = [str(tmp_path / each) if each == "BOX" else each for each in arguments]
    make: Callable[..., object] = getattr(package.handlers, name).from_cli
    if not fails:
        assert type(make(ArgumentParser(), *given)).__name__ == name
        return
    with pytest.raises(SystemExit):
        make(ArgumentParser(), *given)
    assert name in capsys.readouterr().err or name == "Mailbox"


# --- what cannot run ---


def with_method(name: str, function: object) -> object:
    return type("Handler", (Keeper,), {name: function})()


async def taking_what_it_likes(*arguments: object) -> str:
    return "250 OK"


@pytest.mark.parametrize("command", ["RSET", "NOOP", "QUIT"])
def test_a_hook_that_the_engine_never_calls_is_an_error_at_construction(command: str) -> None:
    handler = with_method(f"handle_{command}", taking_what_it_likes)
    for make in (ours.Controller, ours.SMTP, ours.UnthreadedController):
        with pytest.raises(TypeError, match=f"Handler.handle_{command} cannot run: the engine"):
            make(handler)


def test_a_hook_with_other_parameters_is_an_error_at_construction() -> None:
    async def handle(self: object, server: object, session: object) -> str:
        return "250 OK"

    with pytest.raises(TypeError, match=r"handle_RCPT cannot run: it is called with \(server, se"):
        ours.Controller(with_method("handle_RCPT", handle))
    with pytest.raises(TypeError, match="handle_DATA cannot run: it is not a method"):
        ours.Controller(with_method("handle_DATA", "250 OK"))


@pytest.mark.parametrize("name", ["handle_rcpt", "handle_Data", "handle_EXCEPTION"])
def test_a_hook_in_other_letters_is_an_error_at_construction(name: str) -> None:
    with pytest.raises(TypeError, match=f"Handler.{name} would never be called: it is handle_"):
        ours.Controller(with_method(name, taking_what_it_likes))


def test_a_handler_that_keeps_nothing_is_an_error_at_construction() -> None:
    with pytest.raises(TypeError, match="object has no handle_DATA: every message would be"):
        ours.Controller(object())
    ours.Controller(ours.Sink())


def test_verbs_and_mechanisms_of_a_program_are_errors_at_construction() -> None:
    verb = type("Server", (ours.SMTP,), {"smtp_XPING": taking_what_it_likes})
    with pytest.raises(TypeError, match=r"Server.smtp_XPING cannot run: the engine answers XPING"):
        verb(Keeper())
    old = type("Server", (ours.SMTP,), {"rset_hook": taking_what_it_likes})
    with pytest.raises(TypeError, match=r"Server.rset_hook cannot run: use handle_MAIL"):
        old(Keeper())
    with pytest.raises(TypeError, match=r"Handler.auth_CRAM__MD5 cannot run: the engine does not"):
        ours.Controller(with_method("auth_CRAM__MD5", taking_what_it_likes))


@pytest.mark.parametrize(
    "options, told",
    [
        ({"command_call_limit": 5}, "command_call_limit cannot be set"),
        ({"auth_required": True}, "auth_required needs an authenticator"),
        ({"proxy_protocol_timeout": 5}, "Keeper has no handle_PROXY"),
        ({"colour": "red"}, "colour"),
        ({"loop": object()}, "loop: the thread makes its own"),
    ],
)
def test_a_setting_that_cannot_be_kept_is_an_error_at_construction(
    options: dict[str, Any], told: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        ours.Controller(Keeper(), **options)


def test_push_in_a_hook_is_a_failure_that_acknowledges_nothing() -> None:
    class Pushing:
        async def handle_DATA(self, server, session, envelope):  # noqa: N802
            await server.push("250-kept")
            return "250 OK"

    code, _ = reply_to_mail(ours_as_package(), Pushing())
    assert code == 451


def test_smtp_as_a_protocol_of_asyncio_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="UnthreadedController"):
        ours.SMTP(Keeper()).connection_made(asyncio.BaseTransport())
