"""Contexts: what options make, what is refused with which words, names, and the swap of them."""

from __future__ import annotations

import hashlib
import logging
import os
import ssl
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from scenario import DEFAULTS, EH
from serving import terminal
from tls_kit import (
    TLS12,
    MemoryClient,
    Pair,
    TLSClient,
    authority,
    ca_pem,
    certified,
    client_context,
    der,
    issue,
    made,
    pair,
)

from fastsmtp import SMTPServer
from fastsmtp._tls import lenient_verify
from fastsmtp._tls.facts import standard_name
from fastsmtp.server import state_of
from fastsmtp.testing import Wire

row = pytest.mark.row
PASSWORD = b"open sesame"


def encrypted(own: Pair) -> bytes:
    key = serialization.load_pem_private_key(own.key, None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(PASSWORD),
    )


def shown(server: SMTPServer, name: str | None = "srv.test", **context: Any) -> bytes:
    """The certificate that a new client of `server` gets, in DER."""
    with Wire(server) as wire:
        client = MemoryClient(wire, context=client_context(ca=None, **context), server_name=name)
        if not server.options.secure:
            assert client.greet() == "220 2.0.0"
        tls = client.handshake()
        der = tls.tls.getpeercert(True)
        assert der is not None
        return der


# --- material ---


def test_key_and_certificate_may_be_paths_text_and_octets(tmp_path: Path) -> None:
    own = pair()
    (tmp_path / "key.pem").write_bytes(own.key)
    (tmp_path / "cert.pem").write_bytes(own.cert)
    for key, cert in (
        (tmp_path / "key.pem", tmp_path / "cert.pem"),
        (str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")),
        (own.key, own.cert),
        (own.key.decode(), own.cert.decode()),
        (None, own.key + own.cert),
    ):
        server = SMTPServer(**DEFAULTS, key=key, cert=cert)
        assert shown(server) == der(own)


def test_a_key_may_be_encrypted() -> None:
    own = pair()
    for password in (PASSWORD, PASSWORD.decode()):
        given = {"key": encrypted(own), "cert": own.cert, "key_password": password}
        assert shown(SMTPServer(**DEFAULTS, **given)) == der(own)


def refusal(**options: Any) -> str:
    with pytest.raises(ValueError) as caught:
        SMTPServer(**DEFAULTS, **options)
    text = str(caught.value)
    assert "PRIVATE KEY" not in text
    assert "\n" not in text
    return text


def test_unusable_material_is_named_with_its_reason(tmp_path: Path) -> None:
    own, other = pair(), pair("other.test")
    (tmp_path / "cert.pem").write_bytes(own.cert)
    (tmp_path / "other.pem").write_bytes(other.key)
    (tmp_path / "half.pem").write_bytes(own.cert[:300])
    (tmp_path / "text.pem").write_bytes(b"hello")
    cert = tmp_path / "cert.pem"
    missing = refusal(key=tmp_path / "none.pem", cert=cert)
    assert missing == f"option 'key': {tmp_path}/none.pem cannot be read: No such file or directory"
    assert "Is a directory" in refusal(key=tmp_path, cert=cert)
    os.mkfifo(tmp_path / "fifo")  # it has no writer, and no reader may wait for one
    assert "fifo cannot be read: it is a FIFO" in refusal(key=tmp_path / "fifo", cert=cert)
    with terminal() as path:
        assert "nothing to read without waiting" in refusal(key=path, cert=cert)
    mismatch = refusal(key=tmp_path / "other.pem", cert=cert)
    assert f"{tmp_path}/other.pem is not the key of the certificate in" in mismatch
    assert f"{cert}" in mismatch
    assert "half.pem holds half a certificate" in refusal(key=own.key, cert=tmp_path / "half.pem")
    assert "text.pem holds no PEM" in refusal(key=own.key, cert=tmp_path / "text.pem")
    assert "'cert' holds no certificate" in refusal(key=own.key, cert=own.key)
    assert "holds no private key" in refusal(key=own.cert, cert=own.cert)
    assert "option 'key' is missing" in refusal(cert=cert)
    assert "needs 'cert'" in refusal(key=own.key)
    assert "holds no PEM" in refusal(key=b"\x00\x01", cert=own.cert)
    lines = own.key.splitlines()
    broken = b"\n".join([lines[0], b"AAAA", lines[-1]])
    assert "option 'key'" in refusal(key=broken, cert=own.cert)
    assert "not base64" in refusal(key=own.key, cert=own.cert.replace(b"MII", b"\xff\xff\xff"))


def test_an_expired_certificate_is_refused_at_start() -> None:
    old = made(days=-1)
    day = (datetime.now(UTC) - timedelta(days=1)).date()
    assert f"'cert' has expired: it was good until {day}" in refusal(key=old.key, cert=old.cert)
    assert shown(SMTPServer(**DEFAULTS, **made(days=20_000)._asdict()))


def test_an_encrypted_key_without_its_password_is_refused_without_a_prompt() -> None:
    own = pair()
    key = encrypted(own)
    assert "is encrypted; give its key_password" in refusal(key=key, cert=own.cert)
    wrong = refusal(key=key, cert=own.cert, key_password="nonsense")
    assert "cannot be decrypted with key_password" in wrong
    assert "nonsense" not in wrong


def test_contradictory_options_are_refused() -> None:
    own = pair()._asdict()
    assert "needs 'ca'" in refusal(**own, request_cert=True)
    assert "for clients" in refusal(ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    assert "'min_version'" in refusal(**own, min_version="TLSv1.3", max_version="TLSv1.2")
    assert "no cipher in 'NONSENSE'" in refusal(**own, ciphers="NONSENSE")
    assert "'ca'" in refusal(**own, ca=b"-----BEGIN CERTIFICATE-----\nAAAA\n")
    assert "'sni_options', 'a.test': option 'key' needs" in refusal(
        **own, sni_options={"a.test": {"key": own["key"]}}
    )
    with pytest.raises(TypeError, match=r"'sni_options', 'a\.test': 'size' is not a TLS option"):
        SMTPServer(**own, sni_options={"a.test": {"size": 5}})
    assert "needs the options 'key' and 'cert'" in refusal(sni_options={"a.test": own})


# --- contexts ---


def context_of(**options: Any) -> ssl.SSLContext:
    contexts = state_of(SMTPServer(**certified(**options))).tls.default.contexts
    assert contexts is not None
    return contexts.choose("")


@row("TLS-18")
def test_renegotiation_and_compression_are_off() -> None:
    for context in (context_of(), context_of(ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))):
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_COMPRESSION


@row("TLS-19")
def test_the_options_for_versions_and_ciphers_decide_what_is_negotiated() -> None:
    assert context_of().minimum_version is ssl.TLSVersion.TLSv1_2
    assert context_of(min_version="TLSv1.3").minimum_version is ssl.TLSVersion.TLSv1_3
    assert context_of(max_version="TLSv1.2").maximum_version is ssl.TLSVersion.TLSv1_2
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        lowest = context_of(min_version="TLSv1.1").minimum_version
    assert lowest is ssl.TLSVersion.TLSv1_1
    one = "ECDHE-ECDSA-AES128-GCM-SHA256"
    names = {cipher["name"] for cipher in context_of(ciphers=one).get_ciphers()}
    assert {name for name in names if not name.startswith("TLS_")} == {one}
    assert context_of().options & ssl.OP_CIPHER_SERVER_PREFERENCE
    assert not context_of(honor_cipher_order=False).options & ssl.OP_CIPHER_SERVER_PREFERENCE


def agreed(server: dict[str, Any], client: ssl.SSLContext) -> str:
    with Wire(**certified(**server)) as wire:
        one = MemoryClient(wire, context=client)
        one.greet()
        one.handshake()
        assert one.codes(EH) == ["250"]
        return str(wire.session.tls_options["name"])


@row("TLS-19")
def test_honor_cipher_order_decides_whose_order_of_ciphers_counts() -> None:
    small, large = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"
    server = {"ciphers": f"{large}:{small}"}
    client = client_context(**TLS12)
    client.set_ciphers(f"{small}:{large}")
    assert agreed(server, client) == large
    assert agreed({**server, "honor_cipher_order": False}, client) == small


def fails(client: MemoryClient) -> str:
    """The handshake fails; returns what the client says of it, "" when only the server refuses."""
    try:
        client.handshake()
        client.say(b"NOOP\r\n")
    except ssl.SSLError as error:
        return error.reason or str(error)
    return ""


@row("TLS-19")
@pytest.mark.parametrize("kind", ["old version", "no shared cipher", "anonymous", "null"])
def test_a_client_that_offers_only_weak_crypto_is_refused_with_an_alert(kind: str) -> None:
    context = client_context(**TLS12)
    if kind == "old version":
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.set_ciphers("DEFAULT@SECLEVEL=0")
    else:
        words = {"anonymous": "aNULL@SECLEVEL=0", "null": "eNULL@SECLEVEL=0"}
        context.set_ciphers(words.get(kind, "ECDHE-RSA-AES128-GCM-SHA256"))
    with Wire(**certified()) as wire:
        client = MemoryClient(wire, context=context)
        assert client.greet() == "220 2.0.0"
        assert "ALERT" in fails(client)
        assert wire.closed
        assert not wire.session.secure


def test_names_of_ciphers_are_those_of_the_registry() -> None:
    assert standard_name("TLS_AES_128_GCM_SHA256") == "TLS_AES_128_GCM_SHA256"
    for name, standard in {
        "ECDHE-ECDSA-AES256-GCM-SHA384": "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "ECDHE-RSA-CHACHA20-POLY1305": "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "DHE-RSA-AES128-SHA256": "TLS_DHE_RSA_WITH_AES_128_CBC_SHA256",
        "AES128-SHA": "TLS_RSA_WITH_AES_128_CBC_SHA",
        "AES256-CCM8": "TLS_RSA_WITH_AES_256_CCM_8",
        "ECDHE-ECDSA-AES128-CCM": "TLS_ECDHE_ECDSA_WITH_AES_128_CCM",
        "ECDHE-RSA-CAMELLIA256-SHA384": "TLS_ECDHE_RSA_WITH_CAMELLIA_256_CBC_SHA384",
    }.items():
        assert standard_name(name) == standard


def test_a_ready_context_takes_the_place_of_all_other_options() -> None:
    own = pair("ready.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["smtp"])
    authority().issue_cert("ready.test").configure_cert(context)
    with Wire(**DEFAULTS, ssl_context=context) as wire:
        ours = client_context(ca=None)
        ours.set_alpn_protocols(["smtp"])
        client = MemoryClient(wire, context=ours)
        assert client.greet() == "220 2.0.0"
        client.handshake()
        assert client.codes(EH) == ["250"]
        assert wire.session.tls_options["alpn"] == "smtp"
    assert own.cert


@row("TLS-23")
def test_a_client_of_another_protocol_is_cut_by_its_first_line() -> None:
    ours = client_context(ca=None)
    ours.set_alpn_protocols(["h2", "http/1.1"])
    with Wire(**certified(secure=True)) as wire:
        client = MemoryClient(wire, context=ours)
        client.handshake()
        assert wire.session.tls_options["alpn"] is None
        assert client.codes(b"GET / HTTP/1.1\r\n") == ["421 4.7.0"]
        assert wire.closed


@row("TLS-21")
@pytest.mark.parametrize("version", [{}, TLS12])
def test_a_session_is_not_resumed_on_another_listener_or_after_a_reload(
    version: dict[str, Any],
) -> None:
    server = SMTPServer(**certified())
    context = client_context(**version)

    def reused(session: ssl.SSLSession | None, tls: Any = None) -> tuple[bool, Any]:
        with Wire(server) as wire:
            if tls is not None:
                wire.connection.tls = tls
            client = MemoryClient(wire, context=context, session=session)
            client.greet()
            end = client.handshake()
            client.say(EH)
            return bool(end.tls.session_reused), end.tls.session

    _, session = reused(None)
    assert reused(session)[0]
    other = state_of(server).tls.listener(False)
    assert not reused(session, other)[0]
    _, session = reused(None, other)
    assert not reused(session)[0]
    assert reused(session, other)[0]
    server.update_secure_context()
    assert not reused(session, other)[0]


# --- names ---


@row("TLS-22")
@pytest.mark.parametrize("secure", [False, True])
def test_each_name_has_its_certificate(secure: bool) -> None:
    exact, wild = pair("a.test"), pair("*.wild.test")
    server = SMTPServer(
        **certified(
            secure=secure,
            sni_options={"A.Test.": exact._asdict(), "*.wild.test": wild._asdict()},
        )
    )
    default = der(pair())
    assert shown(server, "a.test") == der(exact)
    assert shown(server, "A.TEST") == der(exact)
    assert shown(server, "mx.wild.test") == der(wild)
    for name in (None, "wild.test", "a.b.wild.test", "b.test", "192.0.2.1", "x" * 60 + ".test"):
        assert shown(server, name) == default, name


@row("TLS-22", "TLS-21")
@pytest.mark.parametrize("version", [{}, TLS12])
def test_each_name_has_its_own_policy(version: dict[str, Any]) -> None:
    strict = {**pair("strict.test")._asdict(), "ca": ca_pem(), "request_cert": True}
    server = SMTPServer(**certified(sni_options={"strict.test": strict}))
    context = client_context(ca=None, **version)
    session = None
    for name, expected in (("srv.test", True), ("strict.test", False)):
        with Wire(server) as wire:
            client = MemoryClient(wire, context=context, server_name=name, session=session)
            client.greet()
            if expected:
                session = client.handshake().tls.session
                assert client.codes(EH) == ["250"]
            else:
                assert "ALERT" in fails(client)
                assert wire.closed


def test_a_name_may_have_a_ready_context() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("a.test").configure_cert(context)
    server = SMTPServer(**certified(sni_options={"a.test": context}))
    assert shown(server, "a.test") != shown(server, "b.test")


# --- certificates of clients ---


@row("TLS-20")
@pytest.mark.parametrize("version", [{}, TLS12])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", ["none", "good", "expired", "unknown", "server only", "large"])
def test_a_certificate_of_a_client_is_verified_as_the_options_say(
    kind: str, strict: bool, version: dict[str, Any]
) -> None:
    context = client_context(**version)
    ca = authority()
    if kind == "good":
        ca.issue_cert("client.test").configure_cert(context)
    elif kind == "expired":
        old = datetime.now(UTC) - timedelta(days=1)
        ca.issue_cert("client.test", not_after=old).configure_cert(context)
    elif kind == "unknown":
        authority("theirs").issue_cert("client.test").configure_cert(context)
    elif kind == "server only":
        configure(context, server_only())
    elif kind == "large":
        names = [f"n{number:040}.test" for number in range(900)]
        ca.issue_cert(*names).configure_cert(context)
    options = {"ca": ca_pem(), "request_cert": True, "reject_unauthorized": strict}
    with Wire(**certified(**options)) as wire:
        client = MemoryClient(wire, context=context)
        client.greet()
        good = kind in ("good", "large")
        if strict and not good:
            assert fails(client)
            assert wire.closed
            assert not wire.session.secure
            return
        client.handshake(1400)
        assert client.codes(EH) == ["250"]
        assert wire.session.tls_options["verified"] is good
        assert (wire.session.tls_options["peer_certificate"] is None) is (kind == "none")


def server_only() -> Pair:
    """A certificate of ours that is good for servers and not for clients."""
    ca = authority()
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(ca.cert_pem.bytes())
    own = serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server only")])
    usage = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH])
    builder = x509.CertificateBuilder(issuer.subject, name, key.public_key(), 7)
    builder = builder.not_valid_before(now - timedelta(days=1))
    builder = builder.not_valid_after(now + timedelta(days=1)).add_extension(usage, False)
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    return Pair(
        builder.sign(own, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def configure(context: ssl.SSLContext, own: Pair) -> None:
    from fastsmtp._tls.pem import as_file

    with as_file(own.cert) as cert, as_file(own.key) as key:
        context.load_cert_chain(cert, key)


@row("TLS-20")
def test_a_resumed_session_makes_no_certificate_good() -> None:
    options = {"ca": ca_pem(), "request_cert": True, "reject_unauthorized": False}
    server = SMTPServer(**certified(**options))
    context = client_context(own=authority("theirs").issue_cert("client.test"), **TLS12)
    session = None
    for _ in range(3):
        with Wire(server) as wire:
            client = MemoryClient(wire, context=context, session=session)
            client.greet()
            session = client.handshake().tls.session
            assert client.codes(EH) == ["250"]
            assert wire.session.tls_options["verified"] is False


@row("TLS-20")
@pytest.mark.parametrize("has_one, gets_in", [(False, True), (True, False)])
def test_on_an_untested_python_a_bad_certificate_ends_the_handshake_and_a_log_line_says_so(
    has_one: bool, gets_in: bool, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    monkeypatch.setattr(lenient_verify, "IS_KNOWN", False)
    monkeypatch.setattr(lenient_verify, "_setter", lenient_verify._setter.__wrapped__)
    context = client_context(own=authority("theirs").issue_cert("client.test") if has_one else None)
    options = {"ca": ca_pem(), "request_cert": True, "reject_unauthorized": False}
    with Wire(**certified(**options)) as wire:
        client = MemoryClient(wire, context=context)
        client.greet()
        if gets_in:
            client.handshake()
            assert client.codes(EH) == ["250"]
            assert wire.session.tls_options["verified"] is False
        else:
            assert fails(client)
            assert wire.closed
    assert any("this Python cannot accept clients" in line for line in log)


@row("TLS-20")
def test_a_certificate_of_the_client_is_not_requested_by_default() -> None:
    assert context_of().verify_mode is ssl.CERT_NONE
    own = authority().issue_cert("client.test")
    with Wire(**certified()) as wire:
        client = MemoryClient(wire, context=client_context(own=own))
        client.greet()
        client.handshake()
        assert client.codes(EH) == ["250"]
        assert wire.session.tls_options["peer_certificate_der"] is None
        assert wire.session.tls_options["verified"] is False


# --- channel binding ---


def test_channel_bindings_are_those_of_the_client() -> None:
    own = pair()
    with Wire(**certified()) as wire:
        client = MemoryClient(wire, context=client_context(**TLS12))
        client.greet()
        tls = client.handshake().tls
        client.say(EH)
        facts = wire.connection.protocol.tls
        assert facts.channel_binding("tls-server-end-point") == hashlib.sha256(der(own)).digest()
        assert facts.channel_binding("tls-unique") == tls.get_channel_binding("tls-unique")
        assert facts.channel_binding("nonsense") is None
    with Wire(**certified()) as wire:
        client = MemoryClient(wire)
        client.greet()
        client.handshake()
        assert wire.connection.protocol.tls.channel_binding("tls-unique") is None
    for key, name in ((ec.generate_private_key(ec.SECP256R1()), "sha384"),
                      (ed25519.Ed25519PrivateKey.generate(), None)):  # fmt: skip
        own = made(key)
        with Wire(**DEFAULTS, **own._asdict()) as wire:
            client = MemoryClient(wire, context=client_context(ca=None))
            client.greet()
            client.handshake()
            found = wire.connection.protocol.tls.channel_binding("tls-server-end-point")
            assert found == (None if name is None else hashlib.new(name, der(own)).digest())


# --- development ---


@pytest.mark.parametrize("option", ["secure", "needs_upgrade"])
def test_a_certificate_is_made_where_tls_is_wanted_without_one(
    option: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fastsmtp"):
        server = SMTPServer(**DEFAULTS, **{option: True})
    assert len([line for line in caplog.messages if "self-signed" in line]) == 1
    certificate = x509.load_der_x509_certificate(shown(server))
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["srv.test"]


def test_a_listener_may_have_tls_where_the_server_has_not(run: Run) -> None:
    async def main() -> None:
        server = SMTPServer(**DEFAULTS)
        await server.listen(0, "127.0.0.1")
        await server.listen(0, "127.0.0.1", secure=True)
        plain, secure = server.addresses()
        async with await TLSClient.implicit(secure, client_context(ca=None)) as client:
            assert await client.reply() == "220"
            assert await client.ask(b"STARTTLS\r\n") == "503 5.5.1"
        async with await TLSClient.greeted(plain) as client:
            assert isinstance(client, TLSClient)
            assert await client.ask(b"STARTTLS\r\n") == "220 2.0.0"
            await client.upgrade(client_context(ca=None))
            assert await client.ask(EH) == "250"
        await server.close()

    run(main())


def test_a_missing_library_is_an_error_that_names_both_ways_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for option in ("secure", "needs_upgrade"):
        text = refusal(**{option: True})
        assert "'key' and 'cert'" in text
        assert "cryptography" in text
    with Wire(**DEFAULTS) as wire:
        assert b"STARTTLS" not in wire.send(EH)


# --- the swap ---


@row("OPS-01")
def test_a_good_set_takes_effect_for_all_new_handshakes(tmp_path: Path) -> None:
    old, new, wild = issue("srv.test"), issue("srv.test"), issue("*.wild.test")
    (tmp_path / "key").write_bytes(old.key)
    (tmp_path / "cert").write_bytes(old.cert)
    server = SMTPServer(**DEFAULTS, key=tmp_path / "key", cert=tmp_path / "cert")
    other = state_of(server).tls.listener(False)
    with Wire(server) as wire:
        client = MemoryClient(wire)
        client.greet()
        client.handshake()
        (tmp_path / "key").write_bytes(new.key)
        (tmp_path / "cert").write_bytes(new.cert)
        assert shown(server) == der(old)
        server.update_secure_context()
        assert shown(server) == der(new)
        assert other.contexts is not None
        assert other.contexts.leaf(other.contexts.choose("")) == der(new)
        assert client.codes(EH) == ["250"]  # those that are there live on
    server.update_secure_context(sni_options={"*.wild.test": wild._asdict()})
    assert shown(server, "a.wild.test") == der(wild)
    assert shown(server) == der(new)
    server.update_secure_context(key=old.key, cert=old.cert, sni_options=None)
    assert shown(server, "a.wild.test") == der(old)


@row("OPS-01")
def test_a_bad_set_changes_nothing(tmp_path: Path) -> None:
    old, new = issue("srv.test"), issue("srv.test")
    (tmp_path / "key").write_bytes(old.key)
    (tmp_path / "cert").write_bytes(old.cert)
    server = SMTPServer(**DEFAULTS, key=tmp_path / "key", cert=tmp_path / "cert")
    (tmp_path / "cert").write_bytes(new.cert)
    with pytest.raises(ValueError, match="key is not the key of the certificate in"):
        server.update_secure_context()
    (tmp_path / "cert").write_bytes(new.cert[:200])
    with pytest.raises(ValueError, match="holds half a certificate"):
        server.update_secure_context()
    (tmp_path / "cert").unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        server.update_secure_context()
    with pytest.raises(TypeError, match="not a TLS option"):
        server.update_secure_context(size=5)
    with pytest.raises(TypeError):
        server.update_secure_context(key=5)
    with pytest.raises(ValueError, match="sni_options"):
        server.update_secure_context(
            key=new.key, cert=new.cert, sni_options={"a.test": {"cert": new.cert, "key": old.key}}
        )
    assert shown(server) == der(old)
    server.update_secure_context(key=new.key, cert=new.cert)
    assert shown(server) == der(new)


def test_an_update_of_certificates_without_tls_is_an_error() -> None:
    with pytest.raises(ValueError, match="not configured"):
        SMTPServer(**DEFAULTS).update_secure_context(**pair()._asdict())


def test_a_reload_that_the_system_has_no_room_for_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_file(octets: bytes) -> None:
        raise OSError(24, "Too many open files")

    server = SMTPServer(**certified())
    before = state_of(server).tls.default.contexts
    monkeypatch.setattr("fastsmtp._tls.contexts.as_file", no_file)
    with pytest.raises(ValueError, match="option 'cert' cannot be loaded: Too many open files"):
        server.update_secure_context()
    state_of(server).tls.reload()  # SIGHUP
    assert "the certificates stay as they were" in caplog.text
    assert state_of(server).tls.default.contexts is before
