"""Write the last column of docs/faults.md: the test files of each row.

    python docs/make_faults.py

A test names the rows that it keeps by a mark, by the id of a parameter set or the key of a table it
is made from (`"SMUG-16 tab"`), or in its own name (`test_ops_05_...`). Sources are read as syntax
trees: nothing is imported or collected for it. The first three columns of the page are written by
hand.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
PAGE = ROOT / "docs/faults.md"

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


# What a row needs -> the rows that have no test before it is there. Some have tests already, of the
# part that does not need it. Rows only ever leave this table.
WAITING = {
    "a nightly run in which memory runs out at each allocation": ["MEM-07"],
    "a restart of workers that share a socket": ["OPS-04"],
    "processors of several generations": ["OPS-15"],
}
CATALOGUE = {row for name in LAST_ROWS for row in family(name)}

ID = re.compile(r"([A-Z]+)-[0-9]+")
# At the head of a text: `"SMUG-16 tab"`, `"SMUG-20 SMUG-21"`.
IDS = re.compile(rf"{ID.pattern}(?: {ID.pattern})*(?![^ ])")
IN_A_NAME = re.compile(r"test_([a-z]+)_([0-9]{2})_")
# A row of the page: all but its last cell, its id, its last cell.
ON_THE_PAGE = re.compile(r"^(\| ([A-Z]+-[0-9]+) \|.*\|) ([^|]*) \|$", re.MULTILINE)
WITHOUT = re.compile(r"^Rows without a test:.*\n", re.MULTILINE)
LIKE_AN_ID = re.compile(r"[A-Za-z]+[-_]?[0-9]+")


class Place(NamedTuple):
    """Where a row is named."""

    row: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.row}"


def rows_of_text(text: str) -> Iterator[str]:
    """The rows at the head of a text; what begins like another word ("UTF-8") is not one."""
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
    """All places of a test file that name a row; docstrings do not count."""
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
    """All places of all test files, except the one that tests this."""
    return {
        place
        for path in sorted(TESTS.rglob("test_*.py"))
        if path.name != "test_fault_rows.py"
        for place in places_in(path.read_text(encoding="utf-8"), path.relative_to(TESTS).as_posix())
    }


def files_of(row: str) -> str:
    """The last cell of a row: its test files, those with the most tests first."""
    for what, rows in WAITING.items():
        if row in rows:
            return f"none yet; it needs {what}"
    found = Counter(place.file for place in places() if place.row == row)
    names = sorted(found, key=lambda name: (-found[name], name))
    return " ".join(f"`{name}`" for name in names) or "none"


def render(page: str) -> str:
    """Return the page with its last column and its list of rows without a test up to date."""
    page = ON_THE_PAGE.sub(lambda row: f"{row[1]} {files_of(row[2])} |", page)
    without = ", ".join(sorted(row for rows in WAITING.values() for row in rows))
    return WITHOUT.sub(f"Rows without a test: {without}.\n", page)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
