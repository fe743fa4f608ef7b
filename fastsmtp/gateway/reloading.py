"""`fastsmtp serve --reload`: a process that restarts the server when a Python file has changed.

In: the arguments of the server. Out: nothing, until a signal. The package watchfiles does the work.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Sequence

import click

from fastsmtp.gateway import held_signals
from fastsmtp.gateway.start import StartError
from fastsmtp.log_text import clean

__all__ = ["serve_and_reload"]


def serve_and_reload(arguments: Sequence[str]) -> int:
    """Run `fastsmtp serve` with `arguments`; restart it after each change in the working directory.

    Raises StartError when watchfiles is not installed.
    """
    try:
        # Not at the top: it comes with an extra that only developers install.
        from watchfiles import PythonFilter, run_process
    except ModuleNotFoundError as error:
        raise StartError(
            "--reload needs the package watchfiles: pip install 'fastsmtp-engine[reload]'"
        ) from error
    held_signals.release()  # the end of the terminal is the end of this process
    command = [sys.executable, "-m", "fastsmtp", "serve", *arguments]
    run_process(
        ".",
        target=shlex.join(command),
        target_type="command",
        watch_filter=PythonFilter(),
        callback=_tell,
    )
    return 0


def _tell(changes: Iterable[tuple[object, str]]) -> None:
    names = sorted(clean(os.path.relpath(path)) for _, path in changes)
    click.echo(f"fastsmtp: {', '.join(names)}: changed, starting again")
