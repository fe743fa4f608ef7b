"""Finds each hook's style once, when it is set, and gives all of them one internal form.

The internal form is the callback style itself: `hook(*arguments, answer)`. A plain function is
called as it is, so the fast path has nothing in between; a coroutine function is wrapped once, and
its Task is started by the owner.
"""

from __future__ import annotations

import functools
import inspect
import re
from asyncio import CancelledError
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from fastsmtp._failures import Place, shown
from fastsmtp._native import thread_ident
from fastsmtp._options.kinds import nearest
from fastsmtp.errors import MessageAborted, SMTPError

__all__ = [
    "HOOK_ARGUMENTS",
    "Answer",
    "Asker",
    "Hooks",
    "Host",
    "check_hook_name",
    "check_hook_names_of",
    "ends_process",
    "new_answer",
]

# Hook -> names of its arguments; all but on_close take the trailing callback.
HOOK_ARGUMENTS: Final[dict[str, tuple[str, ...]]] = {
    "on_connect": ("session", "callback"),
    "on_secure": ("socket", "session", "callback"),
    "on_auth": ("auth", "session", "callback"),
    "on_scram": ("username", "session", "callback"),
    "on_mail_from": ("address", "session", "callback"),
    "on_rcpt_to": ("address", "session", "callback"),
    "on_data": ("stream", "session", "callback"),
    "on_close": ("session",),
}

# Hooks whose answer is yes or no: a value from a coroutine could only be a refusal that is meant
# for another server, such as "550 no such user" or False.
WITHOUT_VALUE: Final = frozenset({"on_connect", "on_secure", "on_mail_from", "on_rcpt_to"})

NO_ANSWER: Final = "%s gave no answer in time (one that takes callback has to call it)"

type_hook = Callable[..., Any]

WAITING: Final = 0
ANSWERED: Final = 1
EXPIRED: Final = 2

# Methods that are not callable themselves as they stand in a class.
_METHODS: Final = (staticmethod, classmethod, functools.partialmethod)

_WAITING: int = WAITING
_ANSWERED: int = ANSWERED


def ends_process(error: BaseException) -> bool:
    """Whether what a hook has raised is not its own failure, but goes on to the event loop. It is
    what asyncio lets through of a Task.
    """
    return isinstance(error, (KeyboardInterrupt, SystemExit))


class Host(Protocol):
    """What a dialogue asks of its connection."""

    def start_task(self, coroutine: Coroutine[Any, Any, Any], answer: Answer, stream: Any) -> bool:
        """Run a coroutine; `answer.settle` is told how it ended. stream: the message that it was
        given, None for none. False: it has not begun yet.
        """

    def orphan_task(self, answer: Answer) -> None:
        """Nobody waits for `answer` any more: its coroutine, if it has one, should end."""

    def cancel_task(self, answer: Answer) -> None:
        """Cancel the coroutine of `answer`, if it has one."""

    def wake(self) -> None:
        """Something has changed outside of `receive`: advance, then look at output, deadline
        and flow.
        """

    def connected(self) -> None:
        """The client is about to be greeted."""

    def report(self, error: BaseException, place: Place) -> None:
        """A hook, TLS or the socket has failed."""

    def wall_time(self) -> float:
        """Seconds since the epoch, for FUTURERELEASE only."""


class Asker:
    """Who asks hooks, and is told their answers. busy: inside of a call of the connection, which
    picks an answer up when the hook returns.
    """

    busy: bool

    def wake(self, answer: Answer) -> None:
        """A hook has answered outside of its call."""
        raise NotImplementedError

    def report(self, error: BaseException, stage: str) -> None:
        """Something has failed. stage: the name of a hook, "tls" or "socket"."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing more is read or executed."""
        raise NotImplementedError


class Answer:
    """The `callback` of one call of one hook: `callback()` accepts, `callback(error)` rejects.

    The first answer counts; a second call raises RuntimeError, and so does a call from another
    thread. A call that comes after the hook's clock has run out or the client has left does
    nothing.

    owner: the dialogue that asked. hook: the name of the hook. then: what the owner does with the
    answer, called as `then(owner, answer)`.
    """

    __slots__ = (
        "begins_later",
        "driver",
        "error",
        "failed",
        "hook",
        "needs_call",
        "owner",
        "result",
        "state",
        "then",
        "thread",
    )

    owner: Any
    hook: str
    then: Callable[[Any, Answer], None]
    thread: int
    state: int
    error: BaseException | None
    result: Any
    failed: bool
    needs_call: bool
    begins_later: bool  # the hook is a coroutine whose first step is in the next turn
    driver: Any  # of its coroutine, while that waits for nothing but its message

    def __call__(self, error: BaseException | None = None, result: Any = None) -> None:
        if thread_ident() != self.thread:
            raise RuntimeError("callback was called from another thread than its event loop's")
        if self.state != _WAITING:
            if self.state == _ANSWERED:
                raise RuntimeError("callback was called a second time")
            return
        self.state = _ANSWERED
        self.error = error
        self.result = result
        if error is not None and not isinstance(error, Exception):
            self.failed = True
            self.report(
                TypeError(
                    f"callback takes None or an exception, got {shown(error)}: to reject, call"
                    " callback(SMTPError(text, code))"
                )
            )
        if not self.owner.busy:
            self.owner.wake(self)

    def fail(self, error: BaseException) -> None:
        """The hook raised: SMTPError rejects, a MessageAborted passes through, the rest is a
        failure.
        """
        if self.state != _WAITING:
            if self.state == _ANSWERED and not isinstance(error, (MessageAborted, CancelledError)):
                self.report(error)
            return
        self.state = _ANSWERED
        if isinstance(error, (SMTPError, MessageAborted)):
            self.error = error
        else:
            self.failed = True
            self.report(error)
        if not self.owner.busy:
            self.owner.wake(self)

    def report(self, error: BaseException) -> None:
        """The hook has failed."""
        self.owner.report(error, self.hook)

    def forget(self) -> None:
        """The answer has had its effect. What was raised holds frames that may hold this object."""
        self.error = self.result = None

    def expire(self) -> None:
        """From now on an answer has no effect."""
        self.state = EXPIRED

    def settle(self, error: BaseException | None, result: Any) -> None:
        """The coroutine of this hook has ended."""
        if error is not None and ends_process(error):
            self.owner.close()  # the process is to end: this connection too, and cleanly
            self.fail(error)
        elif error is not None:
            self.fail(error)
        elif self.state == _WAITING:
            if self.needs_call:
                self.fail(RuntimeError(f"{self.hook} ended without having called callback"))
            elif result is not None and self.hook in WITHOUT_VALUE:
                self.fail(_meaningless(self.hook, result))
            else:
                self(None, result)

    def settle_plain(self, returned: object) -> None:
        """A hook in callback style has returned something. That is ignored, but for a coroutine: it
        would have called `callback`, and nobody will ever run it.
        """
        if self.state == _WAITING and inspect.iscoroutine(returned):
            returned.close()
            self.fail(
                TypeError(
                    f"{self.hook} is a plain function that returned a coroutine, which nobody"
                    " awaits: write async def"
                )
            )


def _meaningless(hook: str, result: object) -> TypeError:
    """What is said of an answer that would have been an acceptance if values were ignored."""
    return TypeError(
        f"{hook} returned {shown(result)}, which means nothing: return None to accept, raise"
        " SMTPError to reject"
    )


def new_answer(owner: Asker, hook: str, then: Callable[[Any, Answer], None], thread: int) -> Answer:
    """Return the `callback` for one call of one hook."""
    answer: Answer = Answer.__new__(Answer)
    answer.owner = owner
    answer.hook = hook
    answer.then = then
    answer.thread = thread
    answer.state = _WAITING
    answer.failed = answer.needs_call = answer.begins_later = False
    answer.error = answer.result = answer.driver = None
    return answer


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

    return hook if len(HOOK_ARGUMENTS[name]) == 3 else hook_without_subject


def _check_order(name: str, signature: inspect.Signature) -> None:
    """Raise TypeError where a parameter has the name of an argument that comes in another place."""
    wanted = HOOK_ARGUMENTS[name]
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
    names = HOOK_ARGUMENTS[name]
    if not callable(function):
        raise TypeError(f"{name} must be callable, got {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{name} must not be a generator: nobody would run it; got {function!r}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin without a signature: taken at its word
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

    "onRcptTo" looks like one too: so they are called in JavaScript.
    """
    if name in HOOK_ARGUMENTS or not re.match("on[_A-Z]", name):
        return
    known = {hook.replace("_", ""): hook for hook in HOOK_ARGUMENTS}
    near = nearest(name[:80].replace("_", "").lower(), known)
    meant = (
        f"did you mean {known[near]!r}?" if near else f"it is one of {', '.join(known.values())}"
    )
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
    """The hooks of one server in their internal form, None where none is set."""

    __slots__ = tuple(HOOK_ARGUMENTS)

    def __init__(self) -> None:
        self.on_connect: type_hook | None = None
        self.on_secure: type_hook | None = None
        self.on_auth: type_hook | None = None
        self.on_scram: type_hook | None = None
        self.on_mail_from: type_hook | None = None
        self.on_rcpt_to: type_hook | None = None
        self.on_data: type_hook | None = None
        self.on_close: type_hook | None = None

    def set(self, name: str, function: type_hook | None) -> None:
        """Set hook `name`; None takes it away. Raises TypeError when `function` cannot be that
        hook.
        """
        setattr(self, name, None if function is None else _resolved(name, function))
