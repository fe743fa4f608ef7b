"""The programs in C that a run needs: compiled into build/bench unless they are there.
What is missing for one is said by CannotRun.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from load.measuring import CannotRun

BENCH = Path(__file__).parents[1]
BUILT = BENCH.parent / "build" / "bench"
FLAGS = ["-O2", "-Wall", "-Wextra", "-std=gnu11"]
COMPILE_LIMIT = 60.0  # seconds


def compiled(name: str, *sources: Path, flags: tuple[str, ...] = ()) -> Path:
    """Return the program made of the first source; of the others it only includes what it needs.

    Raises CannotRun when there is no compiler, or when it complains.
    """
    program = BUILT / name
    newest = max(source.stat().st_mtime for source in sources)
    if program.exists() and program.stat().st_mtime > newest:
        return program
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        raise CannotRun("needs a C compiler (Debian: apt install gcc libc6-dev)")
    BUILT.mkdir(parents=True, exist_ok=True)
    fresh = BUILT / f"{name}.{os.getpid()}"
    command = [compiler, *FLAGS, "-o", str(fresh), str(sources[0]), *flags]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_LIMIT)
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if "error" in line]
            raise CannotRun(f"{name} does not compile: {(errors or ['no reason given'])[0]}")
        fresh.rename(program)  # a running one keeps its file
    finally:
        fresh.unlink(missing_ok=True)
    return program


def floor() -> Path:
    """The least that a server can be."""
    return compiled("floor", BENCH / "peers" / "floor.c")


def generator(tls: bool = False) -> Path:
    """Our own load. tls: with OpenSSL, for which its headers must be there."""
    folder = BENCH / "load"
    sources = [folder / "generator.c", folder / "script.h"]
    if not tls:
        return compiled("generator", *sources)
    try:
        return compiled("generator-tls", *sources, flags=("-DWITH_TLS", "-lssl", "-lcrypto"))
    except CannotRun as reason:
        hint = "load inside of TLS needs OpenSSL's headers (Debian: apt install libssl-dev)"
        raise CannotRun(f"{hint}: {reason}") from None
