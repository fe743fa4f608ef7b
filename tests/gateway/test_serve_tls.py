"""`fastsmtp serve` with TLS and users: real processes, real clients, real files."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import argon2
import pytest
from clients import swaks_over_tls
from serving import PATIENCE, Gateway, bodies, environment, leftovers, messages, run_to_end
from tls_kit import authority, ca_pem, client_context, issue, pair

from fastsmtp.gateway.turns import MAX_PER_HOST

pytest_plugins = ["gateway_fixtures"]

row = pytest.mark.row
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
PASSWORD = "canary-pencil"
CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
SALT = bytes(range(16))  # the hashes are in the names of tests, which every process must find alike
HASH = CHEAP.hash(PASSWORD, salt=SALT)
LISTEN = ("127.0.0.1:0", "smtps://127.0.0.1:0", "submission://127.0.0.1:0")
PLAIN, SMTPS, SUBMISSION = 0, 1, 2


class Files:
    """Certificate, key and users in a folder, and the options that name them."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key = folder / "mx.pem", folder / "mx.key"
        self.users, self.ca = folder / "users", folder / "ca.pem"
        self.write_pair(*pair())
        self.ca.write_bytes(ca_pem())
        self.write_users(anne=HASH)

    def write_pair(self, cert: bytes, key: bytes) -> None:
        self.cert.write_bytes(cert)
        self.key.write_bytes(key)

    def write_users(self, **hashes: str) -> None:
        self.users.write_text("".join(f"{name}:{one}\n" for name, one in hashes.items()))
        self.users.chmod(0o600)

    @property
    def options(self) -> tuple[str, ...]:
        return (f"--cert={self.cert}", f"--key={self.key}", f"--users={self.users}")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def gateway(maildir: Path, files: Files) -> Iterator[Gateway]:
    """A gateway on all kinds of ports, which is ended and must have said nothing bad."""
    with Gateway(maildir, *files.options, listen=LISTEN) as gateway:
        yield gateway
        assert gateway.stop() == 0
        assert gateway.errors() == []
        assert leftovers(maildir) == []
        assert PASSWORD not in "".join(gateway.out.all)


def client_of(gateway: Gateway, at: int, context: ssl.SSLContext | None = None) -> smtplib.SMTP:
    """A client inside TLS that has greeted."""
    context = context or client_context()
    place = ("127.0.0.1", gateway.ports[at], "c.example")
    if at == SMTPS:
        client: smtplib.SMTP = smtplib.SMTP_SSL(*place, timeout=PATIENCE, context=context)
    else:
        client = smtplib.SMTP(*place, timeout=PATIENCE)
        assert client.starttls(context=context)[0] == 220
    assert client.ehlo()[0] == 250
    return client


def certificate_of(client: smtplib.SMTP) -> bytes | None:
    assert isinstance(client.sock, ssl.SSLSocket)
    return client.sock.getpeercert(True)


def sends(client: smtplib.SMTP) -> None:
    assert client.sendmail("a@x.example", ["b@y.example"], MESSAGE) == {}


# --- what it says ---


def test_a_gateway_prints_the_protocol_of_each_port_and_the_origin_of_its_certificate(
    gateway: Gateway, files: Files
) -> None:
    plain, smtps, submission = gateway.ports
    *listening, certificate, delivering = gateway.said_at_start()
    assert listening == [
        f"fastsmtp: listening on 127.0.0.1:{plain}",
        f"fastsmtp: listening on smtps://127.0.0.1:{smtps}",
        f"fastsmtp: listening on submission://127.0.0.1:{submission}",
    ]
    assert certificate.startswith(f"fastsmtp: certificate from {files.cert}, good until ")
    assert (
        delivering == f"fastsmtp: delivering to {gateway.maildir}; 250 means: on this disk (disk)"
    )


# --- cipher suites ---

CBC = "ECDHE-ECDSA-AES256-SHA384"
GCM = "ECDHE-ECDSA-AES256-GCM-SHA384"


def version_1_2(ciphers: str) -> ssl.SSLContext:
    context = client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    return context


def test_the_ciphers_are_those_that_were_given_and_stay_so_at_sighup(
    maildir: Path, files: Files
) -> None:
    arguments = (*files.options, "--ciphers=ECDHE+AESGCM:ECDHE+CHACHA20")
    with Gateway(maildir, *arguments, listen=LISTEN) as gateway:
        for _ in range(2):
            for at in range(len(LISTEN)):
                with pytest.raises(ssl.SSLError):
                    client_of(gateway, at, version_1_2(CBC))
                with client_of(gateway, at, version_1_2(f"{CBC}:{GCM}")) as client:
                    assert isinstance(client.sock, ssl.SSLSocket)
                    assert client.sock.cipher()[0] == GCM  # type: ignore[index] # it has one
                with client_of(gateway, at) as client:  # of TLS 1.3
                    assert client.noop()[0] == 250
            gateway.process.send_signal(signal.SIGHUP)
            gateway.out.wait("SIGHUP: certificate from")
        assert gateway.stop() == 0


def test_the_ciphers_of_openssl_are_offered_where_no_list_is_given(gateway: Gateway) -> None:
    with client_of(gateway, SMTPS, version_1_2(CBC)) as client:
        assert client.noop()[0] == 250


# --- the three kinds of ports ---


def test_a_plain_port_takes_mail_with_and_without_starttls_and_offers_no_login(
    gateway: Gateway, maildir: Path
) -> None:
    with gateway.client(at=PLAIN) as client:
        assert client.has_extn("starttls")
        sends(client)
    with client_of(gateway, PLAIN) as client:
        assert not client.has_extn("auth")
        assert client.docmd("AUTH", "PLAIN")[0] >= 500
        sends(client)
    first, second = messages(maildir)
    assert b" with ESMTP id " in first
    assert b" with ESMTPS id " in second
    assert bodies(maildir) == [MESSAGE, MESSAGE]


@pytest.mark.parametrize("at", [SMTPS, SUBMISSION])
@pytest.mark.parametrize("method", ["PLAIN", "LOGIN"])
def test_a_user_who_has_logged_in_may_send_and_is_in_the_log_but_not_in_the_message(
    gateway: Gateway, maildir: Path, at: int, method: str
) -> None:
    with client_of(gateway, at) as client:
        assert client.esmtp_features["auth"].split() == ["PLAIN", "LOGIN"]
        assert client.mail("a@x.example")[0] == 530
        client.user, client.password = "anne", PASSWORD
        assert client.auth(method, getattr(client, f"auth_{method.lower()}"))[0] == 235
        sends(client)
        version = client.sock.version()  # type: ignore[union-attr] # it is inside TLS
        cipher = client.sock.cipher()[0]  # type: ignore[union-attr, index] # likewise
    (message,) = messages(maildir)
    assert f" ({version} {cipher})\n".encode() in message
    assert b" with ESMTPSA id " in message
    assert b"anne" not in message
    line = gateway.out.wait("delivered ").string
    for field in ("with=ESMTPSA", f"tls={version}/{cipher}", "user=anne"):
        assert f" {field} " in line


@row("TLS-11")
def test_a_submission_port_wants_starttls_before_anything_else(gateway: Gateway) -> None:
    with gateway.client(at=SUBMISSION) as client:
        assert client.has_extn("starttls")
        assert not client.has_extn("auth")
        assert client.mail("a@x.example")[0] == 530
        assert client.docmd("AUTH", "PLAIN AGFubmUAeA==")[0] == 530


@pytest.mark.parametrize("at", [SMTPS, SUBMISSION])
@pytest.mark.parametrize("name", ["anne", "bob", "Anne"])
def test_a_wrong_password_and_a_wrong_name_get_the_same_reply(
    gateway: Gateway, at: int, name: str
) -> None:
    with client_of(gateway, at) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.login(name, "canary-pencil-2", initial_response_ok=False)
        assert (refused.value.smtp_code, refused.value.smtp_error[:5]) == (535, b"5.7.8")
        assert client.mail("a@x.example")[0] == 530
    line = gateway.out.wait("login refused ").string
    assert f" user={name} client=[127.0.0.1] method=" in line


def test_an_smtps_port_without_users_is_like_a_plain_one(maildir: Path, files: Files) -> None:
    options = files.options[:2]
    with Gateway(maildir, *options, listen=("127.0.0.1:0", "smtps://127.0.0.1:0")) as gateway:
        with client_of(gateway, SMTPS) as client:
            assert not client.has_extn("auth")
            assert not client.has_extn("starttls")
            sends(client)
        assert gateway.stop() == 0
    assert b" with ESMTPS id " in messages(maildir)[0]


def test_the_rule_about_domains_holds_for_users_too(maildir: Path, files: Files) -> None:
    with Gateway(maildir, *files.options, "--domain=y.example", listen=LISTEN) as gateway:
        with client_of(gateway, SUBMISSION) as client:
            client.login("anne", PASSWORD)
            client.mail("a@x.example")
            assert client.rcpt("b@elsewhere.example")[0] == 550
            assert client.rcpt("b@y.example")[0] == 250
        assert gateway.stop() == 0


def test_one_file_may_hold_certificate_and_key_and_lmtp_has_tls_too(
    maildir: Path, files: Files, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(pair().key + pair().cert)
    with Gateway(maildir, f"--cert={both}", listen=("lmtp:127.0.0.1:0",)) as gateway:
        place = ("127.0.0.1", gateway.ports[0], "c.example")
        with smtplib.LMTP(*place, timeout=PATIENCE) as client:
            assert client.starttls(context=client_context())[0] == 220
            client.sendmail("a@x.example", ["b@y.example"], MESSAGE)
        assert gateway.stop() == 0
    assert b" with LMTPS id " in messages(maildir)[0]


@row("OPS-02")
def test_all_kinds_of_ports_are_drained_at_the_end(maildir: Path, files: Files) -> None:
    with Gateway(maildir, *files.options, listen=LISTEN) as gateway:
        clients = [client_of(gateway, at) for at in (PLAIN, SMTPS, SUBMISSION)]
        for client in clients[1:]:
            client.login("anne", PASSWORD)
        for client in clients:
            client.mail("a@x.example")
            client.rcpt("b@y.example")
            assert client.docmd("DATA")[0] == 354
        gateway.process.send_signal(signal.SIGTERM)
        gateway.out.wait("SIGTERM: no new clients")
        for client in clients:
            client.send(MESSAGE + b".\r\n")
            assert client.getreply()[0] == 250
            assert client.getreply()[0] == 421
            client.close()
        assert gateway.wait() == 0
    assert bodies(maildir) == [MESSAGE] * 3


SWAKS, NO_SWAKS = swaks_over_tls()


@pytest.mark.interop
@pytest.mark.skipif(not SWAKS, reason=NO_SWAKS)
@pytest.mark.parametrize("at", [SMTPS, SUBMISSION])
def test_swaks_logs_in_and_sends(gateway: Gateway, maildir: Path, at: int) -> None:
    place = f"127.0.0.1:{gateway.ports[at]}"
    tls = "--tls-on-connect" if at == SMTPS else "--tls"
    login = ["--auth", "LOGIN", "--auth-user", "anne", "--auth-password", PASSWORD]
    done = subprocess.run(
        [
            *[SWAKS, "--server", place, tls, *login, "--suppress-data"],
            *["--from", "a@x.example", "--to", "b@y.example", "--helo", "c.example"],
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert b" with ESMTPSA id " in messages(maildir)[0]


# --- passwords ---


@row("AUTH-13")
def test_the_output_of_a_verbose_gateway_has_no_password(maildir: Path, files: Files) -> None:
    with Gateway(maildir, "-v", *files.options, listen=LISTEN) as gateway:
        for method in ("PLAIN", "LOGIN"):
            for password in (PASSWORD, PASSWORD + "-wrong"):
                with client_of(gateway, SMTPS) as client:
                    client.user, client.password = "anne", password
                    try:
                        client.auth(method, getattr(client, f"auth_{method.lower()}"))
                    except smtplib.SMTPAuthenticationError:
                        pass
        assert gateway.stop() == 0
    said = "\n".join(gateway.out.all + gateway.err.all)
    assert said.count("AUTH ") >= 4
    for secret in (PASSWORD, HASH, "Y2FuYXJ5", "AGFubmUAY2FuYXJ5"):
        assert secret not in said


@row("AUTH-12")
def test_a_flood_of_logins_is_deferred_and_mail_goes_on(maildir: Path, files: Files) -> None:
    # Dear enough that not even the first is done before the last has come.
    salt, digest = HASH.split("$")[4:]
    files.write_users(anne=f"$argon2id$v=19$m=65536,t=1000,p=1${salt}${digest}")
    with Gateway(maildir, *files.options, listen=LISTEN) as gateway:
        clients = [client_of(gateway, SMTPS) for _ in range(70)]
        for client in clients:
            client.send(b"AUTH PLAIN AGFubmUAd3Jvbmc=\r\n")
        for _ in range(70 - MAX_PER_HOST):
            gateway.out.wait("login postponed id=.* user=anne")
        with gateway.client(at=PLAIN) as other:
            sends(other)
        gateway.kill()  # the passwords would go on being checked
        answers = [_answer(client) for client in clients]
        for client in clients:
            client.close()
    assert sorted(filter(None, answers)) == [454] * (70 - MAX_PER_HOST)
    assert bodies(maildir) == [MESSAGE]


def test_logins_that_wait_are_deferred_at_the_end_and_do_not_delay_it(
    maildir: Path, files: Files
) -> None:
    with Gateway(maildir, *files.options, listen=LISTEN) as gateway:
        clients = [client_of(gateway, SMTPS) for _ in range(MAX_PER_HOST)]
        for client in clients:
            client.send(b"AUTH PLAIN AGFubmUAd3Jvbmc=\r\n")
        gateway.out.wait("login refused id=.* user=anne")
        gateway.process.send_signal(signal.SIGTERM)
        # The failures so far would delay the last of them for seconds.
        assert 454 in [client.getreply()[0] for client in clients]
        for client in clients:
            client.close()
        assert gateway.wait() == 0
        assert gateway.errors() == []


def _answer(client: smtplib.SMTP) -> int | None:
    try:
        return client.getreply()[0]
    except (smtplib.SMTPServerDisconnected, OSError):
        return None


def test_a_client_that_leaves_while_its_password_is_checked_harms_no_other(
    gateway: Gateway,
) -> None:
    for _ in range(5):
        client = client_of(gateway, SMTPS)
        client.send(b"AUTH PLAIN AGFubmUAd3Jvbmc=\r\n")
        client.close()
    with client_of(gateway, SUBMISSION) as client:
        assert client.login("anne", PASSWORD)[0] == 235


def test_a_users_file_that_others_can_read_is_a_warning_of_one_line(
    maildir: Path, files: Files
) -> None:
    files.users.chmod(0o644)
    with Gateway(maildir, *files.options, listen=LISTEN) as gateway:
        assert gateway.stop() == 0
    (line,) = gateway.errors()
    assert line.endswith(
        f" fastsmtp: warning: others can read or change {files.users}: chmod 600 it"
    )


@pytest.mark.parametrize(
    ("users", "listen", "told"),
    [
        ("# nobody\n", LISTEN, "has no users: nobody can log in"),
        (f"anne:{HASH}\n", LISTEN[:1], "nobody can log in: logins need a listener on smtps://"),
    ],
)
def test_users_that_are_of_no_use_are_a_warning_of_one_line(
    maildir: Path, files: Files, users: str, listen: tuple[str, ...], told: str
) -> None:
    files.users.write_text(users)
    with Gateway(maildir, *files.options, listen=listen) as gateway:
        assert gateway.stop() == 0
    (line,) = gateway.errors()
    assert told in line


# --- certificates of clients ---


@row("TLS-20")
@pytest.mark.parametrize("at", [PLAIN, SMTPS])
def test_a_good_certificate_of_a_client_is_logged_and_not_required(
    maildir: Path, files: Files, at: int
) -> None:
    options = (*files.options[:2], f"--client-ca={files.ca}")
    good = client_context(own=authority().issue_cert("anne@x.example", common_name="anne"))
    bad = client_context(own=authority("theirs").issue_cert("eve@x.example", common_name="eve"))
    with Gateway(maildir, *options, listen=LISTEN[:2]) as gateway:
        for context in (client_context(), bad, good):
            with client_of(gateway, at, context) as client:
                sends(client)
        assert gateway.stop() == 0
    lines = [line for line in gateway.out.all if "client certificate" in line]
    assert len(lines) == 1
    assert "commonName=anne" in lines[0]
    assert " sha256=" in lines[0]
    assert len(bodies(maildir)) == 3


# --- SIGHUP ---


def reload(gateway: Gateway, files: Files, *lines: str) -> None:
    gateway.process.send_signal(signal.SIGHUP)
    for line in lines:
        gateway.out.wait(f"fastsmtp: SIGHUP: {line}")


@row("OPS-01")
@pytest.mark.parametrize("at", [PLAIN, SMTPS, SUBMISSION])
def test_sighup_changes_certificate_and_users_and_loses_no_connection(
    gateway: Gateway, files: Files, maildir: Path, at: int
) -> None:
    old = client_of(gateway, at)
    if at != PLAIN:
        old.login("anne", PASSWORD)
    old.mail("a@x.example")
    fresh = issue("srv.test", "127.0.0.1")
    files.write_pair(*fresh)
    files.write_users(bob=HASH, carl=HASH)
    reload(gateway, files, f"certificate from {files.cert}, good until", "2 users from ")
    with client_of(gateway, at) as new:
        assert certificate_of(new) == ssl.PEM_cert_to_DER_cert(first_of(fresh.cert))
        if at != PLAIN:
            with pytest.raises(smtplib.SMTPAuthenticationError):
                new.login("anne", PASSWORD)
            new.login("bob", PASSWORD)
        sends(new)
    assert certificate_of(old) == ssl.PEM_cert_to_DER_cert(first_of(pair().cert))
    assert old.rcpt("b@y.example")[0] == 250
    assert old.data(MESSAGE)[0] == 250
    old.quit()
    assert len(bodies(maildir)) == 2


def first_of(pem: bytes) -> str:
    end = "-----END CERTIFICATE-----\n"
    return pem.decode().partition(end)[0] + end


def _mismatched(files: Files) -> None:
    files.cert.write_bytes(issue("srv.test", "127.0.0.1").cert)


def _half_written(files: Files) -> None:
    files.cert.write_bytes(pair().cert[:300])


def _missing(files: Files) -> None:
    files.key.unlink()


@row("OPS-01")
@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (_mismatched, "mx.key is not the key of the certificate in --cert "),
        (_half_written, "mx.pem holds half a certificate"),
        (_missing, "mx.key cannot be read: No such file or directory"),
    ],
)
def test_sighup_with_a_bad_pair_keeps_the_old_one_and_logs_the_reason(
    maildir: Path, files: Files, harm: Callable[[Files], None], told: str
) -> None:
    with Gateway(maildir, *files.options, listen=LISTEN) as gateway:
        before = [client_of(gateway, at) for at in (PLAIN, SMTPS, SUBMISSION)]
        harm(files)
        files.write_users(bob=HASH)
        reload(gateway, files, "1 users from ")  # what is good is taken
        line = gateway.err.wait("SIGHUP").string  # of the other stream
        assert " error: SIGHUP: the certificate stays as it was: --" in line
        assert told in line
        for at, old in enumerate(before):
            assert old.noop()[0] == 250
            old.close()
            with client_of(gateway, at) as client:
                assert certificate_of(client) == ssl.PEM_cert_to_DER_cert(first_of(pair().cert))
        files.write_pair(*pair("srv.test", "127.0.0.1", "more.test"))
        reload(gateway, files, "certificate from ")
        assert gateway.stop() == 0
    assert gateway.errors() == [line]


@row("OPS-01")
def test_sighup_with_bad_users_keeps_the_old_ones_and_logs_the_reason(
    maildir: Path, files: Files
) -> None:
    with Gateway(maildir, *files.options, listen=LISTEN) as gateway:
        files.users.write_text(f"anne:{HASH}\nbob:pencil\n")
        reload(gateway, files)
        line = gateway.err.wait("SIGHUP").string
        assert line.endswith(
            f" error: SIGHUP: the users stay as they were: {files.users}:2: "
            "the text after bob: is not an argon2 hash"
        )
        with client_of(gateway, SMTPS) as client:
            assert client.login("anne", PASSWORD)[0] == 235
        assert gateway.stop() == 0
    assert len(gateway.errors()) == 1


def test_sighup_without_files_ends_nothing(maildir: Path) -> None:
    with Gateway(maildir) as gateway:
        with gateway.client() as client:
            gateway.process.send_signal(signal.SIGHUP)
            gateway.out.wait("SIGHUP: there is nothing to reload")
            sends(client)
        assert gateway.stop() == 0
    assert gateway.errors() == []


@row("OPS-01")
def test_many_sighups_under_load_lose_nothing(gateway: Gateway, maildir: Path) -> None:
    for _ in range(20):
        gateway.process.send_signal(signal.SIGHUP)
        with client_of(gateway, SUBMISSION) as client:
            gateway.process.send_signal(signal.SIGHUP)
            client.login("anne", PASSWORD)
            gateway.process.send_signal(signal.SIGHUP)
            sends(client)
    assert bodies(maildir) == [MESSAGE] * 20


# --- no certificate ---


def test_a_certificate_is_made_for_all_kinds_of_ports_where_none_is_given(
    maildir: Path, files: Files
) -> None:
    with Gateway(maildir, files.options[2], listen=LISTEN) as gateway:
        made = [line for line in gateway.out.all if ": certificate " in line]
        assert len(made) == 1
        assert made[0].endswith(", self-signed: for development only")
        seen = set()
        for at in (PLAIN, SMTPS, SUBMISSION):
            with client_of(gateway, at, client_context(ca=None)) as client:
                seen.add(certificate_of(client))
                if at != PLAIN:
                    client.login("anne", PASSWORD)
                sends(client)
        assert len(seen) == 1
        reload(gateway, files, "1 users from ")
        with client_of(gateway, SMTPS, client_context(ca=None)) as client:
            assert {certificate_of(client)} == seen
        assert gateway.stop() == 0
    assert gateway.errors() == []
    assert len(bodies(maildir)) == 3


def test_lmtp_alone_needs_no_certificate_and_none_is_made(maildir: Path, tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    with Gateway(maildir, listen=(f"lmtp:{path}",)) as gateway:
        with smtplib.LMTP(str(path), local_hostname="c.example") as client:
            client.ehlo()
            assert not client.has_extn("starttls")
        assert gateway.stop() == 0
    assert not [line for line in gateway.out.all if ": certificate " in line]


def without(tmp_path: Path, package: str) -> dict[str, str]:
    """An environment in which a package is not installed."""
    (tmp_path / f"{package}.py").write_text(
        f"raise ModuleNotFoundError(\"No module named '{package}'\", name='{package}')\n"
    )
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    return environment(PYTHONPATH=path)


def test_starttls_is_not_offered_without_the_library_and_one_line_says_why(
    maildir: Path, tmp_path: Path
) -> None:
    with Gateway(maildir, env=without(tmp_path, "cryptography")) as gateway:
        said = [line for line in gateway.out.all if "STARTTLS" in line]
        assert len(said) == 1
        assert "cryptography" in said[0]
        assert "pip install 'fastsmtp-engine[tls]'" in said[0]
        with gateway.client() as client:
            assert not client.has_extn("starttls")
            sends(client)
        assert gateway.stop() == 0
    assert gateway.errors() == []


# --- bad starts ---


def refused(*arguments: str, status: int = 1, env: dict[str, str] | None = None) -> str:
    """Start it where it must not start; return the one line that it says."""
    done = run_to_end(*arguments, env=env or environment())
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("fastsmtp: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def expired() -> tuple[bytes, bytes]:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    one = authority().issue_cert("srv.test", not_after=yesterday)
    return one.cert_chain_pems[0].bytes(), one.private_key_pem.bytes()


def encrypted(key: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    loaded = form.load_pem_private_key(key, None)
    secret = form.BestAvailableEncryption(b"secret")
    return loaded.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, secret)


CERT, KEY = pair()
BAD_PAIRS = {
    "missing certificate": (None, KEY, "--cert {cert} cannot be read: No such file or directory"),
    "missing key": (CERT, None, "--key {key} cannot be read: No such file or directory"),
    "empty certificate": (b"", KEY, "--cert {cert} holds no PEM"),
    "empty key": (CERT, b"", "--key {key} holds no PEM"),
    "noise": (os.urandom(1000), KEY, "--cert {cert} holds no PEM"),
    "half a certificate": (CERT[:300], KEY, "--cert {cert} holds half a certificate"),
    "half a key": (CERT, KEY[:100], "--key {key}"),
    "swapped": (KEY, CERT, "--cert {cert} holds no certificate"),
    "a certificate as key": (CERT, CERT, "--key {key} holds no private key"),
    "another key": (
        *(CERT, issue("other.test").key),
        "--key {key} is not the key of the certificate in --cert {cert}",
    ),
    "expired": (*expired(), "--cert {cert} has expired: it was good until "),
    "encrypted": (CERT, encrypted(KEY), "--key {key} is encrypted; give its key_password"),
}


@pytest.mark.parametrize("kind", BAD_PAIRS)
@pytest.mark.parametrize("listen", ["127.0.0.1:0", "smtps://127.0.0.1:0"])
def test_bad_key_material_is_an_error_with_file_and_reason(
    maildir: Path, files: Files, kind: str, listen: str
) -> None:
    cert, key, told = BAD_PAIRS[kind]
    for path, octets in ((files.cert, cert), (files.key, key)):
        path.unlink()
        if octets is not None:
            path.write_bytes(octets)
    line = refused(f"--listen={listen}", f"--maildir={maildir}", *files.options[:2])
    assert told.format(cert=files.cert, key=files.key) in line
    assert "option '" not in line


def test_a_certificate_without_its_key_is_an_error_of_one_line(maildir: Path, files: Files) -> None:
    line = refused("--listen=0", f"--maildir={maildir}", f"--cert={files.cert}")
    assert f"--cert {files.cert} holds no private key; --key is missing" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["cert", "key", "users", "ca"])
def test_a_file_without_read_permission_is_an_error_of_one_line(
    maildir: Path, files: Files, name: str
) -> None:
    getattr(files, name).chmod(0)
    options = (*files.options, f"--client-ca={files.ca}")
    line = refused("--listen=smtps://127.0.0.1:0", f"--maildir={maildir}", *options)
    assert f"{getattr(files, name)} cannot be read: Permission denied" in line


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--cert={folder}", "--cert {folder} cannot be read: Is a directory"),
        ("--client-ca={folder}", "--client-ca {folder} cannot be read: Is a directory"),
        ("--client-ca=/dev/null", "--client-ca /dev/null holds no PEM"),
        ("--ciphers=AES-XTS", "--ciphers: no cipher in 'AES-XTS'"),
        ("--ciphers=%s\\\\", "--ciphers: no cipher in"),
        ("--users={folder}", "--users {folder} cannot be read: Is a directory"),
        ("--users=/no/users", "--users /no/users cannot be read: No such file or directory"),
        ("--users=/etc/hostname", "--users /etc/hostname:1: the line is not name:hash"),
    ],
)
def test_other_bad_files_are_an_error_with_file_and_reason(
    maildir: Path, tmp_path: Path, option: str, told: str
) -> None:
    line = refused(
        "--listen=smtps://127.0.0.1:0", f"--maildir={maildir}", option.format(folder=tmp_path)
    )
    assert told.format(folder=tmp_path) in line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--listen=submission://127.0.0.1"], "submission://127.0.0.1:587 needs users"),
        (["--listen=smtps:127.0.0.1:465"], "smtps://host:port"),
        (["--listen=smtps://465"], "a host is needed: smtps://host:port"),
        (["--key=mx.key"], "--key: it needs cert"),
        (["--cert="], "--cert: a path is needed"),
        (["--users="], "--users: a path is needed"),
        (["--ciphers=é"], "--ciphers: it takes printable ASCII"),
    ],
)
def test_a_wrong_command_line_is_an_error_of_one_line(arguments: list[str], told: str) -> None:
    assert told in refused(*arguments, status=2)


def test_authorities_without_tls_are_an_error_of_one_line(
    maildir: Path, files: Files, tmp_path: Path
) -> None:
    options = (f"--maildir={maildir}", f"--client-ca={files.ca}")
    path = tmp_path / "lmtp.sock"
    assert "there is no TLS without --cert" in refused(f"--listen=lmtp:{path}", *options)
    line = refused("--listen=0", *options, env=without(tmp_path, "cryptography"))
    assert "--client-ca needs TLS: no --cert is given" in line


def test_ciphers_without_tls_are_an_error_of_one_line(maildir: Path, tmp_path: Path) -> None:
    options = (f"--maildir={maildir}", "--ciphers=ECDHE")
    line = refused(f"--listen=lmtp:{tmp_path / 'lmtp.sock'}", *options)
    assert "--ciphers: there is no TLS without --cert" in line
    line = refused("--listen=0", *options, env=without(tmp_path, "cryptography"))
    assert "--ciphers needs TLS: no --cert is given" in line


@pytest.mark.parametrize("scheme", ["smtps", "submission"])
def test_a_port_that_needs_tls_is_an_error_where_there_can_be_none(
    maildir: Path, files: Files, tmp_path: Path, scheme: str
) -> None:
    place = f"{scheme}://127.0.0.1:2500"
    options = (f"--listen={place}", f"--maildir={maildir}", files.options[2])
    line = refused(*options, env=without(tmp_path, "cryptography"))
    assert f"{place} needs TLS: no --cert is given" in line
    assert "pip install 'fastsmtp-engine[tls]'" in line


def test_users_without_the_library_that_checks_them_are_an_error_of_one_line(
    maildir: Path, files: Files, tmp_path: Path
) -> None:
    options = ("--listen=smtps://127.0.0.1:0", f"--maildir={maildir}", *files.options)
    line = refused(*options, env=without(tmp_path, "argon2"))
    assert "the package argon2-cffi is missing" in line
    assert "pip install 'fastsmtp-engine[server]'" in line


def test_an_smtps_port_in_use_is_an_error_of_one_line(maildir: Path, files: Files) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"smtps://127.0.0.1:{taken.getsockname()[1]}"
        line = refused(f"--listen={place}", f"--maildir={maildir}", *files.options)
    assert f"cannot listen on {place}: Address already in use" in line
