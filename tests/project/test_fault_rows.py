"""Every row of `docs/faults.md` has a test, and every row that a test names is one.

A test names the rows that it keeps by a mark, by the id of a parameter set or the key of a table it
is made from (`"SMUG-16 tab"`), or in its own name (`test_ops_05_...`). Sources are read as syntax
trees: nothing is imported or collected for it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs/faults.md"

# Family -> the number of its last row; the first is 1.
LAST_ROWS = {
    **{"SMUG": 34, "TLS": 28, "LINE": 15, "FLOOD": 14, "SLOW": 15, "NET": 11, "PIPE": 11},
    **{"BYTE": 9, "ADDR": 14, "PARM": 13, "AUTH": 16, "PROXY": 12, "XCL": 9, "SIZE": 6},
    **{"BDAT": 15, "LMTP": 10, "HOOK": 19, "MEM": 10, "OPS": 15, "STATE": 14, "CPU": 6, "LOG": 6},
}
INVARIANTS = {f"I{number}" for number in range(1, 13)}


def family(name: str) -> list[str]:
    """All rows of one family."""
    return [f"{name}-{number:02}" for number in range(1, LAST_ROWS[name] + 1)]


# What a row waits for -> the rows that need no test before it is there. Some have tests already, of
# the part that does not wait. Rows only ever leave this table.
WAITING = {
    "nightly: memory that runs out at each allocation": ["MEM-07"],
    "a restart of workers that share a socket": ["OPS-04"],
    "processors of several generations": ["OPS-15"],
}
CATALOGUE = {row for name in LAST_ROWS for row in family(name)}

ID = re.compile(r"([A-Z]+)-[0-9]+")
# At the head of a text: `"SMUG-16 tab"`, `"SMUG-20 SMUG-21"`.
IDS = re.compile(rf"{ID.pattern}(?: {ID.pattern})*(?![^ ])")
IN_A_NAME = re.compile(r"test_([a-z]+)_([0-9]{2})_")
# A row of the page: its id, then the file of its tests, "" for one that waits.
ON_THE_PAGE = re.compile(
    r"^\| ([A-Z]+-[0-9]+) \|.*\| (?:`([^`]+)`|none yet: [^|]+) \|$", re.MULTILINE
)
LIKE_AN_ID = re.compile(r"[A-Za-z]+[-_]?[0-9]+")


class Place(NamedTuple):
    """Where a row is named."""

    row: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.row}"


def rows_of_text(text: str) -> Iterator[str]:
    """The rows at the head of a text; what begins like another word ("UTF-8") is none."""
    found = IDS.match(text)
    if found is not None:
        for row in found[0].split():
            if row.partition("-")[0] in LAST_ROWS:
                yield row


def rows_of_call(call: ast.Call) -> Iterator[str]:
    """The arguments of `row(...)` or `pytest.mark.row(...)` that are meant as ids, good or not."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name == "row":
        for argument in call.args:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                if LIKE_AN_ID.fullmatch(argument.value):
                    yield argument.value


def rows_of_node(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from rows_of_text(node.value)
    elif isinstance(node, ast.Call):
        yield from rows_of_call(node)
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        found = IN_A_NAME.match(node.name)
        if found is not None:
            yield f"{found[1].upper()}-{found[2]}"


def places_in(source: str, file: str = "") -> set[Place]:
    """All places of a test file that name a row; docstrings name none."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    statements = {node.value for node in nodes if isinstance(node, ast.Expr)}
    docstrings = {value for value in statements if isinstance(value, ast.Constant)}
    return {
        Place(row, file, getattr(node, "lineno", 0))
        for node in nodes
        if node not in docstrings
        for row in rows_of_node(node)
    }


@cache
def places() -> set[Place]:
    """All places of all test files but this one."""
    return {
        place
        for path in sorted(TESTS.rglob("test_*.py"))
        if path != Path(__file__)
        for place in places_in(path.read_text(encoding="utf-8"), path.relative_to(TESTS).as_posix())
    }


def test_every_row_has_a_test() -> None:
    waiting = {row for rows in WAITING.values() for row in rows}
    missing = CATALOGUE - waiting - {place.row for place in places()}
    assert not missing, f"rows without a test: {sorted(missing)}"


def test_every_row_that_a_test_names_is_in_the_catalogue() -> None:
    unknown = [place for place in places() if place.row not in CATALOGUE | INVARIANTS]
    assert not unknown, "no such rows:\n" + "\n".join(map(str, sorted(unknown)))


def test_a_row_waits_for_one_thing_and_is_in_the_catalogue() -> None:
    waiting = [row for rows in WAITING.values() for row in rows]
    assert len(waiting) == len(set(waiting))
    assert set(waiting) <= CATALOGUE


def test_the_page_lists_every_row_once_and_no_other() -> None:
    listed = [row for row, _ in ON_THE_PAGE.findall(PAGE.read_text(encoding="utf-8"))]
    assert sorted(listed) == sorted(CATALOGUE)


def test_the_page_names_a_file_that_has_tests_of_the_row_or_says_what_it_waits_for() -> None:
    waiting = {row for rows in WAITING.values() for row in rows}
    known = {(place.row, place.file) for place in places()} | {(row, "") for row in waiting}
    listed = ON_THE_PAGE.findall(PAGE.read_text(encoding="utf-8"))
    wrong = [row for row in listed if row not in known or (row[1] and row[0] in waiting)]
    assert not wrong, f"no such tests: {wrong}"


@pytest.mark.parametrize(
    "source, rows",
    [
        ('@pytest.mark.row("LINE-01", "I7")\ndef test_a(): pass', {"LINE-01", "I7"}),
        ('@row("LINE-01")\nasync def test_a(): pass', {"LINE-01"}),
        ('TABLE = {"LINE-01 whole": 1, "LINE-02 LINE-03": 2}', {"LINE-01", "LINE-02", "LINE-03"}),
        ('pytest.param(1, id="LINE-01 cut")', {"LINE-01"}),
        ("def test_line_01_is_cut(): pass", {"LINE-01"}),
        ('def test_a():\n    """LINE-01: a docstring."""', set()),
        ('# LINE-01\nnames = ["UTF-8", "as LINE-01", "LINE-01x", b"LINE-01"]', set()),
        # Misspelt, and so found to be in no catalogue.
        ('row("LNIE-01"); row("LINE01", "LINE-1")', {"LNIE-01", "LINE01", "LINE-1"}),
        ('pytest.mark.row("line_01"); {"LINE-99": 1}', {"line_01", "LINE-99"}),
    ],
)
def test_marks_ids_keys_and_names_of_tests_name_rows(source: str, rows: set[str]) -> None:
    found = {place.row for place in places_in(source)}
    assert found == rows
