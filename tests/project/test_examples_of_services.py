"""The programs in examples/ that speak to other services do what they say.

The web application, Rspamd and clamd are stand-ins of a few lines, each of which speaks the
protocol of the real one as far as the program uses it. The program for object storage is tested
beside the bodies in S3, with the same real server.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import signal
import smtplib
import socket
import socketserver
import sqlite3
import struct
import sys
import threading
import urllib.request
from collections.abc import Iterator
from email import policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from clients import PATIENCE
from example_kit import BODY, EXAMPLES, IS_POSSIBLE, Example, example, smtp
from scramp import ScramClient

from fastsmtp import scram_keys
from fastsmtp.testing import RecordingServer

pytestmark = [pytest.mark.usefixtures("no_leaks"), *IS_POSSIBLE]


def refused(client: smtplib.SMTP, sender: str = "a@x.example", body: bytes = BODY) -> int:
    """The code by which a message is refused."""
    with pytest.raises(smtplib.SMTPDataError) as error:
        client.sendmail(sender, ["b@y.example"], body)
    return error.value.smtp_code


# --- stand-ins ---


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class WebServer(ThreadingHTTPServer):
    """Answers each POST with `status` and `document`; keeps what came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), PostHandler)
        self.status, self.document = 200, b"{}"
        self.posts: list[tuple[str, Any, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class PostHandler(BaseHTTPRequestHandler):
    server: WebServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((self.path, self.headers, body))
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.server.document)))
        self.end_headers()
        self.wfile.write(self.server.document)

    def log_message(self, *arguments: Any) -> None:
        pass


class ClamdHandler(socketserver.StreamRequestHandler):
    """INSTREAM of clamd: pieces with their length, then a length of 0."""

    def handle(self) -> None:
        assert self.rfile.read(10) == b"zINSTREAM\0"
        body = b""
        while length := struct.unpack("!I", self.rfile.read(4))[0]:
            body += self.rfile.read(length)
        found = b"Eicar-Test-Signature FOUND" if b"EICAR" in body else b"OK"
        self.wfile.write(b"stream: " + found + b"\0")


# --- the programs ---


def test_inbound_webhook_gives_the_answer_of_the_application() -> None:
    message = EmailMessage()
    message["Subject"] = "Héllo"
    message.set_content("plain\n")
    message.add_alternative("<b>html</b>\n", subtype="html")
    message.add_attachment(b"\0\1", maintype="image", subtype="png", filename="a.png")
    inner = EmailMessage()
    inner["Subject"] = "inner"
    message.add_attachment(inner)
    web = WebServer()
    octets = message.as_bytes(policy=policy.SMTP)
    with (
        serving(web),
        example("inbound_webhook.py", f"{web.url}/in", "0") as running,
        smtp(running) as client,
    ):
        client.sendmail("a@x.example", ["b@y.example", "c@z.example"], octets)
        for status, code in ((400, 554), (429, 451), (500, 451), (302, 451)):
            web.status = status
            assert refused(client) == code
    path, _, body = web.posts[0]
    document = json.loads(body)
    picture, forwarded = document.pop("attachments")
    assert (path, document) == (
        "/in",
        {
            "from": "a@x.example",
            "to": ["b@y.example", "c@z.example"],
            "subject": "Héllo",
            "text": "plain\r\n",
            "html": "<b>html</b>\r\n",
        },
    )
    assert picture == {"name": "a.png", "content": base64.b64encode(b"\0\1").decode()}
    assert b"Subject: inner" in base64.b64decode(forwarded["content"])


UNKNOWN = b"Content-Type: text/plain; charset=x-unknown\r\n\r\nhello\r\n"
SCANNED = b"Content-Type: application/pdf\r\n\r\n%PDF-1.7\r\n"


def test_inbound_webhook_passes_on_what_its_parser_does_not_expect() -> None:
    web = WebServer()
    with (
        serving(web),
        example("inbound_webhook.py", web.url, "0") as running,
        smtp(running) as client,
    ):
        for octets in (UNKNOWN, SCANNED):
            client.sendmail("a@x.example", ["b@y.example"], octets)
    unknown, scanned = (json.loads(body) for _, _, body in web.posts)
    assert unknown["text"] == "hello\r\n"
    (pdf,) = scanned["attachments"]
    assert base64.b64decode(pdf["content"]) == b"%PDF-1.7\r\n"


def test_inbound_webhook_has_clients_wait_for_an_application_that_is_away() -> None:
    web = WebServer()
    web.server_close()
    with example("inbound_webhook.py", web.url, "0") as running, smtp(running) as client:
        assert refused(client) == 451


def test_fastapi_events_tells_browsers_of_mail(tmp_path: Path) -> None:
    path = str(tmp_path / "web")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "--uds", path]
    uvicorn = Example([*command, "--log-level", "error", "fastapi_events:app"], SMTP_PORT="0")
    # uvicorn ends itself by the same signal once all is closed.
    with uvicorn.until_its_end(status=-signal.SIGTERM) as running, smtp(running) as client:
        assert refused(client) == 450
        with contextlib.closing(connected(path)) as browser:
            browser.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            response = http.client.HTTPResponse(browser)
            response.begin()
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.readline() == b": hello\n"
            client.sendmail("a@x.example", ["b@y.example"], BODY)
            assert response.readline() == b"\n"
            told = json.loads(response.readline().removeprefix(b"data: "))
            response.close()
    assert told == {"from": "a@x.example", "to": ["b@y.example"], "octets": len(BODY)}


def connected(path: str) -> socket.socket:
    """A client of a UNIX socket, once somebody listens there."""
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        try:
            client.connect(path)
            return client
        except (ConnectionRefusedError, FileNotFoundError):
            client.close()


def log_in(client: smtplib.SMTP, name: str, password: str) -> tuple[int, bytes]:
    """AUTH SCRAM-SHA-256 (RFC 5802), which smtplib does not have by itself."""
    scram = ScramClient(["SCRAM-SHA-256"], name, password)

    def respond(challenge: bytes | None = None) -> str:
        if challenge is None:
            return str(scram.get_client_first())
        if scram.stage.name == "get_client_first":
            scram.set_server_first(challenge.decode())
            return str(scram.get_client_final())
        scram.set_server_final(challenge.decode())
        return ""

    return client.auth("SCRAM-SHA-256", respond)


def test_submission_relay_gives_the_replies_of_the_next_server(tmp_path: Path) -> None:
    database = str(tmp_path / "users.db")
    keys = scram_keys("wonderland")
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "CREATE TABLE users"
            " (name TEXT PRIMARY KEY, salt BLOB, iterations INT, stored BLOB, server BLOB)"
        )
        row = ("alice", keys.salt, keys.iterations, keys.stored_key, keys.server_key)
        connection.execute("INSERT INTO users VALUES (?, ?, ?, ?, ?)", row)
    with (
        RecordingServer() as relay,
        example("submission_relay.py", database, f"{relay.host}:{relay.port}", "0") as running,
        smtp(running) as client,
    ):
        client.ehlo()
        with pytest.raises(smtplib.SMTPAuthenticationError):
            log_in(client, "alice", "looking glass")
        assert log_in(client, "alice", "wonderland")[0] == 235
        relay.refuse("rcpt_to", 550, "no such user there", only="eve@y.example")
        told = client.sendmail("alice@x.example", ["bob@y.example", "eve@y.example"], BODY)
        assert told == {"eve@y.example": (550, b"5.1.1 no such user there")}
        relay.refuse("data", 554, "we do not like it")
        assert refused(client, "alice@x.example") == 554
    assert [(each.rcpt_to, each.content) for each in relay.messages] == [(["bob@y.example"], BODY)]


EICAR = b"Subject: x\r\n\r\nEICAR\r\n"


def test_filters_accepts_what_both_accept() -> None:
    rspamd, clamd = WebServer(), socketserver.ThreadingTCPServer(("127.0.0.1", 0), ClamdHandler)
    place = f"127.0.0.1:{clamd.server_address[1]}"
    with serving(rspamd), example("filters.py", rspamd.url, place, "0") as running:
        with smtp(running) as client, serving(clamd):
            for action, code in (("reject", 554), ("greylist", 451), ("soft reject", 451)):
                rspamd.document = json.dumps({"action": action}).encode()
                assert refused(client) == code
            rspamd.document = b'{"action": "add header"}'
            assert refused(client, body=EICAR) == 554
            client.sendmail("a@x.example", ["b@y.example", "c@y.example"], b"x" * 200_000)
            rspamd.status = 500
            assert refused(client) == 451
            rspamd.status = 200
        with smtp(running) as client:
            assert refused(client) == 451  # clamd is away
    path, headers, body = rspamd.posts[4]
    assert (path, headers["From"], len(body)) == ("/checkv2", "a@x.example", 200_002)
    assert headers.get_all("Rcpt") == ["b@y.example", "c@y.example"]
    assert running.said == ["200002 octets, Rspamd says 'add header'"]


def test_rate_limit_counts_the_recipients_of_a_user_over_all_connections() -> None:
    with example("rate_limit.py", "0") as running:
        for recipients, taken in ((2, 2), (2, 1)):
            with smtp(running) as client:
                client.login("anne", "tanstaaftanstaaf")
                names = [f"{number}@y.example" for number in range(recipients)]
                told = client.sendmail("anne@x.example", names, BODY)
                assert len(told) == recipients - taken
                assert all(code == 450 for code, _ in told.values())
        with smtp(running) as client:
            client.login("bob", "builder")
            client.sendmail("bob@x.example", ["b@y.example"], BODY)
        with smtp(running) as client, pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("eve", "")
    assert running.said == [f"{len(BODY)} octets of {name}" for name in ("anne", "anne", "bob")]


def test_honeypot_logs_each_step_as_a_line_of_json() -> None:
    with example("honeypot.py", "0") as running, smtp(running) as client:
        client.ehlo("evil.example")
        client.docmd("VRFY", 'root"}')
        client.login("root", "toor")
        client.sendmail("a@x.example", ["b@y.example"], BODY, ["BODY=8BITMIME"])
    lines = [json.loads(line) for line in running.said]
    assert [line["step"] for line in lines] == [
        *("connect", "helo", "vrfy", "auth", "mail", "rcpt", "message", "close")
    ]
    assert len({line["id"] for line in lines}) == 1
    facts = {key: value for line in lines for key, value in line.items()}
    assert (facts["query"], facts["user"], facts["password"]) == ('root"}', "root", "toor")
    assert facts["octets"] == len(BODY)


def test_prometheus_registry_has_both_kinds_of_metrics() -> None:
    with example("prometheus_registry.py", "0", "0") as running, smtp(running) as client:
        client.sendmail("a@x.example", ["b@y.example"], b"Subject: Invoice 7\r\n\r\n")
        client.sendmail("a@x.example", ["b@y.example"], BODY)
        port = running.place.rpartition(" ")[2]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=PATIENCE) as page:
            text = page.read().decode()
    assert "\ninvoices_total 1.0\n" in text
    assert '\nfastsmtp_messages_total{result="accepted"} 2.0\n' in text


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT")
def test_four_processes_share_the_clients_of_one_port() -> None:
    processes = set()
    with example("four_processes.py", "0") as running:
        for _ in range(60):
            with smtp(running) as client:
                client.ehlo()
                client.mail("a@x.example")
                client.rcpt("b@y.example")
                found = re.search(rb"in process (\d+)", client.data(BODY)[1])
                assert found is not None
                processes.add(found[1])
            if len(processes) == 4:
                break
    assert 2 <= len(processes) <= 4
