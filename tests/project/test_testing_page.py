"""The tests that pages show pass, and the tables of docs/testing.md name all that there is."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from fastsmtp.testing import ReceivedMessage, RecordingServer

pytest_plugins = ["pytester"]

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "testing.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```python test\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Shown(NamedTuple):
    """A file of tests of a page."""

    section: str
    code: str


def shown(page: str) -> list[Shown]:
    return [
        Shown(re.findall(r"^#+ (.*)$", page[: fence.start()], re.MULTILINE)[-1], fence[1])
        for fence in FENCE.finditer(page)
    ]


def of_both_pages() -> list[Shown]:
    texts = [(DOCS / name).read_text(encoding="utf-8") for name in ("testing.md", "embedding.md")]
    return [tests for text in texts for tests in shown(text)]


def libraries(code: str) -> set[str]:
    """The libraries that the tests import."""
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    return {str(node.module).partition(".")[0] for node in imports}


@pytest.mark.parametrize("tests", of_both_pages(), ids=lambda tests: tests.section)
def test_the_tests_that_a_page_shows_pass(
    tests: Shown, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = [name for name in libraries(tests.code) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyfile(tests.code)
    result = pytester.runpytest_subprocess(
        "-p", "fastsmtp.pytest_plugin", "-p", "no:cacheprovider", timeout=120
    )
    assert result.ret == 0
    assert result.parseoutcomes().keys() <= {"passed", "warnings", "warning"}


def test_the_page_shows_the_frameworks_that_it_promises() -> None:
    sections = [tests.section for tests in shown(PAGE)]
    assert {"Django", "Flask", "FastAPI"} <= set(sections)


@pytest.mark.parametrize("public", [RecordingServer, ReceivedMessage])
def test_every_name_of_the_classes_is_on_the_page(public: type) -> None:
    names = {name for name in dir(public) if not name.startswith("_")}
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", PAGE)] == []
