"""Looks for dead links in the built site: pages, anchors, pictures, scripts. No network is needed.

    python docs/check_links.py build/site

In: a folder of HTML. Out: a line for each dead link, and the exit status 1 if there is one. Links
to other hosts are counted, not followed.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

TARGETS = {"href", "src", "srcset", "data"}


class Page(HTMLParser):
    """links: what the page refers to. anchors: what can be referred to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in TARGETS and value:
                self.links.add(value)


def dead_links(site: Path) -> tuple[list[str], int]:
    """Return a line for each dead link, and how many links lead to other hosts."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    dead, others = [], 0
    for path, page in sorted(pages.items()):
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                others += parts.scheme != "data"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            anchor = unquote(parts.fragment)
            found = pages.get(target)
            if not target.is_file() or (anchor and found and anchor not in found.anchors):
                dead.append(f"{path.relative_to(site)}: {link}")
    return dead, others


def main() -> int:
    """Check the folder that is named; return the exit status."""
    site = Path(sys.argv[1]).resolve()
    dead, others = dead_links(site)
    lines = [*dead, f"{site.name}: {len(dead)} dead links; {others} lead to other hosts"]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main())
