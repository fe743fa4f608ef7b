"""Writes fastsmtp/server_options.py, the types of all options and hooks, and
fastsmtp/_options/of_session.py, the types of options of one session, from the tables in
`fastsmtp.options`.

    python docs/make_server_options.py

Both are checked in; a test compares them with what this would write.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

from fastsmtp._options.kinds import Group
from fastsmtp._options.names import PER_SESSION
from fastsmtp.options import HOOKS, OPTIONS, Option

PACKAGE = Path(__file__).parents[1] / "fastsmtp"
MODULE = PACKAGE / "server_options.py"
MODULE_OF_SESSION = PACKAGE / "_options" / "of_session.py"

# Hook -> when it is called and what its answer decides, as editors show it.
HOOK_TEXTS = {
    "on_connect": "A client has connected: greet it, or refuse it with 554 and close. The answer"
    " may be options for this session.",
    "on_secure": "A TLS handshake has succeeded: go on, or close.",
    "on_helo": "HELO, EHLO, LHLO: accept the greeting, or refuse it with 550. The answer may be the"
    " keywords of the reply to EHLO.",
    "on_auth": "The client has authenticated itself: answer with a user, or refuse it with 535.",
    "on_scram": "SCRAM begins: answer with the keys of the user, or with None for an unknown one.",
    "on_mail_from": "MAIL: accept the sender, or refuse it with 550.",
    "on_rcpt_to": "RCPT: accept the recipient, or refuse it with 550.",
    "on_vrfy": "VRFY: answer with the full name and the mailbox of a user, with None to tell"
    " nothing, or refuse with 550.",
    "on_data": "A message begins: read it and accept it, or refuse it with 450. LMTP takes a list"
    " with one answer for each recipient.",
    "on_close": "The connection has ended. The result is ignored.",
}

HEAD = '''\
"""The keyword arguments of `SMTPServer`, for annotations in programs and for editors.

    from fastsmtp.server_options import ServerOptions

The engine itself does not import this. Made by docs/make_server_options.py, which has the texts of
hooks, from fastsmtp/options.py, which has those of options: change it there.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Literal, TypedDict

from fastsmtp._options.given import HasReverse, NetworkList, PemSource, Resolve
from fastsmtp._options.of_session import SessionOptions
from fastsmtp.hook_types import (
{imports}
)

__all__ = ["ServerOptions", "SessionOptions", "TLSOptions"]
'''

HEAD_OF_SESSION = '''\
"""The options that `on_connect` can answer with, public in `fastsmtp.server_options`.

The engine itself does not import this. Made by docs/make_server_options.py from
fastsmtp/options.py: change it there.
"""

from __future__ import annotations

from typing import Literal, TypedDict

__all__ = ["SessionOptions"]
'''

CLASS = '''

class {name}({bases}):
    """{text}"""
'''


def render() -> str:
    """Return the whole module."""
    tls = [one for one in OPTIONS.values() if one.group is Group.TLS]
    others = [
        one
        for one in OPTIONS.values()
        if one.group is not Group.TLS and one.name not in PER_SESSION
    ]
    styles = {name: _type_of(name) for name in HOOKS}
    methods = {name: style.removeprefix("On") + "Method" for name, style in styles.items()}
    imported = sorted((*styles.values(), *methods.values()))
    head = HEAD.replace("{imports}", "\n".join(f"    {name}," for name in imported))
    return head + "".join(
        (
            _class(
                "TLSOptions",
                "TypedDict, total=False",
                "Options of TLS: of a server, of one name in `sni_options`, of a new certificate.",
                map(_option, tls),
            ),
            _class(
                "ServerOptions",
                "TLSOptions, SessionOptions, total=False",
                "Options and hooks of a server. All have a default.",
                [*map(_option, others), *(_hook(name, of) for name, of in styles.items())],
            ),
            _class(
                "HookAttributes",
                "",
                "The hooks of a server as attributes, to be assigned or overridden by methods.",
                [_hook(name, f"{of} | {methods[name]}") for name, of in styles.items()],
            ).replace("()", ""),
        )
    )


def render_of_session() -> str:
    """Return the whole module of the options of one session."""
    fields = [_option(one) for one in OPTIONS.values() if one.name in PER_SESSION]
    text = "Options of one session, as an answer of `on_connect`; also of a server."
    return HEAD_OF_SESSION + _class("SessionOptions", "TypedDict, total=False", text, fields)


def _class(name: str, bases: str, text: str, fields: Iterable[str]) -> str:
    return CLASS.format(name=name, bases=bases, text=text) + "".join(fields)


def _option(option: Option) -> str:
    given = option.kind.given
    is_clear = given == "bool" or given.startswith("Literal")
    takes = "Default" if is_clear else f"Takes {option.takes}; default"
    section = f" {option.section}." if option.section else ""
    return _field(option.name, given, f"{option.does} {takes}: {option.default_text}.{section}")


def _type_of(hook: str) -> str:
    """The name of its type in fastsmtp.hook_types."""
    return "".join(map(str.capitalize, hook.split("_")))


def _hook(name: str, given: str) -> str:
    return _field(name, f"{given} | None", HOOK_TEXTS[name])


def _field(name: str, given: str, text: str) -> str:
    """One field with its documentation, as `ruff format` has it."""
    lines = textwrap.wrap(
        text,
        width=100,
        initial_indent='    """',
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    end = '"""\n' if len(lines) == 1 and len(lines[0]) <= 97 else '\n    """\n'
    return f"\n    {name}: {given}\n" + "\n".join(lines) + end


if __name__ == "__main__":
    MODULE.write_text(render(), encoding="utf-8", newline="\n")
    MODULE_OF_SESSION.write_text(render_of_session(), encoding="utf-8", newline="\n")
