"""What `help()`, `dir()` and completion show of the public classes: what is documented, no more."""

from __future__ import annotations

import importlib
import pydoc
import re
from pathlib import Path
from typing import Any

import pytest

from fastsmtp import Auth, DataStream, Envelope, Session, SMTPServer, delivery

DOCS = Path(__file__).parents[2] / "docs"

# Hooks come to these where they are set, on the server or in a subclass.
SERVER = {
    *("options", "connections", "address", "addresses", "listen", "close", "run"),
    *("on", "once", "off", "update_secure_context"),
    *("close_listener", "serve_forever", "serve_until_stopped", "hurry", "stats", "count_in"),
    *("threaded", "trace"),
}


STREAM = {
    *("read", "consume", "pause", "resume", "discard", "byte_length", "size_exceeded"),
    *("bare_newline", "has_nul", "has_8bit", "longest_line"),
}

MODULES = (
    *("log_text", "blocking", "running", "descriptors", "networks", "certificates"),
    *("hook_types", "server_options", "sockets", "unix_sockets", "reply_reader", "repeats"),
)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def shown(thing: object) -> set[str]:
    """The names that completion offers."""
    return {name for name in dir(thing) if not name.startswith("_")}


def test_a_server_shows_its_documented_names_and_the_hooks_that_are_set() -> None:
    assert shown(SMTPServer) == SERVER
    assert shown(SMTPServer()) == SERVER
    with_hook = SMTPServer(on_rcpt_to=lambda address, session, callback: callback())
    assert shown(with_hook) == SERVER | {"on_rcpt_to"}


def test_every_name_of_a_server_is_in_its_documentation() -> None:
    text = "".join(read(DOCS / f"{name}.md") for name in ("server", "tls", "events"))
    assert [name for name in sorted(SERVER) if f"server.{name}" not in text] == []


@pytest.mark.parametrize(
    "public, names", [(SMTPServer, SERVER), (DataStream, STREAM)], ids=["server", "stream"]
)
def test_help_is_about_documented_names_only(public: type, names: set[str]) -> None:
    text = pydoc.plain(pydoc.render_doc(public))
    told = set(re.findall(r"^ \|  (?:async )?(\w+)(?:\(.*)?$", text, re.MULTILINE))
    assert {name for name in told if not name.startswith("__")} - {public.__name__} == names


def test_a_stream_shows_what_a_consumer_needs() -> None:
    assert shown(DataStream) == shown(DataStream(lambda: None)) == STREAM


@pytest.mark.parametrize("public", [DataStream, Session, Envelope, Auth])
def test_every_name_of_what_hooks_are_given_is_documented(public: type) -> None:
    documented = set(re.findall(r"\w+", " ".join(read(page) for page in DOCS.glob("*.md"))))
    assert shown(public) <= documented


@pytest.mark.parametrize("name", MODULES)
def test_every_name_that_programs_are_given_is_on_their_page(name: str) -> None:
    page = read(DOCS / "programs.md")
    public = importlib.import_module(f"fastsmtp.{name}").__all__
    assert f"`fastsmtp.{name}`" in page
    assert [each for each in public if not re.search(rf"`{each}\b", page)] == []


def test_every_name_for_programs_of_aiosmtpd_is_on_their_page() -> None:
    page = read(DOCS / "aiosmtpd.md")
    public = importlib.import_module("fastsmtp.compat.aiosmtpd").__all__
    assert [each for each in public if not re.search(rf"`{each}\b|\b{each}\(", page)] == []


@pytest.mark.parametrize(
    "name", ["delivery", "delivery.arrival.Traffic", "delivery.Sink", "delivery.Record"]
)
def test_every_name_of_delivery_is_on_its_page(name: str) -> None:
    page = read(DOCS / "delivery.md")
    module, _, attribute = name.partition(".")
    thing: Any = importlib.import_module(f"fastsmtp.{module}")
    for part in filter(None, attribute.split(".")):
        thing = getattr(thing, part)
    public = getattr(thing, "__all__", None) or shown(thing)
    assert [each for each in sorted(public) if not re.search(rf"\b{each}\b", page)] == []


ROOMS = sorted(each.parent.name for each in Path(delivery.__path__[0]).glob("[a-z]*/__init__.py"))


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_every_public_name_of_delivery_is_in_the_reference(room: str) -> None:
    name = ".".join(filter(None, ("fastsmtp.delivery", room)))
    directives = re.findall(
        r"^\.\. (?:auto\w+|py:data):: (\S+)$", read(DOCS / "api.md"), re.MULTILINE
    )
    public = {f"{name}.{each}" for each in importlib.import_module(name).__all__}
    assert public == {each for each in directives if each.rpartition(".")[0] == name}
