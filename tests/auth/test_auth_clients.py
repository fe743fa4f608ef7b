"""AUTH over real sockets, with other people's clients: smtplib, swaks, a SCRAM client."""

from __future__ import annotations

import asyncio
import base64
import smtplib
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from clients import PATIENCE, Client, program
from conftest import Run
from sasl_kit import ANN, KEYS, OPEN, b64
from scenario import DEFAULTS, EH
from scramp import ScramClient

from fastsmtp import SMTPServer
from fastsmtp.testing import running

row = pytest.mark.row

SWAKS, NO_SWAKS = program("swaks", "swaks")
PLAIN = b"AUTH PLAIN " + b64("\0ann\0pw") + b"\r\n"


class LoginServer:
    """A server whose user is ann; `seen` is what it got from clients that logged in."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.seen: list[tuple[str, str]] = []

    def on_auth(self, auth: Any, session: Any, callback: Callable[..., object]) -> None:
        right = auth.verified or auth.access_token == self.password
        right = right or auth.validate_password(self.password)
        if auth.username == "ann" and right:
            self.seen.append((auth.method, auth.username))
            callback(None, ANN)
        else:
            callback(None, None)

    def server(self, **options: Any) -> SMTPServer:
        return SMTPServer(
            **{**DEFAULTS, **OPEN, "on_auth": self.on_auth, "auth_optional": False, **options}
        )


async def in_thread(server: SMTPServer, work: Callable[..., Any], *arguments: Any) -> Any:
    """Let a blocking client work with the server."""
    async with running(server) as address:
        return await asyncio.to_thread(work, address, *arguments)


@row("AUTH-04", "AUTH-05", "AUTH-06")
@pytest.mark.parametrize("method", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_the_client_of_the_standard_library_logs_in(run: Run, method: str) -> None:
    checks = LoginServer("p w\x01!")  # it sends ASCII only

    def work(address: tuple[str, int]) -> str:
        with smtplib.SMTP(*address, timeout=PATIENCE) as client:
            client.ehlo("c.example")
            assert client.esmtp_features["auth"].split() == [method]
            with pytest.raises(smtplib.SMTPSenderRefused):
                client.sendmail("a@x.example", ["b@y.example"], b"x")
            with pytest.raises(smtplib.SMTPAuthenticationError) as wrong:
                client.login("ann", checks.password + "x")
            assert wrong.value.smtp_code == 535
            code, _ = client.login("ann", checks.password)
            assert code == 235
            assert client.mail("a@x.example")[0] == 250
            return str(client.ehlo("c.example")[1])

    assert "AUTH" not in run(in_thread(checks.server(auth_methods=[method]), work))
    assert checks.seen == [(method, "ann")]


@row("AUTH-07")
@pytest.mark.parametrize("password, code", [("pencil", "235 2.7.0"), ("pencils", "535 5.7.8")])
def test_another_scram_client_logs_in(run: Run, password: str, code: str) -> None:
    async def talk() -> str:
        checks = LoginServer("")
        server = checks.server(on_scram=lambda username, session, callback: callback(None, KEYS))
        other = ScramClient(["SCRAM-SHA-256"], "ann", password)
        async with running(server) as address, await Client.greeted(address) as client:

            async def ask(text: str) -> bytes:
                client.send(b64(text) + b"\r\n")
                async with asyncio.timeout(PATIENCE):
                    return await client.reader.readline()

            assert await client.ask(b"AUTH SCRAM-SHA-256\r\n") == "334"

            line = await ask(other.get_client_first())
            other.set_server_first(base64.b64decode(line[4:]).decode())
            line = await ask(other.get_client_final())
            if line.startswith(b"334 "):
                other.set_server_final(base64.b64decode(line[4:]).decode())
                return await client.ask(b"\r\n")
            return line[:9].decode()

    assert run(talk()) == code


@pytest.mark.interop
@pytest.mark.skipif(not SWAKS, reason=NO_SWAKS)
@row("AUTH-04", "AUTH-05", "AUTH-06")
@pytest.mark.parametrize("method", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_swaks_logs_in(run: Run, method: str) -> None:
    checks = LoginServer("secret word")

    def work(address: tuple[str, int]) -> subprocess.CompletedProcess[str]:
        host, port = address
        return subprocess.run(
            [
                *[SWAKS, "--server", host, "--port", str(port), "--ehlo", "c.example"],
                *["--auth", method, "--auth-user", "ann", "--auth-password", checks.password],
                *["--from", "a@x.example", "--to", "b@y.example", "--quit-after", "RCPT"],
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    ended = run(in_thread(checks.server(), work))
    if "not available" in ended.stderr + ended.stdout:  # a Perl module that swaks wants
        pytest.skip(f"swaks here does not have {method}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "235 2.7.0" in ended.stdout
    assert checks.seen == [(method, "ann")]


@row("AUTH-12")
def test_many_clients_that_guess_do_not_keep_others_out(run: Run) -> None:
    """Limits on guessing over many connections are the author's; each connection has its own."""

    async def guess(address: tuple[str, int]) -> list[str]:
        async with await Client.greeted(address) as client:
            return [await client.ask(PLAIN) for _ in range(3)]

    async def talk() -> None:
        checks = LoginServer("another")
        async with running(checks.server()) as address:
            found = await asyncio.gather(*[guess(address) for _ in range(200)])
            assert found == [["535 5.7.8", "535 5.7.8", "421 4.7.0"]] * 200
            async with await Client.greeted(address) as client:
                right = b"AUTH PLAIN " + b64("\0ann\0another") + b"\r\n"
                assert await client.ask(right) == "235 2.7.0"

    run(talk())


@row("AUTH-12")
def test_max_clients_per_host_bounds_clients_that_guess(run: Run) -> None:
    async def talk() -> None:
        async with running(LoginServer("x").server(max_clients_per_host=2)) as address:
            one, two = await Client.greeted(address), await Client.greeted(address)
            async with one, two, await Client.connect(address) as third:
                assert await third.rest() == ["421"]
                assert await one.ask(PLAIN) == await two.ask(PLAIN) == "535 5.7.8"

    run(talk())


@row("AUTH-05")
@pytest.mark.parametrize("leave", ["finish", "reset"])
def test_a_client_that_leaves_within_an_exchange_is_forgotten(run: Run, leave: str) -> None:
    async def talk() -> None:
        closed = asyncio.Event()
        server = LoginServer("x").server(on_close=lambda session: closed.set())
        async with running(server) as address, await Client.connect(address) as client:
            assert await client.reply() == "220"
            assert await client.ask(EH) == "250"
            assert await client.ask(b"AUTH LOGIN YW5u\r\n") == "334"
            getattr(client, leave)()
            async with asyncio.timeout(PATIENCE):
                await closed.wait()

    run(talk())


@pytest.mark.parametrize(
    "options, warns",
    [
        ({}, False),
        ({"auth_methods": []}, True),
        ({"on_auth": None}, True),
        ({"allow_insecure_auth": False}, True),
        ({"allow_insecure_auth": False, "secured": True}, False),
        ({"auth_methods": ["SCRAM-SHA-256"]}, True),
        ({"auth_methods": ["EXTERNAL", "SCRAM-SHA-256-PLUS"]}, True),
        ({"auth_optional": True, "auth_methods": []}, False),
        ({"disabled_commands": ["AUTH"]}, False),
    ],
)
def test_a_demand_for_auth_that_no_client_can_satisfy_is_logged_as_a_warning(
    run: Run, options: dict[str, Any], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def listen() -> None:
        async with running(LoginServer("x").server(**options)):
            pass

    with caplog.at_level("WARNING", logger="fastsmtp"):
        run(listen())
    assert ("no mechanism is usable" in caplog.text) == warns
