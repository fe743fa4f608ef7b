"""`RecordingServer`, with real clients and with unittest."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
import sys
import threading
import unittest
from pathlib import Path
from typing import Any

import pytest
from clients import PATIENCE

from fastsmtp.testing import RecordingServer

pytestmark = pytest.mark.usefixtures("no_leaks")

TEXT = "Subject: hello\r\n\r\nworld\r\n"
BOB = "bob@example.org"


def client_of(server: RecordingServer) -> smtplib.SMTP:
    return smtplib.SMTP(server.host, server.port, timeout=PATIENCE)


def send(server: RecordingServer, *to: str, text: str = TEXT) -> dict[str, Any]:
    with client_of(server) as client:
        return client.sendmail("anne@x.example", to or (BOB,), text)


# --- what has arrived -----------------------------------------------------------------------------


def test_messages_are_kept_with_their_envelope_in_the_order_of_their_arrival() -> None:
    with RecordingServer() as server, client_of(server) as client:
        client.sendmail("anne@x.example", [BOB, "eve@example.org"], TEXT, ["BODY=8BITMIME"])
        client.sendmail("", [BOB], TEXT.replace("hello", "again"))
        first, second = server.messages
    assert (first.mail_from, first.rcpt_to) == ("anne@x.example", [BOB, "eve@example.org"])
    assert (second.mail_from, second.rcpt_to) == ("", [BOB])
    assert (first.content, first.envelope.body_type) == (TEXT.encode(), "8bitmime")
    assert (first.user, first.secure) == (None, False)
    assert (first.message["subject"], second.message["subject"]) == ("hello", "again")
    assert first.message.get_content() == "world\r\n"


def test_wait_returns_when_the_messages_are_there() -> None:
    with RecordingServer() as server:
        sender = threading.Thread(target=lambda: [send(server) for _ in range(3)])
        sender.start()
        assert len(server.wait(3, timeout=PATIENCE)) == 3
        sender.join()


def test_a_wait_that_fails_shows_what_has_arrived_and_what_clients_got() -> None:
    with RecordingServer() as server:
        with pytest.raises(AssertionError, match=r"0 of 1 messages.*\nno client has connected"):
            server.wait(timeout=0)
        server.refuse("rcpt_to", 550, "unknown", only="eve@example.org")
        send(server, BOB)
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            send(server, "eve@example.org")
        with pytest.raises(AssertionError) as failed:
            server.wait(2, timeout=0)
    told = str(failed.value)
    assert told.startswith("1 of 2 messages have arrived in 0 s\n  <message from anne@x.example to")
    assert "25 octets, subject 'hello'>" in told
    assert "550 5.1.1 unknown" in told


def test_wait_in_a_running_loop_names_its_coroutine(run: Any) -> None:
    async def scenario() -> None:
        with RecordingServer() as server:
            with pytest.raises(RuntimeError, match="wait_async"):
                server.wait()
            waiting = asyncio.ensure_future(server.wait_async(timeout=PATIENCE))
            await asyncio.to_thread(send, server)
            assert await waiting == server.wait() == server.messages
            with pytest.raises(AssertionError, match="1 of 2"):
                await server.wait_async(2, timeout=0)

    run(scenario())


def test_clear_forgets_messages_and_the_script() -> None:
    with RecordingServer() as server:
        send(server)
        server.refuse("mail_from")
        server.clear()
        assert server.messages == []
        send(server)
        assert len(server.messages) == 1


def test_messages_stay_after_the_end_and_the_server_can_start_again() -> None:
    server = RecordingServer()
    with pytest.raises(RuntimeError, match="not started"):
        server.address  # noqa: B018
    for count in (1, 2):
        with server:
            send(server)
        assert len(server.messages) == count


# --- refusals and delays --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "error"),
    [
        ("connect", smtplib.SMTPConnectError),
        ("mail_from", smtplib.SMTPSenderRefused),
        ("rcpt_to", smtplib.SMTPRecipientsRefused),
        ("data", smtplib.SMTPDataError),
    ],
)
def test_each_stage_can_be_refused_so_often_as_the_test_says(
    stage: Any, error: type[Exception]
) -> None:
    with RecordingServer() as server:
        server.refuse(stage, 450, "come back", times=2)
        for _ in range(2):
            with pytest.raises(error, match=r"450.*come back"):
                send(server)
        send(server)
        assert len(server.messages) == 1


def test_a_refusal_for_one_recipient_leaves_the_others() -> None:
    with RecordingServer() as server:
        server.refuse("rcpt_to", 550, only="eve@example.org")
        assert send(server, BOB, "eve@example.org").keys() == {"eve@example.org"}
        assert [message.rcpt_to for message in server.messages] == [[BOB]]


def test_421_ends_the_connection() -> None:
    with RecordingServer() as server, client_of(server) as client:
        server.refuse("mail_from", 421, times=1)
        client.ehlo()
        assert client.mail("anne@x.example")[0] == 421
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.noop()


def test_a_delay_holds_the_reply_back() -> None:
    with RecordingServer() as server, client_of(server) as client:
        server.delay("rcpt_to", 1000, only="eve@example.org")
        client.ehlo()
        client.mail("anne@x.example")
        assert client.rcpt(BOB)[0] == 250
        assert client.sock is not None
        client.sock.settimeout(0.05)
        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
            client.rcpt("eve@example.org")


def test_a_delay_and_a_refusal_of_one_stage_both_count() -> None:
    with RecordingServer() as server:
        server.delay("data", 0.001)
        server.refuse("data", 554)
        with pytest.raises(smtplib.SMTPDataError):
            send(server)


@pytest.mark.parametrize(
    ("stage", "code", "error"),
    [("rcpt", 550, ValueError), ("rcpt_to", 250, ValueError), ("rcpt_to", "550", TypeError)],
)
def test_a_script_that_cannot_be_is_an_error_at_once(
    stage: Any, code: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        RecordingServer().refuse(stage, code)


# --- AUTH, TLS, LMTP, UNIX sockets ----------------------------------------------------------------


def test_users_have_to_authenticate() -> None:
    with RecordingServer(users={"anne": "secret"}) as server:
        with pytest.raises(smtplib.SMTPSenderRefused, match="530"):
            send(server)
        with client_of(server) as client:
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login("anne", "wrong")
            client.login("anne", "secret")
            client.sendmail("anne@x.example", [BOB], TEXT)
        assert [message.user for message in server.messages] == ["anne"]


def test_a_login_can_be_refused_for_a_while() -> None:
    with RecordingServer(users={"anne": "secret"}) as server, client_of(server) as client:
        server.refuse("auth", 454, only="anne", times=2)  # the client tries two mechanisms
        with pytest.raises(smtplib.SMTPAuthenticationError, match="454"):
            client.login("anne", "secret")
        client.login("anne", "secret")


def test_starttls_and_implicit_tls_have_a_certificate_that_clients_can_verify() -> None:
    with RecordingServer(tls="starttls", users={"anne": "secret"}) as server:
        with client_of(server) as client:
            client.starttls(context=server.client_context())
            client.login("anne", "secret")
            client.sendmail("anne@x.example", [BOB], TEXT)
        assert [message.secure for message in server.messages] == [True]
    with RecordingServer(tls="implicit") as server:
        trusting = ssl.create_default_context(cafile=server.ca_file)
        trusting.verify_flags |= ssl.VERIFY_X509_STRICT
        with smtplib.SMTP_SSL("localhost", server.port, context=trusting) as client:
            client.sendmail("anne@x.example", [BOB], TEXT)
        with pytest.raises(ssl.SSLCertVerificationError):
            smtplib.SMTP_SSL(server.host, server.port, context=ssl.create_default_context()).close()
        file = server.ca_file
    assert not file.exists()


def test_tls_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastsmtp.testing.authority import authority

    authority.cache_clear()
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(RuntimeError, match=r"pip install 'fastsmtp-engine\[tls\]'"):
        RecordingServer(tls="starttls")


def test_lmtp_on_a_unix_socket_has_a_fate_for_each_recipient(tmp_path: Path) -> None:
    with RecordingServer(lmtp=True, path=tmp_path / "lmtp") as server:
        assert (server.host, server.port) == (str(tmp_path / "lmtp"), 0)
        server.refuse("data", 452, "over quota", only="eve@example.org")
        with smtplib.LMTP(server.host) as client:
            client.ehlo()
            client.mail("anne@x.example")
            for recipient in (BOB, "eve@example.org"):
                client.rcpt(recipient)
            assert client.data(TEXT)[0] == 250
            assert client.getreply()[0] == 452
        assert [message.rcpt_to for message in server.messages] == [[BOB]]


@pytest.mark.parametrize("wrong", [{"on_data": print}, {"tls": "yes"}, {"sice": 1}])
def test_wrong_arguments_are_errors_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        RecordingServer(**wrong)


# --- unittest -------------------------------------------------------------------------------------


class InUnittest(unittest.TestCase):
    def setUp(self) -> None:
        self.smtp = self.enterContext(RecordingServer())

    def runTest(self) -> None:  # noqa: N802 - the name is unittest's
        send(self.smtp)
        (message,) = self.smtp.wait(1)
        assert message.message["subject"] == "hello"


def test_unittest_uses_it_as_a_context() -> None:
    result = unittest.TestResult()
    InUnittest().run(result)
    assert (result.testsRun, result.errors, result.failures) == (1, [], [])
