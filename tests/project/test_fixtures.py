"""What conftest.py promises: its fixtures find what leaks, its hooks share out the whole suite."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import conftest
import pytest

pytest_plugins = ["pytester"]

# what leaks -> what the failure says, and the statements of a coroutine that leaks it
LEAKS = {
    "resource": ("never closed", "keep = [socket.socket()]; keep.append(keep)"),
    "descriptor": ("descriptors still open", "os.dup(0)"),
    "task": ("tasks still running", "KEEP.append(asyncio.ensure_future(asyncio.Event().wait()))"),
    "exception": (
        "exception was never retrieved",
        "task = asyncio.ensure_future(fail()); await asyncio.wait([task]); del task",
    ),
    "callback": (
        "Exception in callback",
        "asyncio.get_running_loop().call_soon(int, 'x'); await asyncio.sleep(0)",
    ),
}

MODULE = """
import asyncio, os, socket

KEEP = []

async def fail():
    raise RuntimeError

async def leak():
    {statements}

def test_leak(run):
    run(leak())
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A test folder with our conftest.py and nothing else."""
    pytester.makeconftest(
        Path(__file__).parents[1].joinpath("conftest.py").read_text(encoding="utf-8")
    )
    return pytester


@pytest.mark.parametrize("leak", LEAKS)
def test_a_test_that_leaks_fails(suite: pytest.Pytester, leak: str) -> None:
    if leak == "descriptor" and sys.platform != "linux":
        pytest.skip("only Linux tells which descriptors are open")
    message, statements = LEAKS[leak]
    suite.makepyfile(MODULE.format(statements=statements))
    result = suite.runpytest_subprocess("-p", "no:cacheprovider")
    result.stdout.fnmatch_lines([f"*{message}*"])
    outcomes = result.parseoutcomes()
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) >= 1


def test_a_timer_left_armed_fails_the_test(suite: pytest.Pytester) -> None:
    suite.makepyfile(MODULE.format(statements="asyncio.get_running_loop().call_later(60, print)"))
    result = suite.runpytest_subprocess("-p", "no:cacheprovider", "-k", "asyncio")
    result.stdout.fnmatch_lines(["*timers still armed*"])
    result.assert_outcomes(failed=1)


def test_a_clean_test_passes_on_each_loop_without_debug_mode(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import asyncio

        async def echo():
            await asyncio.sleep(0)
            assert not asyncio.get_running_loop().get_debug()
            return type(asyncio.get_running_loop()).__module__

        def test_echo(run):
            print("loop of", run(echo()), run(echo()))
        """
    )
    result = suite.runpytest_subprocess(
        "-p", "no:cacheprovider", "-p", "no:asyncio", "-s", "-W", "error"
    )
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*loop of asyncio.*"])
    if sys.platform != "win32":
        result.stdout.fnmatch_lines(["*loop of uvloop*"])


# --- several processes ---

Source = pytest.Config.ArgsSource


def options_of(source: Source, **facts: Any) -> dict[str, Any]:
    """The options after the hook; numprocesses is None when the command line does not say."""
    option = SimpleNamespace(**{"numprocesses": None, "dist": "no", **facts.pop("given", {})})
    config: Any = SimpleNamespace(args_source=source, option=option, **facts)
    conftest.pytest_cmdline_main(config)
    return vars(option)


def test_the_whole_suite_is_shared_out_by_files() -> None:
    options = options_of(Source.TESTPATHS)
    assert options["numprocesses"] > 1
    assert options["dist"] == "loadfile"


def test_tests_named_on_the_command_line_run_in_this_process() -> None:
    assert options_of(Source.ARGS)["numprocesses"] is None


@pytest.mark.parametrize("number", [0, 1, 8])
def test_the_command_line_decides_how_many_processes_there_are(number: int) -> None:
    assert options_of(Source.TESTPATHS, given={"numprocesses": number})["numprocesses"] == number


def test_a_process_that_was_started_for_the_suite_starts_no_others() -> None:
    options = options_of(Source.TESTPATHS, workerinput={})
    assert options == {"numprocesses": None, "dist": "no"}


def test_files_that_take_long_come_first_and_all_others_keep_their_order() -> None:
    def item(path: str, *marks: str) -> Any:
        return SimpleNamespace(path=path, get_closest_marker=lambda name: name in marks)

    first, quick, slow, last = item("a"), item("b"), item("b", "slow"), item("c")
    items = [first, quick, slow, last]
    conftest.pytest_collection_modifyitems(items)
    assert items == [quick, slow, first, last]
