"""The versions of CPython whose private parts may be used: those on which their use is tested.

On any other version nothing private is used; something slower, or less complete, replaces it.
`docs/internals.md` has the list.
"""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["IS_KNOWN"]

IS_KNOWN: Final = sys.implementation.name == "cpython" and (
    (3, 11) <= sys.version_info[:2] <= (3, 13)
)
