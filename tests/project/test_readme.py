"""README's program: the text is the file in examples/, and the file does what README says of it."""

from __future__ import annotations

import re
import signal
import smtplib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import errors_in

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "readme.py"
# A line of README's dialogue: what the client sends, and the reply.
TRANSCRIPT = re.compile(r"^    C: (.+?) {2,}S: (.+)$", re.MULTILINE)
PATIENCE = 60.0  # seconds; only what hangs ever waits so long

# The program as it stands, but for the port: there may be somebody on it.
ON_A_FREE_PORT = """
import runpy, sys
from fastsmtp import SMTPServer

listen = SMTPServer.listen

async def listen_anywhere(self, port=None, host=None, callback=None, **where):
    await listen(self, 0, "127.0.0.1")
    print(self.address()[1], flush=True)

SMTPServer.listen = listen_anywhere
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.fixture
def program() -> Iterator[subprocess.Popen[str]]:
    """The example in a process of its own; its first line is the port."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", ON_A_FREE_PORT, str(EXAMPLE)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


def test_readme_shows_the_example_to_the_letter() -> None:
    (shown,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert shown == EXAMPLE.read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process there at once")
def test_the_example_takes_mail_for_bob_only_and_replies_as_readme_shows(
    program: subprocess.Popen[str],
) -> None:
    assert program.stdout is not None
    port = program.stdout.readline()
    assert port, program.communicate()
    body = b"Subject: hello\r\n\r\n.world\r\n"
    with smtplib.SMTP("127.0.0.1", int(port), timeout=PATIENCE) as client:
        told = client.sendmail("a@x.example", ["BOB@example.org", "eve@example.org"], body)
        assert told == {"eve@example.org": (550, b"5.1.1 No such user here")}
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail("a@x.example", ["carol@example.org"], body)
        client.mail("<>")
        client.rcpt("<bob@example.org>")
        assert client.data(body) == (250, b"2.6.0 OK: %d octets" % len(body))
        assert client.docmd("MAIL FROM:<a@x.example>")[0] == 250
        played = 0
        for sent, received in TRANSCRIPT.findall(README):
            if sent.startswith("Subject"):
                assert client.docmd("DATA")[0] == 354
            for line in re.split(r"\s*<CRLF>\s*", sent):
                client.send(line.encode() + b"\r\n")
            code, text = client.getreply()
            assert f"{code} {text.decode()}" == received
            played += 1
        assert played == 3
    program.send_signal(signal.SIGTERM)
    printed, errors = program.communicate(timeout=PATIENCE)
    assert printed.splitlines() == [
        f"{len(body)} octets from a@x.example",
        f"{len(body)} octets from ",
        "25 octets from a@x.example",
    ]
    assert (program.returncode, errors_in(errors.splitlines())) == (0, [])


def test_every_link_and_picture_of_readme_is_absolute() -> None:
    """A package index shows the page without the files beside it."""
    targets = re.findall(r"\]\(([^)\s]+)\)", README)
    assert len(targets) > 20
    assert not [name for name in targets if not name.startswith(("https://", "#"))]


def test_the_page_on_the_index_has_every_table_and_no_dead_link() -> None:
    pytest.importorskip("comrak", reason="needs the extra lint")
    page = pytest.importorskip("readme_renderer.markdown").render(README)
    headings = set(re.findall(r'id="([^"]+)"', page))
    targets = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(targets) > 20
    assert not [
        target
        for target in targets
        if not target.startswith("https://") and target.removeprefix("#") not in headings
    ]
    assert page.count("<table") == len(re.findall(r"^\|[-:|]+\|$", README, re.MULTILINE))
    assert "<img" in page
