"""The check of the built site finds what is dead, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = '<html><body><h1 id="top">x</h1><a href="{}">y</a></body></html>'

pytestmark = pytest.mark.one_python


def check(site: Path, link: str) -> subprocess.CompletedProcess[str]:
    (site / "sub").mkdir()
    (site / "sub" / "other.html").write_text(PAGE.format("../page.html#top"), encoding="utf-8")
    (site / "page.html").write_text(PAGE.format(link), encoding="utf-8")
    command = [sys.executable, str(ROOT / "docs" / "check_links.py"), str(site)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "link", ["sub/other.html", "sub/other.html#top", "#top", "https://x.example/none", "data:,x"]
)
def test_a_link_that_leads_somewhere_is_fine(tmp_path: Path, link: str) -> None:
    done = check(tmp_path, link)
    assert (done.returncode, done.stderr) == (0, "")
    assert ": 0 dead links" in done.stdout


@pytest.mark.parametrize(
    "link", ["none.html", "sub/other.html#none", "#none", "sub", "../outside.html"]
)
def test_a_dead_link_is_named_with_its_page(tmp_path: Path, link: str) -> None:
    done = check(tmp_path, link)
    assert done.returncode == 1
    assert f"page.html: {link}\n" in done.stdout
