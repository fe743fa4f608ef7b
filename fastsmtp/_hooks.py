"""Finds each hook's style once, when it is set, and gives all of them one internal form.

The internal form is the callback style itself: `hook(*arguments, answer)`. A plain function is
called as it is, so the fast path has nothing in between; a coroutine function is wrapped once, and
its Task is started by the owner.
"""

from __future__ import annotations

import functools
import inspect
from asyncio import CancelledError
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from fastsmtp._native import thread_ident
from fastsmtp.errors import MessageAborted, SMTPError

__all__ = ["HOOK_ARGUMENTS", "Answer", "Asker", "Hooks", "Host", "ends_process", "new_answer"]

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

type_hook = Callable[..., Any]

WAITING: Final = 0
ANSWERED: Final = 1
EXPIRED: Final = 2

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

    def report(self, error: BaseException, stage: str) -> None:
        """A hook has failed."""

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

    def report(self, error: BaseException) -> None:
        """A hook has failed."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing more is read or executed."""
        raise NotImplementedError


class Answer:
    """The `callback` of one call of one hook: `callback()` accepts, `callback(error)` rejects.

    The first answer counts; a second call raises RuntimeError, and so does a call from another
    thread. A call that comes after the hook's clock has run out or the client has left does
    nothing.

    owner: the dialogue that asked. then: what it does with the answer, called as `then(owner,
    answer)`.
    """

    __slots__ = (
        "begins_later",
        "driver",
        "error",
        "failed",
        "needs_call",
        "owner",
        "result",
        "state",
        "then",
        "thread",
    )

    owner: Any
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
            self.owner.report(TypeError(f"callback takes an exception, got {type(error)}"))
        if not self.owner.busy:
            self.owner.wake(self)

    def fail(self, error: BaseException) -> None:
        """The hook raised: SMTPError rejects, a MessageAborted passes through, the rest is a
        failure.
        """
        if self.state != _WAITING:
            if self.state == _ANSWERED and not isinstance(error, (MessageAborted, CancelledError)):
                self.owner.report(error)
            return
        self.state = _ANSWERED
        if isinstance(error, (SMTPError, MessageAborted)):
            self.error = error
        else:
            self.failed = True
            self.owner.report(error)
        if not self.owner.busy:
            self.owner.wake(self)

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
                self.fail(RuntimeError("the hook ended without having called callback"))
            else:
                self(None, result)


def new_answer(owner: Asker, then: Callable[[Any, Answer], None], thread: int) -> Answer:
    """Return the `callback` for one call of one hook."""
    answer: Answer = Answer.__new__(Answer)
    answer.owner = owner
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


def _resolved(name: str, function: type_hook) -> type_hook:
    """Return the internal form of `function`; raises TypeError when it cannot be hook `name`."""
    names = HOOK_ARGUMENTS[name]
    if not callable(function):
        raise TypeError(f"{name} must be callable, got {function!r}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin without a signature: taken at its word
        return function
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
