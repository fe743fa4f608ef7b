"""The files of the status page, and the headers that they are sent with.

Nothing in them is built, and nothing leads to another host: the page is static, and asks
`stats.json` beside it once a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = ["HEADERS", "PAGES", "Page", "read_page"]


class Page(NamedTuple):
    """A file of the page. name: in this package."""

    name: str
    content_type: str


# Path of a request -> file.
PAGES: Final[Mapping[str, Page]] = MappingProxyType(
    {
        "/": Page("index.html", "text/html; charset=utf-8"),
        "/status.css": Page("status.css", "text/css; charset=utf-8"),
        "/status.js": Page("status.js", "text/javascript; charset=utf-8"),
    }
)
# Scripts, styles and requests of this origin only. `data:` is for the empty icon.
HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
            " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
            " require-trusted-types-for 'script'; trusted-types 'none'"
        ),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Cache-Control": "no-cache",
    }
)


@cache
def read_page(page: Page) -> bytes:
    """Return the octets of a file, a few kilobytes."""
    return files(__package__).joinpath(page.name).read_bytes()
