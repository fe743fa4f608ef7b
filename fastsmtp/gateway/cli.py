"""The entry point of the `fastsmtp` command, which also reports that a package is missing.

Exit status: 0 after a clean end, 1 when the server cannot start or was stopped at once, 2 for a
wrong command line, 130 when interrupted before it served. An error is one line on stderr, never a
traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from fastsmtp.gateway import held_signals
from fastsmtp.gateway.log import complain, open_standard_files

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: that of this process) and return the exit status."""
    if os.name != "posix":
        complain(
            "the command runs on Linux and macOS only; on Windows a program can use the engine"
        )
        return 1
    if (sys.argv[1:] if arguments is None else arguments)[:1] == ["serve"]:
        held_signals.hold()  # first of all: what follows takes half a second
    open_standard_files()
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # before the service handles the signals
        return 130


def _run(arguments: Sequence[str] | None) -> int:
    try:
        # Not at the top: click and msgspec come with the extra "server", and their absence is
        # reported here in one line.
        from fastsmtp.gateway.commands import run
    except ModuleNotFoundError as error:
        if error.name not in ("click", "msgspec"):
            raise
        complain(
            f"the package {error.name} is missing; install it with:"
            " pip install 'fastsmtp-engine[server]'"
        )
        return 1
    return run(arguments)
