"""The status page of a real `fastsmtp serve --admin`, with and without workers, in Chromium."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from chromium import CHROMIUM, REASON, Browser
from serving import Gateway
from worker_kit import Parent

from fastsmtp.gateway.admin.address import AdminAddress
from fastsmtp.gateway.admin.http import Admin
from fastsmtp.gateway.admin.pages import Pages

pytest_plugins = ["gateway_fixtures"]
pytestmark = [
    pytest.mark.one_python,
    pytest.mark.interop,
    pytest.mark.skipif(not CHROMIUM, reason=REASON),
]

OPTIONS = ("--admin=127.0.0.1:0", "--domain=server.example")
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"


def url_of(gateway: Gateway) -> str:
    line = next(line for line in gateway.out.all if "metrics and state on" in line)
    return f"http://{line.split()[-1]}/"


@pytest.mark.parametrize("workers", [None, 2])
def test_the_page_shows_what_a_server_does_and_that_it_has_ended(
    maildir: Path, tmp_path: Path, workers: int | None
) -> None:
    options = (maildir, *OPTIONS)
    started = Parent(*options, workers=workers) if workers else Gateway(*options)
    with started as gateway, Browser(tmp_path / "profile") as browser:
        page = browser.open(url_of(gateway))
        page.wait_for("document.querySelector('#state').innerText === 'ready'")
        with gateway.client() as client:
            page.wait_for("document.querySelector('.tile p').innerText === '1'")
            client.sendmail("a@x.example", ["b@server.example"], MESSAGE)
            client.docmd("MAIL FROM:<a@x.example>")
            assert client.docmd("RCPT TO:<b@other.example>")[0] == 550
        page.wait_for("document.querySelector('#delivery').innerText.includes('delivered\\n1')")
        page.wait_for("document.querySelector('#refused').innerText.includes('rcpt: 550')")
        assert re.search(r"rcpt: 550\t1\t1", page.text("#refused"))
        assert "250 means\non this disk" in page.text("#delivery")
        page.wait_for("document.querySelectorAll('#refusals tbody tr').length === 1")
        shown = page.text("#refusals")
        assert "550 5.1.1 No such recipient here" in shown
        assert "a@x.example" in shown
        assert "b@other.example" in shown
        listed = page.value("document.querySelectorAll('#workers tbody tr').length")
        assert listed == (workers or 0)
        page.picture(tmp_path / "served.png")
        assert page.faults == []
        assert gateway.stop() == 0
        page.wait_for("document.querySelector('#gone').innerText.includes('does not answer')")


@contextmanager
def listening(pages: Pages) -> Iterator[str]:
    """An admin listener on a loop of its own thread; yields the URL of its page."""
    admin = Admin(AdminAddress("127.0.0.1", 0), pages)
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        runner.run(admin.start())
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield f"http://{admin.address}/"
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            runner.run(admin.close())


def test_the_latest_refusals_are_shown_newest_first_and_as_text(tmp_path: Path) -> None:
    pages = Pages(2)
    for number, each in enumerate((pages.take(), pages.take())):
        each.recent.add(
            {
                "client": f"<b>{number}</b>[192.0.2.1]",
                "from": "\u202ea@x.example",
                "to": "b@other.example",
                "stage": "rcpt",
                "reply": "550 5.1.1 No such user",
            }
        )
    with listening(pages) as url, Browser(tmp_path / "profile") as browser:
        page = browser.open(url)
        page.wait_for("document.querySelectorAll('#refusals tbody tr').length === 2")
        assert page.value(
            "[...document.querySelectorAll('bdi')].map((one) => one.textContent)"
        ) == [
            text
            for number in (1, 0)
            for text in (
                *("550 5.1.1 No such user", "rcpt", f"<b>{number}</b>[192.0.2.1]"),
                *("\\u{202e}a@x.example", "b@other.example"),
            )
        ]
        assert page.text("#state").startswith("not ready: no process accepts clients")
        assert page.faults == []
