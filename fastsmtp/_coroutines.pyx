"""Hooks that are coroutines, driven by hand as far as that goes; a Task is made only where one has
to wait for something else than its message.

Most such hooks end in their first step, and `on_data` waits for pieces that the engine itself
brings: a Task for each costs more than the dialogue, and every piece a turn of the loop. So steps
are taken here, at once. The Task is an object whose `__init__` has not run: it is the current task
during each step, so that time-outs, task groups and libraries that ask whose step this is find the
very one that goes on when there has to be one. There has to be as soon as the coroutine waits for
anything else, or somebody has kept the Task and could cancel it.

As with any Task the steps run in one copy of the context, and what else was the current task is
that again behind each. `_enter_task` and `_leave_task` are asyncio's own door for those who run
coroutines.
"""

cimport cython
from cpython.object cimport PyObject
from fastsmtp._hooks cimport Answer
from fastsmtp.stream cimport DataStream

import _asyncio
import sys
from asyncio import Task, _enter_task, _leave_task, current_task


cdef extern from "Python.h":
    object copy_context "PyContext_CopyCurrent"()
    int enter_context "PyContext_Enter"(object context) except -1
    int leave_context "PyContext_Exit"(object context) except -1
    void Py_DECREF(PyObject *result)
    Py_ssize_t Py_REFCNT(PyObject *value)
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object coroutine, object value, PyObject **result)


cdef bint HAS_EAGER_START = sys.version_info >= (3, 12)
# Where the current tasks are a dict, up to Python 3.13, it is looked at without two calls a step.
cdef dict CURRENT_TASKS = getattr(_asyncio, "_current_tasks", None)


cdef object make_current(object loop, object task):
    """Make `task` the current one, None: none; returns the one that was."""
    if CURRENT_TASKS is not None:
        before = CURRENT_TASKS.get(loop)
        if task is None:
            del CURRENT_TASKS[loop]
        else:
            CURRENT_TASKS[loop] = task
        return before
    before = current_task(loop)
    if before is not None:
        _leave_task(loop, before)
    if task is not None:
        _enter_task(loop, task)
    return before


@cython.final
cdef class Begun:
    """Begun()\n--\n\nA coroutine that has yielded what it waits for, as a Task goes on with it."""

    cdef object _coroutine, _yielded
    cdef bint _is_due  # what was yielded is still to be handed to the Task

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """Take the next step, the first time none: what came of it is there."""
        if self._is_due:
            return self._handed_over()
        return self._coroutine.send(value)

    cdef object _handed_over(self):
        yielded, self._yielded = self._yielded, None
        self._is_due = False
        return yielded

    def throw(self, *error):
        """Raise `error` where the coroutine waits."""
        self._handed_over()
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

    cdef object _coroutine, _task, _context, _loop, _keep, _yielded
    cdef Answer _answer
    cdef DataStream _stream

    cdef int _step(self) except -1:
        """Take a step, and see what is to be done for the next one. Raises what it raises."""
        cdef PyObject *result = NULL
        cdef PySendResult how
        outer = make_current(self._loop, self._task)
        enter_context(self._context)
        try:
            how = PyIter_Send(self._coroutine, None, &result)
            if how == PYGEN_ERROR:
                reraise()
        finally:
            leave_context(self._context)
            make_current(self._loop, outer)
        value = <object>result
        Py_DECREF(result)  # `value` has a reference of its own
        if how == PYGEN_RETURN:
            self._answer.settle(None, value)
        else:
            self._yielded = value
            self._await()
        return 0

    cdef int _await(self) except -1:
        """The coroutine waits: the stream is to call, or a Task begins."""
        if (
            self._stream is not None
            and self._yielded is self._stream._waiter
            and Py_REFCNT(<PyObject *>self._task) == 1
            and not self._task._must_cancel
        ):
            self._stream._driver = self
            self._answer.driver = self
        else:
            self._keep(self.become_task(), self._answer)
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

    def become_task(self):
        """become_task()\n--\n\nReturn the Task that goes on from here."""
        cdef Begun begun = Begun.__new__(Begun)
        if self._answer.driver is not None:
            self._answer.driver = self._stream._driver = None
        begun._coroutine = self._coroutine
        begun._yielded = self._yielded
        begun._is_due = True
        task = self._task
        was_cancelled = task._must_cancel  # by a step of its own; `__init__` begins anew
        if HAS_EAGER_START:
            eager = not was_cancelled
            task.__init__(begun, loop=self._loop, context=self._context, eager_start=eager)
        else:
            task.__init__(begun, loop=self._loop, context=self._context)
        if was_cancelled:
            task.cancel()
        return task


cpdef object drive(object coroutine, object loop, Answer answer, object keep, DataStream stream):
    """drive(coroutine, loop, answer, keep, stream)\n--\n
    Take the first step of a hook's coroutine, and see to the others: `answer` gets its end.

    keep: called as `keep(task, answer)` if there has to be a Task. stream: the message that the
    hook was given, None for one that was given none. Raises what the first step raises.
    """
    cdef Driver driver = Driver.__new__(Driver)
    driver._coroutine = coroutine
    driver._loop = loop
    driver._answer = answer
    driver._keep = keep
    driver._stream = stream
    driver._context = copy_context()
    driver._task = Task.__new__(Task)
    driver._step()


cdef extern from *:
    """
    /* The error that is set already. */
    static int fs_reraise(void) { return -1; }
    """
    int reraise "fs_reraise"() except -1
