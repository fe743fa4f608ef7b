"""Runs the fuzz targets: guided by coverage where Atheris is installed, else on random inputs.

    python tests/fuzz/run.py [--seconds 60] [--modules FOLDER] [--random] [TARGET ...]
    python tests/fuzz/run.py --replay FILE TARGET

FOLDER holds the package as `make fuzz` builds it, with the instrumentation of libFuzzer and the
sanitizers. What the guided run keeps is then checked again with the modules that are in use, which
have no checks. What is found lies in tests/fuzz/work: make it shorter, and a seed or a row.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import importlib.util
import os
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Started as a script, this is not where the tests look.
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "support")]

from fuzz.inputs import DICTIONARY, TARGETS, check_of, mutations, seeds_of  # noqa: E402

WORK = HERE / "work"
PATIENCE = 60  # seconds of one input; the sanitizers make ten out of one


def environment(modules: str | None) -> dict[str, str]:
    """What a process needs that runs instrumented modules."""
    paths = [str(HERE.parent)]
    given = {**os.environ}
    if modules:
        import atheris

        preload = Path(atheris.path()) / "asan_with_fuzzer.so"
        given["LD_PRELOAD"] = f"{preload} {os.environ.get('LD_PRELOAD', '')}".strip()
        given["PYTHONMALLOC"] = "malloc"  # so that reading past an object is seen
        given["ASAN_OPTIONS"] = "detect_leaks=0:allocator_may_return_null=1"
        given["UBSAN_OPTIONS"] = "print_stacktrace=1"
        paths.insert(0, str(Path(modules).resolve()))
    given["PYTHONPATH"] = os.pathsep.join(paths)
    return given


def child(modules: str | None, *arguments: object) -> int:
    """Run this file again, with what it needs in its environment."""
    command = [sys.executable, str(Path(__file__)), *map(str, arguments)]
    return subprocess.run(command, env=environment(modules), check=False).returncode


def guided(target: str, seconds: float, modules: str | None) -> int:
    """Run libFuzzer, then all that it has kept with the modules that are in use."""
    folders = [WORK / target / "corpus", WORK / target / "seeds"]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds_of(target):
        (folders[1] / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    status = child(
        modules,
        "--atheris",
        target,
        f"-max_total_time={seconds:.0f}",
        f"-artifact_prefix={WORK / target}/",
        f"-dict={DICTIONARY}",
        f"-timeout={PATIENCE}",
        "-max_len=4096",
        "-rss_limit_mb=4096",
        "-print_final_stats=1",
        *folders,
    )
    return status or child(None, "--replay", folders[0], target)


def run_atheris(target: str, arguments: list[str]) -> None:
    """Hand this process to libFuzzer."""
    import atheris

    with atheris.instrument_imports(include=["fastsmtp"]):
        check = check_of(target)
    atheris.Setup([sys.argv[0], *arguments], check)
    atheris.Fuzz()


def fails(check: Callable[[bytes], None], octets: bytes) -> tuple[object, ...] | None:
    """Where an input fails, None if it does not."""
    try:
        check(octets)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return type(error), place.filename, place.lineno
    return None


def shrunk(check: Callable[[bytes], None], octets: bytes) -> bytes:
    """Take octets away as long as the input fails in the same place."""
    place = fails(check, octets)
    size = len(octets) // 2
    while size:
        at = 0
        while at < len(octets):
            shorter = octets[:at] + octets[at + size :]
            if fails(check, shorter) == place:
                octets = shorter
            else:
                at += size
        size //= 2
    return octets


def report(target: str, check: Callable[[bytes], None], octets: bytes) -> int:
    """Say what has failed, and keep it."""
    octets = shrunk(check, octets)
    path = WORK / target / f"crash-{hashlib.sha1(octets).hexdigest()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(octets)
    try:
        check(octets)
    except Exception:
        traceback.print_exc()
    print(f"{target} fails for {octets!r}\nkept as {path}", flush=True)
    return 1


def checked(target: str, inputs: Iterator[bytes], seconds: float | None = None) -> int:
    """Check inputs one by one until they, or the seconds, are used up."""
    check = check_of(target)
    end = None if seconds is None else time.monotonic() + seconds
    count = 0
    for octets in inputs:
        if end is not None and time.monotonic() > end:
            break
        count += 1
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        failed = fails(check, octets)
        faulthandler.cancel_dump_traceback_later()
        if failed:
            return report(target, check, octets)
    print(f"{target}: {count} inputs, nothing found", flush=True)
    return 0


def replayed(path: Path) -> Iterator[bytes]:
    """The inputs that lie in a file or a folder."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        yield file.read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the fuzz targets.")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--modules", help="folder of the instrumented package")
    parser.add_argument("--random", action="store_true", help="do without Atheris")
    parser.add_argument("--replay", type=Path, help="a file, or a folder of files, to check once")
    parser.add_argument("--atheris", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    given, more = parser.parse_known_args()
    if given.atheris:
        run_atheris(given.atheris, [*more, *given.targets])
        return 0
    targets = given.targets or TARGETS
    if more or set(targets) - set(TARGETS):
        parser.error(f"the targets are {', '.join(TARGETS)}")
    failed = []
    for target in targets:
        if given.replay:
            status = checked(target, replayed(given.replay))
        elif not given.random and importlib.util.find_spec("atheris") is not None:
            status = guided(target, given.seconds, given.modules)
        else:
            seeds = seeds_of(target)
            status = checked(target, iter(seeds)) or checked(
                target, mutations(seeds, random.Random()), given.seconds
            )
        failed += [target] if status else []
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
