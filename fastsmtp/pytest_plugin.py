"""Fixtures for pytest, loaded by its entry point: servers that record what they receive.

The module can be imported without pytest too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar, cast

from fastsmtp.testing import RecordingServer

try:
    import pytest
except ModuleNotFoundError:  # a program that imports every module of a package, for instance
    pytest = None  # type: ignore[assignment]

__all__ = ["smtp_server", "smtp_server_factory"]

F = TypeVar("F", bound=Callable[..., Any])


def fixture(function: F) -> F:
    """Make it a fixture if pytest is installed."""
    return function if pytest is None else cast(F, pytest.fixture(function))


@fixture
def smtp_server_factory() -> Iterator[Callable[..., RecordingServer]]:
    """Starts servers, which end with the test: `smtp_server_factory(lmtp=True)`; the arguments are
    those of `fastsmtp.testing.RecordingServer`.
    """
    with ExitStack() as stack:

        def start(**options: Any) -> RecordingServer:
            return stack.enter_context(RecordingServer(**options))

        yield start


@fixture
def smtp_server(smtp_server_factory: Callable[..., RecordingServer]) -> RecordingServer:
    """A server on a free port of 127.0.0.1, which records what it receives."""
    return smtp_server_factory()
