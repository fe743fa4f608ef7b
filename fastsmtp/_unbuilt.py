"""The error for a missing compiled module: one line that states what to do."""

from __future__ import annotations

import importlib.machinery
import shlex
import sys
from pathlib import Path

__all__ = ["explained"]


def explained(error: ModuleNotFoundError) -> ImportError:
    """Return the error to raise in place of `error`: `error` itself unless one of our compiled
    modules is missing.

    Its `name` is that of the package, so that `python -m fastsmtp` prints only the line: runpy
    treats it as a module that cannot be found, and shows no traceback.
    """
    package = Path(__file__).parent
    stem = package.joinpath(*(error.name or "").split(".")[1:])
    if not stem.with_suffix(".pyi").exists():  # each compiled module has one
        return error
    found = [path.name.split(".") for path in stem.parent.glob(f"{stem.name}.*.*")]
    others = ", ".join(sorted(parts[1] for parts in found if parts[-1] in ("so", "pyd")))
    this = importlib.machinery.EXTENSION_SUFFIXES[0].split(".")[1]
    missing = f" for this Python ({this}), only for {others}" if others else ""
    root = package.parent
    is_checkout = (root / "pyproject.toml").exists()
    wanted = ["-e", str(root)] if is_checkout else ["--force-reinstall", "fastsmtp-engine"]
    command = shlex.join([sys.executable, "-m", "pip", "install", *wanted])
    text = f"fastsmtp in {package} is not compiled{missing}; run: {command}"
    if Path(sys.argv[0]).stem == "fastsmtp":
        # The script that pip has made: nothing of ours is imported that could catch the error.
        sys.excepthook = lambda *_: sys.stderr.write(f"fastsmtp: error: {text}\n")
    return ImportError(text, name="fastsmtp")
