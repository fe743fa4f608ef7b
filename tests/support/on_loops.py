"""Tests that are coroutines: `@on_loops` runs one on each event loop, by the fixture `run`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["on_loops"]


def on_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of a coroutine function, with the fixtures and parameters that it asks for."""

    @functools.wraps(test)
    def on_one_loop(run: Callable[..., None], **fixtures: Any) -> None:
        run(test(**fixtures))

    own = inspect.signature(test)
    first = inspect.Parameter("run", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    on_one_loop.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[first, *own.parameters.values()]
    )
    return on_one_loop
