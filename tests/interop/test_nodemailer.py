"""nodemailer, over STARTTLS and implicit TLS, with each way to log in that it knows, on each loop.

npm installs it once, a pinned version, into build/. Where there is no node or npm, or the registry
cannot be reached, the tests are skipped and say why.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from clients import PATIENCE, Sink, digest, program
from conftest import Run
from sasl_kit import ANN
from tls_kit import authority, ca_pem, certified

from fastsmtp.testing import running

pytestmark = pytest.mark.interop
row = pytest.mark.row

VERSION = "7.0.11"
BUILD = Path(__file__).parents[2] / "build"
NODE, NO_NODE = program("node", "nodejs")
NPM, NO_NPM = program("npm", "npm")
METHODS = ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2")
PASSWORD = "p w\x01ü€"

# stdin: {"jobs": [[transport options, [raw message in base64, ...]], ...]}; stdout: one result each
SCRIPT = """
const nodemailer = require('nodemailer');
async function main(jobs) {
    const results = [];
    for (const [options, messages] of jobs) {
        const transport = nodemailer.createTransport(options);
        try {
            for (const raw of messages) {
                const told = await transport.sendMail({
                    envelope: { from: 'a@x.example', to: ['b@y.example', 'ü@y.example'] },
                    raw: Buffer.from(raw, 'base64')
                });
                results.push(told.response);
            }
        } catch (error) {
            results.push({ code: error.code, response: error.response || error.message });
        }
        transport.close();
    }
    process.stdout.write(JSON.stringify(results));
}
let input = '';
process.stdin.on('data', piece => { input += piece; });
process.stdin.on('end', () => main(JSON.parse(input).jobs));
"""


class Installed(NamedTuple):
    """folder: with node_modules, or None. reason: why there is none."""

    folder: Path | None
    reason: str


@cache
def installed() -> Installed:
    """Install it, unless it is there; never half."""
    if not NODE or not NPM:
        return Installed(None, NO_NPM if NODE else NO_NODE)
    folder = BUILD / f"nodemailer-{VERSION}"
    if folder.exists():
        return Installed(folder, "")
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--no-update-notifier"]
        place = ["--prefix", f"{scratch}/new", "--cache", f"{scratch}/cache"]
        command = [NPM, "install", *quiet, *place, "--fetch-retries=0", f"nodemailer@{VERSION}"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            return Installed(None, f"npm did not get nodemailer {VERSION} in two minutes")
        if done.returncode:
            errors = [line for line in done.stderr.decode().splitlines() if "error" in line.lower()]
            text = "; ".join(errors)[:200]
            return Installed(None, f"npm does not get nodemailer {VERSION}: {text}")
        try:
            Path(scratch, "new").rename(folder)
        except OSError:  # another process was first
            assert folder.exists()
    return Installed(folder, "")


@pytest.fixture(scope="module")
def modules() -> Path:
    """The folder in which node finds nodemailer."""
    found = installed()
    if found.folder is None:
        pytest.skip(found.reason)
    return found.folder / "node_modules"


async def send(modules: Path, jobs: list[Any]) -> list[Any]:
    """What nodemailer says to each of its jobs: a reply, or the error's code and reply."""
    child = await asyncio.create_subprocess_exec(
        *(NODE, "-e", SCRIPT),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"NODE_PATH": str(modules)},
    )
    try:
        async with asyncio.timeout(2 * PATIENCE):
            out, errors = await child.communicate(json.dumps({"jobs": jobs}).encode())
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert not child.returncode, errors.decode()
    return list(json.loads(out))


def text_of(number: int = 0) -> bytes:
    return b"Subject: %d\r\n\r\n.dot\r\n..\r\n.\r\n\xe4\xf6\xfc\r\n" % number + b"line\r\n" * 20_000


def encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


def transport(address: Any, kind: str, **options: Any) -> dict[str, Any]:
    host, port = address
    return {
        "host": host,
        "port": port,
        "secure": kind == "implicit",
        "requireTLS": True,
        "name": "c.example",
        "tls": {"ca": ca_pem().decode(), "servername": "srv.test"},
        **options,
    }


class Users:
    """Lets ann in with the right password; notes the method."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bool]] = []

    def on_auth(self, auth: Any, session: Any, callback: Any) -> None:
        if auth.method == "XOAUTH2":
            right = auth.access_token == "T0ken"
        else:
            right = auth.validate_password(PASSWORD)
        self.seen.append((auth.method, auth.username, right))
        callback(None, ANN if right and auth.username == "ann" else None)


KINDS = pytest.mark.parametrize("kind", ["implicit", "STARTTLS"])


@KINDS
@row("TLS-26", "TLS-22")
def test_messages_arrive_octet_for_octet(run: Run, modules: Path, kind: str) -> None:
    texts = [text_of(number) for number in range(5)]

    async def main() -> None:
        sink = Sink()
        async with running(sink.server(**certified(secure=kind == "implicit"))) as address:
            pooled = transport(address, kind, pool=True, maxConnections=1)
            distrustful = transport(address, kind, tls={"servername": "srv.test"})
            wrong_name = transport(address, kind)
            wrong_name["tls"]["servername"] = "other.test"
            plain = [encoded(text) for text in texts]
            jobs = [[pooled, plain], [distrustful, plain], [wrong_name, plain]]
            *good, untrusted, misnamed = await send(modules, jobs)
        assert [reply.split()[:2] for reply in good] == [["250", "2.6.0"]] * 5
        assert untrusted["code"] in ("ESOCKET", "ETLS")
        assert misnamed["code"] in ("ESOCKET", "ETLS")
        assert [told.digest for told in sink.arrived] == [digest(text) for text in texts]
        assert {told.kind for told in sink.arrived} == {"UTF8SMTPS"}
        assert sink.arrived[0].recipients == ["b@y.example", "ü@y.example"]

    run(main())


@KINDS
@row("AUTH-04", "AUTH-05", "AUTH-06", "AUTH-08", "TLS-10")
def test_each_way_to_log_in_works_and_fails(run: Run, modules: Path, kind: str) -> None:
    users, sink = Users(), Sink()

    def login(method: str, right: bool) -> dict[str, Any]:
        if method == "XOAUTH2":
            token = "T0ken" if right else "stale"
            return {"type": "OAuth2", "user": "ann", "accessToken": token}
        secret = PASSWORD if right else PASSWORD + "x"
        return {"user": "ann", "pass": secret, "method": method}

    async def main() -> None:
        given = certified(secure=kind == "implicit", auth_methods=METHODS, auth_optional=False)
        async with running(sink.server(**given, on_auth=users.on_auth)) as address:
            jobs = [
                [transport(address, kind, auth=login(method, right)), [encoded(b"x\r\n")]]
                for method in METHODS
                for right in (True, False)
            ]
            jobs.append([transport(address, kind), [encoded(b"x\r\n")]])
            *results, nobody = await send(modules, jobs)
        for good, bad in zip(results[::2], results[1::2], strict=True):
            assert good.startswith("250 2.6.0")
            assert bad["code"] == "EAUTH"
            assert bad["response"].startswith("535 5.7.8")
        assert nobody["response"].startswith("530 5.7.0")
        assert {told.kind for told in sink.arrived} == {"UTF8SMTPSA"}
        assert len(sink.arrived) == len(METHODS)

    run(main())
    tried = [(method, "ann", right) for method in METHODS for right in (True, False)]
    assert users.seen == [*tried, tried[-1]]  # a stale token is tried once more


def test_a_client_that_demands_tls_does_not_talk_to_a_server_without(
    run: Run, modules: Path
) -> None:
    async def main() -> None:
        sink = Sink()
        async with running(sink.server()) as address:
            job = [transport(address, "STARTTLS"), [encoded(b"x\r\n")]]
            (result,) = await send(modules, [job])
        assert result["code"] == "ETLS"
        assert result["response"].startswith("502 5.5.1")
        assert sink.arrived == []

    run(main())


@row("TLS-20")
@KINDS
def test_a_client_shows_its_certificate(run: Run, modules: Path, kind: str) -> None:
    own = authority().issue_cert("client.test")
    shown = {
        "ca": ca_pem().decode(),
        "servername": "srv.test",
        "cert": b"".join(blob.bytes() for blob in own.cert_chain_pems).decode(),
        "key": own.private_key_pem.bytes().decode(),
    }
    verified: list[bool] = []

    def on_secure(socket: Any, session: Any, callback: Any) -> None:
        verified.append(socket.verified)
        callback()

    async def main() -> None:
        sink = Sink()
        demand = {"ca": ca_pem(), "request_cert": True, "reject_unauthorized": True}
        given = certified(secure=kind == "implicit", on_secure=on_secure, **demand)
        async with running(sink.server(**given)) as address:
            with_one = transport(address, kind, tls=shown)
            jobs = [[each, [encoded(b"x\r\n")]] for each in (with_one, transport(address, kind))]
            good, bad = await send(modules, jobs)
        assert good.startswith("250 2.6.0")
        assert isinstance(bad, dict)
        assert len(sink.arrived) == 1

    run(main())
    assert verified == [True]
