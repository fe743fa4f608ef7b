"""The documentation site in a real browser: it fits a phone, asks nobody, and finds words."""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import CHROMIUM, REASON, Browser, Page

ROOT = Path(__file__).parents[2]
PHONE = 390  # pixels
WIDTH = "document.scrollingElement.scrollWidth"

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(not CHROMIUM, reason=REASON),
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line for each request."""

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    for name in ("sphinx", "furo", "myst_parser", "sphinx_copybutton"):
        pytest.importorskip(name, reason="needs the extra docs")
    built = tmp_path_factory.mktemp("site") / "html"
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(ROOT / "docs"), str(built)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return built


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[str]:
    """Its address."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def test_every_page_fits_a_phone_and_loads_without_a_fault(
    browser: Browser, site: str, folder: Path
) -> None:
    page = browser.open("about:blank", width=PHONE)
    too_wide, faults = [], []
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*.html"))
    assert len(names) > 40
    for name in names:
        show(page, f"{site}/{name}")
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            page.call("Emulation.setEmulatedMedia", features=features)
            width = page.value(WIDTH)
            if width > PHONE:
                too_wide.append(f"{name}, {scheme}: {width}")
        faults += [f"{name}: {fault}" for fault in page.faults]
    assert too_wide == []
    assert faults == []
    assert not [url for url in page.requests if not url.startswith((site, "data:", "about:"))]


def test_a_page_that_is_too_wide_for_a_phone_is_seen(browser: Browser, tmp_path: Path) -> None:
    wide = tmp_path / "wide.html"
    wide.write_text('<meta name="viewport" content="width=device-width"><pre>' + "x" * 200)
    page = browser.open(wide.as_uri(), width=PHONE)
    page.wait_for(f"{WIDTH} > {PHONE}")


def test_the_search_finds_the_page_of_a_word(browser: Browser, site: str) -> None:
    page = browser.open(f"{site}/search.html?q=STARTTLS")
    page.wait_for("document.querySelector('#search-results a[href*=\"tls.html\"]') !== null")
    assert page.faults == []


def show(page: Page, url: str) -> None:
    """Go to a page, and wait until all of it is there."""
    page.call("Page.navigate", url=url)
    page.wait_for(f"location.href === '{url}' && document.readyState === 'complete'")
