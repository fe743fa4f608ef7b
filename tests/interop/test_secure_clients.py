"""TLS, logins and proxies together, by other people's clients: openssl s_client, smtplib, swaks; on
each loop.
"""

from __future__ import annotations

import asyncio
import smtplib
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from clients import PATIENCE, Sink, digest, program, swaks_over_tls
from conftest import Run
from scenario import codes
from tls_kit import authority, ca_pem, certified, client_context, pair

from fastsmtp.testing import running

pytestmark = pytest.mark.interop
row = pytest.mark.row

OPENSSL, NO_OPENSSL = program("openssl", "openssl")
SWAKS, NO_SWAKS = swaks_over_tls()
needs_openssl = pytest.mark.skipif(not OPENSSL, reason=NO_OPENSSL)
needs_swaks = pytest.mark.skipif(not SWAKS, reason=NO_SWAKS)

KINDS = pytest.mark.parametrize("kind", ["implicit", "STARTTLS"])
METHODS = pytest.mark.parametrize("method", ["PLAIN", "LOGIN", "CRAM-MD5"])
SENDER, RECIPIENT = "a@x.example", "b@y.example"
TEXT = b"Subject: x\r\n\r\n" + b"text\r\n.dot\r\n" * 10_000


class Users(Sink):
    """Lets ann in with the right password, and relays in XCLIENT; keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.logins: list[tuple[str, str]] = []
        self.sessions: list[tuple[str, str, Any]] = []

    def server(self, **options: Any) -> Any:
        return super().server(on_auth=self.on_auth, on_mail_from=self.on_mail_from, **options)

    def on_auth(self, auth: Any, session: Any, callback: Callable[..., object]) -> None:
        self.logins.append((auth.method, auth.username))
        trusted = auth.method in ("XCLIENT", "EXTERNAL")
        right = trusted or auth.validate_password("p w!")
        callback(None, {"user": auth.username or "certified"} if right else None)

    def on_mail_from(self, address: Any, session: Any, callback: Callable[..., object]) -> None:
        self.sessions.append((session.transmission_type, session.remote_address, session.user))
        callback()


# --- smtplib ---


def smtplib_client(kind: str, address: Any) -> smtplib.SMTP:
    """A client that has TLS."""
    context = client_context()
    if kind == "implicit":
        return smtplib.SMTP_SSL(*address, "c.example", timeout=PATIENCE, context=context)
    client = smtplib.SMTP(*address, "c.example", timeout=PATIENCE)
    client.starttls(context=context)
    return client


@KINDS
@METHODS
@row("TLS-10", "AUTH-04", "AUTH-05", "AUTH-06")
def test_smtplib_logs_in_within_tls_and_sends(run: Run, kind: str, method: str) -> None:
    users = Users()

    def work(address: Any) -> None:
        with smtplib_client(kind, address) as client:
            client.ehlo("c.example")
            assert client.esmtp_features["auth"].split() == [method]
            with pytest.raises(smtplib.SMTPSenderRefused):
                client.sendmail(SENDER, RECIPIENT, b"x\r\n")
            with pytest.raises(smtplib.SMTPAuthenticationError) as wrong:
                client.login("ann", "p w?")
            assert wrong.value.smtp_code == 535
            assert client.login("ann", "p w!")[0] == 235
            assert not client.sendmail(SENDER, RECIPIENT, TEXT)
            assert not client.sendmail(SENDER, RECIPIENT, b"small\r\n")

    async def main() -> None:
        given = certified(secure=kind == "implicit", auth_methods=[method], auth_optional=False)
        async with running(users.server(**given)) as address:
            await asyncio.to_thread(work, address)

    run(main())
    assert users.logins == [(method, "ann")] * 2
    assert users.sessions == [("ESMTPSA", "127.0.0.1", "ann")] * 2
    assert [told.digest for told in users.arrived] == [digest(TEXT), digest(b"small\r\n")]


@row("TLS-19", "TLS-22")
@KINDS
def test_smtplib_refuses_a_server_whose_certificate_it_does_not_trust(run: Run, kind: str) -> None:
    def work(address: Any) -> None:
        with pytest.raises((OSError, smtplib.SMTPException)):
            smtplib_client(kind, address)

    async def main() -> None:
        theirs = pair(ca="theirs")
        given = certified(secure=kind == "implicit", cert=theirs.cert, key=theirs.key)
        async with running(Sink().server(**given)) as address:
            await asyncio.to_thread(work, address)

    run(main())


def test_lmtp_has_starttls_too(run: Run) -> None:
    sink = Sink()

    def work(address: Any) -> None:
        with smtplib.LMTP(*address, "c.example", timeout=PATIENCE) as client:
            client.starttls(context=client_context())
            assert client.sendmail(SENDER, RECIPIENT, b"text\r\n") == {}

    async def main() -> None:
        async with running(sink.server(**certified(lmtp=True))) as address:
            await asyncio.to_thread(work, address)

    run(main())
    assert [told.kind for told in sink.arrived] == ["LMTPS"]


# --- openssl s_client ---


class SClient(NamedTuple):
    """A running s_client: what it reads goes to the server, its output is what the server says."""

    process: asyncio.subprocess.Process

    async def reply(self) -> str:
        """The next reply."""
        assert self.process.stdout is not None
        octets = b""
        async with asyncio.timeout(PATIENCE):
            while line := await self.process.stdout.readline():
                octets += line
                if line[3:4] == b" ":
                    return codes(octets)[0]
        assert not octets
        return ""

    async def ask(self, line: bytes) -> str:
        """Send a line, which s_client gives a CRLF, and read a reply."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        return await self.reply()


@asynccontextmanager
async def s_client(address: Any, kind: str, *more: str) -> AsyncIterator[SClient]:
    command = [OPENSSL, "s_client", "-connect", f"{address[0]}:{address[1]}", "-crlf", "-quiet"]
    if kind != "implicit":
        command += ["-starttls", "lmtp" if kind == "LMTP" else "smtp"]
    process = await asyncio.create_subprocess_exec(
        *command,
        *("-servername", "srv.test", *more),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield SClient(process)
    finally:
        if process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                async with asyncio.timeout(PATIENCE):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
                raise


def files(folder: Path) -> list[str]:
    """Arguments that verify the server, with our authority in a file."""
    (folder / "ca.pem").write_bytes(ca_pem())
    verify = ["-verify_return_error", "-verify_hostname", "srv.test"]
    return ["-CAfile", str(folder / "ca.pem"), *verify]


@needs_openssl
@row("TLS-26", "TLS-08")
@pytest.mark.parametrize("kind", ["implicit", "STARTTLS", "LMTP"])
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_s_client_holds_a_session(
    run: Run, kind: str, version: str, tmp_path: Path
) -> None:
    sink = Sink()

    async def main() -> None:
        given = certified(secure=kind == "implicit", lmtp=kind == "LMTP")
        async with (
            running(sink.server(**given)) as address,
            s_client(address, kind, version, *files(tmp_path)) as client,
        ):
            if kind == "implicit":
                assert await client.reply() == "220"
            greeting = b"LHLO c.example" if kind == "LMTP" else b"EHLO c.example"
            assert await client.ask(b"MAIL FROM:<a@x.example>") == "503 5.5.1"
            assert await client.ask(greeting) == "250"
            assert await client.ask(b"STARTTLS") == "503 5.5.1"
            assert await client.ask(b"MAIL FROM:<a@x.example> REQUIRETLS") == "250 2.1.0"
            assert await client.ask(b"RCPT TO:<b@y.example>") == "250 2.1.5"
            assert await client.ask(b"DATA") == "354"
            assert await client.ask(b"Subject: x\n\n..\n.") == "250 2.6.0"
            assert await client.ask(b"QUIT") == "221 2.0.0"
            assert await client.reply() == ""
            async with asyncio.timeout(PATIENCE):
                await client.process.wait()  # the server's close ends it, standard input is open

    run(main())
    (told,) = sink.arrived
    assert told.kind == ("LMTPS" if kind == "LMTP" else "ESMTPS")
    assert told.digest == digest(b"Subject: x\r\n\r\n.\r\n")


@needs_openssl
@row("TLS-20")
@KINDS
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("whose", ["ours", "theirs", ""])
def test_openssl_s_client_shows_a_certificate(
    run: Run, kind: str, version: str, whose: str, tmp_path: Path
) -> None:
    shown: list[str] = []
    if whose:
        own = authority(whose).issue_cert("client.test", common_name="ann")
        own.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "own.pem"))
        shown = ["-cert", str(tmp_path / "own.pem")]
    users = Users()

    async def main() -> None:
        demand = {"ca": ca_pem(), "request_cert": True, "reject_unauthorized": True}
        given = certified(secure=kind == "implicit", auth_methods=["EXTERNAL"], **demand)
        async with (
            running(users.server(**given)) as address,
            s_client(address, kind, version, *shown, *files(tmp_path)) as client,
        ):
            if whose == "ours":
                if kind == "implicit":
                    assert await client.reply() == "220"
                assert await client.ask(b"EHLO c.example") == "250"
                assert await client.ask(b"AUTH EXTERNAL =") == "235 2.7.0"
                assert await client.ask(b"QUIT") == "221 2.0.0"
            else:
                async with asyncio.timeout(PATIENCE):
                    await client.process.wait()
                    assert await client.reply() == ""

    run(main())
    assert users.logins == ([("EXTERNAL", "")] if whose == "ours" else [])


# --- swaks ---


async def swaks(address: Any, *arguments: str) -> tuple[int, str]:
    """Its exit status and its transcript."""
    command = [SWAKS, "--server", f"{address[0]}:{address[1]}", "--timeout", f"{PATIENCE:.0f}"]
    command += ["--helo", "c.example", "--from", SENDER, "--to", RECIPIENT, *arguments]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, timeout=2 * PATIENCE, check=False
    )
    return done.returncode, (done.stdout + done.stderr).decode("latin-1")


HOW = {"implicit": "--tls-on-connect", "STARTTLS": "--tls"}


@needs_swaks
@row("AUTH-04", "AUTH-05", "AUTH-06", "TLS-10")
@KINDS
@METHODS
def test_swaks_logs_in_within_tls_and_sends(
    run: Run, kind: str, method: str, tmp_path: Path
) -> None:
    users = Users()
    files(tmp_path)
    verify = ["--tls-verify", "--tls-ca-path", str(tmp_path / "ca.pem"), "--tls-sni", "srv.test"]

    async def main() -> None:
        given = certified(secure=kind == "implicit", auth_methods=[method], auth_optional=False)
        async with running(users.server(**given)) as address:
            login = ["--auth", method, "--auth-user", "ann", "--auth-password"]
            status, transcript = await swaks(address, HOW[kind], *verify, *login, "p w!")
            assert status == 0, transcript
            status, transcript = await swaks(address, HOW[kind], *verify, *login, "p w?")
            assert status == 28, transcript
            assert "<~* 535 5.7.8 " in transcript

    run(main())
    assert users.sessions == [("ESMTPSA", "127.0.0.1", "ann")]
    assert len(users.arrived) == 1


@needs_swaks
@row("PROXY-08", "XCL-02", "XCL-06", "XCL-08", "AUTH-15")
@KINDS
@pytest.mark.parametrize("proxy", ["1", "2"])
@pytest.mark.parametrize("early", [True, False])
def test_swaks_sends_through_a_proxy_header_tls_and_xclient_in_one_session(
    run: Run, kind: str, proxy: str, early: bool
) -> None:
    """A PROXY header, TLS, XCLIENT before or after STARTTLS, with a login, and a message."""
    users = Users()
    header = ["--proxy-version", proxy, "--proxy-family", "TCP4" if proxy == "1" else "AF_INET"]
    header += ["--proxy-source", "192.0.2.1", "--proxy-source-port", "4000"]
    header += ["--proxy-dest", "198.51.100.1", "--proxy-dest-port", "25"]
    header += [] if proxy == "1" else ["--proxy-protocol", "STREAM", "--proxy-command", "PROXY"]
    xclient = ["--xclient-addr", "198.51.100.7", "--xclient-login", "zoe"]
    xclient += ["--xclient-before-starttls"] if early else []

    async def main() -> None:
        given = certified(
            secure=kind == "implicit",
            auth_optional=early and kind == "STARTTLS",
            allow_insecure_auth=True,
            use_proxy=["127.0.0.1"],
            use_xclient=["192.0.2.1"],
        )
        async with running(users.server(**given)) as address:
            status, transcript = await swaks(address, HOW[kind], *header, *xclient)
        assert status == 0, transcript

    run(main())
    assert users.logins == [("XCLIENT", "zoe")]
    gone = early and kind == "STARTTLS"  # what LOGIN said in clear is not taken over
    told = ("ESMTPS", "198.51.100.7", None) if gone else ("ESMTPSA", "198.51.100.7", "zoe")
    assert users.sessions == [told]
    assert len(users.arrived) == 1
