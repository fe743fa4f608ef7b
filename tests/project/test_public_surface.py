"""What `help()`, `dir()` and completion show of the public classes: what is documented, no more."""

from __future__ import annotations

import pydoc
import re
from pathlib import Path

from fastsmtp import SMTPServer

DOCS = Path(__file__).parents[2] / "docs"

# Hooks come to these where they are set, on the server or in a subclass.
SERVER = {
    *("options", "connections", "address", "addresses", "listen", "close", "run"),
    *("on", "once", "off", "update_secure_context"),
}


def shown(thing: object) -> set[str]:
    """The names that completion offers."""
    return {name for name in dir(thing) if not name.startswith("_")}


def test_a_server_shows_its_documented_names_and_the_hooks_that_are_set() -> None:
    assert shown(SMTPServer) == SERVER
    assert shown(SMTPServer()) == SERVER
    with_hook = SMTPServer(on_rcpt_to=lambda address, session, callback: callback())
    assert shown(with_hook) == SERVER | {"on_rcpt_to"}


def test_every_name_of_a_server_is_in_its_documentation() -> None:
    text = (DOCS / "server.md").read_text(encoding="utf-8")
    assert [name for name in sorted(SERVER) if f"server.{name}" not in text] == []


def test_the_help_of_a_server_is_about_its_documented_names_only() -> None:
    text = pydoc.plain(pydoc.render_doc(SMTPServer))
    told = set(re.findall(r"^ \|  (?:async )?(\w+)(?:\(.*)?$", text, re.MULTILINE))
    assert {name for name in told if not name.startswith("__")} - {"SMTPServer"} == SERVER
