"""SASLprep: one form for names and passwords that look the same. RFC 4013, RFC 3454.

In: a text. Out: its prepared form, None if it has characters that no name or password may contain.
The tables are those of Unicode 3.2, as the RFC demands.
"""

from __future__ import annotations

import stringprep
from typing import Final
from unicodedata import ucd_3_2_0

__all__ = ["saslprep"]

# RFC 4013 §2.3: characters that are prohibited after mapping spaces and normalising.
_PROHIBITED: Final = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def saslprep(text: str, *, stored: bool) -> str | None:
    """Return `text` prepared. stored: whether the text will be stored; then characters that Unicode
    3.2 does not assign are refused. In a text that is only compared they are allowed (RFC 3454 §7).
    """
    if text.isascii():  # nothing is mapped, and only control characters are prohibited
        return text if text.isprintable() else None
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in text
        if not stringprep.in_table_b1(character)
    )
    prepared = ucd_3_2_0.normalize("NFKC", mapped)
    # Each character once: a name of 9 KB must not block the loop.
    for character in set(prepared):
        if any(table(character) for table in _PROHIBITED):
            return None
        if stored and stringprep.in_table_a1(character):
            return None
    return prepared if _reads_one_way(prepared) else None


def _reads_one_way(text: str) -> bool:
    """RFC 3454 §6: a text with right-to-left characters begins and ends with one, and has no
    left-to-right characters.
    """
    characters = set(text)
    if not any(map(stringprep.in_table_d1, characters)):
        return True
    if any(map(stringprep.in_table_d2, characters)):
        return False
    return stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
