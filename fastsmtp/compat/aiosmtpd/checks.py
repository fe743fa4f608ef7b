"""What a handler, or a subclass of SMTP, has that cannot run here: found when the server is made.

In: the object. Out: its hooks, or a TypeError that names the method and the reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from fastsmtp.compat.aiosmtpd.results import MECHANISM_NAME

__all__ = ["Hook", "SwallowsMail", "hooks_of", "mechanisms_of", "refuse_methods"]

Hook = Callable[..., Any]

# The hooks that run here, and the arguments that they are called with.
ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "HELO": ("server", "session", "envelope", "hostname"),
    "EHLO": ("server", "session", "envelope", "hostname", "responses"),
    "VRFY": ("server", "session", "envelope", "address"),
    "MAIL": ("server", "session", "envelope", "address", "mail_options"),
    "RCPT": ("server", "session", "envelope", "address", "rcpt_options"),
    "DATA": ("server", "session", "envelope"),
    "AUTH": ("server", "session", "envelope", "args"),
    "PROXY": ("server", "session", "envelope", "proxy_data"),
    "STARTTLS": ("server", "session", "envelope"),
    "exception": ("error",),
}
ANSWERED: Final = "the engine answers this command itself"
# Those that do not, and what to do without them.
IMPOSSIBLE: Final[Mapping[str, str]] = {
    "RSET": f"{ANSWERED}; each MAIL begins with a new envelope",
    "NOOP": ANSWERED,
    "QUIT": ANSWERED,
}
# The mechanisms whose exchange the engine can collect and play to a method.
COLLECTED: Final = ("PLAIN", "LOGIN", "XOAUTH2")
LEGACY: Final = {"ehlo_hook": "handle_MAIL", "rset_hook": "handle_MAIL"}


class SwallowsMail:
    """The base of handlers that may be without `handle_DATA`: what they acknowledge is gone."""


def hooks_of(handler: object) -> dict[str, Hook]:
    """Return the hooks of a handler by the name of their command.

    Raises TypeError for a hook that cannot run, that has other parameters, whose name is written in
    another way, and for a handler that would acknowledge messages and lose them.
    """
    name = handler.__name__ if isinstance(handler, type) else type(handler).__name__
    hooks: dict[str, Hook] = {}
    by_lower = {each.lower(): each for each in (*ARGUMENTS, *IMPOSSIBLE)}
    for attribute in dir(handler):
        if not attribute.startswith("handle_"):
            continue
        command = attribute.removeprefix("handle_")
        known = by_lower.get(command.lower())
        if known is None:
            continue  # a method of the handler's own, as handle_message of Message
        if known != command:
            raise TypeError(f"{name}.{attribute} would never be called: it is handle_{known}")
        if command in IMPOSSIBLE:
            raise TypeError(f"{name}.{attribute} cannot run: {IMPOSSIBLE[command]}")
        hook = getattr(handler, attribute)
        if command == "EHLO" and _takes(hook, ARGUMENTS["HELO"]):
            hook = with_one_line(hook)
        hooks[command] = _callable(name, attribute, hook, ARGUMENTS[command])
    if "DATA" not in hooks:
        _check_keeps_mail(handler, name)
    return hooks


def _callable(owner: str, attribute: str, hook: Any, names: tuple[str, ...]) -> Hook:
    if not callable(hook):
        raise TypeError(f"{owner}.{attribute} cannot run: it is not a method")
    if not _takes(hook, names):
        raise TypeError(f"{owner}.{attribute} cannot run: it is called with ({', '.join(names)})")
    return hook  # type: ignore[no-any-return]


def _takes(hook: Any, names: tuple[str, ...]) -> bool:
    try:
        inspect.signature(hook).bind(*names)
    except TypeError:
        return False
    except ValueError:  # a builtin does not tell its parameters
        pass
    return True


def with_one_line(hook: Hook) -> Hook:
    """Return a `handle_EHLO` of the old form, which only gives the last line, in the new one."""

    async def handle_ehlo(*arguments: Any) -> list[Any]:
        status = hook(*arguments[:-1])
        responses: list[Any] = arguments[-1]
        return [*responses[:-1], await status if inspect.isawaitable(status) else status]

    return handle_ehlo


def _check_keeps_mail(handler: object, name: str) -> None:
    kept = isinstance(handler, SwallowsMail) or (
        isinstance(handler, type) and issubclass(handler, SwallowsMail)
    )
    if not kept and not hasattr(handler, "process_message"):
        raise TypeError(
            f"{name} has no handle_DATA: every message would be acknowledged and lost;"
            " derive it from Sink if that is meant"
        )


def refuse_methods(server: object, base: type) -> None:
    """Raise TypeError for verbs of the program's own, and for the hooks of old versions."""
    for attribute in dir(server):
        owner = type(server).__name__
        if attribute.startswith("smtp_") and not hasattr(base, attribute):
            verb = attribute.removeprefix("smtp_")
            raise TypeError(
                f"{owner}.{attribute} cannot run: the engine answers {verb} itself, and takes no"
                " verbs of a program"
            )
        if attribute in LEGACY:
            raise TypeError(f"{owner}.{attribute} cannot run: use {LEGACY[attribute]} of a handler")


def mechanisms_of(*owners: object) -> dict[str, Hook]:
    """Return the `auth_…` methods by the name of their mechanism, the last owner's first.

    Raises TypeError for a mechanism whose challenges the method would have to send itself.
    """
    methods: dict[str, Hook] = {}
    for owner in owners:
        for attribute in dir(owner):
            if not attribute.startswith("auth_"):
                continue
            method = getattr(owner, attribute)
            usual = attribute.removeprefix("auth_").replace("__", "-")
            mechanism = getattr(method, MECHANISM_NAME, usual)
            if not callable(method) or not mechanism.isupper():
                continue  # something of the program's own
            name = f"{type(owner).__name__}.{attribute}"
            if mechanism not in COLLECTED:
                raise TypeError(
                    f"{name} cannot run: the engine does not speak {mechanism} for a handler, but"
                    f" {', '.join(COLLECTED)}; SMTPServer has more in auth_methods"
                )
            arguments = ("server", "args")
            methods[mechanism] = _callable(type(owner).__name__, attribute, method, arguments)
    return methods
