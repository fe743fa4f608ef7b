"""The admin listener: what it shows, whom it serves, and that nobody can hold it or mail up."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import stat
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import Gateway, run_to_end
from worker_kit import Parent

from fastsmtp.gateway.admin.address import AdminAddress, parse_address
from fastsmtp.gateway.admin.http import LIFETIME, MAX_CLIENTS, Admin
from fastsmtp.gateway.admin.pages import Page, Pages
from fastsmtp.gateway.admin.recent import SLOTS, Recent
from fastsmtp.metrics import cell

pytest_plugins = ["gateway_fixtures"]
LOCAL = AdminAddress("127.0.0.1", 0)
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
ADMIN = "--admin=127.0.0.1:0"


def ask(where: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(where, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def counted(text: str, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"fastsmtp_{name}" and labels.items() <= sample.labels.items()
    )


def admin_of(lines: Any) -> str:
    return next(line.split()[-1] for line in lines.all if "metrics and state on" in line)


def ready(page: Page, *, up: bool = True) -> None:
    page.tally.set(cell("ready"), 1)
    page.tally.set(cell("delivery_promise", "disk"), 1)
    page.tally.set(cell("delivery_up"), up)


# --- addresses ---


@pytest.mark.parametrize(
    "text, shown",
    [
        ("127.0.0.1:9090", "127.0.0.1:9090"),
        ("9090", "127.0.0.1:9090"),
        ("localhost:9090", "127.0.0.1:9090"),
        ("[::1]:9090", "[::1]:9090"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
    ],
)
def test_a_loopback_address_and_a_socket_are_for_this_machine_alone(text: str, shown: str) -> None:
    address = parse_address(text)
    assert str(address) == shown
    assert not address.is_public


@pytest.mark.parametrize("text", ["0.0.0.0:80", "[::]:80", "192.0.2.1:80"])
def test_other_addresses_are_public(text: str) -> None:
    assert parse_address(text).is_public


@pytest.mark.parametrize("text", ["", "x", "127.0.0.1", "host.example:80", "1.2.3.4:99999"])
def test_what_is_no_address_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_address(text)


def test_a_public_address_is_refused_until_it_is_allowed(maildir: Path) -> None:
    refused = run_to_end("--listen=127.0.0.1:0", f"--maildir={maildir}", "--admin=0.0.0.0:0")
    assert refused.returncode == 2
    assert refused.stderr == (
        "fastsmtp: error: --admin: other machines can reach 0.0.0.0:0:"
        " admin_public must allow that\n"
    )
    with Gateway(maildir, "--admin=0.0.0.0:0", "--admin-public") as gateway:
        port = admin_of(gateway.out).rpartition(":")[2]
        assert ask(f"127.0.0.1:{port}", "/healthz") == (200, "ok\n")


def test_an_address_that_is_taken_is_one_line_at_the_start(maildir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        arguments = ["--listen=127.0.0.1:0", f"--maildir={maildir}", f"--admin={port}"]
        for more in ([], ["--workers=1"]):
            found = run_to_end(*arguments, *more)
            assert found.returncode == 1
            assert found.stderr.startswith("fastsmtp: error: --admin: cannot listen on 127.0.0.1")


# --- one process ---


def test_a_gateway_shows_what_it_has_done(maildir: Path) -> None:
    with Gateway(maildir, ADMIN) as gateway:
        where = admin_of(gateway.out)
        gateway.send(MESSAGE)
        status, text = ask(where, "/metrics")
        assert status == 200
        assert counted(text, "messages_total", result="accepted") == 1
        assert counted(text, "delivery_messages_total", outcome="delivered") == 1
        assert ask(where, "/readyz") == (200, "ok\n")
        stats = json.loads(ask(where, "/stats.json")[1])
        assert stats["ready"] is True
        assert stats["all"]["messages"]["accepted"] == 1
        assert len(stats["workers"]) == 1


def test_a_socket_of_the_file_system_is_for_its_owner_and_goes_with_the_process(
    maildir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "admin.sock"
    with Gateway(maildir, f"--admin=unix:{path}") as gateway:
        assert admin_of(gateway.out) == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            with client.makefile("rb") as answer:
                assert answer.read().endswith(b"ok\n")
        assert gateway.stop() == 0
    assert not path.exists()


# --- several processes ---


def test_counts_of_all_workers_are_one_and_outlive_kill_9_and_a_reload(maildir: Path) -> None:
    with Parent(maildir, ADMIN, workers=2) as parent:
        where = admin_of(parent.out)
        for host in range(1, 11):
            parent.send_from(f"127.0.0.{host}", MESSAGE)
        workers = [each for each in parent.workers() if each]
        assert counted(ask(where, "/metrics")[1], "messages_total", result="accepted") == 10
        assert counted(ask(where, "/metrics")[1], "workers") == 2
        os.kill(workers[-1], signal.SIGKILL)
        parent.out.wait("worker . is process")
        parent.send_from("127.0.0.1", MESSAGE)
        text = ask(where, "/metrics")[1]
        assert counted(text, "messages_total", result="accepted") == 11
        assert counted(text, "worker_restarts_total") == 1
        parent.process.send_signal(signal.SIGHUP)
        parent.out.wait("SIGHUP: 2 new workers are ready")
        parent.send_from("127.0.0.2", MESSAGE)
        text = ask(where, "/metrics")[1]
        assert counted(text, "messages_total", result="accepted") == 12
        assert ask(where, "/readyz") == (200, "ok\n")


# --- clients ---


def serving(test: Any) -> None:
    """Run `test(admin, page)` with a listener on this loop."""

    async def main() -> None:
        pages = Pages(4)
        admin = Admin(LOCAL, pages)
        await admin.start()
        try:
            await test(admin, pages.take())
        finally:
            await admin.close()

    asyncio.run(main())


async def raw(admin: Admin, octets: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(admin.address.host, admin.address.port)
    writer.write(octets)
    answer = await reader.read()
    writer.close()
    return answer


async def until_cut(admin: Admin, octets: bytes) -> bytes:
    """What a client gets that is cut, with or without a reset."""
    try:
        return await raw(admin, octets)
    except ConnectionError:
        return b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_get_is_allowed(method: str) -> None:
    async def test(admin: Admin, page: Page) -> None:
        async with aiohttp.ClientSession() as client:
            for path in ("/metrics", "/healthz", "/readyz", "/stats.json"):
                async with client.request(method, f"http://{admin.address}{path}") as answer:
                    assert answer.status == 405

    serving(test)


@pytest.mark.parametrize(
    "octets, status",
    [
        (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b" 400 "),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 5000 + b"\r\n\r\n", b" 400 "),
        (b"EHLO x\r\n\r\n", b" 400 "),
        (b"GET /../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b" 404 "),
    ],
)
def test_a_request_that_is_too_long_or_none_is_refused(octets: bytes, status: bytes) -> None:
    async def test(admin: Admin, page: Page) -> None:
        assert status in (await raw(admin, octets)).partition(b"\r\n")[0]

    serving(test)


@pytest.mark.parametrize(
    "host, status",
    [
        *((b"localhost", 200), (b"LocalHost:8080", 200), (b"127.0.0.1:1", 200), (b"[::1]:2", 200)),
        *((b"evil.example", 421), (b"evil.example:80", 421), (b"localhost.evil.example", 421)),
        *((b"127.0.0.1.evil.example", 421), (b"", 421), (b"[::1", 421)),
    ],
)
def test_a_request_for_a_name_that_may_be_another_page_is_refused(host: bytes, status: int) -> None:
    async def test(admin: Admin, page: Page) -> None:
        request = b"GET /stats.json HTTP/1.1\r\nConnection: close\r\nHost: " + host + b"\r\n\r\n"
        answer = await raw(admin, request)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert (b"refusals" in answer) == (status == 200)

    serving(test)


def test_a_client_above_the_limit_is_cut_and_the_others_stay() -> None:
    async def test(admin: Admin, page: Page) -> None:
        place = admin.address.host, admin.address.port
        clients = [await asyncio.open_connection(*place) for _ in range(MAX_CLIENTS)]
        await until_there_are(admin, MAX_CLIENTS)
        assert await until_cut(admin, b"GET /healthz HTTP/1.0\r\n\r\n") == b""
        reader, writer = clients[0]
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert (await reader.read()).endswith(b"ok\n")
        for _, each in clients:
            each.close()

    serving(test)


async def until_there_are(admin: Admin, count: int) -> None:
    while len(admin.clients) < count:
        await asyncio.sleep(0)


def test_a_slow_client_is_cut_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsmtp.gateway.admin.http.LIFETIME", 0.05)
    assert LIFETIME <= 30

    async def test(admin: Admin, page: Page) -> None:
        assert await until_cut(admin, b"GET /metrics HTTP/1.1\r\nHost:") == b""

    serving(test)


def test_a_service_is_ready_only_while_it_takes_mail() -> None:
    async def test(admin: Admin, page: Page) -> None:
        async def state() -> tuple[int, str]:
            async with (
                aiohttp.ClientSession() as client,
                client.get(f"http://{admin.address}/readyz") as answer,
            ):
                return answer.status, await answer.text()

        assert (await state())[0] == 503
        ready(page)
        assert await state() == (200, "ok\n")
        ready(page, up=False)
        assert await state() == (503, "mail cannot be stored\n")
        page.tally.set(cell("ready"), 0)
        assert await state() == (503, "no process accepts clients: it starts, or it ends\n")

    serving(test)


# --- memory ---


def test_a_page_that_is_given_back_keeps_its_counters_and_loses_its_gauges() -> None:
    pages = Pages(4)
    page = pages.take()
    ready(page)
    page.tally.add(cell("connections_total"), 7)
    pages.give_back(page)
    again = pages.take()
    values = again.tally.values()
    assert again.number == page.number
    assert values[cell("connections_total")] == 7
    assert values[cell("ready")] == 0
    assert len(pages.used()) == 1


def test_the_latest_refusals_are_kept_whatever_they_contain() -> None:
    recent = Recent(memoryview(bytearray(Recent.SIZE)))
    for number in range(SLOTS + 3):
        recent.add({"from": "\u202e\U0001f4a9" * 4000, "n": str(number), "empty": ""})
    found = recent.read()
    assert {each["n"] for each in found} == {str(number) for number in range(3, SLOTS + 3)}
    assert all("empty" not in each for each in found)


def test_a_refusal_with_more_notes_than_there_is_room_for_loses_notes() -> None:
    recent = Recent(memoryview(bytearray(Recent.SIZE)))
    notes = {f"note_{number:02}_" + "\u00fc" * 29: "0.5" for number in range(16)}
    recent.add({"result": "refused", "from": "<a@x.example>", **notes, "reply": "550 no"})
    (found,) = recent.read()
    assert found["from"] == "<a@x.example>"
    assert found["reply"] == "550 no"
    assert next(iter(notes)) in found


def test_a_refusal_that_is_being_written_is_left_out() -> None:
    memory = bytearray(Recent.SIZE)
    recent = Recent(memoryview(memory))
    recent.add({"n": "1"})
    memory[14:17] = b"\xff\xff\xff"
    assert recent.read() == []


def test_the_page_of_metrics_comes_over_http(maildir: Path) -> None:
    with Gateway(maildir, ADMIN) as gateway:
        answer = urllib.request.urlopen(f"http://{admin_of(gateway.out)}/metrics")
        with answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert answer.headers["Cache-Control"] == "no-store"
