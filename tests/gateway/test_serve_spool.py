"""`fastsmtp serve --spool`: mail is taken into the spool and comes into the Maildir from there."""

from __future__ import annotations

import asyncio
import re
import smtplib
import subprocess
from pathlib import Path

import pytest
from clients import until
from serving import PATIENCE, Gateway, bodies, command, environment, messages

pytest_plugins = ["gateway_fixtures"]

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def wait_for(maildir: Path, count: int) -> None:
    """Wait until the Maildir has so many messages."""

    async def has_all() -> None:
        await until(lambda: len(messages(maildir)) == count)

    asyncio.run(has_all())


def test_the_start_line_names_maildir_spool_and_promise(maildir: Path, spool: Path) -> None:
    with Gateway(maildir, f"--spool={spool}") as gateway:
        assert gateway.out.all[-1] == (
            f"fastsmtp: delivering to {maildir} by way of the spool {spool};"
            " 250 means: on this disk (disk)"
        )
        assert gateway.stop() == 0
    assert gateway.errors() == []


def test_a_message_is_queued_and_delivered_with_one_id(maildir: Path, spool: Path) -> None:
    with Gateway(maildir, f"--spool={spool}") as gateway:
        with gateway.client() as client:
            client.mail("a@x.example")
            client.rcpt("b@y.example")
            code, text = client.data(MESSAGE)
        queued = gateway.out.wait(r"queued id=(\S+) .* spool=\d+")
        assert (code, text.decode()) == (250, f"2.6.0 OK: message queued, id {queued[1]}")
        wait_for(maildir, 1)
        assert gateway.stop() == 0
    assert bodies(maildir) == [MESSAGE]
    assert f" id {queued[1]}\n".encode() in messages(maildir)[0]


def test_a_large_message_is_whole_after_it_has_gone_through_the_spool(
    maildir: Path, spool: Path
) -> None:
    large = MESSAGE + (b"x" * 78 + b"\r\n") * 40_000
    with Gateway(maildir, f"--spool={spool}") as gateway:
        gateway.send(large)
        wait_for(maildir, 1)
        assert gateway.stop() == 0
    assert bodies(maildir) == [large]


def test_a_message_larger_than_the_quota_is_refused_for_now(maildir: Path, spool: Path) -> None:
    with Gateway(maildir, f"--spool={spool}", "--spool-quota=10k") as gateway:
        with pytest.raises(smtplib.SMTPResponseException) as refused:
            gateway.send(MESSAGE + b"x" * 500_000 + b"\r\n")
        assert refused.value.smtp_code == 452
        assert gateway.stop() == 0
    assert messages(maildir) == []


def failed(*arguments: str) -> str:
    """The one line of a start that fails."""
    done = subprocess.run(
        command("--listen=127.0.0.1:0", *arguments),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode != 0
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    return lines[-1]


def test_a_spool_that_another_gateway_uses_is_an_error_of_one_line(
    maildir: Path, spool: Path
) -> None:
    with Gateway(maildir, f"--spool={spool}") as gateway:
        line = failed(f"--maildir={maildir}", f"--spool={spool}")
        assert re.fullmatch(rf"fastsmtp: error: .*{re.escape(str(spool))}.*", line)
        assert gateway.stop() == 0


@pytest.mark.parametrize(
    "arguments, word",
    [
        (("--spool=",), "--spool: a path is needed"),
        (("--maildir=same", "--spool=./same"), "--spool: it cannot be the Maildir"),
        (("--spool=s", "--spool-quota=0"), "--spool-quota: a spool without room"),
        (("--spool=s", "--spool-quota=lots"), "--spool-quota: it takes octets such as 500000"),
    ],
)
def test_options_of_the_spool_that_are_wrong_are_told(
    arguments: tuple[str, ...], word: str
) -> None:
    assert word in failed(*arguments)
