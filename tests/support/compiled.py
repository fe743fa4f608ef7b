"""Which modules are compiled, and how: read from setup.py without running it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

_SETUP = Path(__file__).parents[2] / "setup.py"


def assigned(name: str) -> Any:
    """Return the value of a name to which setup.py assigns a literal."""
    for node in ast.parse(_SETUP.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            (target,) = node.targets
            if isinstance(target, ast.Name) and target.id == name:
                return ast.literal_eval(node.value)
    raise LookupError(f"setup.py assigns nothing to {name}")


CYTHON: list[str] = assigned("CYTHON")
PYTHON: list[str] = assigned("PYTHON")
PYTHON_RULES: dict[str, object] = assigned("PYTHON_RULES")
MODULES = {source.partition(".")[0] for source in [*CYTHON, *PYTHON]}
