"""The built site (`make site`) in Chromium: a phone shows each page, and the search finds one."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from chromium import CHROMIUM, REASON, Browser

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"
PHONE = 390
WIDTH = "document.scrollingElement.scrollWidth"

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(not CHROMIUM, reason=REASON),
]
of_the_site = pytest.mark.skipif(
    not (SITE / "searchindex.js").exists(), reason="the site is not built (make site)"
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/favicon.ico":  # which a browser asks for, though no page names it
                self.send_response(204)
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@of_the_site
def test_a_phone_shows_every_page_without_scrolling_aside_and_without_errors(
    browser: Browser, address: str
) -> None:
    page = browser.open(f"{address}/index.html", width=PHONE)
    for path in sorted(SITE.glob("*.html")):
        page.call("Page.navigate", url=f"{address}/{path.name}")
        page.wait_for(f"location.pathname === '/{path.name}' && document.readyState === 'complete'")
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            page.call("Emulation.setEmulatedMedia", features=features)
            assert page.value(WIDTH) <= PHONE, (path.name, scheme)
        assert not page.faults, path.name


def test_a_page_that_is_too_wide_is_found(browser: Browser, tmp_path: Path) -> None:
    wide = tmp_path / "wide.html"
    wide.write_text('<meta name="viewport" content="width=device-width"><pre>' + "x" * 200)
    page = browser.open(wide.as_uri(), width=PHONE)
    page.wait_for(f"{WIDTH} > {PHONE}")


@of_the_site
def test_the_search_finds_the_page_of_a_word(browser: Browser, address: str) -> None:
    page = browser.open(f"{address}/search.html?q=aiosmtpd")
    page.wait_for("document.querySelector('#search-results a[href^=\"aiosmtpd.html\"]') !== null")
    assert not page.faults
