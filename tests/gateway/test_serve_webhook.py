"""`fastsmtp serve --deliver https://…`: settings, secrets, replies, large bodies, kill -9."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import smtplib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from mail_load import Load
from serving import Gateway
from tls_kit import authority, ca_pem
from webhook_kit import SECRET, Endpoint, Posted, verified

from fastsmtp.delivery.webhook import Webhook
from fastsmtp.gateway.commands import run
from fastsmtp.gateway.config import ConfigError, load, shown_values
from fastsmtp.gateway.destinations import DestinationError
from fastsmtp.gateway.destinations.table import sink_of

MESSAGE = b"Subject: hello\r\n\r\nworld\r\n"
REMOTE = ("--require=remote", "--config=/dev/null")
KILLS = int(os.environ.get("FASTSMTP_WEBHOOK_KILLS", "200"))
UNENCRYPTED = "mail goes to the webhook unencrypted: its url begins with http://"


@asynccontextmanager
async def serving(
    endpoint: Endpoint, *arguments: str, env: dict[str, str] | None = None
) -> AsyncIterator[Gateway]:
    """A gateway in a process of its own, which delivers to `endpoint`."""
    given = (f"--deliver={endpoint.url}", *REMOTE, *arguments)
    gateway = await asyncio.to_thread(Gateway, None, *given, env=env)
    try:
        yield gateway
    finally:
        await asyncio.to_thread(gateway.kill)


def test_a_message_is_posted_with_the_secret_of_the_environment() -> None:
    async def drive() -> None:
        env = {"FASTSMTP_WEBHOOK": f"secret={SECRET},headers=X-Team: mail"}
        async with Endpoint() as endpoint, serving(endpoint, env=env) as gateway:
            assert gateway.out.all[-1] == (
                f"fastsmtp: delivering to {endpoint.url};"
                " 250 means: taken by the HTTP endpoint (remote)"
            )
            assert f"fastsmtp: {UNENCRYPTED}" in gateway.out.all
            assert "fastsmtp: messages of more than 33554432 octets are refused" in gateway.out.all
            await asyncio.to_thread(gateway.send, MESSAGE, "b@y.example", "c@y.example")
            (posted,) = endpoint.posts
            assert posted.body.endswith(MESSAGE)
            assert verified(posted.headers, posted.body, SECRET)
            assert posted.headers["X-Team"] == "mail"
            to = [each["address"] for each in posted.envelope["rcpt_to"]]
            assert to == ["b@y.example", "c@y.example"]
            assert SECRET not in "\n".join([*gateway.out.all, *gateway.err.all])

    asyncio.run(drive())


def test_a_client_gets_the_reply_of_the_endpoint() -> None:
    async def refuse(posted: Posted) -> web.StreamResponse:
        return web.json_response({"code": 550, "text": "No such user"}, status=400)

    async def drive() -> None:
        async with Endpoint() as endpoint, serving(endpoint) as gateway:
            endpoint.answer = refuse
            with pytest.raises(smtplib.SMTPDataError) as error:
                await asyncio.to_thread(gateway.send, MESSAGE)
            assert error.value.args == (550, b"5.7.1 No such user")

    asyncio.run(drive())


def test_large_bodies_wait_in_the_directory_of_bodies(tmp_path: Path) -> None:
    large = b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n"
    large += (b"y" * 70 + b"\r\n") * 50_000
    waiting: list[int] = []

    async def answer(posted: Posted) -> web.StreamResponse:
        waiting.append(len(list(tmp_path.iterdir())))
        return web.Response()

    async def drive() -> None:
        async with (
            Endpoint() as endpoint,
            serving(endpoint, f"--bodies=url=file:{tmp_path}", "--webhook=form=raw") as gateway,
        ):
            endpoint.answer = answer
            await asyncio.to_thread(gateway.send, large)
            assert endpoint.posts[0].body.endswith(large)
            async with asyncio.timeout(60):
                while list(tmp_path.iterdir()):
                    await asyncio.sleep(0.01)
        assert waiting == [1]

    asyncio.run(drive())


def test_an_endpoint_is_verified_with_ca_and_without_it_the_start_is_refused(
    tmp_path: Path,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("localhost").configure_cert(context)
    (tmp_path / "ca.pem").write_bytes(ca_pem())

    async def drive() -> tuple[str, str]:
        async with Endpoint(context) as endpoint:
            async with serving(endpoint, f"--webhook=ca={tmp_path}/ca.pem") as gateway:
                await asyncio.to_thread(gateway.send, MESSAGE)
            assert len(endpoint.posts) == 1
            with pytest.raises(AssertionError) as error:
                async with serving(endpoint):
                    pass
            return endpoint.url, str(error.value)

    url, told = asyncio.run(drive())
    assert f"fastsmtp: error: deliver {url}: ca: the certificate of the endpoint is" in told
    assert "Traceback" not in told


def test_a_promise_that_is_too_weak_and_no_endpoint_are_one_line_each() -> None:
    async def told(*arguments: str, url: str) -> str:
        try:
            await asyncio.to_thread(Gateway, None, f"--deliver={url}", *arguments)
        except AssertionError as error:
            return str(error)
        raise RuntimeError("it has started")

    async def drive() -> None:
        async with Endpoint() as endpoint:
            line = f"deliver {endpoint.url}: a 250 would mean remote, and require is disk"
            assert line in await told("--config=/dev/null", url=endpoint.url)
        line = f"deliver {endpoint.url}: no answer: Connection refused"
        assert line in await told(*REMOTE, url=endpoint.url)

    asyncio.run(drive())


SETTINGS = [
    (("--webhook=timeout=0",), "--webhook: timeout: it takes seconds above 0"),
    (("--webhook=forms=raw",), "--webhook: there is no key 'forms', did you mean form?"),
    (("--webhook=headers=X",), "--webhook: headers: it takes texts of the form 'Name: value'"),
    (("--webhook=raw",), "--webhook: it takes a table"),
    (("--webhook=secret=hidden",), "--webhook: every user of this machine can read the flags"),
    (("--webhook=headers=X: hidden",), "--webhook: every user of this machine can read the flags"),
    (("--bodies=promise=sure",), "--bodies: promise: it takes memory, quorum, disk"),
    (("--bodies=secret_access_key=hidden",), "--bodies: every user of this machine can read"),
]


@pytest.mark.parametrize("arguments, line", SETTINGS)
def test_a_wrong_setting_is_one_line_that_names_it(
    arguments: tuple[str, ...], line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "--deliver=https://x.invalid/in", *REMOTE, *arguments]) != 0
    (told,) = capfd.readouterr().err.splitlines()
    assert told.startswith(f"fastsmtp: error: {line}")
    assert "hidden" not in told


S3 = "url=s3://mail/x"
TABLES = [
    ("webhook", "form=xml", "webhook: form takes raw or multipart"),
    ("webhook", "parallel=0", "webhook: parallel takes a number"),
    ("webhook", "secret=hidden", "webhook: secret takes whsec_"),
    ("webhook", "secret=hidden,secret_file=x", "webhook: secret_file: secret is given too"),
    ("webhook", "secret_file=/nonexistent", "/nonexistent: No such file or directory"),
    ("webhook", "previous_secret_file=/dev/null", "webhook: previous_secret_file: "),
    ("webhook", "headers=Host: hidden", "webhook: headers cannot set 'Host'"),
    ("webhook", "ca=/dev/null", "webhook: ca takes certificates in PEM"),
    ("webhook", "proxy=hidden", "webhook: proxy takes an https:// or http:// URL"),
    ("bodies", "url=bodies", "bodies: url takes file:DIRECTORY"),
    ("bodies", "orphan_age=7200", "bodies: url takes file:"),
    ("bodies", "url=file:x,region=x", "bodies: region is for s3://"),
    ("bodies", "url=file:x,orphan_age=1", "bodies: orphan_age takes seconds, 3600 or more"),
    ("bodies", f"{S3},uploads=0", "bodies: uploads takes"),
    ("bodies", f"{S3},endpoint=host", "bodies: endpoint takes"),
]


@pytest.mark.parametrize("table, text, line", TABLES)
def test_a_table_that_makes_no_sink_is_one_line_that_names_the_key(
    table: str, text: str, line: str
) -> None:
    environ = {"FASTSMTP_DELIVER": "https://x.invalid/in"}
    config = load({}, environ | {f"FASTSMTP_{table.upper()}": text}, os.devnull).config
    with pytest.raises(DestinationError) as error:
        sink_of(config)
    assert str(error.value).startswith(f"deliver https://x.invalid/in: {line}")
    assert "hidden" not in str(error.value)
    assert "\n" not in str(error.value)


def test_secrets_are_masked_and_their_files_are_for_few(tmp_path: Path) -> None:
    environ = {
        "FASTSMTP_DELIVER": "https://x.invalid/",
        "FASTSMTP_WEBHOOK": "secret=hidden1,authorization=hidden2,headers=X: hidden3,proxy=hidden4",
        "FASTSMTP_BODIES": "url=s3://mail,access_key_id=me,secret_access_key=hidden5",
    }
    found = load({}, environ, os.devnull)
    assert found.config.tables["webhook"]["headers"] == (("X", "hidden3"),)
    assert "hidden" not in "".join([*shown_values(found), repr(found)])
    file = tmp_path / "f.toml"
    file.write_text('[webhook]\nsecret = "hidden"\n')
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="has webhook, and every user can read it") as error:
        load({}, {}, str(file))
    assert "hidden" not in str(error.value)


def test_a_file_of_a_secret_that_every_user_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    environ = {
        "FASTSMTP_DELIVER": "https://x.invalid/in",
        "FASTSMTP_WEBHOOK": f"secret_file={file}",
    }
    config = load({}, environ, os.devnull).config
    file.chmod(0o644)
    with pytest.raises(DestinationError, match=r"every user can read .*: chmod o-r it"):
        sink_of(config)
    file.chmod(0o640)
    assert isinstance(sink_of(config), Webhook)


# --- kill -9 --------------------------------------------------------------------------------------


async def kill_once(chance: random.Random, bodies: Path) -> tuple[int, int]:
    """Load a gateway, kill it, and compare; return how many were acknowledged, and found."""
    found: set[str] = set()

    async def answer(posted: Posted) -> web.StreamResponse:
        await asyncio.sleep(chance.random() / 100)
        body = posted.body[posted.body.index(b"Subject: x\r\n") :]
        found.add(hashlib.sha256(body).hexdigest())
        return web.Response()

    # Fewer requests than clients: what was acknowledged without its answer would be lost.
    given = (f"--bodies=url=file:{bodies}", "--webhook=parallel=2")
    async with Endpoint() as endpoint, serving(endpoint, *given) as gateway:
        endpoint.answer = answer
        load = Load(gateway.ports[0], 8, seed=chance.getrandbits(32), sizes=(10, 20_000, 1_500_000))
        limit = chance.randint(1, 60)
        reached = asyncio.Event()
        load.on_acknowledged = lambda count: reached.set() if count >= limit else None
        sending = asyncio.create_task(load.run())
        async with asyncio.timeout(60):
            await reached.wait()
        gateway.process.kill()
        await sending
    assert load.acknowledged <= found, "an acknowledged message was never posted"
    assert not load.refused
    return len(load.acknowledged), len(found)


@pytest.mark.parametrize("cycle", range(3))
def test_a_gateway_killed_under_load_has_posted_all_that_was_acknowledged(
    tmp_path: Path, cycle: int
) -> None:
    acknowledged, _ = asyncio.run(kill_once(random.Random(cycle), tmp_path))
    assert acknowledged


@pytest.mark.nightly
def test_a_gateway_killed_hundreds_of_times_has_posted_all_that_was_acknowledged(
    tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    chance = random.Random()
    counts = [asyncio.run(kill_once(chance, tmp_path)) for _ in range(KILLS)]
    acknowledged, found = (sum(each) for each in zip(*counts, strict=True))
    record_property("acknowledged", acknowledged)
    print(f"{KILLS} kills: {acknowledged} acknowledged, 0 lost, {found - acknowledged} unanswered")
