"""Hooks that are coroutines, driven by hand as far as that goes; a Task is made only where one has
to wait for something else than its message.

Most such hooks end in their first step, and `on_data` waits for pieces that the engine itself
brings: a Task for each costs more than the dialogue, and every piece a turn of the loop. So steps
are taken here, at once. The Task is an object whose `__init__` has not run: it is the current task
during each step, so that time-outs, task groups and libraries that ask whose step this is find the
very one that goes on when there has to be one. There has to be as soon as the coroutine waits for
anything else, or somebody has kept the Task and could cancel it.

As with any Task the steps run in one copy of the context, and what else was the current task is
that again after each. asyncio's private names are used for that, so a connection calls `drive` only
where `_interpreter.IS_KNOWN`; elsewhere Tasks do the work (`HookTasks.start`), and this module
touches none of them.
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


# asyncio's current task of each loop.
cdef dict CURRENT_TASKS = tasks._current_tasks if _interpreter.IS_KNOWN else None


class _HookTask(Task):
    """The Task of a hook's coroutine. It begins to live when it has to: see `Driver`.

    Until then it may be the current task, and nothing else: asyncio's methods do not look whether
    `__init__` has run. So whoever calls one of them has it begin first.
    """

    __slots__ = ("driver",)


def _beginning(name):
    """Return method `name` of a Task, for one that has perhaps not begun."""
    method = getattr(Task, name)

    def call(self, *arguments, **named):
        if self.driver is not None:
            self.driver.begin()
        return method(self, *arguments, **named)

    return call


# What asyncio.timeout() and TaskGroup call of the current task in passing needs no beginning.
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
    """Begun()\n--\n\nA coroutine that was driven by hand, as a Task goes on with it."""

    cdef object _coroutine, _yielded, _result, _error
    cdef bint _is_due  # what was yielded is still to be handed to the Task
    cdef bint _has_ended
    cdef bint _was_cancelled  # before it ended, and has not heard of it

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """Take the next step, the first time none: what came of it is there."""
        if self._has_ended:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._was_cancelled:
                raise CancelledError
            raise StopIteration(self._result)
        if self._is_due:
            return self._handed_over()
        return self._coroutine.send(value)

    cdef int wait(self, object yielded) except -1:
        """The coroutine has yielded this."""
        self._yielded = yielded
        self._is_due = True
        return 0

    cdef int end(self, object result, object error, bint was_cancelled) except -1:
        """The coroutine has ended. was_cancelled: its Task was, in the last step, so that a result
        does not count. What comes from now on is too late.
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
        """Raise `error` where the coroutine waits; a Task that is cancelled asks first what it
        waits for.
        """
        if self._has_ended:
            if self._was_cancelled and self._error is None:
                raise error[0]
            return self.send(None)
        yielded = self._handed_over() if self._is_due else None
        kind = error[0] if isinstance(error[0], type) else type(error[0])
        if yielded is not None and issubclass(kind, CancelledError) and yielded.cancel():
            return yielded  # and is woken by it
        return self._coroutine.throw(*error)

    def close(self):
        """End the coroutine where it waits."""
        self._handed_over()
        self._coroutine.close()

    def __getattr__(self, name):
        return getattr(self._coroutine, name)  # what stacks and names are made of

    def __repr__(self):
        return repr(self._coroutine)


@cython.final
cdef class Driver:
    """Driver()\n--\n\nWhat takes the steps of one coroutine; made by `drive`."""

    cdef object _coroutine, _task, _context, _loop, _host, _yielded
    cdef Answer _answer
    cdef DataStream _stream
    cdef Begun _begun  # the Task lives, and goes on by itself behind the present step
    cdef bint _is_stepping

    cdef int _step(self) except -1:
        """Take a step, and see what is to be done for the next one. Raises what it raises, unless
        there is a Task to do that.
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
        """The coroutine has ended. Who has kept the Task is to find one that has ended too."""
        if Py_REFCNT(<PyObject *>self._task) == 1:
            self._task.driver = None
        else:
            self._live()
            self._begun.end(None, None, False)
        return 0

    cdef int _await(self) except -1:
        """The coroutine waits: the stream is to call, or a Task goes on."""
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
        """resume()\n--\n\nGo on: what was waited for is there."""
        self._answer.driver = None
        try:
            self._step()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self._answer.settle(error, None)

    def begin(self):
        """begin()\n--\n\nLet the Task live: it goes on from here, or behind the present step."""
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
        self._task.driver = None
        Task.__init__(self._task, self._begun, loop=self._loop, context=self._context)
        return 0


cpdef object drive(object coroutine, object loop, Answer answer, object host, DataStream stream):
    """drive(coroutine, loop, answer, host, stream)\n--\n
    Take the first step of a hook's coroutine, and see to the others: `answer` gets its end.

    host: `host.keep_task(task, answer)` is called if there has to be a Task. stream: the message
    that the hook was given, None for one that was given none. Raises what the first step raises.
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


def current_hook_task(loop):
    """current_hook_task(loop)\n--\n
    Return the current task of `loop`, None without one. If it is that of a hook it begins to live:
    its connection knows it from now on.
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
