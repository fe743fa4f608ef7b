"""The files of the status page: nothing leads outside, nothing is inline."""

from __future__ import annotations

import re

import pytest

from fastsmtp.gateway.status.pages import HEADERS, PAGES, read_page

TEXTS = {page.name: read_page(page).decode() for page in PAGES.values()}


@pytest.mark.parametrize("name", TEXTS)
def test_no_file_names_another_host(name: str) -> None:
    text = TEXTS[name].replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not re.search(r"[a-z]+://|//[a-z0-9-]+\.|@import|url\(", text)


def test_the_page_has_neither_inline_script_nor_inline_style() -> None:
    text = TEXTS["index.html"]
    assert re.findall(r"<script(.*?)>(.*?)</script>", text) == [(' src="status.js" defer', "")]
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text)


def test_the_script_makes_text_and_never_markup() -> None:
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function",
        TEXTS["status.js"],
    )


def test_the_policy_allows_files_of_the_page_only() -> None:
    policy = dict(
        each.strip().partition(" ")[::2] for each in HEADERS["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert {value for name, value in policy.items() if name.endswith("-src")} == {
        *("'none'", "'self'", "data:")
    }
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"


def test_every_file_that_the_page_names_is_served_beside_it() -> None:
    named = re.findall(r'(?:href|src)="([^"]+)"', TEXTS["index.html"])
    files = {path.removeprefix("/") for path in PAGES}
    others = {"data:,", "metrics", "stats.json"}  # of the admin listener itself
    assert set(named) == (files | others) - {""}
