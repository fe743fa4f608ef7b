"""AUTH, TLS and XCLIENT on one connection: what each of them leaves of the others, and the two
mechanisms that lean on TLS itself, with real certificates.

Each by itself: auth/test_auth_command.py, tls/test_starttls.py, smtp/test_xclient.py.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from sasl_kit import ALL_METHODS, ANN, AuthHooks, ScramClient, b64
from scenario import EH, TX, codes
from tls_kit import (
    TLS12,
    MemoryClient,
    authority,
    ca_pem,
    certified,
    client_context,
    issue,
    made,
    pair,
)

from fastsmtp import SMTPServer
from fastsmtp.testing import Wire

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

RELAY = ("10.0.0.7", 40000)
TRUSTED: dict[str, Any] = {"use_xclient": ["10.0.0.0/8"], "use_xforward": ["10.0.0.0/8"]}
ALL: dict[str, Any] = {"auth_methods": ALL_METHODS}
PLAIN = b"AUTH PLAIN " + b64("\0ann\0pw") + b"\r\n"
MAIL = b"MAIL FROM:<a@x.example>\r\n"
DONE, INVALID, WRONG, NEEDED = "235 2.7.0", "501 5.5.2", "535 5.7.8", "530 5.7.0"
VERSIONS = pytest.mark.parametrize("version", [{}, TLS12], ids=["1.3", "1.2"])
MODES = pytest.mark.parametrize("secure", [True, False], ids=["implicit", "STARTTLS"])


def by_name(auth: Any, session: Any, callback: Callable[..., object]) -> None:
    """The hook that accepts every login under the name that was given."""
    callback(None, {"user": auth.username})


def inside(wire: Wire, **client: Any) -> MemoryClient:
    """A client that has done the handshake the way the server wants, and has not greeted since."""
    found = MemoryClient(wire, **client)
    if not wire.server.options.secure:
        assert found.greet() == "220 2.0.0"
    found.handshake()
    found.hear()
    return found


def offered(greeting: bytes) -> list[str]:
    """The mechanisms in the answer to EHLO."""
    lines = [line[4:].split() for line in greeting.decode().splitlines()]
    return next((words[1:] for words in lines if words[0] == "AUTH"), [])


# --- EXTERNAL ---


def with_certificate(kind: str, version: dict[str, Any]) -> ssl.SSLContext:
    context = client_context(**version)
    if kind == "good":
        authority().issue_cert("client.test", common_name="ann").configure_cert(context)
    elif kind == "of others":
        authority("theirs").issue_cert("client.test", common_name="ann").configure_cert(context)
    return context


@row("TLS-20", "AUTH-14")
@MODES
@VERSIONS
@pytest.mark.parametrize("kind", ["good", "of others", "none"])
def test_external_is_for_clients_with_a_certificate_that_is_good(
    kind: str, version: dict[str, Any], secure: bool
) -> None:
    hooks = AuthHooks(lambda auth, session: {"user": auth.certificate["subject"][-1][0][1]})
    lenient = {"ca": ca_pem(), "request_cert": True, "reject_unauthorized": False}
    with Wire(**certified(secure=secure, **lenient, **ALL, **hooks.options())) as wire:
        client = inside(wire, context=with_certificate(kind, version))
        assert ("EXTERNAL" in offered(client.say(EH))) is (kind == "good")
        if kind != "good":
            assert client.codes(b"AUTH EXTERNAL =\r\n") == ["504 5.5.4"]
            assert hooks.asked == []
            return
        assert client.codes(b"AUTH EXTERNAL " + b64("role") + b"\r\n") == [DONE]
        (auth,) = hooks.asked
        assert auth.certificate == wire.session.tls_options["peer_certificate"]
        assert (auth.username, auth.authzid) == ("role", "role")
        assert wire.session.user == "ann"
        assert offered(client.say(EH)) == []
        assert wire.session.transmission_type == "ESMTPSA"


@row("TLS-20", "AUTH-14")
def test_external_needs_a_certificate_that_was_asked_for() -> None:
    hooks = AuthHooks()
    with Wire(**certified(**ALL, **hooks.options())) as wire:
        client = inside(wire, context=with_certificate("good", {}))
        assert "EXTERNAL" not in offered(client.say(EH))
        assert client.codes(b"AUTH EXTERNAL =\r\n") == ["504 5.5.4"]


# --- SCRAM-SHA-256-PLUS ---

PLUS = "SCRAM-SHA-256-PLUS"


def end_point(client: MemoryClient) -> bytes:
    """The binding as the client computes it: from the certificate it was shown (RFC 5929 §4)."""
    assert client.tls is not None
    der = client.tls.tls.getpeercert(True)
    assert der is not None
    algorithm = x509.load_der_x509_certificate(der).signature_hash_algorithm
    assert algorithm is not None
    return hashlib.new(algorithm.name, der).digest()


def binding_of(client: MemoryClient, kind: str) -> bytes:
    assert client.tls is not None
    if kind == "tls-server-end-point":
        return end_point(client)
    return client.tls.tls.get_channel_binding(kind) or b""


def say_scram(client: MemoryClient, scram: ScramClient, method: str = PLUS) -> list[str]:
    """The whole exchange as far as it goes; returns all its codes."""
    found: list[str] = []
    line = b"AUTH %b %b\r\n" % (method.encode(), b64(scram.first))
    for answer in (scram.final, lambda challenge: b""):
        said = client.say(line)
        found += codes(said)
        if not said.startswith(b"334 "):
            return found
        line = b64(answer(base64.b64decode(said[4:]))) + b"\r\n"
    return found + client.codes(line)


def bound(kind: str, octets: bytes) -> ScramClient:
    return ScramClient(header=f"p={kind},,".encode(), binding=octets)


@row("AUTH-07")
@MODES
@VERSIONS
@pytest.mark.parametrize("kind", ["tls-server-end-point", "tls-exporter", "tls-unique"])
def test_plus_is_bound_to_the_tls_of_the_connection(
    kind: str, version: dict[str, Any], secure: bool
) -> None:
    has_it = kind == "tls-server-end-point" or (
        kind in ssl.CHANNEL_BINDING_TYPES and (kind == "tls-unique") is bool(version)
    )
    with Wire(**certified(secure=secure, **ALL, **AuthHooks().options())) as wire:
        client = inside(wire, context=client_context(**version))
        assert PLUS in offered(client.say(EH))
        if not has_it:
            assert say_scram(client, bound(kind, b"\x01" * 32)) == [INVALID]
            assert wire.session.user is None
            return
        assert say_scram(client, bound(kind, b"\x01" * 32)) == ["334", INVALID]
        assert say_scram(client, bound(kind, binding_of(client, kind))) == ["334", "334", DONE]
        assert wire.session.user == "ann"


@row("AUTH-07")
def test_a_proof_bound_to_another_connection_is_refused() -> None:
    """Somebody in the middle has shown the client a certificate of their own."""
    context = client_context(ca=None, **TLS12)
    with Wire(**certified(**ALL, **AuthHooks().options())) as wire, Wire(**certified()) as other:
        client = inside(wire, context=context)
        client.say(EH)
        middle = inside(other, context=context)
        unique = binding_of(middle, "tls-unique")
        assert say_scram(client, bound("tls-unique", unique)) == ["334", INVALID]
        theirs = made()
        with Wire(**certified(cert=theirs.cert, key=theirs.key)) as another:
            middle = inside(another, context=context)
            shown = bound("tls-server-end-point", end_point(middle))
            assert say_scram(client, shown) == ["334", INVALID]
        assert wire.session.user is None


@row("AUTH-07", "OPS-01")
def test_a_proof_is_bound_to_the_certificate_that_the_client_was_shown() -> None:
    """Not the one that has taken its place since, nor that of another name."""
    old, new, named = issue("srv.test"), issue("srv.test"), pair("b.test")
    given = certified(cert=old.cert, key=old.key, sni_options={"b.test": named._asdict()})
    server = SMTPServer(**given, **ALL, **AuthHooks().options())
    with Wire(server) as wire:
        client = inside(wire)
        server.update_secure_context(cert=new.cert, key=new.key)
        client.say(EH)
        shown = bound("tls-server-end-point", end_point(client))
        assert say_scram(client, shown) == ["334", "334", DONE]
        with Wire(server, loop=wire.loop) as second:
            other = inside(second, server_name="b.test")
            other.say(EH)
            assert end_point(other) != end_point(client)
            shown = bound("tls-server-end-point", end_point(other))
            assert say_scram(other, shown) == ["334", "334", DONE]


def ready_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("srv.test").configure_cert(context)
    return context


@row("AUTH-07", "AUTH-14")
@VERSIONS
@pytest.mark.parametrize("kind", ["ssl_context", "ed25519"])
def test_plus_is_offered_only_where_something_can_be_bound(
    kind: str, version: dict[str, Any]
) -> None:
    """The certificate of a ready context is not known, and one of Ed25519 names no hash (RFC 5929
    §4.1). Then it is up to what the version of TLS gives. To offer what always fails would keep out
    clients that insist on the best that is offered.
    """
    if kind == "ssl_context":
        given: dict[str, Any] = {"ssl_context": ready_context()}
    else:
        given = made(ed25519.Ed25519PrivateKey.generate())._asdict()
    works = "tls-unique" if version else "tls-exporter"
    hooks = AuthHooks()
    with Wire(**{"auth_optional": True, **given, **ALL, **hooks.options()}) as wire:
        client = inside(wire, context=client_context(ca=None, **version))
        found = offered(client.say(EH))
        assert "SCRAM-SHA-256" in found
        assert (PLUS in found) is (works in ssl.CHANNEL_BINDING_TYPES)
        if PLUS in found:
            shown = bound(works, binding_of(client, works))
            assert say_scram(client, shown) == ["334", "334", DONE]
            return
        assert say_scram(client, bound("tls-server-end-point", b"x")) == ["504 5.5.4"]
        # A client that could bind, and was offered nothing to bind with, says so.
        without = ScramClient(header=b"y,,")
        assert say_scram(client, without, "SCRAM-SHA-256") == ["334", "334", DONE]


# --- AUTH and STARTTLS ---


@row("AUTH-10", "AUTH-15", "TLS-07")
def test_a_user_logged_in_before_starttls_has_to_log_in_again_after_it() -> None:
    hooks = AuthHooks()
    given = {**ALL, **hooks.options(), "allow_insecure_auth": True, "auth_optional": False}
    with Wire(**certified(**given)) as wire:
        client = MemoryClient(wire)
        wire.receive()
        assert PLUS not in offered(wire.send(EH))
        assert codes(wire.send(PLAIN, MAIL)) == [DONE, "250 2.1.0"]
        assert client.starttls() == "220 2.0.0"
        client.handshake()
        assert wire.session.user is None
        assert client.codes(PLAIN) == ["503 5.5.1"]  # the greeting is gone too
        assert PLUS in offered(client.say(EH))
        assert client.codes(MAIL) == [NEEDED]
        assert wire.session.transmission_type == "ESMTPS"
        assert client.codes(PLAIN) == [DONE]
        assert client.codes(PLAIN) == ["503 5.5.1"]
        assert client.codes(TX) == ["250 2.1.0", "250 2.1.5"]
        assert wire.session.transmission_type == "ESMTPSA"
        assert client.codes(b"STARTTLS\r\n") == ["503 5.5.1"]
        assert wire.session.user == "ann"
    assert len(hooks.asked) == 2


@row("AUTH-10", "AUTH-15")
@MODES
def test_a_user_stays_logged_in_over_greetings_and_rset_within_tls(secure: bool) -> None:
    given = {"on_auth": by_name, "auth_optional": False}
    with Wire(**certified(secure=secure, **given)) as wire:
        client = inside(wire)
        client.say(EH)
        assert client.codes(PLAIN) == [DONE]
        for step in (b"RSET\r\n", EH, b"HELO c.example\r\n", EH):
            client.say(step)
            assert wire.session.user == "ann"
        assert client.codes(TX) == ["250 2.1.0", "250 2.1.5"]


@row("TLS-10", "TLS-11")
def test_a_secret_is_refused_before_tls_and_taken_within_it() -> None:
    hooks = AuthHooks()
    for options, refusal in (({}, "538 5.7.11"), ({"needs_upgrade": True}, NEEDED)):
        with Wire(**certified(**options, **hooks.options(), auth_optional=False)) as wire:
            wire.receive()
            assert offered(wire.send(EH)) == []
            assert codes(wire.send(PLAIN)) == [refusal]
            assert codes(wire.send(b"AUTH LOGIN\r\n")) == [refusal]
            assert hooks.asked == []
            client = MemoryClient(wire)
            assert client.starttls() == "220 2.0.0"
            client.handshake()
            client.say(EH)
            assert client.codes(PLAIN + TX) == ["554 5.5.0"]  # its reply has to be waited for
        with Wire(**certified(needs_upgrade=True, **hooks.options(), auth_optional=False)) as wire:
            client = inside(wire)
            client.say(EH)
            assert client.codes(PLAIN) == [DONE]
        hooks.asked.clear()


@row("AUTH-05", "TLS-01")
def test_starttls_within_an_exchange_is_the_answer_of_the_exchange() -> None:
    hooks = AuthHooks()
    with Wire(**certified(**hooks.options(), allow_insecure_auth=True)) as wire:
        wire.receive()
        wire.send(EH)
        assert codes(wire.send(b"AUTH LOGIN\r\n")) == ["334"]
        assert codes(wire.send(b"STARTTLS\r\n")) == [INVALID]  # good base64, and no good name
        client = MemoryClient(wire)
        assert client.starttls() == "220 2.0.0"
        client.handshake()
        client.say(EH)
        assert client.codes(PLAIN) == [DONE]
    (auth,) = hooks.asked
    assert auth.username == "ann"


@row("AUTH-11", "TLS-07")
def test_failures_before_starttls_are_counted_after_it() -> None:
    hooks = AuthHooks(auth=None)
    with Wire(**certified(**hooks.options(), allow_insecure_auth=True)) as wire:
        wire.receive()
        wire.send(EH)
        assert codes(wire.send(PLAIN)) == [WRONG]
        client = MemoryClient(wire)
        assert client.starttls() == "220 2.0.0"
        client.handshake()
        client.say(EH)
        assert client.codes(PLAIN) == [WRONG]
        assert client.codes(PLAIN) == ["421 4.7.0"]
        assert wire.closed


@row("LINE-07", "AUTH-04")
@MODES
@VERSIONS
def test_long_lines_are_read_within_tls(secure: bool, version: dict[str, Any]) -> None:
    hooks = AuthHooks()
    with Wire(**certified(secure=secure, **hooks.options())) as wire:
        client = inside(wire, context=client_context(**version))
        client.say(EH)
        password = "p" * 9211
        long = b64(f"\0ann\0{password}")
        assert len(long) == 12288
        assert client.codes(b"AUTH PLAIN\r\n") == ["334"]
        assert client.codes(long + b"A\r\n") == ["500 5.5.6"]
        assert client.codes(b"AUTH PLAIN\r\n") == ["334"]
        assert codes(client.say(long + b"\r\n", cuts=77)) == [DONE]
        assert client.codes(b"NOOP " + b"x" * 2050 + b"\r\n") == ["500 5.5.2"]
    (auth,) = hooks.asked
    assert auth.password == password


@row("SLOW-07")
@MODES
def test_an_answer_that_does_not_come_times_out_within_tls_too(secure: bool) -> None:
    with Wire(**certified(secure=secure, **AuthHooks().options())) as wire:
        client = inside(wire)
        client.say(EH)
        assert client.codes(b"AUTH LOGIN\r\n") == ["334"]
        assert client.advance(59) == b""
        assert client.codes(b"A") == []
        assert codes(client.advance(1.1)) == ["421 4.4.2"]
        assert wire.closed


@row("AUTH-05", "TLS-16")
@pytest.mark.parametrize("end", ["close_notify", "FIN", "RST"])
def test_a_client_that_leaves_within_an_exchange_is_released(end: str) -> None:
    hooks, closed = AuthHooks(), []
    given = certified(**hooks.options(), on_close=closed.append)
    with Wire(**given) as wire:
        client = inside(wire)
        client.say(EH)
        assert client.codes(b"AUTH LOGIN\r\n") == ["334"]
        assert client.tls is not None
        if end == "close_notify":
            wire.send(client.tls.close_notify() + b"YW5u\r\n")
        elif end == "FIN":
            wire.eof()
        else:
            wire.reset()
        if not wire.transport.closed:
            wire.eof()
        assert wire.transport.closed
        assert hooks.asked == []
        assert closed == [wire.session]


# --- XCLIENT ---


@row("AUTH-15", "XCL-06")
@MODES
def test_a_user_logged_in_by_auth_has_to_log_in_again_after_xclient(secure: bool) -> None:
    given = {**TRUSTED, "on_auth": by_name, "auth_optional": False}
    with Wire(peer=RELAY, **certified(secure=secure, **given)) as wire:
        client = inside(wire)
        client.say(EH)
        assert client.codes(PLAIN) == [DONE]
        assert client.codes(b"XCLIENT ADDR=10.0.0.9\r\n") == ["220"]
        assert wire.session.user is None
        assert wire.session.secure
        assert offered(client.say(EH)) == ["LOGIN", "PLAIN"]
        assert client.codes(MAIL) == [NEEDED]
        assert client.codes(PLAIN) == [DONE]
        assert client.codes(MAIL) == ["250 2.1.0"]
        assert wire.session.transmission_type == "ESMTPSA"


@row("AUTH-15", "XCL-06")
@MODES
def test_xclient_login_satisfies_required_authentication(secure: bool) -> None:
    """A user that the relay has authenticated need not log in again."""
    given = {**TRUSTED, "on_auth": by_name, "auth_optional": False}
    with Wire(peer=RELAY, **certified(secure=secure, **given)) as wire:
        session = wire.session
        client = inside(wire)
        client.say(EH)
        assert client.codes(MAIL) == [NEEDED]
        assert client.codes(b"XCLIENT LOGIN=zoe\r\n") == ["220"]
        assert session.user == "zoe"
        assert client.codes(MAIL) == ["503 5.5.1"]  # the greeting is due again
        assert offered(client.say(EH)) == []
        assert client.codes(PLAIN) == ["503 5.5.1"]
        assert client.codes(MAIL + b"RSET\r\n") == ["250 2.1.0", "250 2.0.0"]
        # Another one without LOGIN keeps the user of an earlier one, another name replaces it.
        assert client.codes(b"XCLIENT PORT=9\r\n") == ["220"]
        client.say(EH)
        assert session.user == "zoe"
        assert client.codes(b"XCLIENT LOGIN=max\r\n") == ["220"]
        assert session.user == "max"
        client.say(EH)
        assert client.codes(MAIL + b"RSET\r\n") == ["250 2.1.0", "250 2.0.0"]
        assert client.codes(b"XCLIENT LOGIN=\r\n") == ["220"]
        assert session.user is None
        assert offered(client.say(EH)) == ["LOGIN", "PLAIN"]
        assert client.codes(MAIL) == [NEEDED]
        # LOGIN replaces the user of AUTH as well, and is then what is kept.
        assert client.codes(PLAIN) == [DONE]
        assert client.codes(b"XCLIENT LOGIN=eve\r\n") == ["220"]
        assert client.codes(b"XCLIENT PORT=10\r\n") == ["220"]
        assert session.user == "eve"
        client.say(EH)
        assert client.codes(MAIL) == ["250 2.1.0"]
        assert session.transmission_type == "ESMTPSA"


@row("AUTH-15", "XCL-06")
def test_a_user_of_auth_after_a_withdrawn_xclient_login_is_forgotten_at_the_next_xclient() -> None:
    with Wire(peer=RELAY, **certified(secure=True, **TRUSTED, on_auth=by_name)) as wire:
        client = inside(wire)
        client.say(b"XCLIENT LOGIN=zoe\r\n")
        client.say(b"XCLIENT LOGIN=\r\n")
        client.say(EH)
        assert client.codes(PLAIN) == [DONE]
        assert client.codes(b"XCLIENT PORT=9\r\n") == ["220"]
        assert wire.session.user is None


@row("XCL-08", "AUTH-15", "AUTH-10")
def test_xclient_login_does_not_outlive_starttls() -> None:
    given = {**TRUSTED, "on_auth": by_name, "auth_optional": False}
    with Wire(peer=RELAY, **certified(**given, allow_insecure_auth=True)) as wire:
        session = wire.session
        line = b"XCLIENT ADDR=10.0.0.9 NAME=n.example PORT=9 DESTADDR=10.0.0.2 DESTPORT=25 "
        wire.receive()
        assert codes(wire.send(line + b"HELO=h PROTO=ESMTP LOGIN=zoe\r\n")) == ["220"]
        assert codes(wire.send(EH)) == ["250"]
        assert codes(wire.send(TX)) == ["250 2.1.0", "250 2.1.5"]
        client = MemoryClient(wire)
        assert client.starttls() == "220 2.0.0"
        client.handshake()
        assert session.user is None
        assert (session.remote_address, session.remote_port) == ("10.0.0.9", 9)
        assert (session.local_address, session.local_port) == ("10.0.0.2", 25)
        assert session.client_hostname == "n.example"
        assert not {"HELO", "PROTO", "LOGIN"} & set(session.xclient)
        assert offered(client.say(EH)) == ["LOGIN", "PLAIN"]
        assert session.host_name_appears_as == "c.example"
        assert client.codes(MAIL) == [NEEDED]
        # Who logs in now came by AUTH, whatever LOGIN said outside.
        assert client.codes(PLAIN) == [DONE]
        assert client.codes(b"XCLIENT PORT=10\r\n") == ["220"]
        assert session.user is None


@row("XCL-06", "TLS-10")
@pytest.mark.parametrize("secure", [True, False])
def test_an_xclient_login_that_is_refused_ends_tls_and_the_connection(secure: bool) -> None:
    with Wire(peer=RELAY, **certified(secure=secure, **TRUSTED, on_auth=None)) as wire:
        client = inside(wire)
        client.say(EH)
        assert client.codes(b"XCLIENT ADDR=10.0.0.9 LOGIN=zoe\r\n") == ["550 5.7.8"]
        assert client.tls is not None
        assert client.tls.ended
        assert wire.closed
        assert wire.session.remote_address == RELAY[0]


@row("AUTH-11", "XCL-02", "XCL-06")
def test_failures_are_counted_over_xclient() -> None:
    given = {**TRUSTED, "auth_optional": False, "max_auth_failures": 2}
    with Wire(peer=RELAY, **certified(secure=True, **given, **AuthHooks(None).options())) as wire:
        client = inside(wire)
        client.say(EH)
        assert client.codes(PLAIN) == [WRONG]
        assert client.codes(b"XCLIENT ADDR=10.0.0.9\r\n") == ["220"]
        client.say(EH)
        assert client.codes(PLAIN) == ["421 4.7.0"]


@row("XCL-08", "TLS-08")
def test_xclient_within_tls_leaves_the_facts_of_tls_as_they_are() -> None:
    with Wire(peer=RELAY, **certified(**TRUSTED, on_auth=lambda *a: a[2](None, ANN))) as wire:
        client = inside(wire)
        client.say(EH)
        before = wire.session.tls_options
        assert client.codes(b"XCLIENT ADDR=10.0.0.9 PROTO=SMTP\r\n") == ["220"]
        greeting = client.say(EH)
        assert b"STARTTLS" not in greeting
        assert b"REQUIRETLS" in greeting
        assert wire.session.tls_options == before
        assert wire.session.servername == "srv.test"
        assert client.codes(b"STARTTLS\r\n") == ["503 5.5.1"]
        assert client.codes(MAIL.replace(b"\r", b" REQUIRETLS\r")) == ["250 2.1.0"]
