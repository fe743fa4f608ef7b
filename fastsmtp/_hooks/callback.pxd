cimport cython
from fastsmtp._native cimport thread_ident

cdef int _WAITING, _ANSWERED


cdef class Asker:
    cdef public bint busy


cdef class Answer:
    cdef public Asker owner
    cdef public str hook
    cdef public object then, error, result, driver
    cdef public double began
    cdef public unsigned long thread
    cdef public int state
    cdef public bint failed, needs_call, begins_later

    cpdef fail(self, error)
    cpdef settle(self, error, result)
    cpdef settle_plain(self, returned)
    cpdef expire(self)
    cpdef forget(self)


@cython.locals(answer=Answer)
cpdef Answer new_answer(Asker owner, str hook, then, unsigned long thread)
