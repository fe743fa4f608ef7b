"""What every test may ask for: a loop of each kind, a check for leaks, Hypothesis profiles.

The whole suite runs in as many processes as there are cores; what is named on the command line runs
in this one, for debuggers and for `-s`. `-n` decides otherwise.

`run` runs a coroutine on asyncio's loop and again on uvloop's. It brings `no_leaks`, which a test
without a loop asks for by name (a file by `pytestmark = pytest.mark.usefixtures("no_leaks")`).
`loop` is one with a clock that the test moves, `log` has every line of the engine.
`scanner` runs a test with each scanner of content that this machine has.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import pytest

from fastsmtp._parser import scanners, use_scanner
from fastsmtp.testing import VirtualLoop

T = TypeVar("T")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
try:
    import uvloop
except ImportError:  # Windows, where uvloop does not exist
    pass
else:
    LOOPS["uvloop"] = uvloop.new_event_loop
    # The first loop of libuv opens a pipe for signals that stays as long as the process does.
    uvloop.new_event_loop().close()

# A deadline asserts timing, and a shared machine breaks it. `run` is made once for all examples of
# a test, but each call looks for what it leaked.
_COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [hypothesis.HealthCheck.function_scoped_fixture],
}
hypothesis.settings.register_profile("dev", max_examples=100, **_COMMON)
hypothesis.settings.register_profile(
    "ci", max_examples=300, derandomize=True, database=None, print_blob=True, **_COMMON
)
hypothesis.settings.register_profile("nightly", max_examples=20_000, print_blob=True, **_COMMON)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Where `.ci/run` has installed the peers, a skipped test of one is a fault of the tests."""
    outcome: Any = yield
    report = outcome.get_result()
    expected = "PEERS_INSTALLED" in os.environ and item.get_closest_marker("interop") is not None
    if expected and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"the peers are said to be installed, but: {reason}"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its options
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Share out the suite by files, so that each keeps its fixtures and its order."""
    if hasattr(config, "workerinput"):
        return  # this process is one of those, and must not start more of them
    config.option.loadscopereorder = False  # the order is the one below
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if is_whole and getattr(config.option, "numprocesses", 0) is None:
        # One more than there are cores: many tests wait for processes that they have started.
        config.option.numprocesses = (os.cpu_count() or 1) + 1
        config.option.dist = "loadfile"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, so that no process waits for another at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


# A task or a transport that has just been ended may need so many turns of the loop to do so.
_TURNS_TO_SETTLE = 20


class Run:
    """Runs coroutines on one event loop: `result = run(coroutine)`."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that the coroutines run on; asyncio's debug mode is off."""
        return self._runner.get_loop()

    def __call__(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` to its end and return its result; fail if it left tasks or timers."""
        return self._runner.run(_and_nothing_left(coroutine))


async def _and_nothing_left(coroutine: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    result = await coroutine
    for _ in range(_TURNS_TO_SETTLE):
        leaked = asyncio.all_tasks() - before
        if not leaked:
            break
        await asyncio.sleep(0)
    assert not leaked, f"tasks still running at the end: {leaked}"
    # uvloop does not show its timers; one loop that does is enough to find a forgotten one.
    timers = [timer for timer in getattr(loop, "_scheduled", ()) if not timer.cancelled()]
    assert not timers, f"timers still armed at the end: {timers}"
    return result


@pytest.fixture(params=LOOPS)
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes an event loop: asyncio's, then uvloop's."""
    return LOOPS[request.param]


@pytest.fixture
def run(no_leaks: None, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Run]:
    """Run coroutines on the loop of the parameter, and check that everything returned."""
    with asyncio.Runner(debug=False, loop_factory=loop_factory) as runner:
        yield Run(runner)


class _Records(logging.Handler):
    """Keeps what asyncio logs as an error, such as "exception was never retrieved"."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's text, with its traceback."""
        self.texts.append(logging.Formatter().format(record))


def open_files() -> dict[int, str]:
    """Return what each descriptor of this process refers to; empty on systems without /proc."""
    opened = {}
    if sys.platform == "linux":
        for entry in Path("/proc/self/fd").iterdir():
            try:
                opened[int(entry.name)] = str(entry.readlink())
            except FileNotFoundError:  # the one that lists the others
                continue
    return opened


def opened_since(before: dict[int, str]) -> dict[int, str]:
    """Return the descriptors that are open and were not in `before`, a result of `open_files()`.

    Descriptors that were closed meanwhile do not count. c-ares closes its own from a thread, some
    time after its last query has ended: a test must not count those of an earlier one.
    """
    deadline = time.monotonic() + (10 if "pycares" in sys.modules else 0)
    while True:
        left = {fd: target for fd, target in open_files().items() if before.get(fd) != target}
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(0.001)


def _collect() -> list[str]:
    """Collect garbage and return the warnings of what is closed only by that."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        gc.collect()
    return [str(warning.message) for warning in caught]


@pytest.fixture(scope="module", autouse=True)
def _frozen_for_one_file_at_most() -> Iterator[None]:
    """What has become garbage while it was frozen is found by the first collection after this."""
    yield
    gc.unfreeze()


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail the test that leaves descriptors, unclosed resources or unretrieved exceptions."""
    _collect()
    # What was there before is not looked through again: 200 000 objects of modules and of pytest,
    # twice in each of thousands of tests, took half of the time of the suite.
    gc.freeze()
    records = _Records()
    before = open_files()
    logger = logging.getLogger("asyncio")
    logger.addHandler(records)
    try:
        yield
        unclosed = _collect()
    finally:
        logger.removeHandler(records)
    left = opened_since(before)
    assert not records.texts, "asyncio reported:\n" + "\n".join(records.texts)
    assert not unclosed, "never closed:\n" + "\n".join(unclosed)
    assert not left, f"descriptors still open: {left}"


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    """A loop for several wires of one server, with a clock that the test moves."""
    loop = VirtualLoop()
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.fixture
def log() -> Iterator[list[str]]:
    """Every line of the engine, formatted, at every level."""
    lines: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger("fastsmtp")
    level, keeper = logger.level, Keeper()
    logger.addHandler(keeper)
    logger.setLevel(logging.DEBUG)
    yield lines
    logger.setLevel(level)
    logger.removeHandler(keeper)


@pytest.fixture(params=scanners())
def scanner(request: pytest.FixtureRequest) -> Iterator[str]:
    """Scan content by each scanner, the one that is in use otherwise first."""
    name: str = request.param
    use_scanner(name)
    yield name
    use_scanner(scanners()[0])
