"""Finds each hook's style once, when it is set, and gives all of them one internal form.

The internal form is the callback style itself: `hook(*arguments, answer)`. A plain function is
called as it is, so the fast path has nothing in between; a coroutine function is wrapped once, and
the connection runs its coroutines.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

from fastsmtp._hooks.callback import Answer
from fastsmtp._options.names import looks_like_hook, nearest_hook
from fastsmtp.options import HOOKS

__all__ = ["Hooks", "check_hook_name", "check_hook_names_of"]

type_hook = Callable[..., Any]

# Methods that, taken from the class, are not callable themselves.
_METHODS: Final = (staticmethod, classmethod, functools.partialmethod)


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _is_coroutine_function(function: type_hook) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    )


def _with_task(function: type_hook, with_callback: bool, name: str) -> type_hook:
    """Wrap a coroutine function to the internal form."""
    has_stream = name == "on_data"

    def hook(subject: Any, session: Any, answer: Answer) -> None:
        if with_callback:
            answer.needs_call = True
            coroutine = function(subject, session, answer)
        else:
            coroutine = function(subject, session)
        if not answer.owner.host.start_task(coroutine, answer, subject if has_stream else None):
            answer.begins_later = True

    def hook_without_subject(session: Any, answer: Answer) -> None:
        if with_callback:
            answer.needs_call = True
        coroutine = function(session, answer) if with_callback else function(session)
        answer.owner.host.start_task(coroutine, answer, None)

    return hook if len(HOOKS[name]) == 3 else hook_without_subject


def _check_order(name: str, signature: inspect.Signature) -> None:
    """Raise TypeError if a parameter has the name of an argument at another position."""
    wanted = HOOKS[name]
    by_position = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    parameters = [each for each in signature.parameters.values() if each.kind in by_position]
    for place, parameter in enumerate(parameters[: len(wanted)]):
        meant = parameter.name.strip("_")
        if meant in wanted and meant != wanted[place]:
            raise TypeError(
                f"{name} is called with ({', '.join(wanted)}), in this order; got {signature}"
            )


def _resolved(name: str, function: type_hook) -> type_hook:
    """Return the internal form of `function`; raises TypeError when it cannot be hook `name`."""
    names = HOOKS[name]
    if not callable(function):
        raise TypeError(f"{name} must be callable, got {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{name} must not be a generator: it would not run; got {function!r}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin without a signature cannot be checked
        return function
    _check_order(name, signature)
    count = len(names)
    is_coroutine = _is_coroutine_function(function)
    if name == "on_close":
        if _takes(signature, count):
            return function
    elif is_coroutine:
        with_callback = _takes(signature, count)
        if with_callback and _takes(signature, count - 1):
            with_callback = "callback" in signature.parameters
        if with_callback or _takes(signature, count - 1):
            return _with_task(function, with_callback, name)
    elif _takes(signature, count):
        return function
    wanted = ", ".join(names)
    also = f", or be a coroutine function that takes ({', '.join(names[:-1])})" * (count > 1)
    raise TypeError(f"{name} must take ({wanted}){also}; got {signature}")


def check_hook_name(name: str) -> None:
    """Raise TypeError for a name that looks like that of a hook and is not one.

    "onRcptTo", the form of JavaScript, looks like one too.
    """
    if name in HOOKS or not looks_like_hook(name):
        return
    near = nearest_hook(name, HOOKS)
    meant = f"did you mean {near!r}?" if near else f"it is one of {', '.join(HOOKS)}"
    raise TypeError(f"{name!r} is not a hook, {meant}")


def check_hook_names_of(owner: type, base: type) -> None:
    """Raise TypeError if a class between `owner` and `base` has a method that looks like a hook and
    is not one: it would never be called, and mail would be accepted without it.
    """
    for each in owner.__mro__:
        if each is not base and each is not object:
            for name, value in vars(each).items():
                if callable(value) or isinstance(value, _METHODS):
                    check_hook_name(name)


class Hooks:
    """The hooks of one server in their internal form, None if not set."""

    __slots__ = tuple(HOOKS)

    # For type checkers; the .pxd has the same for C, and setting a hook fails without it.
    on_connect: type_hook | None
    on_secure: type_hook | None
    on_helo: type_hook | None
    on_auth: type_hook | None
    on_scram: type_hook | None
    on_mail_from: type_hook | None
    on_rcpt_to: type_hook | None
    on_vrfy: type_hook | None
    on_data: type_hook | None
    on_close: type_hook | None

    def __init__(self) -> None:
        for name in HOOKS:
            setattr(self, name, None)

    def set(self, name: str, function: type_hook | None) -> None:
        """Set hook `name`; None removes it. Raises TypeError if `function` cannot be that hook."""
        setattr(self, name, None if function is None else _resolved(name, function))
