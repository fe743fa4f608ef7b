"""One call of one hook: its answer, the interface of its caller, and that of a connection."""

from __future__ import annotations

import inspect
from asyncio import CancelledError
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from fastsmtp._failures import Place, shown
from fastsmtp._native import thread_ident
from fastsmtp.errors import MessageAborted, SMTPError

__all__ = [
    "ANSWERED",
    "EXPIRED",
    "NO_ANSWER",
    "WAITING",
    "Answer",
    "Asker",
    "Host",
    "ends_process",
    "meaningless",
    "new_answer",
]

# Hooks whose answer is yes or no: a value from a coroutine can only be a refusal in the style of
# another server, such as "550 no such user" or False.
WITHOUT_VALUE: Final = frozenset({"on_secure", "on_mail_from", "on_rcpt_to"})

NO_ANSWER: Final = "%s gave no answer in time (one that takes callback has to call it)"

WAITING: Final = 0
ANSWERED: Final = 1
EXPIRED: Final = 2

_WAITING: int = WAITING
_ANSWERED: int = ANSWERED


def ends_process(error: BaseException) -> bool:
    """Whether a hook's exception is not a failure of the hook but has to reach the event loop: the
    same exceptions that asyncio re-raises from a Task.
    """
    return isinstance(error, (KeyboardInterrupt, SystemExit))


class Host(Protocol):
    """The interface of a connection for its dialogue."""

    def start_task(self, coroutine: Coroutine[Any, Any, Any], answer: Answer, stream: Any) -> bool:
        """Run a coroutine; `answer.settle` gets its result or exception. stream: its message, None
        without one. Returns False if it has not begun yet.
        """

    def orphan_task(self, answer: Answer) -> None:
        """`answer` is not needed any more: its coroutine, if it has one, should end."""

    def cancel_task(self, answer: Answer) -> None:
        """Cancel the coroutine of `answer`, if it has one."""

    def wake(self) -> None:
        """Something has changed outside of `receive`: advance, then update output, deadline and
        reading.
        """

    def connected(self) -> None:
        """The client is about to be greeted."""

    def report(self, error: BaseException, place: Place) -> None:
        """A hook, TLS or the socket has failed."""

    def wall_time(self) -> float:
        """Seconds since the epoch, for FUTURERELEASE only."""


class Asker:
    """The caller of hooks. busy: inside of a call of the connection, which handles an answer when
    the hook returns.
    """

    busy: bool

    def wake(self, answer: Answer) -> None:
        """A hook has answered outside of its call."""
        raise NotImplementedError

    def report(self, error: BaseException, stage: str) -> None:
        """Something has failed. stage: the name of a hook, "tls" or "socket"."""
        raise NotImplementedError

    def close(self) -> None:
        """Read and execute nothing more."""
        raise NotImplementedError


class Answer:
    """The `callback` of one call of one hook: `callback()` accepts, `callback(error)` rejects.

    The first answer counts, and the call returns True; a second call raises RuntimeError, and so
    does a call from another thread. A call after the hook's deadline does nothing and returns
    False.

    owner: the dialogue that called the hook. hook: the name of the hook. then: handles the answer,
    called as `then(owner, answer)`.
    """

    __slots__ = (
        "began",
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
    began: float  # when the client began to wait for it
    driver: Any  # of its coroutine, while it waits only for its message

    def __call__(self, error: BaseException | None = None, result: Any = None) -> bool:
        if thread_ident() != self.thread:
            raise RuntimeError("callback was called from another thread than its event loop's")
        if self.state != _WAITING:
            if self.state == _ANSWERED:
                raise RuntimeError("callback was called a second time")
            return False
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
        return True

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
        """The answer is used: drop its exception, whose frames may refer to this object."""
        self.error = self.result = None

    def expire(self) -> None:
        """From now on an answer has no effect."""
        self.state = EXPIRED

    def settle(self, error: BaseException | None, result: Any) -> None:
        """The coroutine of this hook has ended."""
        if error is not None and ends_process(error):
            self.owner.close()  # the process ends: close this connection properly
            self.fail(error)
        elif error is not None:
            self.fail(error)
        elif self.state == _WAITING:
            if self.needs_call:
                self.fail(RuntimeError(f"{self.hook} ended without having called callback"))
            elif result is not None and self.hook in WITHOUT_VALUE:
                self.fail(meaningless(self.hook, result))
            else:
                self(None, result)

    def settle_plain(self, returned: object) -> None:
        """A hook in callback style has returned a value. That is ignored, except for a coroutine:
        it should have called `callback`, but would never run.
        """
        if self.state == _WAITING and inspect.iscoroutine(returned):
            returned.close()
            self.fail(
                TypeError(
                    f"{self.hook} is a plain function that returned a coroutine, which is never"
                    " awaited: write async def"
                )
            )


def meaningless(hook: str, result: object) -> TypeError:
    """Return the error for an answer; ignoring it would accept what it probably means to reject."""
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
    answer.began = 0.0
    return answer
