"""Hooks that are coroutines, driven by hand as far as possible; a Task is started only when one
waits for something other than its message.

Most such hooks end in their first step, and `on_data` waits for pieces that the engine itself
delivers: a Task for each hook costs more than the dialogue, and each piece would cost a turn of the
loop. So the steps are taken here, immediately. The Task is an object whose `__init__` has not run:
it is the current task during each step, so that timeouts, task groups and other libraries see the
Task that continues if one is necessary. One is necessary as soon as the coroutine waits for
anything else, or if a reference to the Task was kept, which might be used to cancel it.

As with any Task, the steps run in one copy of the context, and after each the former current task
is restored. This uses private names of asyncio, so a connection calls `drive` only if
`_interpreter.IS_KNOWN`; otherwise Tasks do the work (`HookTasks.start`), and this module does not
touch these names.
"""

cimport cython
from cpython.object cimport PyObject
from fastsmtp._capi cimport (
    copy_context,
    enter_context,
    leave_context,
    Py_DECREF,
    Py_REFCNT,
    PySendResult,
    PYGEN_ERROR,
    PYGEN_NEXT,
    PyIter_Send,
)
from fastsmtp._hooks.callback cimport Answer
from fastsmtp.stream cimport DataStream, resume_with_stream

from asyncio import CancelledError, Task, current_task, tasks

from fastsmtp import _interpreter
from fastsmtp._hooks import stalls

cdef double STALL = stalls.STALL


# asyncio's current task of each loop.
cdef dict CURRENT_TASKS = tasks._current_tasks if _interpreter.IS_KNOWN else None


class _HookTask(Task):
    """The Task of a hook's coroutine, started only if necessary: see `Driver`.

    Until then it can only be the current task: asyncio's methods do not check whether `__init__`
    has run. So each call of one of them starts the Task first.
    """

    __slots__ = ("driver",)


def _beginning(name):
    """Return method `name` of a Task, for a Task that may not be started yet."""
    method = getattr(Task, name)

    def call(self, *arguments, **named):
        if self.driver is not None:
            self.driver.begin()
        return method(self, *arguments, **named)

    return call


# asyncio.timeout() and TaskGroup call these on the current task; they need no started Task.
_NO_BEGINNING = ("cancelling", "uncancel")
if _interpreter.IS_KNOWN:
    for _name in dir(Task):
        if _name == "__repr__" or not _name.startswith("__") and _name not in _NO_BEGINNING:
            if callable(getattr(Task, _name)):
                setattr(_HookTask, _name, _beginning(_name))
    for _name in ("__await__", "__iter__"):
        setattr(_HookTask, _name, _beginning(_name))


@cython.final
cdef class Begun:
    """Begun()\n--\n\nA coroutine that was driven by hand, for the Task that continues it."""

    cdef object _coroutine, _yielded, _result, _error, _owner, _hook
    cdef bint _is_due  # the yielded object has not been passed to the Task yet
    cdef bint _has_ended
    cdef bint _was_cancelled  # before it ended, without getting CancelledError

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """Take the next step; the first time only return the result of the last one."""
        if self._has_ended:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._was_cancelled:
                raise CancelledError
            raise StopIteration(self._result)
        if self._is_due:
            return self._handed_over()
        return self._timed(self._coroutine.send, (value,))

    cdef object _timed(self, object step, tuple arguments):
        began = self._owner.time()
        try:
            return step(*arguments)
        finally:
            if self._owner.time() - began > STALL:
                self._owner.tell_stall(began, self._hook)

    cdef int wait(self, object yielded) except -1:
        """The coroutine has yielded this."""
        self._yielded = yielded
        self._is_due = True
        return 0

    cdef int end(self, object result, object error, bint was_cancelled) except -1:
        """The coroutine has ended. was_cancelled: its Task was cancelled in the last step, so the
        result does not count. Later cancellations have no effect.
        """
        self._was_cancelled = was_cancelled
        self._has_ended = True
        self._result = result
        self._error = error
        return 0

    cdef object _handed_over(self):
        yielded, self._yielded = self._yielded, None
        self._is_due = False
        return yielded

    def throw(self, *error):
        """Raise `error` in the coroutine; but a cancelled Task first gets what the coroutine waits
        for.
        """
        if self._has_ended:
            if self._was_cancelled and self._error is None:
                raise error[0]
            return self.send(None)
        yielded = self._handed_over() if self._is_due else None
        kind = error[0] if isinstance(error[0], type) else type(error[0])
        if yielded is not None and issubclass(kind, CancelledError) and yielded.cancel():
            return yielded  # and is woken by it
        return self._timed(self._coroutine.throw, error)

    def close(self):
        """Close the coroutine."""
        self._handed_over()
        self._coroutine.close()

    def __getattr__(self, name):
        return getattr(self._coroutine, name)  # for stacks and names

    def __repr__(self):
        return repr(self._coroutine)


@cython.final
cdef class Driver:
    """Driver()\n--\n\nTakes the steps of one coroutine; made by `drive`."""

    cdef object _coroutine, _task, _context, _loop, _host, _yielded
    cdef Answer _answer
    cdef DataStream _stream
    cdef Begun _begun  # the Task is started, and continues after the current step
    cdef bint _is_stepping

    cdef int _step(self) except -1:
        """Take a step, and prepare the next one. Raises the coroutine's exception, unless there is
        a Task to do that.
        """
        cdef PyObject *result = NULL
        cdef PySendResult how = PYGEN_ERROR
        failure = None
        outer = CURRENT_TASKS.get(self._loop)
        CURRENT_TASKS[self._loop] = self._task
        enter_context(self._context)
        self._is_stepping = True
        try:
            how = PyIter_Send(self._coroutine, None, &result)
            if how == PYGEN_ERROR:
                reraise()
        except BaseException as error:
            failure = error
        finally:
            self._is_stepping = False
            leave_context(self._context)
            if outer is None:
                del CURRENT_TASKS[self._loop]
            else:
                CURRENT_TASKS[self._loop] = outer
        if how == PYGEN_ERROR:
            return self._failed(failure)
        value = <object>result
        Py_DECREF(result)  # `value` has a reference of its own
        if how == PYGEN_NEXT:
            self._yielded = value
            self._await()
        elif self._begun is not None:
            self._begun.end(value, None, self._task._must_cancel)
        else:
            self._let_go()
            self._answer.settle(None, value)
        return 0

    cdef int _failed(self, object error) except -1:
        if self._begun is None:
            self._let_go()
        else:
            self._begun.end(None, error, False)
            if not isinstance(error, (KeyboardInterrupt, SystemExit)):
                return 0  # the Task raises it
        raise error

    cdef int _let_go(self) except -1:
        """The coroutine has ended. If someone kept the Task, make it a finished one."""
        if Py_REFCNT(<PyObject *>self._task) == 1:
            self._task.driver = None
        else:
            self._live()
            self._begun.end(None, None, False)
        return 0

    cdef int _await(self) except -1:
        """The coroutine waits: have the stream resume it, or start the Task."""
        if self._begun is not None:
            self._begun.wait(self._yielded)
        elif (
            self._stream is not None
            and Py_REFCNT(<PyObject *>self._task) == 1
            and resume_with_stream(self._stream, self._yielded, self)
        ):
            self._answer.driver = self
        else:
            self.begin()
        return 0

    def resume(self):
        """resume()\n--\n\nContinue the coroutine: its message has more."""
        self._answer.driver = None
        try:
            self._step()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self._answer.settle(error, None)

    def begin(self):
        """begin()\n--\n\nStart the Task: it continues from here, or after the current step."""
        if self._begun is None:
            if self._answer.driver is not None:
                self._answer.driver = None
                resume_with_stream(self._stream, self._yielded, None)
            self._live()
            if not self._is_stepping:
                self._begun.wait(self._yielded)
            self._host.keep_task(self._task, self._answer)

    cdef int _live(self) except -1:
        self._begun = Begun.__new__(Begun)
        self._begun._coroutine = self._coroutine
        self._begun._owner = self._answer.owner
        self._begun._hook = self._answer.hook
        self._task.driver = None
        Task.__init__(self._task, self._begun, loop=self._loop, context=self._context)
        return 0


cpdef object drive(object coroutine, object loop, Answer answer, object host, DataStream stream):
    """drive(coroutine, loop, answer, host, stream)\n--\n
    Take the first step of a hook's coroutine, and arrange the others: `answer` gets its result.

    host: `host.keep_task(task, answer)` is called if a Task is started. stream: the message that
    was passed to the hook, None without one. Raises what the first step raises.
    """
    cdef Driver driver = Driver.__new__(Driver)
    driver._coroutine = coroutine
    driver._loop = loop
    driver._answer = answer
    driver._host = host
    driver._stream = stream
    driver._context = copy_context()
    driver._task = _HookTask.__new__(_HookTask)
    driver._task.driver = driver
    driver._step()


def timed(coroutine, owner, hook):
    """timed(coroutine, owner, hook)\n--\n
    Return `coroutine` for a Task. A step that holds the loop calls `owner.tell_stall(began, hook)`;
    `owner.time()` is the clock.
    """
    cdef Begun begun = Begun.__new__(Begun)
    begun._coroutine = coroutine
    begun._owner = owner
    begun._hook = hook
    return begun


def current_hook_task(loop):
    """current_hook_task(loop)\n--\n
    Return the current task of `loop`, None without one. If it is the Task of a hook it is started,
    and its connection keeps it.
    """
    task = current_task(loop)
    if isinstance(task, _HookTask) and task.driver is not None:
        task.driver.begin()
    return task


cdef extern from *:
    """
    /* The error that is set already. */
    static int fs_reraise(void) { return -1; }
    """
    int reraise "fs_reraise"() except -1
