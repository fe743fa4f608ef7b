"""One call of one hook: its answer, who asks, and what runs its coroutine."""

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
    "new_answer",
]

# Hooks whose answer is yes or no: a value from a coroutine could only be a refusal that is meant
# for another server, such as "550 no such user" or False.
WITHOUT_VALUE: Final = frozenset({"on_connect", "on_secure", "on_mail_from", "on_rcpt_to"})

NO_ANSWER: Final = "%s gave no answer in time (one that takes callback has to call it)"

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

    The first answer counts, and the call returns True; a second call raises RuntimeError, and so
    does a call from another thread. A call that comes when nobody waits any more, for the hook's
    clock has run out, does nothing and returns False.

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
