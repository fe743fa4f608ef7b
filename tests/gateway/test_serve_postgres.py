"""`fastsmtp serve --deliver postgres://…`: what the start says, kill -9 of the gateway, and a
PostgreSQL that stands still while many clients send.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from free_ports import free_port
from mail_load import Load
from memory import resident_octets
from postgres_kit import Postgres as Server
from postgres_kit import cluster, give_away, owned_directory, why_no_postgres
from serving import Gateway, run_to_end
from tls_kit import ca_pem, pair

from fastsmtp.delivery.postgres import schema
from fastsmtp.gateway.commands import run
from fastsmtp.gateway.config import load, shown_values
from fastsmtp.gateway.destinations import DestinationError, promise_of

REASON = why_no_postgres()

pytestmark = [
    pytest.mark.interop,
    pytest.mark.one_python,
    pytest.mark.skipif(bool(REASON), reason=REASON),
]

NIGHTLY_KILLS = int(os.environ.get("FASTSMTP_KILL_CYCLES", "200"))
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TLS unless a URL says so: asyncio ends it only after its loop is closed."""
    monkeypatch.setenv("PGSSLMODE", "disable")


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    """A server with TLS, and a user who needs a password."""
    with owned_directory() as directory:
        own = pair("db.example")
        for name, octets in (("cert.pem", own.cert), ("key.pem", own.key)):
            (directory / name).write_bytes(octets)
            (directory / name).chmod(0o600)
            give_away(directory / name)
        files = {
            "ssl_cert_file": str(directory / "cert.pem"),
            "ssl_key_file": str(directory / "key.pem"),
        }
        with cluster(ssl="on", **files) as server:
            rules = server.data / "pg_hba.conf"
            login = "host all clerk 127.0.0.1/32 scram-sha-256\n"
            rules.write_text(login + rules.read_text())
            server.run("CREATE ROLE clerk LOGIN PASSWORD 'right'; SELECT pg_reload_conf()")
            yield server


@pytest.fixture
def server(running: Server) -> Server:
    """The same, with an empty table."""
    running.run("DROP TABLE IF EXISTS mail")
    running.run(schema() + "GRANT INSERT, SELECT (id, fingerprint) ON mail TO clerk")
    return running


def serving(server: Server, *arguments: str, **env: str) -> Gateway:
    return Gateway(None, f"--deliver={server.dsn}", *arguments, env=env)


def hashes(server: Server) -> list[str]:
    """SHA-256 of the bodies."""
    return server.lines("SELECT envelope->>'sha256' FROM mail")


def test_a_message_is_a_row_before_its_250(server: Server) -> None:
    with serving(server, "--postgres=table=public.mail") as gateway:
        line = f"delivering to {server.dsn}; 250 means: on this disk (disk)"
        assert gateway.out.all[-1] == f"fastsmtp: {line}"
        assert "fastsmtp: messages of more than 33554432 octets are refused" in gateway.out.all
        gateway.send(MESSAGE)
        sender, octets = server.run(
            "SELECT envelope->>'mail_from', encode(message, 'hex') FROM mail"
        ).split("|")
        assert sender == "a@x.example"
        assert bytes.fromhex(octets).startswith(b"Return-Path: <a@x.example>\r\n")
        assert bytes.fromhex(octets).endswith(b"\r\n" + MESSAGE)
        assert gateway.stop() == 0
    assert gateway.errors() == []


def test_a_password_of_the_table_logs_in_and_is_not_shown(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "fastsmtp.toml"
    file.write_text(
        f'deliver = "{server.dsn.replace("postgres@", "clerk@")}"\n'
        '[postgres]\npassword = "right"\nmax_record = "1M"\n'
    )
    file.chmod(0o600)
    with Gateway(None, f"--config={file}") as gateway:
        gateway.send(MESSAGE)
        assert gateway.stop() == 0
    assert len(hashes(server)) == 1
    shown = "\n".join(shown_values(load({}, {}, str(file))))
    assert '"********"' in shown
    assert "right" not in shown


BAD = [
    ("postgres@127.0.0.1:{free}/postgres", "Connection refused"),
    ("clerk:wrong@127.0.0.1:{port}/postgres", 'password authentication failed for user "clerk"'),
    ("postgres@127.0.0.1:{port}/nowhere", 'database "nowhere" does not exist'),
    ("postgres@127.0.0.1:{port}/postgres?sslmode=perhaps", "`sslmode` parameter must be one of"),
]


@pytest.mark.parametrize("url, reason", BAD)
def test_a_database_that_cannot_be_used_is_one_line_with_the_reason(
    server: Server, url: str, reason: str
) -> None:
    url = url.format(port=server.port, free=free_port())
    line = why_not(f"postgresql://{url}")
    assert line.startswith("deliver postgresql://")
    assert reason in line
    assert "\n" not in line
    assert "wrong@" not in line


def why_not(url: str, require: str = "disk", **table: object) -> str:
    """Return the line of a start that fails, as `fastsmtp check` finds it too."""
    flags = {"require": require, "postgres": [f"{key}={value}" for key, value in table.items()]}
    with pytest.raises(DestinationError) as raised:
        promise_of(load(flags, {"FASTSMTP_DELIVER": url}, os.devnull).config)
    return str(raised.value)


def test_a_table_and_a_promise_that_do_not_fit_are_one_line_that_names_them(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(**options: str) -> str:
        return why_not(server.dsn, **options).removeprefix(f"deliver {server.dsn}: ")

    assert told(table="letters").startswith("table letters: it does not exist")
    assert told(table="Letters").startswith("table takes a name")
    assert told(parallel="0") == "parallel takes a number of connections, got 0"
    assert told(require="quorum_disk").startswith("a 250 would mean disk, and require is quorum")
    server.run("ALTER ROLE postgres SET synchronous_commit = off")
    try:
        assert told().endswith("synchronous_commit is off at the server")
    finally:
        server.run("ALTER ROLE postgres RESET synchronous_commit")
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    assert told().endswith("needs asyncpg: pip install 'fastsmtp-engine[postgres]'")


def test_nothing_is_accepted_when_the_database_cannot_be_trusted(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(ca_pem("another"))
    url = f"{server.dsn}?sslmode=verify-full&sslrootcert={tmp_path / 'ca.pem'}"
    done = run_to_end("--listen=127.0.0.1:0", f"--deliver={url}")
    assert done.returncode == 1
    assert "listening on" not in done.stdout
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"fastsmtp: error: deliver {url}: the certificate of the server is not")


def test_the_schema_is_printed_and_makes_the_table(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["postgres", "schema", "--table=public.letters"]) == 0
    server.run("DROP TABLE IF EXISTS letters")
    server.run(capfd.readouterr().out)
    url = f"{server.dsn}"
    found = load({"postgres": ["table=letters"]}, {"FASTSMTP_DELIVER": url}, os.devnull)
    assert promise_of(found.config) == [f"delivering to {url}; 250 means: on this disk (disk)"]
    assert run(["postgres", "schema", "--table=a b"]) == 2
    assert capfd.readouterr().err.startswith("fastsmtp: error: --table: table takes a name")


# kill -9 of the gateway.


def kill_under_load(server: Server, seed: int, connections: int) -> int:
    """Kill a gateway under load; return how many were acknowledged, all of which are there."""
    load_of: list[Load] = []

    async def scenario(gateway: Gateway) -> None:
        load = Load(gateway.ports[0], connections, seed=seed, sizes=(10, 1000, 20_000))
        load_of.append(load)
        load.on_acknowledged = lambda count: gateway.process.kill() if count == limit else None
        await load.run()

    limit = 20 + seed % 7 * 30
    with serving(server) as gateway:
        asyncio.run(scenario(gateway))
        assert gateway.wait() == -signal.SIGKILL
    (load,) = load_of
    found = hashes(server)
    assert len(found) == len(set(found))
    assert load.acknowledged <= set(found)
    assert len(load.acknowledged) >= limit
    return len(load.acknowledged)


@pytest.mark.parametrize("cycle", range(3))
def test_a_killed_gateway_has_lost_nothing_acknowledged(server: Server, cycle: int) -> None:
    kill_under_load(server, cycle, connections=10)


@pytest.mark.nightly
def test_a_gateway_that_is_killed_two_hundred_times_has_lost_nothing_acknowledged(
    server: Server,
) -> None:
    acknowledged = 0
    for cycle in range(NIGHTLY_KILLS):
        acknowledged += kill_under_load(server, cycle, connections=10)
        server.run("TRUNCATE mail")
    print(f"{NIGHTLY_KILLS} kills, {acknowledged} acknowledged, 0 lost, 0 twice")


# A server that stands still.


@pytest.mark.parametrize("clients", [100, pytest.param(1000, marks=pytest.mark.nightly)])
def test_a_server_that_stands_still_makes_452_and_not_memory(server: Server, clients: int) -> None:
    async def scenario(gateway: Gateway) -> tuple[Load, int]:
        load = Load(gateway.ports[0], clients, seed=1, sizes=(1_000_000,))
        enough = asyncio.Event()
        load.on_refused = lambda answer: enough.set() or load.stop()
        server.send(signal.SIGSTOP)
        sending = asyncio.ensure_future(load.run())
        try:
            await asyncio.wait_for(enough.wait(), 60)
            memory = resident_octets(gateway.process.pid)
        finally:
            server.send(signal.SIGCONT)
        await sending
        return load, memory

    with serving(server) as gateway:
        load, memory = asyncio.run(scenario(gateway))
        assert gateway.stop() == 0
    assert {answer[:9] for answer in load.refused} == {b"452 4.3.1"}
    assert memory < 300 * 1024 * 1024
    found = hashes(server)
    assert sorted(found) == sorted(load.acknowledged)
    assert load.acknowledged
