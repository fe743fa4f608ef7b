cimport cython
from fastsmtp._native cimport thread_ident

cdef int _WAITING, _ANSWERED


cdef class Asker:
    cdef public bint busy


cdef class Answer:
    cdef public Asker owner
    cdef public str hook
    cdef public object then, error, result, driver
    cdef public unsigned long thread
    cdef public int state
    cdef public bint failed, needs_call, begins_later

    cpdef fail(self, error)
    cpdef settle(self, error, result)
    cpdef settle_plain(self, returned)
    cpdef expire(self)
    cpdef forget(self)


cdef class Hooks:
    cdef public object on_connect, on_secure, on_auth, on_scram, on_mail_from, on_rcpt_to
    cdef public object on_data, on_close


@cython.locals(answer=Answer)
cpdef Answer new_answer(Asker owner, str hook, then, unsigned long thread)
