"""`fastsmtp serve` as a user has it: a process, real clients, a Maildir that others read."""

from __future__ import annotations

import mailbox
import os
import re
import smtplib
import socket
import subprocess
import threading
from email.message import EmailMessage
from pathlib import Path

import pytest
from serving import (
    PATIENCE,
    Gateway,
    bodies,
    body_of,
    command,
    environment,
    leftovers,
    messages,
)

pytest_plugins = ["gateway_fixtures"]

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"

ADDR_10_LEGAL = [
    *["`id`@x", "|cmd@x", "a/b@x", "a'--@x", "{{7*7}}@x", "%s%n@x", '"../../etc/passwd"@x'],
]
ADDR_10_ILLEGAL = [";id;@x", "$(id)@x", "../../etc/passwd@x"]


# What it says.


def test_a_gateway_prints_where_it_listens_and_delivers(gateway: Gateway, maildir: Path) -> None:
    listening, certificate, delivering = gateway.said_at_start()
    assert listening == f"fastsmtp: listening on 127.0.0.1:{gateway.ports[0]}"
    assert certificate.startswith("fastsmtp: certificate made at start for ")
    assert delivering == f"fastsmtp: delivering to {maildir}; 250 means: on this disk (disk)"


def test_a_relative_maildir_is_shown_by_its_whole_path(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("--listen=0"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        delivering = next(line for line in process.stdout if "delivering" in line)
        assert delivering.startswith(f"fastsmtp: delivering to {tmp_path}/mail; ")
        process.terminate()


def test_each_message_is_logged_in_one_line(gateway: Gateway, maildir: Path) -> None:
    gateway.send(MESSAGE, "b@y.example", "c@y.example")
    line = gateway.out.wait("delivered ").string
    (name,) = os.listdir(maildir / "new")
    assert " from=<a@x.example> to=<b@y.example>,<c@y.example> recipients=2 " in line
    assert f" helo=c.example with=ESMTP stage=message size={len(MESSAGE)} seconds=" in line
    assert f" file={name} reply=250 2.6.0 OK: message delivered, id " in line
    assert len([line for line in gateway.out.all if "a@x.example" in line]) == 1


def test_verbose_logs_connections_and_refusals(maildir: Path) -> None:
    with Gateway(maildir, "-v", "--domain=y.example") as gateway:
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            gateway.send(MESSAGE, "b@x.example")
        gateway.out.wait(r"connected id=\w{16} client=.*\[127\.0\.0\.1\]")
        gateway.out.wait("refused .* stage=rcpt ")
        assert gateway.stop() == 0
    assert len([line for line in gateway.out.all if "to=<b@x.example>" in line]) == 1


@pytest.mark.parametrize("level", [[], ["-v"]], ids=["", "verbose"])
def test_one_refused_rcpt_is_logged_with_client_sender_recipient_and_reply(
    maildir: Path, level: list[str]
) -> None:
    with Gateway(maildir, *level, "--domain=y.example") as gateway:
        with gateway.client() as client:
            client.mail("a@x.example")
            assert client.rcpt("b@x.example")[0] == 550
            assert client.docmd("RCPT", "TO:<b@@y.example>")[0] == 501
        gateway.out.wait("to=<b@@y.example>")
        assert gateway.stop() == 0
    lines = [line.partition(" from=")[2] for line in gateway.out.all if "stage=rcpt" in line]
    lines = [re.sub(r" seconds=[0-9.]+", "", line) for line in lines]
    client = "recipients=1 client=[127.0.0.1] helo=c.example with=ESMTP stage=rcpt"
    denied = "550 5.1.1 No such recipient here, relay denied"
    bad = "501 5.1.3 Error: Bad recipient address syntax, expected RCPT TO:<user@domain>"
    assert [line.replace("localhost[", "[") for line in lines] == [
        f"<a@x.example> to=<b@x.example> {client} hook=on_rcpt_to size=0 reply={denied}",
        f"<a@x.example> to=<b@@y.example> {client} size=0 reply={bad}",
    ]
    assert gateway.errors() == []


def test_ten_of_many_refused_recipients_are_logged_and_the_rest_is_counted(maildir: Path) -> None:
    with Gateway(maildir, "--domain=y.example") as gateway:
        with gateway.client() as client:
            client.mail("a@x.example")
            refused = [client.rcpt(f"b{number}@x.example")[0] for number in range(15)]
            assert refused == [550] * 15
        gateway.out.wait(r"client=.*\[127\.0\.0\.1\] .* reply=5 more refusals")
        assert gateway.stop() == 0
    assert len([line for line in gateway.out.all if " reply=550 " in line]) == 10


def test_a_client_that_leaves_after_quit_without_reading_is_not_logged(maildir: Path) -> None:
    with Gateway(maildir, "-v") as gateway:
        with socket.create_connection(("127.0.0.1", gateway.ports[0]), PATIENCE) as client:
            client.recv(1000)
            client.sendall(b"EHLO c.example\r\n")
            client.recv(1000)
            client.sendall(b"QUIT\r\n")
        with gateway.client() as other:  # the one before has been closed by the time of this
            other.docmd("NOOP")
        assert gateway.stop() == 0
    words = ("fastsmtp: ", "connected id=")
    lines = [line.split(" fastsmtp: ")[-1] for line in gateway.out.all]
    assert [line for line in lines if not line.startswith(words)] == []
    assert gateway.errors() == []


def test_clients_of_a_unix_socket_have_a_name_and_no_client_has_its_address_twice(
    maildir: Path, tmp_path: Path
) -> None:
    path = str(tmp_path / "smtp.sock")
    with Gateway(maildir, "-v", listen=("127.0.0.1:0", f"lmtp:{path}")) as gateway:
        with smtplib.LMTP(path) as client:
            client.sendmail("a@x.example", ["b@y.example"], MESSAGE)
        gateway.send(MESSAGE)
        assert gateway.stop() == 0
    named = [re.search(r" client=(\S+)", line) for line in gateway.out.all]
    clients = [found[1] for found in named if found is not None]
    assert clients[:2] == ["localhost[unix]"] * 2
    assert len(clients) == 4
    assert all(re.fullmatch(r"(localhost)?\[127\.0\.0\.1\]", each) for each in clients[2:])


def test_log_01_hostile_words_stay_in_one_line(gateway: Gateway) -> None:
    with smtplib.SMTP("127.0.0.1", gateway.ports[0], timeout=PATIENCE) as client:
        client.docmd("EHLO", "%n{0.__class__}" + "x" * 200)
        client.docmd("MAIL", 'FROM:<"a b\\"c"@x.example>')
        client.docmd("RCPT", "TO:<b@y.example>")
        client.data(MESSAGE)
    line = gateway.out.wait("delivered ").string
    assert 'from=<"a\\x20b\\x5c"c"@x.example>' in line
    assert " helo=%n{0.__class__}" + "x" * 110 + "... " in line


# What it delivers.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\r\n",
        b"a",
        b".\r\n..\r\n.a\r\n...\r\n",
        b"\r\n\r\n\r\n",
        b"x" * 5000 + b"\r\n",
        bytes(octet for octet in range(256) if octet not in b"\r\n") + b"\r\n",
        b"From here\r\n>From there\r\n",
        b"Content-Type: text/plain\r\n\r\n\xff\xfe\r\n",
    ],
)
def test_a_message_is_read_back_octet_for_octet(
    gateway: Gateway, maildir: Path, body: bytes
) -> None:
    sent = b"Subject: x\r\nX-Odd:\r\n\tfolded\r\n\r\n" + body
    gateway.send(sent)
    # The protocol knows whole lines only: smtplib ends the last one.
    assert bodies(maildir) == [sent if sent.endswith(b"\r\n") else sent + b"\r\n"]


@pytest.mark.parametrize("octets", [0, 1, 65_535, 65_536, 65_537, 3_000_000])
def test_a_message_of_any_length_is_whole(gateway: Gateway, maildir: Path, octets: int) -> None:
    line = b"".join(bytes([33 + number % 90]) for number in range(76)) + b"\r\n"
    sent = MESSAGE + (line * (octets // len(line) + 1))[: octets // 78 * 78]
    gateway.send(sent)
    assert bodies(maildir) == [sent]


def test_the_trace_headers_stand_on_top(gateway: Gateway, maildir: Path) -> None:
    gateway.send(MESSAGE)
    (message,) = messages(maildir)
    lines = message.split(b"\n")
    assert lines[:2] == [b"Return-Path: <a@x.example>", b"Delivered-To: b@y.example"]
    assert lines[2].startswith(b"Received: from c.example (")
    assert lines[2].endswith(b"[127.0.0.1])")
    assert b" with ESMTP id " in lines[3]
    assert lines[4].startswith(b"\tfor <b@y.example>; ")
    assert lines[5] == b"Subject: x"


def test_a_message_of_python_is_read_by_python(gateway: Gateway, maildir: Path) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@x.example", "b@y.example", "Grüße"
    message.set_content("Schöne Grüße\n.\n")
    message.add_attachment(bytes(range(256)), maintype="application", subtype="octet-stream")
    with gateway.client() as client:
        client.send_message(message)
    box = mailbox.Maildir(str(maildir), create=False)
    (key,) = box.keys()
    read = box[key]
    assert read.get_subdir() == "new"
    parts = [part.get_payload(decode=True) for part in read.walk() if not part.is_multipart()]
    assert parts == ["Schöne Grüße\n.\n".encode(), bytes(range(256))]
    assert read["Return-Path"] == "<a@x.example>"


def test_several_messages_of_one_connection_are_several_files(
    gateway: Gateway, maildir: Path
) -> None:
    sent = [b"Subject: %d\r\n\r\n" % number for number in range(5)]
    with gateway.client() as client:
        for message in sent:
            client.sendmail("", ["b@y.example"], message)
    assert sorted(bodies(maildir)) == sent
    assert len({message.split(b" id ")[1].split()[0] for message in messages(maildir)}) == 5


def test_many_clients_at_once_lose_nothing(gateway: Gateway, maildir: Path) -> None:
    def send(number: int) -> None:
        with gateway.client() as client:
            for message in range(10):
                sent = b"Subject: %d-%d\r\n\r\n" % (number, message) + b"x" * 500 * number
                client.sendmail("a@x.example", ["b@y.example"], sent + b"\r\n")

    clients = [threading.Thread(target=send, args=(number,)) for number in range(20)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(PATIENCE)
    found = {body.partition(b"\r\n")[0]: len(body) for body in bodies(maildir)}
    assert len(messages(maildir)) == len(found) == 200
    assert all(
        found[b"Subject: %d-%d" % (number, message)] > 500 * number
        for number in range(20)
        for message in range(10)
    )


def test_a_message_by_bdat_is_delivered_too(gateway: Gateway, maildir: Path) -> None:
    with gateway.client() as client:
        client.mail("a@x.example")
        client.rcpt("b@y.example")
        # A line end may be cut in two by the chunks, and there are no dots to double.
        client.send(b"BDAT 14\r\nSubject: x\r\n\r\n")
        client.send(b"BDAT 2\r\na\r")
        client.send(b"BDAT 5 LAST\r\n\n.b\r\n")
        assert [client.getreply()[0] for _ in range(3)] == [250, 250, 250]
    assert bodies(maildir) == [b"Subject: x\r\n\r\na\r\n.b\r\n"]


@pytest.mark.parametrize("mailbox_name", ADDR_10_LEGAL)
def test_addr_10_an_address_never_becomes_a_path(
    gateway: Gateway, maildir: Path, mailbox_name: str
) -> None:
    before = {path for path in maildir.parent.rglob("*") if path.is_dir()}
    with gateway.client() as client:
        assert client.docmd("MAIL", f"FROM:<{mailbox_name}>")[0] == 250
        assert client.docmd("RCPT", f"TO:<{mailbox_name}>")[0] == 250
        assert client.data(MESSAGE)[0] == 250
    found = {path for path in maildir.parent.rglob("*") if path.is_file()}
    assert {path.parent for path in found} == {maildir / "new"}
    assert {path for path in maildir.parent.rglob("*") if path.is_dir()} == before
    assert f"Delivered-To: {mailbox_name}\n".encode() in messages(maildir)[0]


@pytest.mark.parametrize("mailbox_name", ADDR_10_ILLEGAL)
def test_addr_10_an_invalid_address_is_refused(gateway: Gateway, mailbox_name: str) -> None:
    with gateway.client() as client:
        assert client.docmd("MAIL", f"FROM:<{mailbox_name}>")[0] == 501
        client.mail("a@x.example")
        assert client.docmd("RCPT", f"TO:<{mailbox_name}>")[0] == 501


@pytest.mark.parametrize("refuses", [True, False])
def test_a_message_with_nul_is_kept_unless_it_is_to_be_refused(
    maildir: Path, refuses: bool
) -> None:
    with Gateway(maildir, *(["--reject-nul"] if refuses else [])) as gateway:
        with gateway.client() as client:
            client.mail("a@x.example")
            client.rcpt("b@y.example")
            client.docmd("DATA")
            client.send(b"a\0b\r\n.\r\n")
            code, text = client.getreply()
        if refuses:
            assert (code, text) == (550, b"5.6.0 Error: message contains NUL")
            gateway.out.wait("refused .* stage=message .* reply=550 5.6.0")
        else:
            assert code == 250
        assert gateway.stop() == 0
    assert bodies(maildir) == ([] if refuses else [b"a\0b\r\n"])
    assert leftovers(maildir) == []


@pytest.mark.parametrize("bare", [b"a\nb\r\n", b"a\rb\r\n", b"a\n.\n", b"H: 1\n\nbody\r\n"])
def test_smug_34_a_message_with_bare_newlines_is_refused_and_not_kept(
    gateway: Gateway, maildir: Path, bare: bytes
) -> None:
    with gateway.client() as client:
        client.mail("a@x.example")
        client.rcpt("b@y.example")
        client.docmd("DATA")
        client.send(bare + b"\r\n.\r\n")
        assert client.getreply()[0] == 550
        client.sendmail("a@x.example", ["b@y.example"], MESSAGE)
    assert bodies(maildir) == [MESSAGE]


def test_line_15_a_header_of_two_megabytes_is_delivered_as_it_is(
    gateway: Gateway, maildir: Path
) -> None:
    sent = b"".join(b"X-%06d: 12345678\r\n" % number for number in range(100_000)) + b"\r\n"
    gateway.send(sent)
    assert bodies(maildir) == [sent]


@pytest.mark.parametrize("octets", [0, 100_000])
def test_a_client_that_leaves_in_its_message_leaves_nothing(
    gateway: Gateway, maildir: Path, octets: int
) -> None:
    client = gateway.client()
    client.mail("a@x.example")
    client.rcpt("b@y.example")
    client.docmd("DATA")
    client.send(MESSAGE + (b"x" * 78 + b"\r\n") * (octets // 80))
    client.close()
    gateway.out.wait("aborted .* reason=disconnected ")
    assert messages(maildir) == []
    assert leftovers(maildir) == []


# Options.


def test_a_message_over_size_is_refused_and_not_kept(maildir: Path) -> None:
    with Gateway(maildir, "--size=1k") as gateway:
        with gateway.client() as client:
            assert client.esmtp_features["size"] == "1024"
            client.mail("a@x.example")
            client.rcpt("b@y.example")
            code, text = client.data(MESSAGE + b"x" * 200_000)
            assert (code, text[:5]) == (552, b"5.3.4")
            client.sendmail("a@x.example", ["b@y.example"], MESSAGE)
        assert gateway.stop() == 0
    assert bodies(maildir) == [MESSAGE]


def test_other_domains_are_refused_as_relaying(maildir: Path) -> None:
    with Gateway(maildir, "--domain=Y.example", "--domain", "z.example") as gateway:
        with gateway.client() as client:
            client.mail("a@x.example")
            for refused in ("b@x.example", "b@sub.y.example", "b%y.example@x.example"):
                code, text = client.rcpt(refused)
                assert (code, text[:5]) == (550, b"5.1.1")
                assert b"relay denied" in text
            for taken in ("b@y.EXAMPLE", "b@z.example", "postmaster"):
                assert client.rcpt(taken)[0] == 250
            assert client.data(MESSAGE)[0] == 250
        assert gateway.stop() == 0
    (message,) = messages(maildir)
    assert message.count(b"Delivered-To: ") == 3


def test_a_login_is_neither_offered_nor_required(gateway: Gateway) -> None:
    with gateway.client() as client:
        assert "auth" not in client.esmtp_features
        assert client.docmd("AUTH", "PLAIN AGEAYg==")[0] >= 500


def test_all_addresses_are_listened_on(maildir: Path) -> None:
    with Gateway(maildir, listen=("127.0.0.1:0", "0", "lmtp:127.0.0.1:0")) as gateway:
        for at in (0, 1):
            with gateway.client(at=at) as client:
                client.sendmail("a@x.example", ["b@y.example"], MESSAGE)
        with smtplib.LMTP("127.0.0.1", gateway.ports[2], "c.example", timeout=PATIENCE) as client:
            client.sendmail("a@x.example", ["b@y.example"], MESSAGE)
        assert gateway.stop() == 0
    assert bodies(maildir) == [MESSAGE] * 3


def test_an_ipv6_address_is_listened_on(maildir: Path) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with Gateway(maildir, listen=("[::1]:0",)) as gateway:
        assert f"fastsmtp: listening on [::1]:{gateway.ports[0]}" in gateway.out.all
        with smtplib.SMTP("::1", gateway.ports[0], "c.example", timeout=PATIENCE) as client:
            client.sendmail("a@x.example", ["b@y.example"], MESSAGE)
        assert gateway.stop() == 0
    assert b"[IPv6:::1])\n" in messages(maildir)[0]


# LMTP.


def test_lmtp_on_a_unix_socket_answers_for_each_recipient(maildir: Path, tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    with Gateway(maildir, "--domain=y.example", listen=(f"lmtp:{path}",)) as gateway:
        assert f"fastsmtp: listening on lmtp:{path}" in gateway.out.all
        with smtplib.LMTP(str(path), local_hostname="c.example") as client:
            client.ehlo_or_helo_if_needed()
            client.mail("a@x.example")
            codes = [client.rcpt(f"{name}.example")[0] for name in ("b@y", "c@x", "b@y", "d@y")]
            assert codes == [250, 550, 250, 250]
            assert client.docmd("DATA")[0] == 354
            client.send(MESSAGE + b".\r\n")
            assert [client.getreply()[0] for _ in range(3)] == [250, 250, 250]
            assert client.noop()[0] == 250
        assert gateway.stop() == 0
    (message,) = messages(maildir)
    assert message.count(b"Delivered-To: ") == 3
    assert b" with LMTP id " in message
    assert b"Received: from c.example (localhost)\n" in message
    assert body_of(message) == MESSAGE
    assert not path.exists()


def test_a_socket_that_a_killed_run_left_is_used_again(maildir: Path, tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    with Gateway(maildir, listen=(f"lmtp:{path}",)) as gateway:
        gateway.kill()
    assert path.exists()
    with Gateway(maildir, listen=(f"lmtp:{path}",)) as gateway:
        with smtplib.LMTP(str(path), local_hostname="c.example") as client:
            client.sendmail("a@x.example", ["b@y.example"], MESSAGE)
        assert gateway.stop() == 0
    assert bodies(maildir) == [MESSAGE]
