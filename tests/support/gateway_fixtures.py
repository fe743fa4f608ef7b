"""Fixtures for tests of a real `fastsmtp serve`: a Maildir, a gateway, faults in its system calls.

A test module that uses them says `pytest_plugins = ["gateway_fixtures"]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from c_library import build_library
from disk_faults import Faults
from serving import Gateway, leftovers


@pytest.fixture
def maildir(tmp_path: Path) -> Path:
    """Where a gateway delivers to; it does not exist yet."""
    return tmp_path / "mail"


@pytest.fixture
def gateway(maildir: Path) -> Iterator[Gateway]:
    """A gateway without options; at its end it has reported no error and left no file in tmp/."""
    with Gateway(maildir) as gateway:
        yield gateway
        assert gateway.stop() == 0
        assert gateway.errors() == []
        assert leftovers(maildir) == []


@pytest.fixture(scope="session")
def disk_faults_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled disk_faults.c."""
    return build_library("disk_faults", tmp_path_factory.mktemp("disk_faults"))


@pytest.fixture
def faults(disk_faults_library: Path, tmp_path: Path) -> Iterator[Faults]:
    """Faults in the system calls of a gateway that `faults.start()` starts."""
    faults = Faults(disk_faults_library, tmp_path)
    yield faults
    faults.close()
