"""However a coroutine hook ends, it is answered as a Task that runs it would be.

The engine takes the steps of such hooks itself as long as it can. Each way to end, also the odd
ones, is tried so and on a loop whose task factory makes a Task of each: the client gets the same,
the log has the same, and the connection goes on.
"""

from __future__ import annotations

import asyncio
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hook_kit import AtHook, Call, OddException

from fastsmtp import SMTPError

pytestmark = pytest.mark.usefixtures("no_leaks")
row = pytest.mark.row

# --- ways to wait ---


async def at_once(call: Call) -> None:
    """Not at all: what comes next is in the first step."""


async def one_turn(call: Call) -> None:
    await asyncio.sleep(0)


async def some_time(call: Call) -> None:
    await asyncio.sleep(1)


async def the_message(call: Call) -> None:
    if hasattr(call.subject, "read"):
        await call.subject.read()


BEFORE = (at_once, one_turn, some_time, the_message)


# --- ways to end ---


def current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


@types.coroutine
def yields(what: Any) -> Iterator[Any]:
    yield what


async def returns(call: Call) -> None:
    """As an honest hook does."""


async def cancels_itself(call: Call) -> None:
    current().cancel()


async def cancels_itself_twice(call: Call) -> None:
    current().cancel("one")
    current().cancel("two")


async def cancels_itself_and_waits(call: Call) -> None:
    current().cancel()
    await asyncio.sleep(0)


async def cancels_itself_and_waits_long(call: Call) -> None:
    current().cancel()
    await asyncio.sleep(10)


async def cancels_itself_and_swallows_it(call: Call) -> None:
    current().cancel()
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        return


async def cancels_itself_and_takes_it_back(call: Call) -> None:
    """From Python 3.13 on it is as if it had not been."""
    current().cancel()
    current().uncancel()


async def cancels_itself_and_raises(call: Call) -> None:
    current().cancel()
    raise ValueError("it fails")


async def cancels_itself_and_rejects(call: Call) -> None:
    current().cancel()
    raise SMTPError("no", 554, "5.7.1")


async def cancels_itself_and_reads(call: Call) -> None:
    current().cancel()
    if hasattr(call.subject, "read"):
        await call.subject.read()


async def is_cancelled_by_a_callback(call: Call) -> None:
    asyncio.get_running_loop().call_soon(current().cancel)
    await asyncio.sleep(10)


async def is_cancelled_and_swallows_it(call: Call) -> None:
    asyncio.get_running_loop().call_soon(current().cancel)
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        return


async def is_cancelled_after_its_end(call: Call) -> None:
    """The Task has ended when it comes: nothing happens."""
    asyncio.get_running_loop().call_soon(current().cancel)


async def is_looked_at(call: Call) -> None:
    call.session.data["task"] = current()
    current().get_name()


async def times_out(call: Call) -> None:
    async with asyncio.timeout(1):
        await asyncio.sleep(10)


async def times_out_at_once(call: Call) -> None:
    async with asyncio.timeout(-1):
        pass


async def fails_in_a_group(call: Call) -> None:
    async def fails() -> None:
        raise ValueError("one of them")

    async with asyncio.TaskGroup() as group:
        group.create_task(fails())


async def awaits_itself(call: Call) -> None:
    await current()


async def awaits_itself_and_goes_on(call: Call) -> None:
    with pytest.raises(RuntimeError):
        await current()


async def awaits_what_was_cancelled(call: Call) -> None:
    future: Any = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


def raising(error: type[BaseException]) -> Callable[[Call], Any]:
    async def raises(call: Call) -> None:
        raise error()

    raises.__name__ = f"raises_{error.__name__}"
    return raises


def yielding(name: str, what: Callable[[], Any]) -> Callable[[Call], Any]:
    async def rubbish(call: Call) -> None:
        await yields(what())  # type: ignore[misc]  # a generator that a coroutine may await

    async def rubbish_and_goes_on(call: Call) -> None:
        with pytest.raises(RuntimeError):
            await yields(what())  # type: ignore[misc]

    rubbish.__name__ = f"yields_{name}"
    rubbish_and_goes_on.__name__ = f"yields_{name}_and_goes_on"
    return (rubbish, rubbish_and_goes_on)  # type: ignore[return-value]


RAISED = (
    *(GeneratorExit, asyncio.CancelledError, StopIteration, StopAsyncIteration, OddException),
    *(ValueError, RecursionError, MemoryError, asyncio.InvalidStateError, TimeoutError),
)
RUBBISH: dict[str, Callable[[], Any]] = {
    "a_number": lambda: 42,
    "a_text": lambda: "rubbish",
    "itself": current,
    "a_future_that_nobody_awaits": lambda: asyncio.get_running_loop().create_future(),
}
WAYS: list[Callable[[Call], Any]] = [
    returns,
    cancels_itself,
    cancels_itself_twice,
    cancels_itself_and_waits,
    cancels_itself_and_waits_long,
    cancels_itself_and_swallows_it,
    cancels_itself_and_takes_it_back,
    cancels_itself_and_raises,
    cancels_itself_and_rejects,
    cancels_itself_and_reads,
    is_cancelled_by_a_callback,
    is_cancelled_and_swallows_it,
    is_cancelled_after_its_end,
    is_looked_at,
    times_out,
    times_out_at_once,
    fails_in_a_group,
    awaits_itself,
    awaits_itself_and_goes_on,
    awaits_what_was_cancelled,
    *map(raising, RAISED),
    *(way for name, what in RUBBISH.items() for way in yielding(name, what)),  # type: ignore[misc, attr-defined]
]


class Outcome:
    """What came of one such hook: replies, and reported errors."""

    def __init__(self, name: str, style: str, act: Callable[[Call], Any], tasks: bool) -> None:
        met = AtHook(name, style, act, bring=False)
        if tasks:
            met.loop.set_task_factory(
                lambda loop, coroutine, **options: asyncio.Task(coroutine, loop=loop, **options)
            )
        with met:
            met.bring()
            replies = [met.reply, *met.wait(20)]
            self.replies = [reply for reply in replies if reply]
            # What follows in the text names the session, or is the repr of the Task.
            told = [re.split("<|session", str(error))[0] for error in met.errors]
            self.errors = [
                (type(error), text) for error, text in zip(met.errors, told, strict=True)
            ]
            met.go_on()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Outcome) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(vars(self))


@row("HOOK-01", "HOOK-05")
@pytest.mark.parametrize("name", ["on_rcpt_to", "on_data"])
@pytest.mark.parametrize(
    "style, answers",
    [
        ("coroutine", "last"),
        ("coroutine with callback", "last"),
        ("coroutine with callback", "first"),
    ],
)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_coroutine_has_the_outcome_that_a_task_would_have(
    name: str, style: str, answers: str, way: Any
) -> None:
    for before in BEFORE:

        async def act(call: Call, before: Any = before) -> None:
            if answers == "first":
                call.callback()
            await before(call)
            await way(call)
            if answers == "last" and call.callback is not None:
                call.callback()

        outcomes = [Outcome(name, style, act, tasks) for tasks in (False, True)]
        assert outcomes[0] == outcomes[1], before.__name__
        assert len(outcomes[0].replies) == 1


# What the table would not show if both were wrong in the same way.
ANSWERS: list[tuple[Any, str, list[type[BaseException]]]] = [
    (returns, "250 2.1.5", []),
    (cancels_itself, "451 4.3.0", [asyncio.CancelledError]),
    (cancels_itself_and_waits, "451 4.3.0", [asyncio.CancelledError]),
    (cancels_itself_and_swallows_it, "250 2.1.5", []),
    (cancels_itself_and_raises, "451 4.3.0", [ValueError]),
    (cancels_itself_and_rejects, "554 5.7.1", []),
    (is_cancelled_and_swallows_it, "250 2.1.5", []),
    (is_cancelled_after_its_end, "250 2.1.5", []),
    (raising(GeneratorExit), "451 4.3.0", [GeneratorExit]),
    (raising(StopIteration), "451 4.3.0", [RuntimeError]),
    (raising(StopAsyncIteration), "451 4.3.0", [StopAsyncIteration]),
    (raising(OddException), "451 4.3.0", [OddException]),
]


@row("HOOK-01")
@pytest.mark.parametrize("tasks", [False, True])
@pytest.mark.parametrize(
    "way, reply, errors", ANSWERS, ids=lambda way: getattr(way, "__name__", "")
)
def test_an_unusual_end_of_a_coroutine_is_a_failure_of_the_hook(
    way: Any, reply: str, errors: list[type[BaseException]], tasks: bool
) -> None:
    outcome = Outcome("on_rcpt_to", "coroutine", way, tasks)
    assert outcome.replies == [reply]
    assert [kind for kind, _ in outcome.errors] == errors


@row("HOOK-01")
def test_a_task_that_was_kept_knows_that_its_hook_was_cancelled() -> None:
    kept: list[asyncio.Task[Any]] = []

    async def act(call: Call) -> None:
        kept.append(current())
        current().cancel("by itself")

    with AtHook("on_rcpt_to", "coroutine", act) as met:
        met.wait(0)
        assert kept[0].cancelled()
        with pytest.raises(asyncio.CancelledError, match="by itself"):
            kept[0].result()
