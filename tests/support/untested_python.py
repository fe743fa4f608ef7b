"""A plugin of pytest: the engine takes this Python for one on which its tests have never run.

`PYTHONPATH=tests/support python -m pytest -p untested_python ...`; it has to come before the first
import of fastsmtp.
"""

from __future__ import annotations

import sys
from types import ModuleType

assert "fastsmtp" not in sys.modules
_interpreter = ModuleType("fastsmtp._interpreter")
_interpreter.IS_KNOWN = False  # type: ignore[attr-defined]
sys.modules[_interpreter.__name__] = _interpreter
