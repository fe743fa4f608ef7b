"""Every row of `docs/faults.md` has a test, and every row that a test names is on the page.

`docs/make_faults.py` finds the tests of a row and writes the last column of the page.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.one_python


def make_faults() -> ModuleType:
    path = Path(__file__).parents[2] / "docs" / "make_faults.py"
    spec = importlib.util.spec_from_file_location("make_faults", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_faults"] = module
    spec.loader.exec_module(module)
    return module


FAULTS = make_faults()
CATALOGUE, INVARIANTS, WAITING = FAULTS.CATALOGUE, FAULTS.INVARIANTS, FAULTS.WAITING
PAGE = FAULTS.PAGE.read_text(encoding="utf-8")


def test_every_row_has_a_test() -> None:
    waiting = {row for rows in WAITING.values() for row in rows}
    missing = CATALOGUE - waiting - {place.row for place in FAULTS.places()}
    assert not missing, f"rows without a test: {sorted(missing)}"


def test_every_row_that_a_test_names_is_in_the_catalogue() -> None:
    unknown = [place for place in FAULTS.places() if place.row not in CATALOGUE | INVARIANTS]
    assert not unknown, "no such rows:\n" + "\n".join(map(str, sorted(unknown)))


def test_a_row_waits_for_one_thing_and_is_in_the_catalogue() -> None:
    waiting = [row for rows in WAITING.values() for row in rows]
    assert len(waiting) == len(set(waiting))
    assert set(waiting) <= CATALOGUE


def test_the_page_lists_every_row_once_and_no_other() -> None:
    listed = [row for _, row, _ in FAULTS.ON_THE_PAGE.findall(PAGE)]
    assert sorted(listed) == sorted(CATALOGUE)


def test_the_page_names_the_files_that_have_tests_of_each_row() -> None:
    assert FAULTS.render(PAGE) == PAGE, "run: python docs/make_faults.py"
    (listed,) = FAULTS.WITHOUT.findall(PAGE)
    assert set(FAULTS.ID.findall(listed)) == {
        row.partition("-")[0] for rows in WAITING.values() for row in rows
    }


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
    found = {place.row for place in FAULTS.places_in(source)}
    assert found == rows
