"""Texts of peers, made safe for a line of a log: one line, no control characters, bounded."""

from __future__ import annotations

from typing import Final

__all__ = ["clean", "client_word", "escaped", "text_of"]

MAX_TEXT: Final = 128  # characters of one text of a peer in a log line


def client_word(name: str, address: str) -> str:
    """Return `name[address]`, as mail logs have it, or `[address]` if the name is only the address
    in brackets. An address of "" means a UNIX socket.
    """
    known = "" if name.startswith("[") else clean(name)
    return f"{known}[{clean(address or 'unix')}]"


def text_of(value: object) -> str:
    """Return the text of an object of a hook: a note, a user. It may be any object, and one without
    a text must not end what is logged.
    """
    if type(value) is str:
        return value
    try:
        return str(value)
    except Exception:  # foreign code
        return f"<{type(value).__name__}>"


def clean(text: str, limit: int = MAX_TEXT) -> str:
    r"""Return `text` as one bounded word for a log: printable, no space, no line end.

    C0, DEL, C1, bidirectional and other invisible format characters, lone surrogates and the space
    become \xNN, \uNNNN or \UNNNNNNNN, and so does the backslash, so that escapes are unambiguous.
    With a space, a quoted local part could look like the next field of the line. Text longer than
    `limit` characters is cut and ends in "...".
    """
    return escaped(text, limit, plain="")


def escaped(text: str, limit: int, plain: str) -> str:
    """Escape and cut `text`; the characters of `plain` are left as they are."""
    exact = text if type(text) is str else "".join(text)
    if len(exact) <= limit:
        if _is_plain(exact, " " in plain):
            return exact  # most are; making pieces takes much longer
        if exact.isprintable():
            if (" " in plain or " " not in exact) and ("\\" in plain or "\\" not in exact):
                return exact
    pieces: list[str] = []
    room = limit
    for character in exact[: limit + 1]:
        piece = character if character in plain else _escape(character)
        room -= len(piece)
        pieces.append(piece)
        if room < 0:
            break
    if room >= 0:
        return "".join(pieces)
    length = limit - room
    while pieces and length > limit - 3:
        length -= len(pieces.pop())
    return "".join(pieces) + "..."


def _is_plain(text: str, spaces: bool) -> bool:
    """Whether `text` is printable ASCII without a backslash, and without spaces if not allowed."""
    for character in text:
        if character > "~" or character < " " or character == "\\":
            return False
        if character == " " and not spaces:
            return False
    return True


def _escape(character: str) -> str:
    # str.isprintable() is False for all of the categories Cc, Cf, Cs, Co, Cn, Zl, Zp, and for Zs
    # except the space.
    if character.isprintable() and character not in " \\":
        return character
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
