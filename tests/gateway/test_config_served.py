"""What stands in a configuration file is what is served: real processes, real clients."""

from __future__ import annotations

import contextlib
import os
import signal
import smtplib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from serving import PATIENCE, Gateway, environment, messages, run_to_end
from tls_kit import Pair, authority, ca_pem, client_context, issue, pair

pytest_plugins = ["gateway_fixtures"]

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fastsmtp.toml"
    path.touch(0o600)
    return path


@contextlib.contextmanager
def serving(maildir: Path, file: Path, text: str) -> Iterator[Gateway]:
    file.write_text(text)
    with Gateway(maildir, f"--config={file}", listen=()) as gateway:
        yield gateway
        assert gateway.stop() == 0


def extensions(gateway: Gateway, at: int = 0) -> tuple[bytes, set[str]]:
    """The greeting, and the keywords of the answer to EHLO."""
    with smtplib.SMTP(timeout=PATIENCE) as client:
        _, greeting = client.connect("127.0.0.1", gateway.ports[at])
        client.ehlo("c.example")
        return greeting, set(client.esmtp_features)


def test_options_of_the_engine_apply_to_all_listeners(maildir: Path, file: Path) -> None:
    text = """
        listen = ["127.0.0.1:0", "127.0.0.1:0"]
        name = "mx.example.org"
        banner = "at your service"
        hide_dsn = true
        disabled_commands = ["VRFY"]
        max_recipients = 1
        domains = ["y.example"]
    """
    with serving(maildir, file, text) as gateway:
        for at in (0, 1):
            greeting, keywords = extensions(gateway, at)
            assert greeting == b"mx.example.org ESMTP at your service"
            assert "dsn" not in keywords
            assert "size" in keywords
        with gateway.client() as client:
            assert client.verify("anne")[0] == 500
            client.mail("a@x.example")
            assert client.rcpt("b@y.example")[0] == 250
            assert client.rcpt("c@y.example")[0] == 452
            assert client.rcpt("b@z.example")[0] in (452, 550)


def test_a_listener_has_options_of_its_own(maildir: Path, file: Path) -> None:
    text = """
        size = "1M"
        bare_newline = "normalize"
        [[listen]]
        address = "127.0.0.1:0"
        [[listen]]
        address = "127.0.0.1:0"
        size = "2M"
        bare_newline_exclusions = ["127.0.0.0/8"]
        [[listen]]
        address = "127.0.0.1:0"
        use_proxy = ["127.0.0.1"]
        greet_delay = 0
    """
    with serving(maildir, file, text) as gateway:
        assert len(gateway.ports) == 3
        for at, size in ((0, "1048576"), (1, "2097152")):
            with gateway.client(at=at) as client:
                assert client.esmtp_features["size"] == size
                client.mail("a@x.example")
                client.rcpt("b@y.example")
                client.docmd("DATA")
                client.send(b"Subject: x\r\n\r\none\ntwo\r\n.\r\n")
                assert client.getreply()[0] == 250
        with socket.create_connection(("127.0.0.1", gateway.ports[2]), PATIENCE) as client:
            client.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 25\r\n")
            assert client.recv(1000).startswith(b"220 ")
    assert len(messages(maildir)) == 2


def test_smtp_is_served_on_a_unix_socket(maildir: Path, file: Path) -> None:
    path = file.parent / "smtp.sock"
    with serving(maildir, file, f'listen = ["smtp:{path}"]') as gateway:
        assert f"fastsmtp: listening on smtp:{path}" in gateway.out.all
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            lines = client.makefile("rwb", buffering=0)
            assert b" ESMTP" in lines.readline()
            for line in ("HELO c.example", "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>"):
                lines.write(f"{line}\r\n".encode())
                assert lines.readline().startswith(b"250 ")
            lines.write(b"DATA\r\n")
            assert lines.readline().startswith(b"354 ")
            lines.write(MESSAGE + b".\r\n")
            assert lines.readline().startswith(b"250 ")
    assert len(messages(maildir)) == 1


def test_environment_and_flags_configure_a_server_too(maildir: Path) -> None:
    env = {"FASTSMTP_BANNER": "from the environment", "FASTSMTP_HIDE_SIZE": "true"}
    with Gateway(maildir, "--no-hide-size", "--hide-dsn", env=env) as gateway:
        greeting, keywords = extensions(gateway)
        assert greeting.endswith(b"from the environment")
        assert "dsn" not in keywords
        with gateway.client() as client:
            assert client.esmtp_features["size"] == "26214400"
        assert gateway.stop() == 0


def test_a_limit_on_clients_is_kept(maildir: Path) -> None:
    with Gateway(maildir, "--max-clients=2") as gateway:
        with gateway.client(), gateway.client():
            with pytest.raises(smtplib.SMTPConnectError) as refused:
                gateway.client()
            assert refused.value.smtp_code == 421
        assert gateway.stop() == 0


# --- certificates by server name ---


def certificate_for(gateway: Gateway, name: str, at: int = 0) -> bytes:
    """The certificate that a client gets who asks for `name`."""
    context = client_context(ca=None)
    raw = socket.create_connection(("127.0.0.1", gateway.ports[at]), PATIENCE)
    with raw, context.wrap_socket(raw, server_hostname=name) as client:
        return client.getpeercert(True) or b""


def der(made: Pair) -> bytes:
    end = "-----END CERTIFICATE-----\n"
    return ssl.PEM_cert_to_DER_cert(made.cert.decode().partition(end)[0] + end)


def write_pair(folder: Path, name: str, made: Pair) -> str:
    """Write a pair, and return the lines that name it."""
    (folder / f"{name}.pem").write_bytes(made.cert)
    (folder / f"{name}.key").write_bytes(made.key)
    return f'cert = "{folder}/{name}.pem"\nkey = "{folder}/{name}.key"\n'


def test_certificates_are_chosen_by_name_and_reloaded_by_sighup(maildir: Path, file: Path) -> None:
    folder = file.parent
    main, mail, wild = pair(), issue("mail.test"), issue("*.wild.test")
    head = f'listen = ["smtps://127.0.0.1:0"]\n{write_pair(folder, "main", main)}'
    head += f'[certificates."mail.test"]\n{write_pair(folder, "mail", mail)}'
    text = f'{head}[certificates."*.wild.test"]\n{write_pair(folder, "wild", wild)}'
    with serving(maildir, file, text) as gateway:
        assert any("; for mail.test certificate from " in line for line in gateway.out.all)
        assert certificate_for(gateway, "srv.test") == der(main)
        assert certificate_for(gateway, "Mail.test") == der(mail)
        assert certificate_for(gateway, "any.wild.test") == der(wild)

        fresh, more = issue("mail.test"), issue("more.test")
        write_pair(folder, "mail", fresh)
        file.write_text(f'{head}[certificates."more.test"]\n{write_pair(folder, "more", more)}')
        gateway.process.send_signal(signal.SIGHUP)
        gateway.out.wait("SIGHUP: certificate from .*; for more.test certificate from ")
        assert certificate_for(gateway, "mail.test") == der(fresh)
        assert certificate_for(gateway, "more.test") == der(more)
        assert certificate_for(gateway, "any.wild.test") == der(main)

        (folder / "mail.key").write_bytes(main.key)
        gateway.process.send_signal(signal.SIGHUP)
        line = gateway.err.wait("SIGHUP: the certificate stays as it was: ").string
        assert "certificate for mail.test: key " in line
        assert (
            f"{folder}/mail.key is not the key of the certificate in cert {folder}/mail.pem" in line
        )
        assert certificate_for(gateway, "mail.test") == der(fresh)
        assert len(gateway.errors()) == 1


def test_a_certificate_of_a_name_that_cannot_be_used_stops_the_start(file: Path) -> None:
    text = f'listen = ["0"]\n{write_pair(file.parent, "main", pair())}'
    file.write_text(f'{text}[certificates."mail.test"]\ncert = "/no/such.pem"\n')
    ended = run_to_end(f"--config={file}", f"--maildir={file.parent}/m")
    assert ended.returncode == 1
    assert ended.stderr == (
        "fastsmtp: error: certificate for mail.test: cert /no/such.pem cannot be read:"
        " No such file or directory\n"
    )


def test_a_key_with_a_password_is_read_with_the_one_of_the_file(maildir: Path, file: Path) -> None:
    made = pair()
    secret = serialization.BestAvailableEncryption(b"canary-pencil")
    form = serialization.PrivateFormat.PKCS8
    key = serialization.load_pem_private_key(made.key, None)
    octets = key.private_bytes(serialization.Encoding.PEM, form, secret)
    lines = write_pair(file.parent, "main", Pair(made.cert, octets))
    listen = 'listen = ["smtps://127.0.0.1:0"]\n'
    with serving(maildir, file, f'{listen}{lines}key_password = "canary-pencil"\n') as gateway:
        assert certificate_for(gateway, "srv.test") == der(made)
        assert "pencil" not in "".join(gateway.out.all)
    file.write_text(listen + lines)
    ended = run_to_end(f"--config={file}")
    assert ended.returncode == 1
    assert "main.key is encrypted; give its key_password, in the file" in ended.stderr


def test_clients_without_a_certificate_are_refused_where_it_is_required(
    maildir: Path, file: Path
) -> None:
    (file.parent / "ca.pem").write_bytes(ca_pem())
    text = f"""
        listen = ["smtps://127.0.0.1:0"]
        client_ca = "{file.parent}/ca.pem"
        reject_unauthorized = true
        max_version = "TLSv1.2"  # in which the handshake itself fails
    """
    with serving(maildir, file, text + write_pair(file.parent, "main", pair())) as gateway:
        with pytest.raises(ssl.SSLError):
            certificate_for(gateway, "srv.test")
        own = authority().issue_cert("anne@x.example", common_name="anne")
        place = ("127.0.0.1", gateway.ports[0], "c.example")
        context = client_context(own=own)
        with smtplib.SMTP_SSL(*place, timeout=PATIENCE, context=context) as client:
            assert client.sendmail("a@x.example", ["b@y.example"], MESSAGE) == {}
        gateway.out.wait("client certificate .*commonName=anne")


# --- SIGHUP ---


def test_sighup_names_changes_that_need_a_restart(maildir: Path, file: Path) -> None:
    with serving(maildir, file, 'listen = ["127.0.0.1:0"]\nsize = "1M"\n') as gateway:
        file.write_text('listen = ["127.0.0.1:0"]\nsize = "2M"\nbanner = "new"\nusers = "u"\n')
        gateway.process.send_signal(signal.SIGHUP)
        line = gateway.err.wait("SIGHUP").string
        assert line.endswith(
            "SIGHUP: changed values need a restart, or --workers: users, size, banner"
        )
        with gateway.client() as client:
            assert client.esmtp_features["size"] == "1048576"
        file.write_text('listen = ["127.0.0.1:0"]\nsize = "1M"\n')
        gateway.process.send_signal(signal.SIGHUP)
        gateway.out.wait("SIGHUP: there is nothing to reload")


def test_sighup_with_a_broken_file_changes_nothing(maildir: Path, file: Path) -> None:
    text = f'listen = ["smtps://127.0.0.1:0"]\n{write_pair(file.parent, "main", pair())}'
    with serving(maildir, file, text) as gateway:
        write_pair(file.parent, "main", issue("srv.test"))
        file.write_text(text + "size = \n")
        gateway.process.send_signal(signal.SIGHUP)
        line = gateway.err.wait("SIGHUP").string
        assert f"SIGHUP: the configuration stays as it was: {file} is not TOML: line 4, col" in line
        assert certificate_for(gateway, "srv.test") == der(pair())


def test_sighup_takes_another_certificate_and_other_versions_of_tls(
    maildir: Path, file: Path
) -> None:
    listen = 'listen = ["smtps://127.0.0.1:0"]\n'
    other = issue("srv.test")
    with serving(maildir, file, listen + write_pair(file.parent, "main", pair())) as gateway:
        file.write_text(f'{listen}min_version = "TLSv1.3"\n{write_pair(file.parent, "b", other)}')
        gateway.process.send_signal(signal.SIGHUP)
        gateway.out.wait("SIGHUP: certificate from .*/b.pem")
        assert certificate_for(gateway, "srv.test") == der(other)
        context = client_context(ca=None)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        raw = socket.create_connection(("127.0.0.1", gateway.ports[0]), PATIENCE)
        with raw, pytest.raises(ssl.SSLError):
            context.wrap_socket(raw, server_hostname="srv.test")
        assert gateway.errors() == []


# --- wrong configurations ---


@pytest.mark.parametrize(
    "text, message",
    [
        ("size = 1M", "is not TOML: line 1, column 9"),
        ("szie = 1", "line 1: there is no key 'szie', did you mean size?"),
        ("\nworkers = 'many'", "line 2: workers: it takes a number of processes"),
    ],
)
def test_a_wrong_file_is_one_line_and_status_2(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    for command in ([f"--config={file}"], [f"--config={file}", "--verbose"]):
        ended = run_to_end(*command)
        assert ended.returncode == 2
        assert ended.stdout == ""
        assert ended.stderr.startswith(f"fastsmtp: error: {file} ")
        assert message in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_a_wrong_variable_is_one_line_and_status_2(file: Path) -> None:
    env = {**os.environ, "FASTSMTP_MAXERRORS": "1"}
    ended = run_to_end(env=env)
    assert (ended.returncode, ended.stderr) == (
        2,
        "fastsmtp: error: FASTSMTP_MAXERRORS: there is no such variable,"
        " did you mean FASTSMTP_MAX_ERRORS?\n",
    )


@pytest.mark.parametrize("package", ["click", "msgspec"])
def test_without_a_package_of_the_extra_one_line_names_the_extra(
    tmp_path: Path, package: str
) -> None:
    (tmp_path / f"{package}.py").write_text(
        f"raise ModuleNotFoundError(\"No module named '{package}'\", name='{package}')\n"
    )
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    ended = run_to_end(env=environment(PYTHONPATH=path))
    assert (ended.returncode, ended.stderr) == (
        1,
        f"fastsmtp: error: the package {package} is missing; install it with:"
        " pip install 'fastsmtp-engine[server]'\n",
    )


# --- applications ---

APPLICATION = """
from fastsmtp import SMTPServer
server = SMTPServer(auth_optional=True, name="app.example")
"""


def test_a_file_may_name_the_application_and_where_it_listens(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APPLICATION)
    file = tmp_path / "fastsmtp.toml"
    file.write_text('application = "app:server"\nlisten = ["127.0.0.1:0"]\nmaildir = "m"\n')
    ended = run_to_end(f"--config={file}", cwd=tmp_path)
    assert ended.returncode == 2
    assert f"{file} line 3: maildir: it is for the gateway, not for app:server" in ended.stderr
    file.write_text('application = "app:other"\nlisten = ["127.0.0.1:0"]\n')
    ended = run_to_end(f"--config={file}", cwd=tmp_path)
    assert ended.returncode == 2
    assert "app has no attribute other; there is app:server" in ended.stderr
