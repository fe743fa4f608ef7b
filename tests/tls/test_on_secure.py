"""`on_secure`: when it is asked, what it sees, what its answers do, and what its faults do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from scenario import EH, TX, codes
from tls_kit import (
    KINDS,
    MemoryClient,
    MemoryTLS,
    authority,
    ca_pem,
    certified,
    client_context,
    met,
)

from fastsmtp import SMTPError, SMTPServer
from fastsmtp.testing import Wire

row = pytest.mark.row
AUTHORITY_INFORMATION_ACCESS = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.1")
STYLES = ("callback", "coroutine", "coroutine with callback")


def hook(style: str, act: Callable[[Any, Any], Any]) -> Any:
    """`act` is called with (socket, session); what it raises rejects or fails."""
    if style == "callback":

        def plain(socket: Any, session: Any, callback: Any) -> None:
            try:
                act(socket, session)
            except SMTPError as error:
                callback(error)
            else:
                callback()

        return plain
    if style == "coroutine":

        async def coroutine(socket: Any, session: Any) -> None:
            await asyncio.sleep(0)
            act(socket, session)

        return coroutine

    async def both(socket: Any, session: Any, callback: Any) -> None:
        await asyncio.sleep(0)
        act(socket, session)
        callback()

    return both


@row("HOOK-01")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", KINDS)
def test_on_secure_is_called_once_after_each_handshake(kind: str, style: str) -> None:
    seen: list[Any] = []
    wire, client = met(kind, hook(style, lambda socket, session: seen.append((socket, session))))
    with wire:
        assert client.codes(EH) == ["250"]
        ((socket, session),) = seen
        assert session is wire.session
        assert socket.version == "TLSv1.3"
        assert socket.name == socket.standard_name == "TLS_AES_256_GCM_SHA384"
        assert socket.servername == session.servername == "srv.test"
        assert socket.alpn is None
        assert (socket.certificate, socket.certificate_der) == (None, None)
        assert not socket.verified
        assert session.secure
        assert session.tls_options == socket.options()
        assert "TLSv1.3" in repr(socket)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_rejection_without_a_code_closes_without_a_reply(kind: str, style: str) -> None:
    def no(socket: Any, session: Any) -> None:
        raise SMTPError("go away")

    wire, client = met(kind, hook(style, no))
    with wire:
        assert client.hear() == b""
        assert client.tls is not None
        assert client.tls.ended
        assert wire.closed


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_rejection_with_a_code_is_sent_only_in_place_of_the_greeting(
    kind: str, style: str
) -> None:
    def no(socket: Any, session: Any) -> None:
        raise SMTPError("not with that cipher", 554)

    wire, client = met(kind, hook(style, no))
    with wire:
        expected = b"554 not with that cipher\r\n" if kind == "implicit" else b""
        assert client.hear() == expected
        assert wire.closed


@row("HOOK-14")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_that_changes_its_argument_does_not_authenticate_the_client(
    kind: str, style: str
) -> None:
    asked: list[Any] = []

    def forge(socket: Any, session: Any) -> None:
        forged = {"subject": ((("commonName", "root"),),)}
        socket.verified = session.tls_options["verified"] = True
        socket.certificate = session.tls_options["peer_certificate"] = forged

    server = SMTPServer(
        **certified(
            secure=kind == "implicit",
            on_secure=hook(style, forge),
            on_auth=lambda auth, session, callback: asked.append(auth),
            auth_methods=["EXTERNAL"],
            auth_optional=True,
        )
    )
    with Wire(server) as wire:
        client = MemoryClient(wire)
        if kind == "STARTTLS":
            client.greet()
        client.handshake()
        client.hear()
        assert b"AUTH" not in client.say(EH)
        assert codes(client.say(b"AUTH EXTERNAL =\r\n")) == ["504 5.5.4"]
    assert not asked


@row("HOOK-14")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_that_fails_costs_the_connection(kind: str, style: str) -> None:
    def fails(socket: Any, session: Any) -> None:
        raise RuntimeError("secret")

    errors: list[Any] = []
    server = SMTPServer(
        **certified(secure=kind == "implicit", on_secure=hook(style, fails), on_close=errors.append)
    )
    server.on("error", errors.append)
    with Wire(server) as wire:
        client = MemoryClient(wire)
        if kind == "STARTTLS":
            assert client.greet() == "220 2.0.0"
        client.handshake()
        said = codes(client.hear())
        assert said == (["421"] if kind == "implicit" else [])
        assert wire.closed
        assert isinstance(errors[0], RuntimeError)
        assert errors[0].stage == "on_secure"
        assert errors[0].session_id == wire.session.id


@row("HOOK-02", "HOOK-14")
@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_that_never_answers_costs_the_connection(kind: str) -> None:
    wire, client = met(kind, lambda socket, session, callback: None)
    with wire:
        assert client.advance(29) == b""
        assert codes(client.advance(2)) == (["421"] if kind == "implicit" else [])
        assert wire.closed


@pytest.mark.parametrize("kind", KINDS)
def test_commands_wait_for_the_answer_of_on_secure(kind: str) -> None:
    answers: list[Any] = []
    wire, client = met(kind, lambda socket, session, callback: answers.append(callback))
    with wire:
        assert client.say(EH) == b""
        wire.loop.step(answers[0])
        assert codes(client.hear()) == (["220", "250"] if kind == "implicit" else ["250"])
        assert client.advance(299) == b""
        assert codes(client.advance(2)) == ["421 4.4.2"]


@row("TLS-13")
def test_a_client_has_its_time_for_a_command_after_the_answer_of_on_secure() -> None:
    answers: list[Any] = []
    wire, client = met("STARTTLS", lambda socket, session, callback: answers.append(callback))
    with wire:
        wire.loop.step(answers[0])
        assert client.advance(299) == b""
        assert codes(client.advance(2)) == ["421 4.4.2"]


@row("OPS-02")
def test_a_closing_server_waits_for_the_answer_of_on_secure() -> None:
    answers: list[Any] = []
    wire, client = met("STARTTLS", lambda socket, session, callback: answers.append(callback))
    with wire:
        closing = wire.loop.create_task(wire.server.close())
        wire.loop.advance()
        assert client.hear() == b""
        wire.loop.step(answers[0])
        assert codes(client.hear()) == ["421 4.3.2"]
        wire.eof()
        wire.run(closing)


def test_a_client_that_leaves_during_on_secure_is_released() -> None:
    answers: list[Any] = []
    closed: list[Any] = []
    wire, _ = met(
        "STARTTLS",
        lambda socket, session, callback: answers.append(callback),
        on_close=closed.append,
    )
    with wire:
        wire.reset()
        assert len(closed) == 1
        answers[0]()


def test_on_secure_comes_after_on_connect_under_implicit_tls_unless_that_refuses() -> None:
    order: list[str] = []

    def on_connect(session: Any, callback: Any) -> None:
        order.append("connect")
        callback(SMTPError("no") if len(order) > 2 else None)

    def on_secure(socket: Any, session: Any, callback: Any) -> None:
        order.append("secure")
        callback()

    for _ in range(2):
        wire, _client = met("implicit", on_secure, on_connect=on_connect)
        wire.close()
    assert order == ["connect", "secure", "connect"]


def test_on_secure_is_not_called_where_tls_ends_upstream() -> None:
    def on_secure(socket: Any, session: Any, callback: Any) -> None:
        raise AssertionError

    with Wire(**certified(secured=True, on_secure=on_secure)) as wire:
        assert codes(wire.send(EH)) == ["220", "250"]


@row("TLS-20")
def test_on_secure_sees_the_certificate_of_the_client() -> None:
    seen: list[Any] = []
    options = {"ca": ca_pem(), "request_cert": True}
    own = authority().issue_cert("client.example", common_name="a client")

    def on_secure(socket: Any, session: Any, callback: Any) -> None:
        seen.append(socket)
        callback()

    with Wire(**certified(on_secure=on_secure, **options)) as wire:
        client = MemoryClient(wire, context=client_context(own=own))
        assert client.greet() == "220 2.0.0"
        client.handshake()
        assert client.codes(EH) == ["250"]
        (socket,) = seen
        assert socket.verified
        assert socket.authorized
        assert ("DNS", "client.example") in socket.certificate["subjectAltName"]
        assert socket.certificate_der[:1] == b"\x30"
        assert wire.session.tls_options["peer_certificate"] == socket.certificate
        assert wire.session.tls_options["peer_certificate_der"] == socket.certificate_der
        assert wire.session.tls_options["verified"] is True
        assert client.codes(TX) == ["250 2.1.0", "250 2.1.5"]


class RejectionWithoutCode(SMTPError):
    """A rejection whose attributes raise."""

    @property
    def response_code(self) -> int:  # type: ignore[override]
        raise RuntimeError("no code")

    @response_code.setter
    def response_code(self, value: object) -> None:
        """Not kept."""


@row("HOOK-04")
@pytest.mark.parametrize(("kind", "said"), [("implicit", ["421"]), ("STARTTLS", [])])
def test_a_rejection_whose_code_cannot_be_read_is_a_failure(kind: str, said: list[str]) -> None:
    wire, client = met(kind, lambda socket, session, callback: callback(RejectionWithoutCode()))
    with wire:
        assert codes(client.hear()) == said
        assert wire.closed


def with_an_unreadable_extension() -> bytes:
    """A certificate with its key, whose extensions are malformed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "c.example")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2099, 1, 1, tzinfo=UTC))
        .add_extension(x509.UnrecognizedExtension(AUTHORITY_INFORMATION_ACCESS, b"x"), False)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem = serialization.Encoding.PEM
    return made.public_bytes(pem) + key.private_bytes(pem, *form)


@row("TLS-20")
def test_a_certificate_that_cannot_be_read_harms_no_other_client(tmp_path: Path) -> None:
    # What OpenSSL finds wrong stays in a queue of the thread, and the next to look takes it for
    # its own.
    (tmp_path / "own").write_bytes(with_an_unreadable_extension())
    context = client_context()
    context.load_cert_chain(tmp_path / "own")
    lenient = {"request_cert": True, "reject_unauthorized": False, "ca": ca_pem()}
    with Wire(**certified(secure=True)) as quiet, Wire(**certified(secure=True, **lenient)) as wire:
        other = MemoryClient(quiet)
        tls = other.handshake()
        assert codes(other.hear()) == ["220"]
        record = tls.encrypt(EH)
        stranger = MemoryTLS(context)
        wire.send(stranger.shake(wire.send(stranger.shake())))
        assert wire.session.tls_options["peer_certificate_der"] is not None
        assert quiet.send(record[:9]) == b""
        assert codes(tls.decrypt(quiet.send(record[9:]))) == ["250"]
